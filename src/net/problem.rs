//! What is in the way of a switch that is not ours, in words for people: who has a port. What others' rules do is
//! `foreign`'s.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use super::{host_side::state_in, netlink::Link, rules};
use crate::host::listed;

/// Whether nobody else has a port; one whose address is not there yet is nobody's.
pub fn is_free(address: SocketAddr) -> bool {
    let taken = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    !UdpSocket::bind(address).is_err_and(taken) && !TcpListener::bind(address).is_err_and(taken)
}

/// That somebody has a port for names.
pub fn taken(address: Ipv4Addr, port: u16) -> String {
    let who = holder(address, port);
    format!(
        "{who} has port {port} of {address}, so the switch resolves no names (its DHCP works); stop it, or have it listen on other addresses only"
    )
}

/// That a bridge is that of the state directory of which this one is a copy. Whether that is still in use, nobody can tell from
/// here, so it is not taken away.
pub fn anothers(bridge: &Link) -> String {
    let state = bridge.alias.as_ref().and_then(|alias| state_in(alias)).unwrap_or_default();
    let tables =
        rules::tables(state).into_iter().map(|table| format!("`nft delete table {} {}`", table.family, table.name));
    let commands: Vec<String> = [format!("`ip link delete {}`", bridge.name)].into_iter().chain(tables).collect();
    format!(
        "there is one already, of another state directory; this one is a copy of it, it seems. Where that is not in use any more, \
         remove what it left: {}",
        commands.join(", ")
    )
}

/// dnsmasq's last words, with what they do not say.
pub fn explained(words: String, gateway: Ipv4Addr) -> String {
    const DHCP: u16 = 67;
    if words.contains("DHCP server socket") {
        format!("{words}; {} has port {DHCP}: stop it, or have it keep to other interfaces", holder(gateway, DHCP))
    } else {
        words
    }
}

/// Who listens on a port of an address, or of all: "named (pid 17)".
fn holder(address: Ipv4Addr, port: u16) -> String {
    let sockets: Vec<String> =
        ["udp", "tcp", "udp6", "tcp6"].iter().flat_map(|table| inodes(table, address, port)).collect();
    // Who it is, is for people alone: where that cannot be seen it is said so.
    let processes = match listed(Path::new("/proc")) {
        Ok(processes) => processes,
        Err(error) => return format!("another program ({error})"),
    };
    let links = |pid: &u32| {
        let all = listed(Path::new(&format!("/proc/{pid}/fd"))).unwrap_or_else(|error| {
            tracing::debug!(%error, "whether it has a port is not seen");
            Vec::new()
        });
        let mut links = all.iter().filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| sockets.iter().any(|inode| link.to_str() == Some(inode)))
    };
    let mut pids = processes.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let Some(pid) = pids.find(links) else { return "another program".into() };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (pid {pid})", name.trim())
}

/// `socket:[17]`, as descriptors link to it.
fn inodes(table: &str, address: Ipv4Addr, port: u16) -> Vec<String> {
    const LISTENS: &str = "0A";
    let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    // As the kernel writes it: the bytes in network order, as a number of this host.
    let own = format!("{:08X}", u32::from_ne_bytes(address.octets()));
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, number) = words.get(1)?.rsplit_once(':')?;
        let listens = table.starts_with("udp") || words.get(3).is_some_and(|state| *state == LISTENS);
        let here = local == own || local.bytes().all(|digit| digit == b'0');
        let meant = listens && here && u16::from_str_radix(number, 16) == Ok(port);
        meant.then(|| words.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
    };
    text.lines().skip(1).filter_map(socket).collect()
}
