//! What each port was refused, read from where the rules count it: three lists, however many ports there are.

use std::{collections::BTreeMap, io};

use super::table;
use crate::{
    model::Nic,
    net::nft::{Family, Kernel, TableName, ifname},
};

/// Frames that were refused since the rules of a port were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    by_tap: BTreeMap<Vec<u8>, u64>,
    by_mac: BTreeMap<Vec<u8>, u64>,
}

impl Refusals {
    /// Of a NIC; none where it has no rules.
    pub fn of(&self, nic: &Nic) -> Option<u64> {
        let judged = self.by_tap.get(&ifname(&nic.tap())[..])?;
        Some(judged + self.by_mac.get(&nic.mac.octets()[..]).unwrap_or(&0))
    }

    /// Of all ports.
    pub fn total(&self) -> u64 {
        self.by_tap.values().chain(self.by_mac.values()).sum()
    }
}

/// Reads it for all ports. None where there are no rules.
///
/// # Errors
/// Of the kernel.
pub async fn refused(kernel: &Kernel, state: &str) -> io::Result<Option<Refusals>> {
    let table = |family| TableName { family, name: table(state) };
    let Some(mut by_tap) = kernel.counts(&table(Family::Bridge), "tally").await? else { return Ok(None) };
    for (tap, packets) in kernel.counts(&table(Family::Arp), "taps").await?.unwrap_or_default() {
        *by_tap.entry(tap).or_default() += packets;
    }
    let by_mac = kernel.counts(&table(Family::Inet), "guests").await?.unwrap_or_default();
    Ok(Some(Refusals { by_tap, by_mac }))
}
