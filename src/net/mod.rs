//! The host's side of the switches: bridges, taps, the rules of their ports, addresses. What a VM is, it does not know.

mod error;

use std::{net::Ipv4Addr, os::fd::OwnedFd, path::Path, sync::Arc, time::Instant};

use tokio::sync::broadcast;

pub use error::NetError;

use crate::model::{Moved, Nic, NicId, Switch, SwitchId};

type Result<T, E = NetError> = std::result::Result<T, E>;

/// The host's network, as far as it is ours. Cheap to share.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    events: broadcast::Sender<PortEvent>,
}

/// How a card's port is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortHealth {
    Ok,
    /// The tap is there but in no switch, for this reason; it is joined again as soon as that is possible.
    Detached(String),
    /// There is no tap: never plugged, or somebody removed it.
    Gone,
}

/// What has gone through a tap since it was made, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// When it was measured: rates are over the time between two of these.
    pub at: Instant,
    /// Towards the guest.
    pub in_bytes: u64,
    pub in_packets: u64,
    pub in_dropped: u64,
    /// From the guest.
    pub out_bytes: u64,
    pub out_packets: u64,
    pub out_dropped: u64,
}

/// What happened to the host's network without qherd's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEvent {
    /// Somebody removed the tap of a plugged card, or its QEMU ended. It cannot come back under a live guest.
    TapGone(NicId),
    /// The adapter of an External switch carries addresses (again) that are to move to the bridge.
    AdapterChanged(SwitchId),
}

/// An address that dnsmasq gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Lower case, with colons.
    pub mac: String,
    pub address: Ipv4Addr,
    pub hostname: Option<String>,
    /// Seconds since 1970; none for one that does not end.
    pub expires: Option<u64>,
}

impl Network {
    /// Never fails: without CAP_NET_ADMIN every call that changes something answers [`NetError::Missing`].
    pub async fn open(state_dir: &Path) -> Self {
        let _ = state_dir;
        Self(Arc::new(Inner { events: broadcast::Sender::new(256) }))
    }

    /// Whether the daemon may change the host's network.
    ///
    /// # Errors
    /// [`NetError::Missing`].
    pub fn available(&self) -> Result<()> {
        Err(NetError::Missing { capability: "CAP_NET_ADMIN" })
    }

    /// What of the host's is to move from the adapter of an External switch to its bridge. It has to be on stable
    /// storage before [`Network::put_switch`] is called with it. `known` is what an earlier call gave.
    ///
    /// # Errors
    /// [`NetError::Adapter`] and [`NetError::Carries`] for an adapter that cannot be taken.
    pub async fn survey(&self, switch: &Switch, known: Option<&Moved>) -> Result<Option<Moved>> {
        let _ = (switch, known);
        self.available()?;
        Ok(None)
    }

    /// Makes a switch, or brings it to this form. Idempotent.
    ///
    /// # Errors
    /// [`NetError`]; what was made before is removed again by [`Network::remove_switch`].
    pub async fn put_switch(&self, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        let _ = (switch, moved);
        self.available()
    }

    /// Removes what [`Network::put_switch`] made, also half of it. Idempotent.
    ///
    /// # Errors
    /// [`NetError::Failed`].
    pub async fn remove_switch(&self, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        let _ = (switch, moved);
        Ok(())
    }

    /// Makes the tap of a card on a switch with the rules of its port, and joins it to the bridge: one descriptor per
    /// queue, for QEMU. The tap goes when the last of them is closed.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left behind.
    pub async fn plug(&self, nic: &Nic) -> Result<Vec<OwnedFd>> {
        let _ = nic;
        self.available()?;
        Ok(Vec::new())
    }

    /// After QEMU has let go of the card or has ended: its rules go, and the tap if it is still there. Idempotent.
    ///
    /// # Errors
    /// [`NetError::Failed`].
    pub async fn unplug(&self, nic: &Nic) -> Result<()> {
        let _ = nic;
        Ok(())
    }

    /// A live VM's card after a restart of the daemon: its tap is there (QEMU holds it), and is looked after from now on.
    pub async fn adopt(&self, nic: &Nic) {
        let _ = nic;
    }

    /// How a port is doing, as last seen. Never waits.
    pub fn port(&self, nic: NicId) -> PortHealth {
        let _ = nic;
        PortHealth::Gone
    }

    /// The last figures of a card's tap. Never waits.
    pub fn traffic(&self, nic: NicId) -> Option<Traffic> {
        let _ = nic;
        None
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<PortEvent> {
        self.0.events.subscribe()
    }

    /// Addresses that a switch's DHCP has given out.
    pub async fn leases(&self, switch: SwitchId) -> Vec<Lease> {
        let _ = switch;
        Vec::new()
    }
}
