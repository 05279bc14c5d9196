//! What is told of the ports: how each is doing, what went through it, what happened to it.

use std::{net::Ipv4Addr, time::Instant};

use crate::model::{NicId, SwitchId, now_ms};

/// How a NIC's port is doing.
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
    /// Somebody removed the tap of a plugged NIC, or its QEMU ended. It cannot come back under a live guest.
    TapGone(NicId),
    /// The adapter of an External switch carries addresses (again) that are to move to the bridge.
    AdapterChanged(SwitchId),
    /// Something is wrong with a switch that was not, or is well again.
    SwitchChanged(SwitchId),
}

/// How long a lease lasts that is not renewed: what `dhcp` tells dnsmasq.
pub const LEASE_SECONDS: u64 = 12 * 3600;

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

impl Lease {
    /// Seconds since it was given out, or renewed last.
    pub fn age(&self) -> Option<u64> {
        let since = self.expires?.checked_sub(LEASE_SECONDS)?;
        Some((now_ms() / 1000).saturating_sub(since))
    }

    /// Whether its time has not run out.
    pub fn is_valid(&self) -> bool {
        self.expires.is_none_or(|expires| expires > now_ms() / 1000)
    }
}
