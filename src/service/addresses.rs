//! The addresses of NICs: what the DHCP of their switch has given them, else what the guest agent tells.
//! A guest is asked in passing: a read waits for it only a moment, and what it told is kept for a while.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Service;
use crate::{
    model::{AddressSource, MacAddr, Nic, NicBackend, NicId, Result, Status, SwitchId, VmId, VmView},
    vm::GuestInterface,
};

/// How long a read waits for a guest agent; one that is there answers in milliseconds.
const MOMENT: Duration = Duration::from_secs(1);
/// How long a guest is not asked again, also where it said nothing. What it said is known for longer: until it ends.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// What the agents of the guests told last.
#[derive(Default)]
pub(super) struct GuestAnswers(Mutex<HashMap<VmId, Known>>);

/// What is known of a guest for as long as it runs.
struct Known {
    /// The process that it runs in: what the guest of another told is not true any more.
    pid: Option<i32>,
    requested: Instant,
    report: Report,
}

/// What a guest told last.
#[derive(Clone)]
struct Report {
    at: Instant,
    interfaces: Vec<GuestInterface>,
}

impl Known {
    fn is_of(&self, view: &VmView) -> bool {
        view.in_effect.is_some() && view.pid == self.pid
    }
}

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
            for GuestInterface { mac, addresses } in self.ask_guest(view).await.interfaces {
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
        let answers = self.guest_answers.0.lock().unwrap_or_else(PoisonError::into_inner);
        for view in views {
            let last = answers.get(&view.spec.id).filter(|known| known.is_of(view));
            for report in last.iter().flat_map(|known| &known.report.interfaces) {
                if let Some(own) = known.by_mac.get_mut(&report.mac).filter(|own| own.is_empty()) {
                    own.clone_from(&report.addresses);
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
        let view = self.view(id)?;
        let Some(now) = &view.in_effect else { return Ok(Vec::new()) };
        let report = self.ask_guest(&view).await;
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

    /// What a guest tells, or else told last since it was started.
    async fn ask_guest(&self, view: &VmView) -> Report {
        let id = view.spec.id;
        let last = {
            let mut answers = self.guest_answers.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = answers.get(&id).filter(|known| known.is_of(view));
            let nothing = || Report { at: Instant::now(), interfaces: Vec::new() };
            let last = known.map_or_else(nothing, |known| known.report.clone());
            let is_fresh = known.is_some_and(|known| known.requested.elapsed() < FRESH);
            // One that is paused cannot answer, and would do so to nobody when it goes on.
            if is_fresh || !view.agent || view.status == Status::Paused {
                return last;
            }
            if !answers.contains_key(&id) {
                answers.retain(|id, _| self.view(*id).is_ok());
            }
            // Whoever reads in the meantime does not ask as well: an agent serves one at a time.
            answers.insert(id, Known { pid: view.pid, requested: Instant::now(), report: last.clone() });
            last
        };
        let Ok(handle) = self.handle(id) else { return last };
        let interfaces = handle.guest().interfaces(MOMENT).await;
        if interfaces.is_empty() {
            return last;
        }
        let report = Report { at: Instant::now(), interfaces };
        let mut answers = self.guest_answers.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(id, Known { pid: view.pid, requested: report.at, report: report.clone() });
        report
    }
}
