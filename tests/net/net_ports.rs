//! The ports of switches, with the test as the guest: frames go through real taps and a real bridge, in a network
//! namespace of each test's own.

use crate::lab;

use std::{net::Ipv4Addr, time::Duration};

use crate::lab::{Lab, await_that};
use crate::support::{
    PATIENCE,
    netns::{Guest, arp, ethernet, icmp6, ip, ip_json, nft, udp},
    parts::arrives,
};
use qherd::{
    model::{Nic, Subnet, Switch, SwitchId, SwitchKind, SwitchPort},
    net::{Network, PortEvent, PortHealth},
};

fn nic(switch: &Switch, address: Option<Ipv4Addr>, allow_spoofing: bool) -> Nic {
    lab::nic(SwitchPort { address, allow_spoofing, ..SwitchPort::on(switch.id) })
}

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];

#[tokio::test]
async fn a_guest_sends_only_under_its_own_addresses() {
    let lab = Lab::new().await;
    let switch = lab.switch(SwitchKind::Private).await;
    let (na, nb) = (nic(&switch, None, false), nic(&switch, None, false));
    let (a, b) = (lab.guest(&na).await, lab.guest(&nb).await);

    // Each has claimed an address by using it.
    assert!(arrives(&a, A, &b, &arp(a.mac, a.mac, A, B)).await);
    assert!(arrives(&b, B, &a, &arp(b.mac, b.mac, B, A)).await);
    let data = |mac, from| udp(b.mac, mac, (from, B), (4000, 4001), b"hello");
    assert!(arrives(&a, A, &b, &data(a.mac, A)).await);
    let address6 = |last| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    assert!(arrives(&b, B, &a, &icmp6(b.mac, address6(2), 135, address6(9))).await, "a neighbour solicitation");
    assert!(arrives(&a, A, &b, &icmp6(a.mac, address6(1), 136, address6(1))).await, "an advertisement of its own");

    let tagged = ethernet(b.mac, a.mac, 0x8100, &[&[0, 1, 8, 0][..], &data(a.mac, B)[14..]].concat());
    for (frame, what) in [
        (arp(b.mac, b.mac, B, C), "another's MAC address"),
        (arp(a.mac, b.mac, A, C), "another's MAC address inside ARP"),
        (arp(a.mac, a.mac, B, C), "another's IP address in ARP"),
        (data(b.mac, A), "IP with another's MAC address"),
        (data(a.mac, B), "another's IP address"),
        (data(a.mac, [0, 0, 0, 0]), "no IP address at all"),
        (tagged, "a VLAN tag"),
        (udp(b.mac, a.mac, (A, B), (67, 68), &[2; 240]), "an answer of a DHCP server"),
        (icmp6(a.mac, address6(1), 134, address6(0)), "a router advertisement"),
        (icmp6(a.mac, address6(1), 137, address6(0)), "a redirect"),
        (icmp6(a.mac, address6(2), 135, address6(9)), "another's IPv6 address"),
        (icmp6(a.mac, address6(1), 136, address6(2)), "an advertisement of another's IPv6 address"),
    ] {
        assert!(!arrives(&a, A, &b, &frame).await, "{what}");
    }
    assert!(lab.net.refused_frames().await.unwrap() >= 12);

    // An address is free again once its port is gone, and nothing is left of the port.
    drop(b);
    lab.net.unplug(&nb).await.unwrap();
    let ruleset = nft("list ruleset");
    assert!(ruleset.contains(&na.tap()) && !ruleset.contains(&nb.tap()), "{ruleset}");
    let nc = nic(&switch, None, false);
    let c = lab.guest(&nc).await;
    assert!(arrives(&a, A, &c, &udp(c.mac, a.mac, (B, C), (4000, 4001), b"mine now")).await);
    assert!(!ruleset.contains(&nc.tap()));

    drop((a, c));
    for nic in [&na, &nc] {
        lab.net.unplug(nic).await.unwrap();
        lab.net.unplug(nic).await.unwrap();
    }
    lab.close(&[&switch]).await;
}

#[tokio::test]
async fn an_assigned_address_is_the_only_one_and_allow_spoofing_lifts_everything() {
    let lab = Lab::new().await;
    let switch = lab.switch(SwitchKind::Private).await;
    let (na, nb) = (nic(&switch, Some(A.into()), false), nic(&switch, None, true));
    let (a, b) = (lab.guest(&na).await, lab.guest(&nb).await);
    let data = |mac, from| udp([0xff; 6], mac, (from, C), (4000, 4001), b"hello");
    assert!(arrives(&a, A, &b, &data(a.mac, A)).await);
    assert!(!arrives(&a, A, &b, &data(a.mac, C)).await, "an address that nobody has");
    assert!(!arrives(&a, A, &b, &arp(a.mac, a.mac, C, B)).await);
    let arp_probe = |address| arp(a.mac, a.mac, [0, 0, 0, 0], address);
    assert!(arrives(&a, A, &b, &arp_probe(A)).await, "asking whether its own address is free");
    assert!(!arrives(&a, A, &b, &arp_probe(C)).await, "asking for another's, which would give that up");
    // The other one may do anything.
    for frame in [data([2, 0, 0, 0, 0, 9], C), arp(b.mac, [2, 0, 0, 0, 0, 9], A, C), data(b.mac, A)] {
        assert!(arrives(&b, B, &a, &frame).await);
    }
    drop((a, b));
    lab.net.unplug(&na).await.unwrap();
    lab.net.unplug(&nb).await.unwrap();
    lab.close(&[&switch]).await;
}

/// A tap of several queues takes as many more as anybody asks for, and gives each its share of what is for its guest.
#[tokio::test]
async fn a_tap_that_is_there_already_is_not_joined() {
    let lab = Lab::new().await;
    let lan = lab.switch(SwitchKind::Private).await;
    for (queues, kind) in [(1, ""), (2, "multi_queue")] {
        let nic = Nic { queues, ..nic(&lan, None, false) };
        let tap = nic.tap();
        ip(&format!("tuntap add dev {tap} mode tap vnet_hdr {kind}"));
        let refused = lab.net.plug(&nic).await.unwrap_err().to_string();
        assert!(refused.contains(&tap), "{refused}");
        assert!(!nft("list ruleset").contains(&tap));
        ip(&format!("link del {tap}"));
    }
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn the_host_takes_no_part_in_a_private_switch() {
    let lab = Lab::new().await;
    ip("addr add 10.9.9.9/32 dev lo");
    let private = lab.switch(SwitchKind::Private).await;
    let subnet = Subnet::parse("10.8.8.0/24", false).unwrap();
    let internal = lab.switch(SwitchKind::Internal { subnet: Some(subnet) }).await;
    let ask = |guest: &Guest| {
        guest.send(&arp(guest.mac, guest.mac, A, [10, 9, 9, 9]));
        guest.send(&udp([0xff; 6], guest.mac, (A, [10, 9, 9, 9]), (4000, 9), b"hello"));
    };
    let ask_gateway = |guest: &Guest| guest.send(&arp(guest.mac, guest.mac, [10, 8, 8, 2], [10, 8, 8, 1]));
    let to = |guest: &Guest| {
        let mac = guest.mac;
        move |frame: &[u8]| frame.starts_with(&mac) && frame[12..14] == [8, 6]
    };
    // The host answers on an Internal switch for its address there.
    let (ni, np, nq) =
        (nic(&internal, Some([10, 8, 8, 2].into()), false), nic(&private, None, true), nic(&private, None, false));
    let inside = lab.guest(&ni).await;
    inside.asking_until(ask_gateway, to(&inside)).await;
    // On a Private one it does not, and says nothing of its own either, whether the port is guarded or not.
    let (p, q) = (lab.guest(&np).await, lab.guest(&nq).await);
    for (one, other) in [(&p, &q), (&q, &p)] {
        let mark = if one.mac == p.mac { A } else { B };
        ask(one);
        assert!(arrives(one, mark, other, &arp(one.mac, one.mac, mark, C)).await);
    }
    // By the time that the host has answered somebody else again, it would have answered these.
    inside.asking_until(ask_gateway, to(&inside)).await;
    let macs = [p.mac, q.mac];
    for guest in [&p, &q] {
        while let Some(frame) = guest.take() {
            assert!(macs.iter().any(|mac| frame[6..12] == *mac), "the host spoke: {frame:02x?}");
        }
    }
    assert_eq!(ip_json(&format!("addr show {}", private.bridge()))[0]["addr_info"], serde_json::json!([]));
    drop((inside, p, q));
    for nic in [&ni, &np, &nq] {
        lab.net.unplug(nic).await.unwrap();
    }
    lab.close(&[&private, &internal]).await;
}

#[tokio::test]
async fn what_somebody_removed_is_made_again_and_what_is_not_ours_is_left_alone() {
    let lab = Lab::new().await;
    let switch = lab.switch(SwitchKind::Private).await;
    let (na, nb) = (nic(&switch, None, false), nic(&switch, None, false));
    let (a, b) = (lab.guest(&na).await, lab.guest(&nb).await);
    let joined = |nic: &Nic| ip_json(&format!("link show {}", nic.tap()))[0]["master"] == switch.bridge().as_str();
    let mut events = lab.net.subscribe();

    let mac = || ip_json(&format!("link show {}", switch.bridge()))[0]["address"].clone();
    let before = mac();
    ip(&format!("link del {}", switch.bridge()));
    tokio::time::timeout(PATIENCE, async {
        while !ip("-o link").contains(&switch.bridge()) || !joined(&na) || !joined(&nb) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the bridge is there again, with both taps");
    assert_eq!(mac(), before);
    assert!(arrives(&a, A, &b, &arp(a.mac, a.mac, A, B)).await);
    assert!(!arrives(&a, A, &b, &arp(b.mac, b.mac, A, B)).await, "still guarded");

    ip(&format!("link set {} nomaster down", na.tap()));
    tokio::time::timeout(PATIENCE, async {
        while !joined(&na) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the tap is in its bridge again");
    assert!(arrives(&a, A, &b, &arp(a.mac, a.mac, A, B)).await);
    await_that("how it is", || lab.net.port(na.id) == PortHealth::Ok).await;

    ip(&format!("link del {}", nb.tap()));
    await_that("how it is", || lab.net.port(nb.id) == PortHealth::Gone).await;
    assert_eq!(events.recv().await.unwrap(), PortEvent::TapGone(nb.id));

    // Another daemon on the same host, with a switch and a port of its own.
    let other_dir = tempfile::tempdir().unwrap();
    let other = Network::open(other_dir.path()).await;
    let theirs = Switch { id: SwitchId::random(), ..switch.clone() };
    other.put_switch(&theirs, None).await.unwrap();
    let their_nic = nic(&theirs, None, false);
    let their_tap = other.plug(&their_nic).await.unwrap();
    ip("link add qhbfeedfeedfeed type bridge");
    // A new daemon on our state directory, for which no record names anything.
    let again = Network::open(lab.dir.path()).await;
    again.sweep(&[switch.id], &[]).await.unwrap();
    let links = ip("-o link");
    assert!(!links.contains(&na.tap()), "ours, and in no record");
    for name in [switch.bridge(), theirs.bridge(), their_nic.tap(), "qhbfeedfeedfeed".into()] {
        assert!(links.contains(&name), "{name}");
    }
    ip("link del qhbfeedfeedfeed");
    drop((a, b, their_tap));
    other.unplug(&their_nic).await.unwrap();
    other.remove_switch(&theirs, None).await.unwrap();
    for nic in [&na, &nb] {
        lab.net.unplug(nic).await.unwrap();
    }
    lab.close(&[&switch]).await;
}

#[tokio::test]
async fn an_adopted_port_keeps_its_rules_and_traffic_is_counted_from_the_guests_side() {
    let lab = Lab::new().await;
    let switch = lab.switch(SwitchKind::Private).await;
    let (na, nb) = (nic(&switch, None, false), Nic { queues: 4, ..nic(&switch, None, false) });
    let a = lab.guest(&na).await;
    let mut queues = lab.net.plug(&nb).await.unwrap();
    assert_eq!(queues.len(), 4);
    let b: Vec<Guest> = queues.drain(..).map(|queue| Guest::new(queue, &nb.mac.to_string())).collect();
    a.send(&arp(a.mac, a.mac, A, B));
    // The daemon is restarted: the tables and the taps are still there.
    let Lab { host, dir, net } = lab;
    drop(net);
    let net = Network::open(dir.path()).await;
    assert_eq!(net.port(na.id), PortHealth::Gone);
    net.put_switch(&switch, None).await.unwrap();
    net.adopt(&na).await;
    net.adopt(&nb).await;
    assert_eq!(net.port(na.id), PortHealth::Ok);
    a.send(&arp(b[0].mac, b[0].mac, A, B));
    for _ in 0..50 {
        a.send(&arp(a.mac, a.mac, A, C));
    }
    tokio::time::timeout(PATIENCE, async {
        loop {
            // A frame counts once the guest has taken it, from whichever queue.
            for queue in &b {
                while queue.take().is_some() {}
            }
            let (a, b) = (net.traffic(na.id), net.traffic(nb.id));
            if let (Some(a), Some(b)) = (a, b)
                && a.out_packets >= 52
                && b.in_packets >= 51
            {
                assert!(a.out_bytes >= 52 * 42 && b.in_bytes >= 51 * 42, "{a:?} {b:?}");
                assert!(a.in_packets < 40, "{a:?}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("counted");
    assert!(net.refused_frames().await.unwrap() >= 1);
    drop((a, b));
    net.unplug(&na).await.unwrap();
    net.unplug(&nb).await.unwrap();
    net.remove_switch(&switch, None).await.unwrap();
    drop(net);
    let net = Network::open(dir.path()).await;
    Lab { host, dir, net }.close(&[&switch]).await;
}
