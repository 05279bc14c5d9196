//! Addresses of the host on an External switch that go by themselves. A DHCP client of the host's renews them, if it can:
//! that one has run out without another in its place is told.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// The kernel tells of the end of an address about when it comes.
const SLACK: Duration = Duration::from_secs(2);

/// What is known of addresses that go by themselves.
#[derive(Default)]
pub struct Leases {
    /// When those that were seen last end.
    ends: HashMap<IpAddr, Instant>,
    /// Those that have run out, with the others that were there then.
    lost: HashMap<IpAddr, HashSet<IpAddr>>,
}

impl Leases {
    /// An address that has run out, and that no other came for. `here` are the addresses with the seconds that they have
    /// left, `written` those that an earlier look wrote down.
    pub fn run_out(&mut self, here: &[(IpAddr, Option<u32>)], written: &[IpAddr], now: Instant) -> Option<IpAddr> {
        let all: HashSet<IpAddr> = here.iter().map(|(ip, _)| *ip).collect();
        // What somebody took away before its time is not missed.
        let over = |(ip, end): (&IpAddr, &Instant)| (!all.contains(ip) && *end <= now + SLACK).then_some(*ip);
        let over: Vec<IpAddr> = self.ends.iter().filter_map(over).collect();
        self.lost.extend(over.into_iter().map(|ip| (ip, all.clone())));
        let end = |left: u32| now + Duration::from_secs(left.into());
        self.ends = here.iter().filter_map(|(ip, left)| Some((*ip, end((*left)?)))).collect();
        let same = |one: &IpAddr, other: &IpAddr| one.is_ipv4() == other.is_ipv4();
        self.lost.retain(|ip, then| !all.iter().any(|other| same(ip, other) && !then.contains(other)));
        let unserved = || written.iter().find(|ip| !all.iter().any(|other| same(ip, other)));
        self.lost.keys().min().or_else(unserved).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_out_by_itself_and_that_no_other_came_for_is_told() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let [a, b, c, six] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let mut leases = Leases::default();
        let mut look = |here: &[(IpAddr, Option<u32>)], when| leases.run_out(here, &[], when);
        assert_eq!(look(&[(a, Some(60)), (b, None)], at(0)), None);
        // Renewed.
        assert_eq!(look(&[(a, Some(60)), (b, None)], at(50)), None);
        assert_eq!(look(&[(b, None)], at(110)), Some(a));
        assert_eq!(look(&[(b, None), (six, None)], at(200)), Some(a), "for as long as it is so");
        assert_eq!(look(&[(b, None), (c, None)], at(210)), None, "another came");
        assert_eq!(look(&[], at(220)), None, "those had no end");
        assert_eq!(look(&[(a, Some(60))], at(230)), None);
        assert_eq!(look(&[], at(240)), None, "somebody took it away");
        let new = |here: &[(IpAddr, Option<u32>)]| Leases::default().run_out(here, &[a], start);
        assert_eq!(new(&[(six, None)]), Some(a), "as an earlier daemon saw it");
        assert_eq!(new(&[(b, None)]), None);
    }
}
