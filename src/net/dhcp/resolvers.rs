//! The host's own resolvers, for guests that their switch cannot answer.

#![allow(clippy::disallowed_methods, reason = "small files of the system")]

use std::{fs, net::Ipv4Addr};

/// More than any guest asks.
const MOST: usize = 3;
/// The second is what systemd-resolved really asks, where the first names only itself.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Those that a guest can reach too.
pub fn resolvers() -> Vec<Ipv4Addr> {
    let read = |path| reachable(&fs::read_to_string(path).unwrap_or_default());
    FILES.into_iter().map(read).find(|found| !found.is_empty()).unwrap_or_default()
}

fn reachable(text: &str) -> Vec<Ipv4Addr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<Ipv4Addr>().ok())?
    });
    // A loopback address is the guest's own, and link-local ones are not routed.
    let beyond = |ip: &Ipv4Addr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local();
    servers.filter(beyond).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_only_of_resolvers_that_it_can_reach() {
        let text = "# made by hand\nsearch lan\nnameserver 127.0.0.53\nnameserver\nnameserver fe80::1%eth0\n\
            nameserver 169.254.1.1\nnameserver\t192.0.2.1 \noptions edns0\nnameserver 192.0.2.2\n\
            nameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let wanted: Vec<_> = (1..4).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
        assert_eq!(reachable(text), wanted);
        assert_eq!(reachable(""), Vec::<Ipv4Addr>::new());
    }
}
