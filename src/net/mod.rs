//! The host's side of the switches: bridges, taps, the rules of their ports, DHCP. What a VM is, it does not know.
//!
//! ```text
//!  Network     what the rest of qherd asks for: each call changes what is wanted, and has it made
//!  place       what is wanted, and what is known of it            host_side   what that is on the host, as a value
//!  reconcile · ports · rules_in_force · vlans · serve      bring a switch, its ports, the rules, its DHCP to it
//!  keeper      looks at the whole whenever the kernel tells of a change, and wakes the switches that differ
//!  problem · foreign · in_the_way · way       what is in the way that is not ours
//!  netlink · nft · tap · companion         the kernel, and dnsmasq beside a switch
//!  passt · user_rules                      what carries a NIC on no switch, and what of the host that reaches
//! ```
//! Everything made bears a mark: names that begin with `qhb` and `qht`, an interface alias `qherd:<state>:<id>`, tables
//! `qherd_<state>`. What does not bear this daemon's is never touched, also not that of a second qherd.

mod adapter;
mod claims;
mod companion;
mod dhcp;
mod error;
mod foreign;
mod host_side;
mod in_the_way;
mod inherited;
mod keeper;
mod lease_news;
mod leased;
mod legacy;
mod netlink;
pub mod nft;
mod overlap;
mod own_addresses;
pub mod passt;
mod place;
mod port;
mod ports;
mod problem;
mod reconcile;
mod reverse_path;
pub mod rules;
mod rules_in_force;
mod runtime;
mod serve;
mod state_mark;
mod survey;
mod sweep;
mod tap;
mod truth;
mod user_rules;
mod vlans;
mod way;

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{broadcast, oneshot, watch},
    time::timeout,
};

pub use dhcp::Host;
pub(crate) use dhcp::fuzz as fuzz_leases;
pub use error::NetError;
pub use port::{Lease, PortEvent, PortHealth, Traffic};

use crate::model::{Moved, Nic, NicId, Switch, SwitchId};
use host_side::mark;
use netlink::{Link, Netlink};
use place::{Places, Wanted};
use rules_in_force::RulesInForce;
use truth::Others;
use user_rules::UserRules;

type Result<T, E = NetError> = std::result::Result<T, E>;

const CAPABILITY: &str = "CAP_NET_ADMIN";

/// Longer than this no call waits for the host. What it has begun goes on by itself, and keeps nothing else waiting.
const PATIENCE: Duration = Duration::from_secs(15);

/// The host's network, as far as it is ours. Cheap to share.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    /// `<state-dir>/net`.
    folder: PathBuf,
    /// Tells this daemon's things from another's.
    state: String,
    netlink: Option<Netlink>,
    rules: RulesInForce,
    user_rules: UserRules,
    places: Places,
    /// Of every NIC it is known whether it lives.
    knows_all: AtomicBool,
    /// Whether the kernel's bridges can keep VLANs apart; none before one was looked at.
    keeps_vlans: OnceLock<bool>,
    /// There is a place for lists that dnsmasq reads while it runs; none before one was needed.
    public: OnceLock<bool>,
    others: Others,
    events: broadcast::Sender<PortEvent>,
    lease_news: lease_news::LeaseNews,
}

impl Network {
    /// Never fails: without CAP_NET_ADMIN every call that changes something answers [`NetError::Missing`].
    pub async fn open(state_dir: &Path) -> Self {
        let folder = state_dir.join("net");
        let state = state_mark::read_or_draw(&folder).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "cannot keep the mark of this daemon's switches");
            "unknown".into()
        });
        companion::sweep(&runtime::folder(&state));
        let netlink = match Netlink::open() {
            // A kernel that is busy has not said no.
            Ok(netlink) if timeout(PATIENCE, netlink.may_change()).await.unwrap_or(true) => Some(netlink),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot speak to the kernel about the network");
                None
            }
        };
        if netlink.is_none() {
            tracing::info!("no {CAPABILITY}: switches are not available, user-mode networking is");
        }
        let inner = Arc::new(Inner {
            rules: RulesInForce::new(&state),
            user_rules: UserRules::new(&state),
            folder,
            state,
            netlink,
            places: Places::default(),
            knows_all: AtomicBool::new(false),
            keeps_vlans: OnceLock::new(),
            public: OnceLock::new(),
            others: Others::default(),
            events: broadcast::Sender::new(256),
            lease_news: lease_news::LeaseNews::default(),
        });
        if inner.netlink.is_some() {
            tokio::spawn(keeper::follow(Arc::downgrade(&inner)));
            tokio::spawn(rules_in_force::follow(Arc::downgrade(&inner)));
            tokio::spawn(rules_in_force::compare(Arc::downgrade(&inner)));
            tokio::spawn(rules_in_force::count(Arc::downgrade(&inner)));
            tokio::spawn(truth::follow_others(Arc::downgrade(&inner)));
            tokio::spawn(user_rules::follow(Arc::downgrade(&inner)));
        }
        Self(inner)
    }

    /// Whether the daemon can change the host's network.
    ///
    /// # Errors
    /// [`NetError::Missing`].
    pub fn available(&self) -> Result<()> {
        self.0.netlink().map(drop)
    }

    /// Whether ports of switches can be in VLANs, as far as is known. Never waits.
    ///
    /// # Errors
    /// [`NetError::Vlans`].
    pub fn check_vlans(&self) -> Result<()> {
        if self.0.keeps_vlans.get() == Some(&false) { Err(NetError::Vlans) } else { Ok(()) }
    }

    /// Makes a switch, or brings it to this form. Idempotent.
    ///
    /// # Errors
    /// [`NetError`]; what was made before is removed again by [`Network::remove_switch`].
    pub async fn put_switch(&self, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        // What was written down before the host was last started is not true any more.
        let moved = moved.filter(|moved| adapter::is_of_this_boot(moved)).cloned();
        let (inner, switch) = (self.0.clone(), switch.clone());
        in_time(format!("make the bridge {}", switch.bridge()), async move {
            inner.put_switch(&switch, moved.as_ref()).await
        })
        .await
    }

    /// Removes what [`Network::put_switch`] made, also half of it. Idempotent.
    ///
    /// # Errors
    /// [`NetError::Missing`], [`NetError::Failed`].
    pub async fn remove_switch(&self, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        self.0.netlink()?;
        let what = || format!("remove the bridge {}", switch.bridge());
        let (inner, switch, moved) = (self.0.clone(), switch.clone(), moved.cloned());
        // Whoever works on it finishes first. A removal that is given up before it has begun never begins.
        let turn = match inner.places.switch(switch.id) {
            Some(place) => {
                Some(timeout(PATIENCE, place.turn.clone().lock_owned()).await.map_err(|_| unanswered(what()))?)
            }
            None => None,
        };
        in_time(what(), async move { inner.remove_switch(&switch, moved.as_ref(), turn).await }).await
    }

    /// Makes the tap of a NIC on a switch with the rules of its port, and joins it to the bridge: one descriptor per
    /// queue, for QEMU. The tap goes when the last of them is closed.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left behind.
    pub async fn plug(&self, nic: &Nic) -> Result<Vec<OwnedFd>> {
        let (inner, nic) = (self.0.clone(), nic.clone());
        let what = format!("plug {}", nic.tap());
        let (sender, plugged) = oneshot::channel();
        tokio::spawn(async move {
            if let Err(Ok(late)) = sender.send(inner.plug(&nic).await) {
                drop(late);
                let _ = inner.unplug(&nic).await;
            }
        });
        match timeout(PATIENCE, plugged).await {
            Ok(Ok(plugged)) => plugged,
            _ => Err(unanswered(what)),
        }
    }

    /// After QEMU has let go of the NIC or has ended: its rules go, and the tap if it is still there. Idempotent.
    ///
    /// # Errors
    /// [`NetError::Failed`].
    pub async fn unplug(&self, nic: &Nic) -> Result<()> {
        let (inner, nic) = (self.0.clone(), nic.clone());
        in_time(format!("unplug {}", nic.tap()), async move { inner.unplug(&nic).await }).await
    }

    /// A live VM's NIC after a restart of the daemon: its tap is there (QEMU holds it), and is looked after from now on.
    pub async fn adopt(&self, nic: &Nic) {
        let (inner, nic) = (self.0.clone(), nic.clone());
        let adopted = in_time(format!("look after {}", nic.tap()), async move {
            inner.adopt(&nic).await;
            Ok(())
        });
        if let Err(error) = adopted.await {
            tracing::warn!(%error, "a port");
        }
    }

    /// Brings the port of a plugged NIC to what is now said of it. Idempotent.
    ///
    /// # Errors
    /// [`NetError`]; the port is then made so by itself as soon as that is possible.
    pub async fn put_port(&self, nic: &Nic) -> Result<()> {
        let (inner, nic) = (self.0.clone(), nic.clone());
        in_time(format!("change the port {}", nic.tap()), async move { inner.put_port(&nic).await }).await
    }

    /// Who has an address on a switch from now on, whether plugged or not: the whole list. Never waits.
    pub fn put_hosts(&self, switch: SwitchId, hosts: Vec<Host>) {
        let news = self.0.places.put_hosts(switch, hosts);
        if let Some(place) = self.0.places.switch(switch).filter(|_| news) {
            self.0.reserve(&place);
        }
    }

    /// Who had an address on a switch when its DHCP was last told.
    pub fn hosts_left(&self, switch: SwitchId) -> Vec<Host> {
        dhcp::hosts(&self.0.switch_folder(switch))
    }

    /// Whether a subnet is free on this host, but for what the switch itself has of it.
    ///
    /// # Errors
    /// [`NetError::Overlap`].
    pub async fn check_subnet(&self, switch: &Switch) -> Result<()> {
        let (inner, switch) = (self.0.clone(), switch.clone());
        in_time("look at the routes of the host".into(), async move {
            let netlink = inner.netlink()?;
            let Some(subnet) = switch.subnet() else { return Ok(()) };
            let bridge = netlink.link(&switch.bridge()).await?;
            overlap::check_overlap(netlink, subnet, bridge.map(|bridge| bridge.index)).await
        })
        .await
    }

    /// Removes what is ours by its mark and belongs to no record; for the start, when all records are known. `nics` are
    /// the NICs of all VMs. Until then no rule of an earlier daemon goes.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn sweep(&self, switches: &[SwitchId], nics: &[Nic]) -> Result<()> {
        let (inner, switches, nics) = (self.0.clone(), switches.to_vec(), nics.to_vec());
        in_time("tidy up".into(), async move { inner.sweep(&switches, &nics).await }).await
    }

    /// What is wrong with a switch, as last seen. Never waits.
    pub fn problem(&self, switch: SwitchId) -> Option<String> {
        self.0.places.switch(switch)?.problem()
    }

    /// How a port is doing, as last seen. Never waits.
    pub fn port(&self, nic: NicId) -> PortHealth {
        self.0
            .places
            .ports()
            .get(&nic)
            .filter(|port| port.plugged.is_some())
            .map_or(PortHealth::Gone, |port| port.health.clone())
    }

    /// The last figures of a NIC's tap, a second old at most. Never waits.
    pub fn traffic(&self, nic: NicId) -> Option<Traffic> {
        self.0.places.ports().get(&nic)?.traffic
    }

    /// Frames that a NIC's guest sent and the rules refused, seconds old at most; none where it has no rules. Never waits.
    pub fn refused(&self, nic: &Nic) -> Option<u64> {
        self.0.rules.refused(nic)
    }

    /// Frames of all guests that were refused, as of now.
    pub async fn refused_frames(&self) -> Option<u64> {
        timeout(PATIENCE, self.0.rules.count_refused(&self.0.state)).await.ok()?
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<PortEvent> {
        self.0.events.subscribe()
    }

    /// What changes each time that the DHCP of a switch may have given out another address.
    pub fn lease_news(&self, switch: SwitchId) -> watch::Receiver<u64> {
        self.0.lease_news.of(&self.0.switch_folder(switch))
    }

    /// The addresses that a NIC's guest was seen to use, with the time since then: of a port that has none assigned.
    pub async fn seen(&self, switch: &Switch, nic: &Nic) -> Vec<(IpAddr, Duration)> {
        self.0.seen(switch, nic).await
    }

    /// Addresses that a switch's DHCP has given out.
    pub fn leases(&self, switch: SwitchId) -> Vec<Lease> {
        dhcp::leases(&self.0.switch_folder(switch))
    }
}

/// Has something done that the host may keep waiting, and waits for it for a while.
async fn in_time<T: Send + 'static>(what: String, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match timeout(PATIENCE, tokio::spawn(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(NetError::failed(what, error)),
        Err(_) => Err(unanswered(what)),
    }
}

fn unanswered(what: String) -> NetError {
    NetError::failed(what, format!("the host has not answered for {} s", PATIENCE.as_secs()))
}

impl Inner {
    #[allow(clippy::disallowed_methods, reason = "a folder of the state directory")]
    async fn put_switch(self: &Arc<Self>, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        // Before its rules, which would hold for another's bridge as well.
        let bridge = self.netlink()?.link(&switch.bridge()).await?;
        if let Some(bridge) = bridge.filter(|bridge| self.is_anothers(bridge, &switch.id.to_string())) {
            return Err(NetError::failed(format!("make the bridge {}", bridge.name), problem::anothers(&bridge)));
        }
        let side = host_side::switch(&self.state, switch, moved);
        let (place, new) = self.places.put(Wanted { switch: switch.clone(), side });
        if new {
            // Of one that nobody knew, nothing is left by an earlier daemon.
            place.known.store(!self.switch_folder(switch.id).exists(), Ordering::Relaxed);
            tokio::spawn(keeper::mend(Arc::downgrade(self), Arc::downgrade(&place), place.wake.clone()));
        }
        let made = self.reconcile(&place).await;
        self.others.concern(switch.id);
        made
    }

    fn netlink(&self) -> Result<&Netlink> {
        self.netlink.as_ref().ok_or(NetError::Missing { capability: CAPABILITY })
    }

    /// Whether a device by the name of one of ours bears another mark. One without a mark is one that a crash has left half
    /// made: its name has 48 bits of chance in it.
    fn is_anothers(&self, link: &Link, id: &str) -> bool {
        link.alias.as_ref().is_some_and(|found| *found != mark(&self.state, id))
    }

    fn knows_all(&self) -> bool {
        self.knows_all.load(Ordering::Relaxed)
    }
}
