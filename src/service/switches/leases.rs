//! What the DHCP of a switch has given out, to whom; and what it is told of the switch's NICs.

use std::collections::HashSet;

use crate::{
    model::{Error, MacAddr, NicId, Result, SwitchId, VmId},
    net::Host,
    service::Service,
    vm::Mark,
};

use super::plugged;

/// An address that a NIC of a switch has taken.
#[derive(Clone, Debug)]
pub struct LeaseView {
    pub mac: MacAddr,
    pub address: std::net::Ipv4Addr,
    pub hostname: Option<String>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
    pub nic: NicId,
    /// Id and name.
    pub vm: (VmId, String),
}

impl Service {
    /// Addresses that the NICs of a switch have taken. What is left of NICs that are gone is nobody's.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`].
    pub fn switch_leases(&self, id: SwitchId) -> Result<Vec<LeaseView>, Error> {
        let (switch, _) = self.places.get(id)?;
        if switch.subnet().is_none() {
            return Ok(Vec::new());
        }
        let owner = |mac: MacAddr| {
            self.registry.views_with(Mark::Mac(mac)).into_iter().find_map(|view| {
                let nic = plugged::nics(&view).find(|nic| nic.switch() == Some(id) && nic.mac == mac)?.id;
                Some((view, nic))
            })
        };
        let leases = self.ctx.net.leases(id).into_iter().filter_map(|lease| {
            let mac = MacAddr::parse(&lease.mac)?;
            let (view, nic) = owner(mac)?;
            Some(LeaseView {
                mac,
                address: lease.address,
                hostname: lease.hostname,
                expires: lease.expires,
                nic,
                vm: (view.spec.id, view.spec.name.clone()),
            })
        });
        let mut leases: Vec<_> = leases.collect();
        leases.sort_by_key(|lease| lease.address);
        Ok(leases)
    }

    /// Tells the DHCP and the DNS of these switches which NICs are on them. Cheap where nothing has changed.
    pub(in crate::service) fn tell_hosts(&self, switches: impl IntoIterator<Item = SwitchId>) {
        for id in switches {
            let hosts = self.places.hosts(id, &self.registry.views_with(Mark::Switch(id)));
            self.ctx.net.put_hosts(id, hosts);
        }
    }

    /// What the switches' DHCP still knows of VMs whose records cannot be read: their guests may live, and keep their
    /// addresses.
    pub(in crate::service) fn keep_hosts_of_unreadable(&self) {
        if !self.registry.has_unreadable() {
            return;
        }
        let views = self.registry.views();
        let known: HashSet<MacAddr> = views.iter().flat_map(plugged::nics).map(|nic| nic.mac).collect();
        for (switch, _) in self.places.all() {
            let left = self.ctx.net.hosts_left(switch.id).into_iter();
            self.places.keep_hosts(switch.id, left.filter(|host| !known.contains(&host.mac)).collect());
        }
    }

    /// As [`Self::tell_hosts`], all of them: also what a VM's own task has changed.
    pub(in crate::service) fn tell_all_hosts(&self) {
        self.tell_hosts(self.places.all().into_iter().map(|(switch, _)| switch.id));
    }

    /// What a NIC is called on its switch.
    pub(in crate::service) fn dns_name(&self, switch: SwitchId, mac: MacAddr) -> Option<String> {
        let (switch, _) = self.places.get(switch).ok()?;
        let subnet = switch.subnet().filter(|subnet| subnet.serves_names())?;
        let hosts: Vec<Host> = self.places.hosts(switch.id, &self.registry.views_with(Mark::Switch(switch.id)));
        let label = hosts.into_iter().find(|host| host.mac == mac)?.label?;
        Some(format!("{label}.{}", subnet.domain()))
    }
}
