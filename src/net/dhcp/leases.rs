//! What dnsmasq has given out, as it keeps it. A lease that it remembers is in the way of whoever is to have the address
//! next, and it forgets one only when it is started with a list that lacks it.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{collections::HashMap, fs, net::Ipv4Addr, path::Path};

use super::{Host, LEASES};
use crate::{model::MacAddr, net::Lease};

/// What the dnsmasq of this folder has given out.
pub fn leases(folder: &Path) -> Vec<Lease> {
    parse(&fs::read_to_string(folder.join(LEASES)).unwrap_or_default())
}

/// The leases of IPv4; lines of another kind are no leases.
fn parse(text: &str) -> Vec<Lease> {
    text.lines().filter_map(lease).collect()
}

fn lease(line: &str) -> Option<Lease> {
    let mut words = line.split_whitespace();
    let expires = words.next()?.parse::<u64>().ok()?;
    let mac = words.next()?.to_lowercase();
    let address = words.next()?.parse().ok()?;
    let hostname = words.next().filter(|name| *name != "*").map(str::to_owned);
    Some(Lease { mac, address, hostname, expires: (expires != 0).then_some(expires) })
}

/// The list without leases of an address that is another's now, and of a NIC that has another address now; none where
/// there are no such. Leases of NICs that nobody knows are in nobody's way, and stay: the NIC may be known in a moment.
pub fn stale(leases: &str, hosts: &[Host]) -> Option<String> {
    let by_address: HashMap<Ipv4Addr, MacAddr> = hosts.iter().map(|host| (host.address, host.mac)).collect();
    let by_mac: HashMap<MacAddr, Ipv4Addr> = hosts.iter().map(|host| (host.mac, host.address)).collect();
    let in_the_way = |line: &&str| {
        let Some(lease) = lease(line) else { return false };
        let mac = MacAddr::parse(&lease.mac);
        by_address.get(&lease.address).is_some_and(|owner| Some(*owner) != mac)
            || mac.and_then(|mac| by_mac.get(&mac)).is_some_and(|address| *address != lease.address)
    };
    leases.lines().any(|line| in_the_way(&line)).then(|| {
        let kept = leases.lines().filter(|line| !in_the_way(line));
        kept.flat_map(|line| [line, "\n"]).collect()
    })
}

/// For the fuzz targets: what is taken out of a list is in the way no more, and everything else stays as it was.
pub(crate) fn fuzz(text: &str) -> Result<(), String> {
    let read = parse(text);
    // Whoever has a lease, and somebody else who is to have its address.
    let owners = read.iter().filter_map(|lease| Some((MacAddr::parse(&lease.mac)?, lease.address)));
    let hosts: Vec<Host> = owners.map(|(mac, address)| Host { mac, address, label: None }).take(3).collect();
    let other = MacAddr::parse("52:54:00:00:00:01").zip(read.first());
    let others = other.map(|(mac, lease)| Host { mac, address: lease.address, label: None });
    for hosts in [hosts, others.into_iter().collect()] {
        let Some(kept) = stale(text, &hosts) else { continue };
        if stale(&kept, &hosts).is_some() {
            return Err(format!("something is still in the way in {kept:?}"));
        }
        if parse(&kept).iter().any(|lease| !read.contains(lease)) {
            return Err(format!("there is something new in {kept:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "1795779585 52:54:00:00:00:02 10.77.0.3 db *\n\
        1795779582 52:54:00:00:00:01 10.77.0.2 * 01:52:54:00:00:00:01\n\
        duid 00:01:00:01:2b\n\
        1795779582 1234 fd77::2 web 00:01:00:01\n";

    fn host(mac: &str, last: u8) -> Host {
        Host { mac: MacAddr::parse(mac).unwrap(), address: Ipv4Addr::new(10, 77, 0, last), label: None }
    }

    #[test]
    fn leases_are_read_as_dnsmasq_writes_them() {
        let read = parse(LIST);
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].hostname.as_deref(), read[0].expires), (Some("db"), Some(1_795_779_585)));
        assert_eq!((read[1].mac.as_str(), read[1].hostname.as_deref()), ("52:54:00:00:00:01", None));
        assert_eq!(parse("0 52:54:00:00:00:01 10.77.0.2 * *\nhalf a li"), [Lease { expires: None, ..read[1].clone() }]);
    }

    #[test]
    fn only_what_is_in_somebodys_way_goes() {
        let (web, db) = (host("52:54:00:00:00:01", 2), host("52:54:00:00:00:02", 3));
        assert_eq!(stale(LIST, &[web.clone(), db.clone()]), None);
        assert_eq!(stale(LIST, &[]), None, "not known yet");
        let without = |line: usize| {
            let lines = LIST.lines().enumerate().filter(|(at, _)| *at != line);
            Some(lines.map(|(_, text)| format!("{text}\n")).collect::<String>())
        };
        let next = host("52:54:00:00:00:09", 2);
        assert_eq!(stale(LIST, &[next, db]), without(1), "its address is another's");
        let moved = host("52:54:00:00:00:02", 30);
        assert_eq!(stale(LIST, &[web, moved]), without(0), "it has another address");
    }
}
