//! What a port may send: each attack of a guest on its neighbours as raw frames, refused and counted, and beside it what
//! an honest guest sends, which passes.

use crate::support;

use crate::support::{
    netns::{arp, ethernet, icmp6, nft, udp},
    yard::{Yard, arrives},
};
use qherd::model::{Bandwidth, NicBackend, SwitchKind, SwitchPort};

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];
const NOBODY: [u8; 4] = [0; 4];

fn link_local(last: u8) -> [u8; 16] {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// With an extension header, or several, between IPv6 and what follows.
fn extended(frame: &[u8], first: u8, headers: &[&[u8]]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let more: usize = headers.iter().map(|header| header.len()).sum();
    let length = u16::from_be_bytes([frame[18], frame[19]]) + more as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = first;
    frame.splice(54..54, headers.concat());
    frame
}

/// A fragment header: the first of several pieces.
fn fragment(next: u8) -> [u8; 8] {
    [next, 0, 0, 1, 0, 0, 0, 7]
}

/// Options of one header that say nothing.
fn options(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// An IPv4 packet that says it is the first of several pieces.
fn in_pieces(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[20] |= 0x20;
    frame
}

fn dhcp(mac: [u8; 6], chaddr: [u8; 6], kind: u8) -> Vec<u8> {
    let fixed = [&[1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0][..], &[0; 16], &chaddr, &[0; 10 + 192]].concat();
    let data = [&fixed[..], &[99, 130, 83, 99, 53, 1, kind, 255]].concat();
    udp([0xff; 6], mac, (NOBODY, [255; 4]), (68, 67), &data)
}

#[tokio::test]
async fn a_port_speaks_for_itself_alone_and_each_refusal_is_counted_on_it() {
    let mut yard = Yard::new();
    let lan = yard.switch(SwitchKind::Private);
    let (na, a) = yard.guest(SwitchPort::on(lan.id)).await;
    let (nb, b) = yard.guest(SwitchPort::on(lan.id)).await;
    assert!(arrives(&a, A, &b, &arp(a.mac, a.mac, A, B)).await);
    assert!(arrives(&b, B, &a, &arp(b.mac, b.mac, B, A)).await);
    let data = |mac, from| udp(b.mac, mac, (from, B), (4000, 4001), b"hello");
    assert!(arrives(&a, A, &b, &data(a.mac, A)).await);
    assert!(arrives(&a, A, &b, &icmp6(a.mac, link_local(1), 135, link_local(9))).await, "a neighbour solicitation");
    assert!(arrives(&b, B, &a, &icmp6(b.mac, link_local(2), 136, link_local(2))).await, "an advertisement of its own");
    assert!(arrives(&a, A, &b, &dhcp(a.mac, a.mac, 1)).await, "a question for a lease");
    let group = |last: u8, kind, rest: &[u8]| ethernet([1, 0x80, 0xc2, 0, 0, last], a.mac, kind, rest);
    let tagged = |tag: [u8; 2]| ethernet(b.mac, a.mac, 0x8100, &[&tag, &[8, 0], &data(a.mac, A)[14..]].concat());
    for (frame, what) in [
        (arp(b.mac, b.mac, B, C), "another's MAC address"),
        (arp(a.mac, b.mac, A, C), "another's MAC address inside ARP"),
        (arp(a.mac, a.mac, B, C), "another's IP address in ARP"),
        (arp(a.mac, a.mac, NOBODY, B), "an ARP probe for a neighbour's address"),
        (data(b.mac, A), "IP with another's MAC address"),
        (data(a.mac, B), "another's IP address"),
        (data(a.mac, NOBODY), "no IP address at all"),
        (tagged([0, 1]), "a VLAN tag"),
        (tagged([0x60, 0]), "a priority tag"),
        (group(0, 0x0026, &[0x42, 0x42, 3, 0, 0, 0, 0, 0]), "a spanning tree"),
        (group(3, 0x888e, &[1, 1, 0, 0]), "802.1X"),
        (group(0x0d, 0x88cc, &[2, 7, 4, 1, 1]), "a link-local group"),
        (udp(b.mac, a.mac, (A, B), (67, 68), &[2; 240]), "an answer of a DHCP server"),
        (dhcp(a.mac, b.mac, 4), "a DHCPDECLINE for a neighbour"),
        (in_pieces(&dhcp(a.mac, a.mac, 4)), "a fragment to a DHCP server"),
        (icmp6(a.mac, link_local(1), 134, link_local(0)), "a router advertisement"),
        (icmp6(a.mac, link_local(1), 137, link_local(0)), "a redirect"),
        (icmp6(a.mac, link_local(2), 135, link_local(9)), "another's IPv6 address"),
        (icmp6(a.mac, link_local(1), 136, link_local(2)), "an advertisement of another's IPv6 address"),
        (icmp6(a.mac, [0; 16], 135, link_local(2)), "duplicate address detection for a neighbour's address"),
        (
            extended(&icmp6(a.mac, link_local(1), 134, link_local(0)), 60, &[&options(58)]),
            "a router advertisement behind options",
        ),
        (
            extended(&icmp6(a.mac, link_local(1), 134, link_local(0)), 44, &[&fragment(58)]),
            "a router advertisement in pieces",
        ),
        (
            extended(&icmp6(a.mac, link_local(1), 134, link_local(0)), 44, &[&fragment(60), &options(58)]),
            "options in pieces that hide a router advertisement",
        ),
        (
            extended(&icmp6(a.mac, link_local(1), 128, link_local(0)), 0, &[&options(44), &fragment(58)]),
            "options before a piece",
        ),
        (
            extended(&icmp6(a.mac, link_local(1), 136, link_local(1)), 44, &[&fragment(58)]),
            "neighbour discovery in pieces",
        ),
    ] {
        yard.refuses((&na, &a), A, &b, &frame, what).await;
    }
    assert_eq!(yard.refused(&nb).await, 0, "counted where it belongs");
    // Where the host has bridged frames filtered as routed ones, it keeps a piece until it has them all.
    for path in ["iptables", "ip6tables"].map(|name| format!("/proc/sys/net/bridge/bridge-nf-call-{name}")) {
        if std::fs::exists(&path).unwrap() {
            std::fs::write(path, "0").unwrap();
        }
    }
    for (frame, what) in [
        (extended(&icmp6(a.mac, link_local(1), 128, link_local(0)), 44, &[&fragment(58)]), "a long ping"),
        (in_pieces(&data(a.mac, A)), "a long datagram"),
        (arp(a.mac, a.mac, NOBODY, C), "asking whether an address is free"),
        (icmp6(a.mac, [0; 16], 135, link_local(7)), "asking whether an IPv6 address is free"),
        (icmp6(a.mac, [0; 16], 143, link_local(0)), "a multicast report"),
    ] {
        assert!(arrives(&a, A, &b, &frame).await, "{what}");
    }
    // Who asked first has it: what would deny it to him is refused.
    yard.refuses((&nb, &b), B, &a, &icmp6(b.mac, [0; 16], 135, link_local(7)), "denying by asking as well").await;
    yard.refuses((&nb, &b), B, &a, &icmp6(b.mac, link_local(2), 136, link_local(7)), "denying by claiming").await;
    drop((a, b));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn an_address_that_was_given_is_nobody_elses_whether_used_or_not() {
    let mut yard = Yard::new();
    let lan = yard.switch(SwitchKind::Private);
    let (na, a) = yard.guest(SwitchPort { address: Some(A.into()), ..SwitchPort::on(lan.id) }).await;
    let (nb, b) = yard.guest(SwitchPort::on(lan.id)).await;
    let (nc, c) = yard.guest(SwitchPort { allow_spoofing: true, ..SwitchPort::on(lan.id) }).await;
    for (frame, what) in [
        (arp(b.mac, b.mac, A, C), "a given address in ARP"),
        (arp(b.mac, b.mac, NOBODY, A), "a probe for a given address"),
        (udp(a.mac, b.mac, (A, B), (1, 2), b"x"), "a given address"),
    ] {
        yard.refuses((&nb, &b), B, &a, &frame, what).await;
    }
    // The address that a guest makes of its MAC address is its own before it is used.
    let [m0, m1, m2, m3, m4, m5] = a.mac;
    let own6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5];
    yard.refuses((&nb, &b), B, &a, &icmp6(b.mac, own6, 135, link_local(1)), "a neighbour's own IPv6 address").await;
    assert!(arrives(&a, A, &b, &icmp6(a.mac, own6, 136, own6)).await);
    for (frame, what) in [
        (arp(a.mac, a.mac, NOBODY, B), "a probe for another than the given address"),
        (arp(a.mac, a.mac, C, B), "another than the given address"),
    ] {
        yard.refuses((&na, &a), A, &b, &frame, what).await;
    }
    assert!(arrives(&a, A, &b, &arp(a.mac, a.mac, NOBODY, A)).await, "a probe for one's own");
    // Where spoofing is allowed: everything but what bridges keep to themselves, and a neighbour's leases.
    for last in 0..30 {
        assert!(arrives(&c, C, &a, &arp(c.mac, [2, 0, 0, 0, 0, last], [10, 0, 1, last], A)).await);
    }
    assert!(arrives(&c, C, &a, &dhcp([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 9], 1)).await);
    assert!(arrives(&c, C, &a, &icmp6(c.mac, link_local(1), 134, link_local(0))).await);
    yard.refuses((&nc, &c), C, &a, &dhcp(c.mac, a.mac, 4), "a DHCPDECLINE for a neighbour").await;
    let declined = dhcp(c.mac, a.mac, 4);
    for tag in [&[0x81, 0, 0, 0][..], &[0x88, 0xa8, 0, 0], &[0x81, 0, 0, 0, 0x81, 0, 0, 0]] {
        let hidden = [&declined[..12], tag, &declined[12..]].concat();
        yard.refuses((&nc, &c), C, &a, &hidden, "a DHCPDECLINE behind a priority tag").await;
    }
    let spanning = ethernet([1, 0x80, 0xc2, 0, 0, 0], c.mac, 0x0026, &[0x42, 0x42, 3, 0, 0, 0, 0, 0]);
    yard.refuses((&nc, &c), C, &a, &spanning, "a spanning tree").await;
    drop((a, b, c));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn a_port_claims_as_many_addresses_as_it_may_and_leaves_them_when_it_goes() {
    let mut yard = Yard::new();
    let lan = yard.switch(SwitchKind::Private);
    let (na, a) = yard.guest(SwitchPort::on(lan.id)).await;
    let (_, b) = yard.guest(SwitchPort { max_addresses: Some(60), ..SwitchPort::on(lan.id) }).await;
    let claimed = async |from: &support::netns::Guest, to: &support::netns::Guest, own, net| {
        let mut count = 0;
        for last in 1..=50 {
            let frame = udp([0xff; 6], from.mac, ([10, net, 0, last], [255; 4]), (1, 2), b"x");
            count += u32::from(arrives(from, own, to, &frame).await);
        }
        count
    };
    assert_eq!(claimed(&b, &a, [10, 2, 0, 1], 2).await, 50);
    // Some come back while the test takes its time.
    let count = claimed(&a, &b, [10, 1, 0, 1], 1).await;
    assert!((20..45).contains(&count), "{count}");

    // The rules are put right without a port losing what it claimed.
    let taken = format!("list set bridge qherd_{} {}_taken4", support::yard::STATE, lan.bridge());
    assert!(nft(&taken).contains("10.1.0.5"));
    nft(&format!("flush chain bridge qherd_{} {}_ip", support::yard::STATE, lan.bridge()));
    yard.put().await;
    assert!(nft(&taken).contains("10.1.0.5"));
    let batches = qherd::net::rules::claims_of(&yard.kernel, support::yard::STATE, &lan, &na).await.unwrap();
    yard.nics.retain(|nic| nic.id != na.id);
    yard.put().await;
    for batch in batches {
        yard.kernel.apply(batch).await.unwrap();
    }
    let left = nft(&taken);
    assert!(!left.contains("10.1.0.") && left.contains("10.2.0.5"), "{left}");
    assert!(!nft("list ruleset").contains(&na.tap()));
    drop((a, b));
    yard.host.assert_untouched();
}

/// Two processors judge them, and what one has not noted yet the other does not see.
#[tokio::test]
async fn an_address_that_two_ports_claim_at_the_same_instant_is_had_by_one() {
    const ADDRESSES: u16 = 2000;
    let mut yard = Yard::new();
    let lan = yard.switch(SwitchKind::Private);
    let greedy = SwitchPort { max_addresses: Some(ADDRESSES + 2), ..SwitchPort::on(lan.id) };
    let (na, a) = yard.guest(greedy.clone()).await;
    let (nb, b) = yard.guest(greedy).await;
    let address = |number: u16| [10, 9, (number >> 8) as u8, number as u8];
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for guest in [&a, &b] {
            let barrier = &barrier;
            scope.spawn(move || {
                for number in 0..ADDRESSES {
                    barrier.wait();
                    guest.send(&arp(guest.mac, guest.mac, address(number), address(number)));
                }
            });
        }
    });
    let (first, second) = (yard.refused(&na).await, yard.refused(&nb).await);
    assert_eq!(first + second, u64::from(ADDRESSES), "{first} and {second} were refused");
    // It stays so: whoever was refused is so from then on.
    for number in 0..ADDRESSES {
        for guest in [&a, &b] {
            guest.send(&arp(guest.mac, guest.mac, address(number), address(number)));
        }
    }
    assert_eq!((yard.refused(&na).await, yard.refused(&nb).await), (2 * first, 2 * second));
    drop((a, b));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn a_port_sends_no_more_than_its_bandwidth_and_that_changes_live() {
    let mut yard = Yard::new();
    let lan = yard.switch(SwitchKind::Private);
    let bandwidth = |outbound| Bandwidth { outbound, inbound: None };
    let limited = SwitchPort { bandwidth: bandwidth(Some(800_000)), ..SwitchPort::on(lan.id) };
    let (nic, a) = yard.guest(limited.clone()).await;
    let (_, b) = yard.guest(SwitchPort::on(lan.id)).await;
    let sent = |count: u32| {
        let frame = udp(b.mac, a.mac, (A, B), (1, 2), &[0; 1400]);
        let mut arrived = 0;
        for _ in 0..count {
            a.send(&frame);
            while let Some(seen) = b.take() {
                // Counted without the header of Ethernet.
                arrived += u64::from(seen.starts_with(&frame)) * (frame.len() as u64 - 14);
            }
        }
        arrived
    };
    let start = std::time::Instant::now();
    let arrived = sent(1000);
    let most = f64::from(128_u32 << 10) + (start.elapsed().as_secs_f64() + 1.0) * 100_000.0;
    assert!(arrived >= 200_000 && arrived as f64 <= most, "{arrived} of {most}");
    assert_eq!(yard.refused(&nic).await, 0, "too much is no attack");
    let listed = nft(&format!("list set bridge qherd_{} outbound", support::yard::STATE));
    assert!(listed.contains("limit rate over 100000 bytes/second burst 128 kbytes"), "{listed}");
    yard.nics[0].backend = NicBackend::Switch(SwitchPort { bandwidth: bandwidth(None), ..limited });
    yard.put().await;
    assert_eq!(sent(1000), 1000 * 1428);
    drop((a, b));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn a_trunk_carries_its_vlans_and_a_port_in_one_meets_its_own_neighbours() {
    let mut yard = Yard::new();
    support::netns::ip("link add up0 type veth peer name up1");
    let external = SwitchKind::External { adapter: "up0".into(), allow_management_os: false, dhcp: false };
    let lan = yard.switch(external);
    let (na, a) = yard.guest(SwitchPort { trunk: vec![20, 30], ..SwitchPort::on(lan.id) }).await;
    let (nb, b) = yard.guest(SwitchPort::on(lan.id)).await;
    let tagged = |id: u8, kind: u16, inner: &[u8]| {
        ethernet([0xff; 6], a.mac, 0x8100, &[&[0, id], &kind.to_be_bytes()[..], &inner[14..]].concat())
    };
    // The bridge here filters no VLANs, and so shows what the rules let through.
    let hello = udp([0xff; 6], a.mac, (C, [255; 4]), (1, 2), b"x");
    for id in [20, 30] {
        a.send(&tagged(id, 0x0800, &hello));
        let frame = tagged(id, 0x0800, &hello);
        b.until(|seen| seen.starts_with(&frame)).await;
    }
    let advert = icmp6(a.mac, link_local(1), 134, link_local(0));
    for (frame, what) in [
        (tagged(40, 0x0800, &hello), "another VLAN"),
        (tagged(0, 0x0800, &hello), "a priority tag"),
        (tagged(20, 0x0806, &arp(a.mac, b.mac, A, B)), "a neighbour's MAC address inside ARP"),
        (tagged(20, 0x86dd, &advert), "a router advertisement"),
        (tagged(20, 0x8100, &hello), "a tag in a tag"),
        (tagged(20, 0x0800, &udp([0xff; 6], a.mac, (A, B), (67, 68), b"x")), "an answer of a DHCP server"),
        (tagged(20, 0x0800, &dhcp(a.mac, b.mac, 4)), "a DHCPDECLINE for a neighbour"),
    ] {
        let before = yard.refused(&na).await;
        arrives(&a, A, &b, &frame).await;
        assert_eq!(yard.refused(&na).await, before + 1, "{what}");
    }
    yard.refuses((&nb, &b), B, &a, &ethernet([0xff; 6], b.mac, 0x8100, &[0, 20, 8, 0, 0, 0]), "no trunk").await;
    // One address in two VLANs is two addresses.
    let (_, x) = yard.guest(SwitchPort { vlan: Some(10), ..SwitchPort::on(lan.id) }).await;
    let (_, y) = yard.guest(SwitchPort { vlan: Some(11), ..SwitchPort::on(lan.id) }).await;
    for guest in [&x, &y] {
        assert!(arrives(guest, [10, 0, 0, 9], &b, &udp([0xff; 6], guest.mac, ([10, 0, 0, 9], B), (1, 2), b"x")).await);
    }
    drop((a, b, x, y));
    yard.host.assert_untouched();
}
