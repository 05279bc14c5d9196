//! What else of a host is in the way of a switch and is told as its problem, with words that help when they are followed:
//! rules of iptables-legacy and ip6tables-legacy, the kernel's reverse-path filter, an address of the host that is gone. Rules of
//! nftables are in `net_truth.rs`.

use std::fs;

use crate::lab::{Lab, await_that, nic_on};
use crate::support::netns::{Peer, ip};
use qherd::model::{ForwardId, Protocol, Subnet, Subnet6, Switch, SwitchForward, SwitchKind};

fn sh(command: &str) {
    let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}

fn network() -> Peer {
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("route add default via 192.0.2.2");
    peer
}

/// Nothing of the kernel's tells of these changes; whatever others do to nftables has a look taken.
async fn look(lab: &Lab, switch: &Switch) {
    lab.net.put_switch(switch, None).await.unwrap();
    sh("nft add table ip others; nft delete table ip others");
}

/// Does what a problem says that lets it through, word by word.
fn follow(problem: &str, tool: &str) {
    let begins = format!("{tool} -t ");
    let commands: Vec<&str> =
        problem.split(&begins).skip(1).map(|rest| rest.split(" -j ACCEPT").next().unwrap()).collect();
    assert!(!commands.is_empty(), "nothing to do in {problem:?}");
    commands.into_iter().for_each(|command| sh(&format!("{begins}{command} -j ACCEPT")));
}

#[tokio::test]
async fn rules_of_iptables_legacy_that_drop_what_a_switch_needs_are_named_with_what_to_do() {
    let lab = Lab::new().await;
    let _peer = network();
    let early = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&early, &[]).await;
    // What lets it through, or may, is no problem.
    sh("iptables-legacy -A FORWARD -s 203.0.113.0/24 -j DROP; iptables-legacy -A FORWARD -i eth+ -j DROP; \
        iptables-legacy -A FORWARD ! -o qhb+ -i eth9 -j DROP; iptables-legacy -A FORWARD -p icmp -j DROP");
    look(&lab, &early).await;
    sh("iptables-legacy -N DOCKER-USER; iptables-legacy -N DOCKER; iptables-legacy -P FORWARD DROP; \
        iptables-legacy -A FORWARD -j DOCKER-USER; iptables-legacy -A DOCKER -j RETURN; iptables-legacy -A FORWARD -j DOCKER; \
        iptables-legacy -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
        iptables-legacy -A FORWARD -i docker0 -j ACCEPT");
    let words = ["the policy of the chain FORWARD", "iptables-legacy", "DOCKER-USER"];
    // One that is made on such a host tells it too.
    let late = lab.internal("10.78.0.0/24", true).await;
    for switch in [&early, &late] {
        look(&lab, switch).await;
        let mut reported = lab.await_problem(switch, &words).await;
        while lab.net.problem(switch.id).is_some() {
            follow(&reported, "iptables-legacy");
            look(&lab, switch).await;
            await_that("another problem, or none", || lab.net.problem(switch.id).as_ref() != Some(&reported)).await;
            reported = lab.net.problem(switch.id).unwrap_or_default();
        }
    }
    sh(
        "iptables-legacy -N guests; iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -i qhb+ -g guests; \
        iptables-legacy -A guests -p tcp -j ACCEPT; iptables-legacy -A guests -p udp -j REJECT",
    );
    look(&lab, &early).await;
    let words = ["rule 2 of the chain guests in the table filter of iptables-legacy", "DHCP"];
    let reported = lab.await_problem(&early, &words).await;
    assert!(reported.contains("iptables-legacy -t filter -I INPUT -i qhb"), "{reported}");
    sh("iptables-legacy -F; iptables-legacy -P FORWARD ACCEPT");
    look(&lab, &early).await;
    lab.await_problem(&early, &[]).await;
    // Chains are called what their tools call them, and what is told helps word by word.
    for (table, chain, what) in [
        ("raw", "PREROUTING", "send to other networks"),
        ("mangle", "POSTROUTING", "send to other networks"),
        ("filter", "OUTPUT", "answers the guests about DHCP"),
    ] {
        sh(&format!("iptables-legacy -t {table} -A {chain} -j DROP"));
        look(&lab, &early).await;
        let place = format!("rule 1 of the chain {chain} in the table {table} of iptables-legacy");
        let mut reported = lab.await_problem(&early, &[&place, what]).await;
        while lab.net.problem(early.id).is_some() {
            follow(&reported, "iptables-legacy");
            look(&lab, &early).await;
            await_that("another problem, or none", || lab.net.problem(early.id).as_ref() != Some(&reported)).await;
            reported = lab.net.problem(early.id).unwrap_or_default();
        }
        sh(&format!("iptables-legacy -t {table} -F"));
    }
    ip("link del up0");
    lab.close(&[&early, &late]).await;
}

#[tokio::test]
async fn rules_of_ip6tables_legacy_are_read_too() {
    let lab = Lab::new().await;
    let _peer = network();
    ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
    ip("-6 route add default via 2001:db8::2");
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(Subnet6::parse("fd77::/64", true).unwrap());
    let lan = lab.switch(SwitchKind::Internal { subnet: Some(subnet) }).await;
    lab.await_problem(&lan, &[]).await;
    sh("ip6tables-legacy -A FORWARD -s 2001:db8:9::/48 -j DROP; ip6tables-legacy -A FORWARD -i eth+ -j DROP; \
        ip6tables-legacy -A FORWARD -p ipv6-icmp -j DROP");
    look(&lab, &lan).await;
    sh("ip6tables-legacy -P FORWARD DROP; ip6tables-legacy -N guests; ip6tables-legacy -A INPUT -i lo -j ACCEPT; \
        ip6tables-legacy -A INPUT -i qhb+ -g guests; ip6tables-legacy -A guests -p tcp -j ACCEPT; \
        ip6tables-legacy -A guests -p ipv6-icmp -j DROP");
    look(&lab, &lan).await;
    let words = [
        "the policy of the chain FORWARD in the table filter of ip6tables-legacy",
        "send to other networks by IPv6",
        "rule 2 of the chain guests in the table filter of ip6tables-legacy",
        "who is their router",
    ];
    let mut reported = lab.await_problem(&lan, &words).await;
    while lab.net.problem(lan.id).is_some() {
        follow(&reported, "ip6tables-legacy");
        look(&lab, &lan).await;
        await_that("another problem, or none", || lab.net.problem(lan.id).as_ref() != Some(&reported)).await;
        reported = lab.net.problem(lan.id).unwrap_or_default();
    }
    sh("ip6tables-legacy -F");
    ip("link del up0");
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn a_port_forward_on_an_address_that_the_host_loses_is_told_until_it_is_back() {
    let lab = Lab::new().await;
    let _peer = network();
    ip("addr add 192.0.2.9/24 dev up0");
    let mut lan = lab.internal("10.77.0.0/24", true).await;
    let nic = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let guest = lab.guest(&nic).await;
    let forward = |host_address: Option<[u8; 4]>, host_port| SwitchForward {
        id: ForwardId::random(),
        protocol: Protocol::Tcp,
        host_address: host_address.map(Into::into),
        host_port,
        nic: nic.id,
        guest_port: 80,
    };
    lan.forwards = vec![forward(None, 8080), forward(Some([192, 0, 2, 9]), 8081), forward(Some([192, 0, 2, 9]), 8082)];
    lab.net.put_switch(&lan, None).await.unwrap();
    lab.await_problem(&lan, &[]).await;
    // An event tells of it, and nothing else is done meanwhile.
    ip("addr del 192.0.2.9/24 dev up0");
    lab.await_problem(&lan, &["tcp 192.0.2.9:8081", "1 more", "address"]).await;
    ip("addr add 192.0.2.9/24 dev up0");
    lab.await_problem(&lan, &[]).await;
    ip("addr del 192.0.2.9/24 dev up0");
    lab.await_problem(&lan, &["192.0.2.9"]).await;
    lan.forwards.truncate(1);
    lab.net.put_switch(&lan, None).await.unwrap();
    lab.await_problem(&lan, &[]).await;
    lab.net.unplug(&nic).await.unwrap();
    drop(guest);
    ip("link del up0");
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn a_reverse_path_filter_that_drops_what_comes_for_a_forward_is_told() {
    let lab = Lab::new().await;
    let (_peer, vpn) = (network(), Peer::new());
    vpn.connect("vpn0", "vpn1");
    ip("addr add 198.51.100.1/24 dev vpn0");
    ip("route add 0.0.0.0/1 via 198.51.100.2");
    ip("route add 128.0.0.0/1 via 198.51.100.2");
    let set = |name: &str, value| fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), value).unwrap();
    set("all", "1");
    let mut lan = lab.internal("10.77.0.0/24", true).await;
    let nic = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let guest = lab.guest(&nic).await;
    look(&lab, &lan).await;
    let words = ["reverse-path", "what comes by up0", "answer by vpn0", "net.ipv4.conf.up0.rp_filter=2"];
    let forward = |host_address: [u8; 4]| SwitchForward {
        id: ForwardId::random(),
        protocol: Protocol::Tcp,
        host_address: Some(host_address.into()),
        host_port: 8080,
        nic: nic.id,
        guest_port: 80,
    };
    lan.forwards = vec![forward([192, 0, 2, 1])];
    look(&lab, &lan).await;
    lab.await_problem(&lan, &words).await;
    // What is told helps, and so does a forward on the address that answers leave by.
    set("up0", "2");
    look(&lab, &lan).await;
    lab.await_problem(&lan, &[]).await;
    set("up0", "1");
    look(&lab, &lan).await;
    lab.await_problem(&lan, &words).await;
    lan.forwards = vec![forward([198, 51, 100, 1])];
    look(&lab, &lan).await;
    lab.await_problem(&lan, &[]).await;
    lab.net.unplug(&nic).await.unwrap();
    drop(guest);
    ip("link del up0");
    ip("link del vpn0");
    lab.close(&[&lan]).await;
}
