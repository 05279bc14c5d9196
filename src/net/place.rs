//! The switches and ports that are wanted, and what is known of each. Maps under locks that nobody holds while waiting;
//! whoever works on a switch waits for its own turn, never for another switch.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Instant,
};

use tokio::sync::Notify;

use super::{
    PortHealth, Traffic,
    companion::Companion,
    dhcp::Host,
    host_side::{self, PortSide, SwitchSide},
    leased::Leases,
};
use crate::model::{Moved, Nic, NicId, Switch, SwitchId};

/// All that is wanted.
#[derive(Default)]
pub struct Places {
    switches: Mutex<HashMap<SwitchId, Arc<Place>>>,
    ports: Mutex<HashMap<NicId, PlugState>>,
    /// Who has an address on a switch, whether plugged or not.
    hosts: Mutex<HashMap<SwitchId, Vec<Host>>>,
}

/// A switch.
pub struct Place {
    pub id: SwitchId,
    wanted: Mutex<Arc<Wanted>>,
    /// Held by whoever changes what is there of it.
    pub turn: Arc<tokio::sync::Mutex<Hands>>,
    /// Who is on it is known, not only what an earlier daemon wrote down of it.
    pub known: AtomicBool,
    /// Held by whoever changes its VLANs.
    pub vlans: tokio::sync::Mutex<()>,
    /// Something of it may not be as it is wanted.
    pub wake: Arc<Notify>,
    problems: Mutex<BTreeMap<Area, String>>,
    leases: Mutex<Leases>,
    /// The addresses of the host on its bridge; none where it was not looked at, or there is no bridge.
    host: Mutex<Option<Vec<IpAddr>>>,
}

/// What a switch is to be.
pub struct Wanted {
    pub switch: Switch,
    pub side: SwitchSide,
}

impl Wanted {
    pub fn moved(&self) -> Option<&Moved> {
        self.side.moved.as_ref()
    }
}

/// What works for a switch.
#[derive(Default)]
pub struct Hands {
    pub dhcp: Option<Companion>,
    /// Who that was last told of; none where it goes by what was left.
    pub hosts: Option<Vec<Host>>,
    /// It answers for names, too.
    pub dns: bool,
    /// Its rules are in.
    pub ruled: bool,
    /// Nothing of it is to be made any more.
    pub removed: bool,
}

/// What a problem is of; a problem goes when its area is looked at again and is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// Links, addresses, sysctls.
    Host,
    Rules,
    Dhcp,
    /// The port for names.
    Dns,
    /// Addresses of the host that go by themselves.
    Leased,
    /// What others have set up on the host.
    Others,
    /// The adapter by which the host reaches other networks.
    Uplink,
    /// What the kernel takes for forged.
    ReversePath,
    /// Addresses of the host that port forwards name.
    Forwards,
}

/// A port of a switch, as it was plugged and as it was last seen.
#[derive(Clone)]
pub struct PlugState {
    pub nic: Nic,
    /// What that is on the host: computed once, and looked at with every look.
    pub side: PortSide,
    /// Before that, a tap that is not there is on its way; from then on it is gone.
    pub plugged: Option<Instant>,
    pub health: PortHealth,
    pub traffic: Option<Traffic>,
}

impl PlugState {
    pub fn new(state: &str, nic: &Nic, plugged: Option<Instant>) -> Self {
        let side = host_side::port(state, nic);
        Self { nic: nic.clone(), side, plugged, health: PortHealth::Ok, traffic: None }
    }
}

impl Places {
    pub fn switch(&self, id: SwitchId) -> Option<Arc<Place>> {
        lock(&self.switches).get(&id).cloned()
    }

    pub fn switches(&self) -> Vec<Arc<Place>> {
        lock(&self.switches).values().cloned().collect()
    }

    /// The place of a switch that is to be this from now on, and whether it is a new one.
    pub fn put(&self, wanted: Wanted) -> (Arc<Place>, bool) {
        let id = wanted.switch.id;
        let wanted = Arc::new(wanted);
        let mut switches = lock(&self.switches);
        if let Some(place) = switches.get(&id) {
            *lock(&place.wanted) = wanted;
            return (place.clone(), false);
        }
        let place = Arc::new(Place {
            id,
            wanted: Mutex::new(wanted),
            turn: Arc::default(),
            vlans: tokio::sync::Mutex::default(),
            known: AtomicBool::new(false),
            wake: Arc::default(),
            problems: Mutex::default(),
            leases: Mutex::default(),
            host: Mutex::default(),
        });
        switches.insert(id, place.clone());
        (place, true)
    }

    pub fn remove(&self, id: SwitchId) -> Option<Arc<Place>> {
        lock(&self.hosts).remove(&id);
        lock(&self.switches).remove(&id)
    }

    pub fn ports(&self) -> MutexGuard<'_, HashMap<NicId, PlugState>> {
        lock(&self.ports)
    }

    /// The NICs on a switch.
    pub fn nics_on(&self, switch: SwitchId) -> Vec<Nic> {
        let mut nics: Vec<Nic> =
            self.ports().values().map(|port| &port.nic).filter(|nic| nic.switch() == Some(switch)).cloned().collect();
        nics.sort_by_key(|nic| nic.id);
        nics
    }

    /// From now on these have an address on a switch. Says whether that is news.
    pub fn put_hosts(&self, switch: SwitchId, hosts: Vec<Host>) -> bool {
        let mut all = lock(&self.hosts);
        let news = all.get(&switch) != Some(&hosts);
        all.insert(switch, hosts);
        news
    }

    /// Everybody with an address on a switch, also NICs that nobody told of.
    pub fn hosts(&self, switch: SwitchId) -> Vec<Host> {
        let mut hosts = lock(&self.hosts).get(&switch).cloned().unwrap_or_default();
        let mut known: (HashSet<_>, HashSet<_>) = hosts.iter().map(|host| (host.mac, host.address)).unzip();
        let on_it = |port: &PlugState| port.nic.switch() == Some(switch);
        let mut plugged: Vec<_> = {
            let ports = self.ports();
            let plugged = ports.values().filter(|port| on_it(port));
            plugged.filter_map(|port| Some((port.nic.id, Host::of(&port.nic)?))).collect()
        };
        plugged.sort_by_key(|(nic, _)| *nic);
        for (_, host) in plugged {
            if !known.0.contains(&host.mac) && !known.1.contains(&host.address) {
                known.0.insert(host.mac);
                known.1.insert(host.address);
                hosts.push(host);
            }
        }
        hosts
    }

    pub fn is_empty(&self) -> bool {
        // One lock after the other: others hold the second when they take the first.
        let switches = lock(&self.switches).is_empty();
        switches && self.ports().is_empty()
    }
}

impl Place {
    pub fn wanted(&self) -> Arc<Wanted> {
        lock(&self.wanted).clone()
    }

    /// Whether the files of its dnsmasq are as they are to be; also while somebody works on that.
    pub fn is_served(&self) -> bool {
        let Ok(hands) = self.turn.try_lock() else { return true };
        hands.dhcp.as_ref().is_none_or(Companion::is_written)
    }

    /// Does something with what is known of addresses of the host that go by themselves.
    pub fn leases<T>(&self, work: impl FnOnce(&mut Leases) -> T) -> T {
        work(&mut lock(&self.leases))
    }

    /// These are the host's addresses on its bridge now. Says whether that is news.
    pub fn sees(&self, host: Option<Vec<IpAddr>>) -> bool {
        let before = self.host_addresses();
        *lock(&self.host) = host;
        before != self.host_addresses()
    }

    /// The addresses that are the host's on it, and no guest's.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        host_side::host_addresses(&self.wanted().side, lock(&self.host).clone())
    }

    /// From now on this is wrong with an area, or nothing. Says whether that is news.
    pub fn tell(&self, area: Area, problem: Option<String>) -> bool {
        let mut problems = lock(&self.problems);
        let (before, news) = match problem {
            Some(problem) => (problems.insert(area, problem.clone()), Some(problem)),
            None => (problems.remove(&area), None),
        };
        if before == news {
            return false;
        }
        match news {
            Some(problem) => tracing::warn!(switch = %self.id, problem, "the switch is not as it should be"),
            None => tracing::info!(switch = %self.id, "{area:?} of the switch is as it should be again"),
        }
        true
    }

    /// All that is wrong, in words.
    pub fn problem(&self) -> Option<String> {
        let problems = lock(&self.problems);
        let all: Vec<&str> = problems.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

// Every change under the lock is whole, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
