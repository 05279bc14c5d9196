//! The addresses that the host has on the bridge of a switch, whoever gave them to it, are nobody else's there.

use crate::lab::{self, Lab, await_that, nic_on};
use crate::support::{
    netns::{Peer, arp, icmp6, ip, ip_json, nft},
    yard::arrives,
};
use qherd::{
    model::{Subnet, Subnet6, Switch, SwitchKind},
    net::Network,
};

fn link_local(mac: [u8; 6]) -> [u8; 16] {
    let [a, b, c, d, e, f] = mac;
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// What the rules keep for the host.
fn kept(switch: &Switch, version: u8) -> String {
    let tables = nft("list tables bridge");
    let name = tables.split_whitespace().find(|word| word.starts_with("qherd_")).unwrap();
    nft(&format!("list set bridge {name} {}_host{version}", switch.bridge()))
}

fn mac_of(name: &str) -> [u8; 6] {
    let link = ip_json(&format!("link show {name}"));
    let bytes = link[0]["address"].as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect::<Vec<_>>().try_into().unwrap()
}

/// The guests' router is known to them by its link-local address.
#[tokio::test]
async fn a_guest_cannot_take_over_its_neighbours_ipv6_router() {
    let lab = Lab::new().await;
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(Subnet6::parse("fd77::/64", true).unwrap());
    let lan = lab.switch(SwitchKind::Internal { subnet: Some(subnet) }).await;
    let router = link_local(mac_of(&lan.bridge()));
    let own = std::net::Ipv6Addr::from(router).to_string();
    assert!(kept(&lan, 6).contains(&own), "from the beginning: {}", kept(&lan, 6));
    let (na, nb) = (nic_on(&lan, Some([10, 77, 0, 2].into())), nic_on(&lan, Some([10, 77, 0, 3].into())));
    let (a, b) = (lab.guest(&na).await, lab.guest(&nb).await);
    let other = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];
    // Another that somebody gave the bridge.
    ip(&format!("-6 addr add fe80::77/64 dev {} nodad", lan.bridge()));
    await_that("the other is kept too", || kept(&lan, 6).contains("fe80::77")).await;
    let mut before = lab.net.refused_frames().await.unwrap();
    for router in [router, other] {
        for (frame, what) in [
            (icmp6(a.mac, link_local(a.mac), 136, router), "an advertisement of the router's address"),
            (icmp6(a.mac, router, 136, router), "one from it"),
            (icmp6(a.mac, router, 128, router), "a packet from it"),
            (icmp6(a.mac, [0; 16], 135, router), "asking whether it is free"),
        ] {
            assert!(!arrives(&a, [10, 77, 0, 2], &b, &frame).await, "{what}");
            let now = lab.net.refused_frames().await.unwrap();
            assert!(now > before, "{what} is not counted");
            before = now;
        }
    }
    let honest = icmp6(a.mac, link_local(a.mac), 136, link_local(a.mac));
    assert!(arrives(&a, [10, 77, 0, 2], &b, &honest).await);
    // What makes the host a router to its guests is right again, too.
    let bridge = lan.bridge();
    let forwarding = format!("/proc/sys/net/ipv6/conf/{bridge}/forwarding");
    std::fs::write(&forwarding, "0").unwrap();
    await_that("the host is a router again", || std::fs::read_to_string(&forwarding).unwrap() == "1\n").await;
    for nic in [&na, &nb] {
        lab.net.unplug(nic).await.unwrap();
    }
    drop((a, b));
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn on_a_shared_switch_the_hosts_addresses_are_those_that_its_bridge_has() {
    let mut lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    let wan = lab::switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: true, dhcp: false });
    let moved = lab.net.survey(&wan, None).await.unwrap();
    lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
    let bridge = wan.bridge();
    assert!(kept(&wan, 4).contains("192.0.2.1"), "{}", kept(&wan, 4));
    let own = std::net::Ipv6Addr::from(link_local(mac_of(&bridge))).to_string();
    await_that("the bridge's own link-local address", || kept(&wan, 6).contains(&own)).await;
    let (na, nb) = (nic_on(&wan, None), nic_on(&wan, None));
    let (a, b) = (lab.guest(&na).await, lab.guest(&nb).await);
    // Later.
    ip(&format!("addr add 203.0.113.9/24 dev {bridge}"));
    await_that("an address that came later", || kept(&wan, 4).contains("203.0.113.9")).await;
    let before = lab.net.refused_frames().await.unwrap();
    let claim = arp(a.mac, a.mac, [203, 0, 113, 9], [203, 0, 113, 7]);
    assert!(!arrives(&a, [192, 0, 2, 50], &b, &claim).await);
    assert!(lab.net.refused_frames().await.unwrap() > before);
    ip(&format!("addr del 203.0.113.9/24 dev {bridge}"));
    await_that("one that is gone", || !kept(&wan, 4).contains("203.0.113.9")).await;
    assert!(arrives(&a, [192, 0, 2, 50], &b, &claim).await, "it is anybody's now");
    // One that runs out, also for the next daemon, which has it in its record.
    ip("addr add 192.0.2.8/24 dev up0 valid_lft 2 preferred_lft 2");
    let moved = lab.net.survey(&wan, moved.as_ref()).await.unwrap();
    lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
    await_that("it is there", || kept(&wan, 4).contains("192.0.2.8")).await;
    await_that("it has run out", || !kept(&wan, 4).contains("192.0.2.8")).await;
    lab.net = Network::open(lab.dir.path()).await;
    lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
    for nic in [&na, &nb] {
        lab.net.adopt(nic).await;
    }
    lab.net.sweep(&[wan.id], &[na.clone(), nb.clone()]).await.unwrap();
    await_that("the next daemon knows it too", || {
        !kept(&wan, 4).contains("192.0.2.8") && kept(&wan, 4).contains("192.0.2.1")
    })
    .await;
    for nic in [&na, &nb] {
        lab.net.unplug(nic).await.unwrap();
    }
    drop((a, b));
    let moved = lab.net.survey(&wan, moved.as_ref()).await.unwrap();
    lab.net.remove_switch(&wan, moved.as_ref()).await.unwrap();
    ip("link del up0");
    lab.close(&[]).await;
}
