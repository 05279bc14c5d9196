//! What a guest says of its network interfaces, through its agent, and what it said last. It is asked in passing: who reads waits
//! for it only a moment, and what it told is kept for as long as it runs.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qapi::{
    Command,
    qga::{GuestNetworkInterface, guest_network_get_interfaces},
};
use tokio::time::Instant;

use super::Context;
use crate::{
    model::{MacAddr, Status, VmId, VmView},
    qmp::Agent,
};

/// How long a read waits for a guest agent; one that is there answers in milliseconds.
const MOMENT: Duration = Duration::from_secs(1);
/// How long a guest is not asked again, also where it said nothing.
pub(crate) const FRESH: Duration = Duration::from_secs(5);
/// The same for the daemon itself, of a guest that says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// One interface that has a NIC of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    pub mac: MacAddr,
    /// Without those that only hold on its own link.
    pub addresses: Vec<IpAddr>,
}

/// What the agents of the guests told last.
#[derive(Default)]
pub struct Reports(Mutex<HashMap<VmId, Known>>);

/// What is known of a guest for as long as it runs.
struct Known {
    /// The process that it runs in: what the guest of another told is not true any more.
    pid: Option<i32>,
    requested: Instant,
    report: Report,
}

/// What a guest told last.
#[derive(Clone)]
pub(crate) struct Report {
    pub at: Instant,
    pub interfaces: Vec<GuestInterface>,
}

impl Known {
    fn is_of(&self, view: &VmView) -> bool {
        view.in_effect.is_some() && view.pid == self.pid
    }
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, HashMap<VmId, Known>> {
        // Every change under the lock is one insertion, or whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a guest told last, without asking it.
    pub(crate) fn last(&self, view: &VmView) -> Vec<GuestInterface> {
        let all = self.lock();
        let known = all.get(&view.spec.id).filter(|known| known.is_of(view));
        known.map(|known| known.report.interfaces.clone()).unwrap_or_default()
    }
}

/// What a guest tells, or else told last since it was started.
pub(crate) async fn report(ctx: &Context, view: &VmView) -> Report {
    let id = view.spec.id;
    let last = {
        let mut all = ctx.reports.lock();
        let known = all.get(&id).filter(|known| known.is_of(view));
        let nothing = || Report { at: Instant::now(), interfaces: Vec::new() };
        let last = known.map_or_else(nothing, |known| known.report.clone());
        let is_fresh = known.is_some_and(|known| known.requested.elapsed() < FRESH);
        // One that is paused cannot answer, and would do so to nobody when it goes on.
        if is_fresh || !view.agent || view.status == Status::Paused {
            return last;
        }
        if !all.contains_key(&id) {
            all.retain(|id, _| ctx.census.knows(*id));
        }
        // Whoever reads in the meantime does not ask as well: an agent serves one at a time.
        all.insert(id, Known { pid: view.pid, requested: Instant::now(), report: last.clone() });
        last
    };
    let interfaces = ask(ctx, id, MOMENT).await;
    if interfaces.is_empty() {
        return last;
    }
    let report = Report { at: Instant::now(), interfaces };
    ctx.reports.lock().insert(id, Known { pid: view.pid, requested: report.at, report: report.clone() });
    report
}

/// When the daemon asks a guest by itself: once its agent is there, until it has told an address. So a list has it, which asks nobody.
#[derive(Default)]
pub(super) struct Asking {
    /// And how long after that again; none before its agent has come.
    next: Option<(Instant, Duration)>,
}

impl Asking {
    /// Whether it is time to ask, by how the VM is now.
    pub fn is_due(&mut self, ctx: &Context, view: &VmView) -> bool {
        if !view.agent {
            self.next = None;
            return false;
        }
        let now = Instant::now();
        let (at, wait) = self.next.unwrap_or((now, FRESH));
        if now < at {
            return false;
        }
        let has_come = self.next.is_none();
        self.next = Some((now + wait, PATIENCE.min(2 * wait)));
        // Somebody else may have asked it meanwhile.
        let has_told = || ctx.reports.last(view).iter().any(|interface| !interface.addresses.is_empty());
        has_come || !has_told()
    }
}

/// Asks the agent of a running guest, for `patience` at most; nothing where it does not answer.
async fn ask(ctx: &Context, id: VmId, patience: Duration) -> Vec<GuestInterface> {
    let path = ctx.run_paths(&id).agent();
    let exchange = async {
        let mut agent = Agent::connect(&path, patience).await?;
        // Raw: of a list in which one interface is odd the others are still to be had.
        agent.execute_raw(guest_network_get_interfaces::NAME, None, patience).await
    };
    let answer = tokio::time::timeout(patience, exchange).await;
    match answer {
        Ok(Ok(reply)) => read(reply),
        Ok(Err(error)) => {
            tracing::debug!(vm = %id, %error, "guest agent");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// A guest is not to be trusted: what is not as expected is left out.
fn read(reply: serde_json::Value) -> Vec<GuestInterface> {
    let serde_json::Value::Array(interfaces) = reply else { return Vec::new() };
    let interfaces = interfaces.into_iter().filter_map(|interface| serde_json::from_value(interface).ok());
    let ours = interfaces.filter_map(|interface: GuestNetworkInterface| {
        let mac = MacAddr::try_from(interface.hardware_address?.to_lowercase()).ok()?;
        let addresses = interface.ip_addresses.unwrap_or_default();
        let addresses = addresses.iter().filter_map(|address| address.ip_address.parse().ok());
        Some(GuestInterface { mac, addresses: addresses.filter(is_global).collect() })
    });
    ours.collect()
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn interfaces_are_those_of_our_nics_and_nonsense_is_left_out() {
        let answer = read(json!([
            { "name": "lo", "ip-addresses": [{ "ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8 }],
              "hardware-address": "00:00:00:00:00:00" },
            { "name": "eth0", "hardware-address": "52:54:00:AB:cd:ef", "ip-addresses": [
                { "ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24 },
                { "ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64 },
                { "ip-address": "fd00::2", "ip-address-type": "ipv6", "prefix": 64 },
                { "ip-address": "not one", "ip-address-type": "ipv4", "prefix": 24 } ] },
            { "name": "eth1", "hardware-address": "52:54:00:00:00:01" },
            { "name": "tun0" }, 7, { "hardware-address": 3 },
        ]));
        let addresses: Vec<String> = answer[0].addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(addresses, ["10.0.2.15", "fd00::2"]);
        assert_eq!((answer.len(), answer[1].addresses.len()), (2, 0));
        assert_eq!(read(json!({ "x": 1 })), []);
    }
}
