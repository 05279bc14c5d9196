//! The addresses of NICs: what the DHCP of their switch has given them, else what the guest agent tells.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use super::Service;
use crate::{
    model::{AddressSource, MacAddr, Nic, NicBackend, NicId, Result, SwitchId, VmId, VmView},
    vm::{GuestInterface, guest_report},
};

/// An address, by one source.
#[derive(Clone, Debug)]
pub struct AddressView {
    pub nic: NicId,
    pub mac: MacAddr,
    pub address: IpAddr,
    pub source: AddressSource,
    /// Seconds since the source said so.
    pub age: Option<u64>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}

/// What is known of the addresses of VMs.
#[derive(Default)]
pub struct Addresses {
    by_mac: HashMap<MacAddr, Vec<IpAddr>>,
}

impl Addresses {
    pub fn of(&self, nic: &Nic) -> Vec<IpAddr> {
        self.by_mac.get(&nic.mac).cloned().unwrap_or_default()
    }
}

impl Service {
    /// What the NICs of a VM have: what they were given is not theirs until they took it.
    pub(super) async fn addresses(&self, view: &VmView) -> Addresses {
        let mut known = self.leased(std::slice::from_ref(view));
        if known.by_mac.values().any(Vec::is_empty) {
            let Ok(handle) = self.handle(view.spec.id) else { return known };
            for GuestInterface { mac, addresses } in guest_report(&self.ctx, &handle.guest(), view).await.interfaces {
                if let Some(own) = known.by_mac.get_mut(&mac)
                    && own.is_empty()
                {
                    *own = addresses;
                }
            }
        }
        known
    }

    /// The same of several VMs, without asking a guest.
    pub fn known_addresses(&self, views: &[VmView]) -> Addresses {
        let mut known = self.leased(views);
        for view in views {
            for GuestInterface { mac, addresses } in self.ctx.reports.last(view) {
                if let Some(own) = known.by_mac.get_mut(&mac).filter(|own| own.is_empty()) {
                    *own = addresses;
                }
            }
        }
        known
    }

    /// By the DHCP of their switches.
    fn leased(&self, views: &[VmView]) -> Addresses {
        let mut known = Addresses::default();
        let mut leases: HashMap<SwitchId, HashSet<(String, Ipv4Addr)>> = HashMap::new();
        let mut is_taken = |switch, lease: &(String, Ipv4Addr)| {
            let valid = || self.ctx.net.leases(switch).into_iter().filter(|lease| lease.is_valid());
            let taken =
                leases.entry(switch).or_insert_with(|| valid().map(|lease| (lease.mac, lease.address)).collect());
            taken.contains(lease)
        };
        for view in views {
            let in_effect = view.in_effect.iter().flat_map(|now| &now.nics);
            for nic in view.spec.nics.iter().chain(in_effect) {
                let own = match &nic.backend {
                    // A guest that is off has none, and a lease from before its address was changed is none that it may use.
                    NicBackend::Switch(port) if view.in_effect.is_some() => {
                        let own = port.address.filter(|at| is_taken(port.switch, &(nic.mac.to_string(), *at)));
                        own.map(IpAddr::from).into_iter().collect()
                    }
                    NicBackend::Switch(_) | NicBackend::User { .. } => Vec::new(),
                };
                known.by_mac.insert(nic.mac, own);
            }
        }
        known
    }

    /// All that is known of the addresses of a VM that runs, from each source.
    ///
    /// # Errors
    /// [`crate::model::Error::VmNotFound`].
    pub async fn address_views(&self, id: VmId) -> Result<Vec<AddressView>> {
        let handle = self.handle(id)?;
        let view = handle.view();
        let Some(now) = &view.in_effect else { return Ok(Vec::new()) };
        let report = guest_report(&self.ctx, &handle.guest(), &view).await;
        let mut all = Vec::new();
        for nic in &now.nics {
            let mut add = |address, source, age: Option<u64>, expires| {
                all.push(AddressView { nic: nic.id, mac: nic.mac, address, source, age, expires });
            };
            let own =
                report.interfaces.iter().filter(|report| report.mac == nic.mac).flat_map(|report| &report.addresses);
            own.for_each(|address| add(*address, AddressSource::Agent, Some(report.at.elapsed().as_secs()), None));
            let Some(switch) = nic.switch().and_then(|id| self.places.get(id).ok()).map(|(switch, _)| switch) else {
                continue;
            };
            for lease in self.ctx.net.leases(switch.id) {
                let is_its = lease.mac == nic.mac.to_string() && lease.is_valid();
                if is_its && nic.port().and_then(|port| port.address) == Some(lease.address) {
                    add(lease.address.into(), AddressSource::Dhcp, lease.age(), lease.expires);
                }
            }
            for (address, ago) in self.ctx.net.seen(&switch, nic).await {
                add(address, AddressSource::Seen, Some(ago.as_secs()), None);
            }
        }
        Ok(all)
    }

    /// Whether any of its NICs has one.
    pub(super) async fn has_any_address(&self, view: &VmView) -> bool {
        let known = self.addresses(view).await;
        if known.by_mac.values().any(|addresses| !addresses.is_empty()) {
            return true;
        }
        for nic in view.in_effect.iter().flat_map(|now| &now.nics) {
            let switch = nic.switch().and_then(|id| self.places.get(id).ok());
            if let Some((switch, _)) = switch
                && !self.ctx.net.seen(&switch, nic).await.is_empty()
            {
                return true;
            }
        }
        false
    }
}
