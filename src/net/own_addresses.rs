//! Addresses that the host has on a bridge because a switch wants it so, told from those that somebody else put there: a
//! new kernel keeps who gave an address (IFA_PROTO), and for those that do not, it is written down here before it is given.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol},
};

use super::{
    Inner, NetError,
    host_side::SwitchSide,
    netlink::{Netlink, address_of},
};
use crate::{host::fail_point::step, model::SwitchId};

/// Says of an address of the host who put it there; the kernel keeps it (IFA_PROTO, free from 4 on).
const OURS: u8 = 113;

/// With their lengths.
type Addresses = Vec<(IpAddr, u8)>;

impl Inner {
    /// Where the addresses of a switch are written down.
    pub fn address_file(&self, switch: SwitchId) -> PathBuf {
        self.folder.join(format!("{}.addresses", switch.short()))
    }
}

/// Brings the addresses of ours on a bridge to what is wanted. Those of others stay.
///
/// # Errors
/// [`NetError::Failed`].
pub async fn put(netlink: &Netlink, side: &SwitchSide, bridge: u32, new: bool, file: &Path) -> Result<(), NetError> {
    let failed = |what: &str, error| NetError::failed(format!("{what} {}", side.bridge), error);
    let before = read(file);
    let given = |wanted: &Addresses| write(file, wanted).map_err(|e| failed("write down the addresses of", e));
    let old: Addresses = before.iter().filter(|address| !side.addresses.contains(address)).copied().collect();
    // Both, until the old ones are gone.
    given(&side.addresses.iter().chain(&old).copied().collect())?;
    for (address, prefix) in &side.addresses {
        let added = netlink.add_address(message(*address, *prefix, bridge)).await;
        added.map_err(|e| failed("give an address to", e))?;
    }
    if !new {
        for address in netlink.addresses().await?.into_iter().filter(|address| address.header.index == bridge) {
            let Some(there) = address_of(&address).map(|ip| (ip, address.header.prefix_len)) else { continue };
            if (is_marked(&address) || old.contains(&there)) && !side.addresses.contains(&there) {
                netlink.remove_address(address).await.map_err(|e| failed("take an address from", e))?;
            }
        }
    }
    given(&side.addresses)
}

fn read(file: &Path) -> Addresses {
    let address = |line: &str| {
        let (address, prefix) = line.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    };
    fs::read_to_string(file).unwrap_or_default().lines().filter_map(address).collect()
}

/// The host forgets its addresses when it goes down, so this need not outlive it.
fn write(file: &Path, addresses: &Addresses) -> std::io::Result<()> {
    if read(file) == *addresses {
        return Ok(());
    }
    let text: String = addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}\n")).collect();
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    step(|| fs::rename(new, file))
}

fn is_marked(address: &AddressMessage) -> bool {
    address.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::from(OURS)))
}

fn message(address: IpAddr, prefix: u8, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Protocol(AddressProtocol::from(OURS)),
    ];
    if address.is_ipv6() {
        // Nobody else has it: asking would only leave it unusable for a second.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    debug_assert_eq!(address_of(&message), Some(address));
    message
}
