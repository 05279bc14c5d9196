//! The addresses that a port has laid claim to: which they are, and freeing them, so that another can have them at once.

use std::{io, net::IpAddr, time::Duration};

use super::{ADDRESSES, ports, segment, table};
use crate::{
    model::{Nic, Switch},
    net::nft::{Batch, Elements, Family, Form, Kernel, Key, Ruleset, TableName, Type, ifname},
};

/// What takes the claims of a NIC's port away, in batches that do not depend on one another; none where it has no claims.
///
/// # Errors
/// Of the kernel.
pub async fn claims_of(kernel: &Kernel, state: &str, switch: &Switch, nic: &Nic) -> io::Result<Vec<Batch>> {
    let name = TableName { family: Family::Bridge, name: table(state) };
    let segment = segment::name(switch, nic.port().and_then(|port| port.vlan));
    let tap = ifname(&nic.tap());
    let mut batches = Vec::new();
    for (version, kind) in [("4", Type::Ip4), ("6", Type::Ip6)] {
        let [claims, taken, first] = ["claims", "taken", "first"].map(|what| format!("{segment}_{what}{version}"));
        let all = kernel.elements(&name, &claims).await?.unwrap_or_default();
        let own: Vec<&[u8]> = all.iter().filter_map(|key| key.bytes.strip_prefix(&tap)).collect();
        if own.is_empty() {
            continue;
        }
        let elements = |key: &dyn Fn(&[u8]) -> Key| own.iter().map(|ip| (key(ip), None)).collect::<Elements>();
        let mut part = Ruleset::default();
        let there = part.table(name.family, &name.name);
        *there.set(claims, Form::of([Type::IfName, kind])) = elements(&|ip| Key::of([&tap, ip]));
        *there.set(taken, Form::of([kind])) = elements(&|ip| Key::of([ip]));
        *there.set(first, Form::of([kind])) = elements(&|ip| Key::of([ip]));
        batches.push(gone(&part));
        if let Some(port) = nic.port() {
            let mut part = Ruleset::default();
            let claiming = ports::claiming(version, port.max_addresses.unwrap_or(ADDRESSES));
            let claiming = part.table(name.family, &name.name).set(claiming, Form::of([Type::IfName]));
            claiming.insert(Key::of([&tap]), None);
            batches.push(gone(&part));
        }
    }
    Ok(batches)
}

/// The addresses that a NIC's port has laid claim to by what its guest has sent, with the time since it did so last.
///
/// # Errors
/// Of the kernel.
pub async fn claimed(kernel: &Kernel, state: &str, switch: &Switch, nic: &Nic) -> io::Result<Vec<(IpAddr, Duration)>> {
    let name = TableName { family: Family::Bridge, name: table(state) };
    let segment = segment::name(switch, nic.port().and_then(|port| port.vlan));
    let tap = ifname(&nic.tap());
    let mut claimed = Vec::new();
    for version in ["4", "6"] {
        let all = kernel.learned(&name, &format!("{segment}_claims{version}")).await?.unwrap_or_default();
        let own = all.iter().filter_map(|(key, left)| Some((address(key.bytes.strip_prefix(&tap[..])?)?, *left)));
        claimed.extend(own.map(|(address, left)| (address, segment::CLAIM.saturating_sub(left))));
    }
    Ok(claimed)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// One that has run out meanwhile is no error: it is there again, and goes.
fn gone(part: &Ruleset) -> Batch {
    let mut batch = Batch::default();
    batch.add_elements(part);
    batch.delete_elements(part);
    batch
}
