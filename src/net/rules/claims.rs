//! Frees the addresses that a port had laid claim to, so that another can have them at once.

use std::io;

use super::{ADDRESSES, ports, segment, table};
use crate::{
    model::{Nic, Switch},
    net::nft::{Batch, Elements, Family, Form, Kernel, Key, Ruleset, TableName, Type, ifname},
};

/// What takes the claims of a NIC's port away; empty where it has none.
///
/// # Errors
/// Of the kernel.
pub async fn claims_of(kernel: &Kernel, state: &str, switch: &Switch, nic: &Nic) -> io::Result<Batch> {
    let name = TableName { family: Family::Bridge, name: table(state) };
    let segment = segment::name(switch, nic.port().and_then(|port| port.vlan));
    let tap = ifname(&nic.tap());
    let mut part = Ruleset::default();
    for (version, kind) in [("4", Type::Ip4), ("6", Type::Ip6)] {
        let (claims, taken) = (format!("{segment}_claims{version}"), format!("{segment}_taken{version}"));
        let all = kernel.elements(&name, &claims).await?.unwrap_or_default();
        let own: Vec<&[u8]> = all.iter().filter_map(|key| key.bytes.strip_prefix(&tap)).collect();
        let there = part.table(name.family, &name.name);
        let elements = |key: &dyn Fn(&[u8]) -> Key| own.iter().map(|ip| (key(ip), None)).collect::<Elements>();
        *there.set(claims, Form::of([Type::IfName, kind])) = elements(&|ip| Key::of([&tap, ip]));
        *there.set(taken, Form::of([kind])) = elements(&|ip| Key::of([ip]));
        if let Some(port) = nic.port() {
            let claiming = ports::claiming(version, port.max_addresses.unwrap_or(ADDRESSES));
            there.set(claiming, Form::of([Type::IfName])).insert(Key::of([&tap]), None);
        }
    }
    let mut batch = Batch::default();
    // One that has run out meanwhile is no error: it is there again, and goes.
    batch.add_elements(&part);
    batch.delete_elements(&part);
    Ok(batch)
}
