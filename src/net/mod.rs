//! The host's side of the switches: bridges, taps, the rules of their ports, DHCP. What a VM is, it does not know.
//!
//! ```text
//!  Network     what the rest of qherd asks for
//!  keeper      what is wanted, made again whenever the kernel tells of a change
//!  adapter · firewall · dhcp        External switches · rules of the ports · addresses
//!  netlink · tap · nft              the kernel
//! ```
//! Everything made bears a mark: names that begin with `qhb` and `qht`, an interface alias `qherd:<state>:<id>`, tables
//! `qherd_<state>`. What does not bear this daemon's is never touched, also not that of a second qherd.

mod adapter;
mod dhcp;
mod error;
mod firewall;
mod keeper;
mod netlink;
pub mod nft;
mod overlap;
mod port;
mod program;
pub mod rules;
mod tap;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;
use uuid::Uuid;

pub use error::NetError;
pub use port::{Lease, PortEvent, PortHealth, Traffic};

use crate::{
    host::process::boot_id,
    model::{Moved, Nic, NicBackend, NicId, Switch, SwitchId, SwitchKind, SwitchPort},
};
use adapter::Carried;
use dhcp::Dhcp;
use firewall::Firewall;
use keeper::{Port, Wanted, World};
use netlink::Netlink;

type Result<T, E = NetError> = std::result::Result<T, E>;

const CAPABILITY: &str = "CAP_NET_ADMIN";

/// The host's network, as far as it is ours. Cheap to share.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    /// `<state-dir>/net`.
    folder: PathBuf,
    /// Tells this daemon's things from another's.
    state: String,
    netlink: Option<Netlink>,
    firewall: Firewall,
    world: tokio::sync::Mutex<World>,
    published: Mutex<HashMap<NicId, Published>>,
    events: broadcast::Sender<PortEvent>,
}

struct Published {
    health: PortHealth,
    traffic: Option<Traffic>,
}

impl Network {
    /// Never fails: without CAP_NET_ADMIN every call that changes something answers [`NetError::Missing`].
    pub async fn open(state_dir: &Path) -> Self {
        let folder = state_dir.join("net");
        let state = state_id(&folder).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "cannot keep the mark of this daemon's switches");
            "unknown".into()
        });
        let netlink = match Netlink::open() {
            Ok(netlink) if netlink.may_change().await => Some(netlink),
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
            firewall: Firewall::new(&state),
            folder,
            state,
            netlink,
            world: tokio::sync::Mutex::default(),
            published: Mutex::default(),
            events: broadcast::Sender::new(256),
        });
        if inner.netlink.is_some() {
            tokio::spawn(keeper::follow(Arc::downgrade(&inner)));
        }
        Self(inner)
    }

    /// Whether the daemon can change the host's network.
    ///
    /// # Errors
    /// [`NetError::Missing`], [`NetError::Program`].
    pub fn available(&self) -> Result<()> {
        self.0.netlink().and_then(|_| program::installed())
    }

    /// What of the host's is to move from the adapter of an External switch to its bridge. It has to be on stable
    /// storage before [`Network::put_switch`] is called with it. `known` is what an earlier call gave.
    ///
    /// # Errors
    /// [`NetError::Adapter`] and [`NetError::Carries`] for an adapter that cannot be taken, [`NetError::Overlap`] for a
    /// subnet.
    pub async fn survey(&self, switch: &Switch, known: Option<&Moved>) -> Result<Option<Moved>> {
        let netlink = self.0.netlink()?;
        let links = netlink.links().await?;
        let bridge = links.iter().find(|link| link.name == switch.bridge());
        let (name, allow) = match &switch.kind {
            SwitchKind::Private => return Ok(None),
            SwitchKind::Internal { subnet } => {
                if let (Some(subnet), None) = (subnet, bridge) {
                    overlap::check_overlap(netlink, subnet, None).await?;
                }
                return Ok(None);
            }
            SwitchKind::External { adapter, allow_management_os, .. } => (adapter, *allow_management_os),
        };
        let adapter = adapter::check(&links, name, &switch.bridge())?;
        let mut carried = Carried::read(netlink, adapter.index).await?;
        if !allow {
            return if carried.is_empty() {
                Ok(None)
            } else {
                Err(NetError::Carries { adapter: name.clone(), what: carried.describe() })
            };
        }
        if let Some(bridge) = bridge {
            carried.join(&Carried::read(netlink, bridge.index).await?.to_moved()?);
        }
        // Once the adapter is in the bridge, each address is on one of the two; before that, or when somebody removed
        // the bridge, what was written down counts too. After another boot the adapter has what it is to have.
        let joined = bridge.is_some_and(|bridge| adapter.master == Some(bridge.index));
        if let (false, Some(known)) = (joined, known)
            && boot_id().is_ok_and(|now| now == known.boot_id)
        {
            carried.join(known);
        }
        carried.to_moved().map(Some)
    }

    /// Makes a switch, or brings it to this form. Idempotent.
    ///
    /// # Errors
    /// [`NetError`]; what was made before is removed again by [`Network::remove_switch`].
    pub async fn put_switch(&self, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        self.0.netlink()?;
        let mut world = self.0.world.lock().await;
        self.0.firewall.ensure().await?;
        let World { switches, ports } = &mut *world;
        let (dhcp, told) = switches.remove(&switch.id).map_or((None, false), |before| (before.dhcp, before.told));
        let wanted = Wanted { switch: switch.clone(), moved: moved.cloned(), dhcp, mtu: None, told };
        let wanted = switches.entry(switch.id).or_insert(wanted);
        self.0.firewall.put_switch(switch, &self.0.host_addresses(wanted).await).await?;
        // Live cards that were adopted while the switch was not there.
        let adopted = ports.values().map(|port| &port.nic).filter(|nic| nic.switch() == Some(switch.id));
        self.0.firewall.put_ports(adopted, switch).await?;
        let made = self.0.stand(wanted).await?;
        if let Some(subnet) = switch.subnet() {
            match &wanted.dhcp {
                Some(dhcp) if made => dhcp.restart(),
                Some(_) => {}
                None => {
                    let folder = self.0.switch_folder(switch.id);
                    let dhcp = Dhcp::start(folder, switch.bridge(), subnet.clone(), made)?;
                    wanted.dhcp = Some(dhcp);
                }
            }
        }
        Ok(())
    }

    /// Removes what [`Network::put_switch`] made, also half of it. Idempotent.
    ///
    /// # Errors
    /// [`NetError::Missing`], [`NetError::Failed`].
    pub async fn remove_switch(&self, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        let netlink = self.0.netlink()?;
        let mut world = self.0.world.lock().await;
        let folder = self.0.switch_folder(switch.id);
        match world.switches.remove(&switch.id).and_then(|wanted| wanted.dhcp) {
            Some(dhcp) => dhcp.stop().await?,
            None => dhcp::remove(&folder).await?,
        }
        let bridge = netlink.link(&switch.bridge()).await?;
        if let SwitchKind::External { adapter, .. } = &switch.kind
            && let Some(adapter) = netlink.link(adapter).await?
        {
            if let Some(bridge) = &bridge
                && adapter.master == Some(bridge.index)
            {
                let left = netlink.set(adapter.index, rtnetlink::LinkMessageBuilder::nocontroller).await;
                left.map_err(|e| NetError::failed(format!("take {} out of its bridge", adapter.name), e))?;
            }
            if let Some(moved) = moved {
                adapter::carry(netlink, moved, bridge.as_ref(), &adapter).await?;
            }
        }
        let alias = self.0.alias(&switch.id.to_string());
        if let Some(bridge) = bridge
            && bridge.alias.as_ref().is_none_or(|found| *found == alias)
        {
            let removed = netlink.remove(bridge.index).await;
            removed.map_err(|e| NetError::failed(format!("remove the bridge {}", bridge.name), e))?;
        }
        // The last one takes the tables along: where there are no switches, nothing of ours is left.
        if world.switches.is_empty() && world.ports.is_empty() {
            self.0.firewall.remove().await
        } else {
            self.0.firewall.remove_switch(switch).await
        }
    }

    /// Makes the tap of a card on a switch with the rules of its port, and joins it to the bridge: one descriptor per
    /// queue, for QEMU. The tap goes when the last of them is closed.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left behind.
    pub async fn plug(&self, nic: &Nic) -> Result<Vec<OwnedFd>> {
        let netlink = self.0.netlink()?;
        let switch = self.0.switch_of(nic).await?;
        let name = nic.tap();
        let failed = |error: io::Error| NetError::failed(format!("make the tap {name}"), error);
        // The rules first: no frame passes without them.
        self.0.firewall.put_port(nic, &switch).await?;
        let plugged = async {
            let queues = tap::create(&name, nic.queues).map_err(failed)?;
            let mut world = self.0.world.lock().await;
            let tap = netlink.link(&name).await?;
            let tap = tap.ok_or_else(|| failed(io::Error::other("it is gone again")))?;
            let bridge = netlink.link(&switch.bridge()).await?;
            let bridge = bridge.ok_or_else(|| failed(io::Error::other("the bridge of its switch is not there")))?;
            let mtu = world.switches.get(&switch.id).and_then(|wanted| wanted.mtu);
            self.0.connect(nic, &tap, &bridge, mtu).await?;
            self.0.keep(&mut world, nic, PortHealth::Ok);
            Ok(queues)
        };
        let plugged = plugged.await;
        if plugged.is_err()
            && let Err(error) = self.0.firewall.remove_port(nic, Some(&switch)).await
        {
            tracing::warn!(tap = name, %error, "cannot take back the rules of a port");
        }
        plugged
    }

    /// After QEMU has let go of the card or has ended: its rules go, and the tap if it is still there. Idempotent.
    ///
    /// # Errors
    /// [`NetError::Failed`].
    pub async fn unplug(&self, nic: &Nic) -> Result<()> {
        let Ok(netlink) = self.0.netlink() else { return Ok(()) };
        {
            let mut world = self.0.world.lock().await;
            world.ports.remove(&nic.id);
            self.0.published().remove(&nic.id);
            if let Some(tap) = netlink.link(&nic.tap()).await?
                && tap.alias.is_none_or(|alias| alias == self.0.alias(&nic.id.to_string()))
            {
                let removed = netlink.remove(tap.index).await;
                removed.map_err(|e| NetError::failed(format!("remove the tap {}", tap.name), e))?;
            }
        }
        let switch = self.0.switch_of(nic).await.ok();
        self.0.firewall.remove_port(nic, switch.as_ref()).await
    }

    /// A live VM's card after a restart of the daemon: its tap is there (QEMU holds it), and is looked after from now on.
    pub async fn adopt(&self, nic: &Nic) {
        match self.0.switch_of(nic).await {
            Ok(switch) => {
                if let Err(error) = self.0.firewall.put_port(nic, &switch).await {
                    tracing::warn!(tap = nic.tap(), %error, "cannot put the rules of a port in again");
                }
            }
            // The port is looked after all the same: it is joined when the switch is back.
            Err(error) => tracing::warn!(%error, "the switch of a live card"),
        }
        let mut world = self.0.world.lock().await;
        self.0.keep(&mut world, nic, PortHealth::Ok);
        drop(world);
        if let Err(error) = self.0.look().await {
            tracing::warn!(tap = nic.tap(), %error, "cannot look after a port");
        }
    }

    /// Removes what is ours by its mark and belongs to no record; for the start, when all records are known.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn sweep(&self, switches: &HashSet<SwitchId>, nics: &HashSet<NicId>) -> Result<()> {
        self.0.sweep(switches, nics).await
    }

    /// How a port is doing, as last seen. Never waits.
    pub fn port(&self, nic: NicId) -> PortHealth {
        self.0.published().get(&nic).map_or(PortHealth::Gone, |port| port.health.clone())
    }

    /// The last figures of a card's tap, a second old at most. Never waits.
    pub fn traffic(&self, nic: NicId) -> Option<Traffic> {
        self.0.published().get(&nic)?.traffic
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<PortEvent> {
        self.0.events.subscribe()
    }

    /// Addresses that a switch's DHCP has given out.
    pub fn leases(&self, switch: SwitchId) -> Vec<Lease> {
        dhcp::leases(&self.0.switch_folder(switch))
    }

    /// Frames of guests that the rules of the ports refused, since the first switch was made.
    pub async fn refused_frames(&self) -> Option<u64> {
        self.0.firewall.refused().await
    }
}

impl Inner {
    fn netlink(&self) -> Result<&Netlink> {
        self.netlink.as_ref().ok_or(NetError::Missing { capability: CAPABILITY })
    }

    /// The mark of a device of ours.
    fn alias(&self, id: &str) -> String {
        format!("qherd:{}:{id}", self.state)
    }

    fn switch_folder(&self, switch: SwitchId) -> PathBuf {
        self.folder.join(switch.short())
    }

    async fn switch_of(&self, nic: &Nic) -> Result<Switch> {
        let world = self.world.lock().await;
        let wanted = nic.switch().and_then(|id| world.switches.get(&id));
        let why = "its switch does not work on this host; the switch itself tells why";
        let gone = || NetError::failed(format!("plug {}", nic.tap()), why);
        wanted.map(|wanted| wanted.switch.clone()).ok_or_else(gone)
    }

    /// From now on the port is looked after.
    fn keep(&self, world: &mut World, nic: &Nic, health: PortHealth) {
        if let NicBackend::Switch(SwitchPort { switch, address: Some(address), .. }) = &nic.backend
            && let Some(dhcp) = world.switches.get(switch).and_then(|wanted| wanted.dhcp.as_ref())
        {
            dhcp.reserve(nic.mac, *address);
        }
        world.ports.insert(nic.id, Port { nic: nic.clone(), told: false });
        self.published().insert(nic.id, Published { health, traffic: None });
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn published(&self) -> MutexGuard<'_, HashMap<NicId, Published>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mark of this state directory, made once.
fn state_id(folder: &Path) -> io::Result<String> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join("id");
    match fs::read_to_string(&path) {
        Ok(id) if id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(id),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            let id = Uuid::new_v4().simple().to_string()[..8].to_owned();
            let new = folder.join("id.new");
            let mut file = fs::File::create(&new)?;
            io::Write::write_all(&mut file, id.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(folder)?.sync_all()?;
            Ok(id)
        }
    }
}
