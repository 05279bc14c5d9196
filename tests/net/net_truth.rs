//! What is in the way of a switch and is not qherd's is told as its problem, with what to do about it, and told no longer
//! when it is over.

use crate::lab;

use std::{fs, net::UdpSocket, os::unix::fs::DirBuilderExt, path::PathBuf, time::Duration};

use crate::lab::{Lab, await_that, nic_on};
use crate::support::{
    dnsmasqs_below,
    netns::{Peer, ip, nft},
};
use qherd::{
    model::{ForwardId, Protocol, Subnet, Subnet6, Switch, SwitchForward, SwitchKind},
    net::NetError,
};

/// Applies rules as `nft -f` reads them.
fn apply(rules: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules");
    fs::write(&file, rules).unwrap();
    nft(&format!("-f {}", file.display()));
}

/// Does what a problem says that lets it through, word by word.
fn follow(problem: &str) {
    let commands: Vec<&str> = problem.split("nft ").skip(1).map(|rest| rest.split(" accept").next().unwrap()).collect();
    assert!(!commands.is_empty(), "nothing to do in {problem:?}");
    for command in commands {
        nft(&format!("{command} accept"));
    }
}

const DOCKER: &str = "table ip filter {
    chain DOCKER-USER {
    }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        jump DOCKER-USER
        oifname docker0 ct state related,established accept
        iifname docker0 accept
    }
}";

const FIREWALLD: &str = "table inet firewalld {
    chain zone {
        iifname eth9 accept
    }
    chain filter_FORWARD {
        type filter hook forward priority 10; policy accept;
        ct state { established, related } accept
        ct state { invalid } drop
        jump zone
        reject with icmpx type admin-prohibited
    }
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        ct state { established, related } accept
        iifname lo accept
        iifname vmap { eth9 : accept }
        udp dport 22 accept
        reject with icmpx type admin-prohibited
    }
}";

const BRIDGED: &str = "table bridge filter {
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
    }
}";

const HARMLESS: &str = "table ip harmless {
    chain FORWARD {
        type filter hook forward priority 5; policy drop;
        meta l4proto icmp drop
        ip saddr 203.0.113.0/24 drop
        iifname eth9 drop
        iifname vmap { eth9 : drop }
        jump more
    }
    chain more {
        iifname \"qhb*\" accept
        oifname \"qhb*\" ct state established,related accept
    }
}";

async fn network() -> (Lab, Peer) {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("route add default via 192.0.2.2");
    (lab, peer)
}

#[tokio::test]
async fn rules_of_others_that_drop_what_a_switch_needs_are_named_with_what_to_do() {
    let (lab, _peer) = network().await;
    let early = lab.internal("10.77.0.0/24", true).await;
    let na = nic_on(&early, Some([10, 77, 0, 2].into()));
    let _guest = lab.guest(&na).await;
    lab.await_problem(&early, &[]).await;

    apply(DOCKER);
    let reported = lab.await_problem(&early, &["chain FORWARD", "table ip filter", "policy", "DOCKER-USER"]).await;
    // One that is made on such a host tells it too.
    let late = lab.internal("10.78.0.0/24", true).await;
    let told_late = lab.await_problem(&late, &["chain FORWARD", "table ip filter"]).await;
    for (switch, mut reported) in [(&early, reported), (&late, told_late)] {
        // Out, then what comes back, then between guests: each is told when the one before is through.
        while lab.net.problem(switch.id).is_some() {
            follow(&reported);
            await_that("another problem, or none", || lab.net.problem(switch.id).as_ref() != Some(&reported)).await;
            reported = lab.net.problem(switch.id).unwrap_or_default();
        }
    }
    nft("delete table ip filter");

    apply(FIREWALLD);
    let words = ["filter_FORWARD", "filter_INPUT", "table inet firewalld", "DHCP", "firewall-cmd", &early.bridge()];
    lab.await_problem(&early, &words).await;
    nft(&format!("insert rule inet firewalld filter_INPUT iifname {} accept", early.bridge()));
    nft(&format!("insert rule inet firewalld filter_FORWARD iifname {} accept", early.bridge()));
    lab.await_problem(&early, &[]).await;
    lab.await_problem(&late, &["filter_INPUT"]).await;
    let latest = lab.internal("10.79.0.0/24", true).await;
    lab.await_problem(&latest, &["filter_INPUT", "filter_FORWARD"]).await;
    lab.net.remove_switch(&latest, None).await.unwrap();
    nft("delete table inet firewalld");
    lab.await_problem(&late, &[]).await;

    apply(BRIDGED);
    lab.await_problem(&early, &["table bridge filter", "one another"]).await;
    nft("delete table bridge filter");
    lab.await_problem(&early, &[]).await;

    // What lets it through, or may, is no problem.
    apply(HARMLESS);
    apply(BRIDGED);
    lab.await_problem(&early, &["table bridge filter"]).await;
    let reported = lab.net.problem(early.id).unwrap();
    assert!(!reported.contains("harmless"), "{reported}");
    lab.net.unplug(&na).await.unwrap();
    nft("flush ruleset");
    ip("link del up0");
    lab.close(&[&early, &late]).await;
}

#[tokio::test]
async fn an_uplink_that_forwards_nothing_is_told_and_left_as_it_is() {
    let (lab, _peer) = network().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&lan, &[]).await;
    let forwarding = "/proc/sys/net/ipv4/conf/up0/forwarding";
    fs::write(forwarding, "0").unwrap();
    // Whatever others change has the host looked at.
    nft("add table ip others");
    lab.await_problem(&lan, &["sysctl net.ipv4.conf.up0.forwarding=1", "answer"]).await;
    assert_eq!(fs::read_to_string(forwarding).unwrap(), "0\n");
    fs::write(forwarding, "1").unwrap();
    nft("delete table ip others");
    lab.await_problem(&lan, &[]).await;
    ip("link del up0");
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn a_dnsmasq_that_somebody_has_stopped_is_replaced() {
    let (lab, _peer) = network().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&lan, &[]).await;
    let [stopped] = dnsmasqs_below(lab.dir.path())[..] else { panic!("one dnsmasq") };
    let pid = nix::unistd::Pid::from_raw(stopped);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let replaced = || matches!(dnsmasqs_below(lab.dir.path())[..], [other] if other != stopped);
    await_that("another takes its place", replaced).await;
    lab.await_problem(&lan, &[]).await;
    await_that("somebody answers for names", || UdpSocket::bind("10.77.0.1:53").is_err()).await;
    ip("link del up0");
    lab.close(&[&lan]).await;
}

/// One by one: a policy that drops, in each family and at each hook where it would end a switch's traffic.
#[tokio::test]
async fn what_drops_a_switchs_traffic_is_told_in_every_family_and_at_every_hook() {
    let (lab, _peer) = network().await;
    ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
    ip("-6 route add default via 2001:db8::2");
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(Subnet6::parse("fd77::/64", true).unwrap());
    let mut lan = lab::switch(SwitchKind::Internal { subnet: Some(subnet) });
    let nic = nic_on(&lan, Some([10, 77, 0, 2].into()));
    lan.forwards.push(SwitchForward {
        id: ForwardId::random(),
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: 8080,
        nic: nic.id,
        guest_port: 80,
    });
    lab.net.put_switch(&lan, None).await.unwrap();
    let _guest = lab.guest(&nic).await;
    lab.await_problem(&lan, &[]).await;
    let (bridge, tap) = (lan.bridge(), nic.tap());
    let on = |device: &str, hook: &str| format!("{hook} device {device}");
    let (enters, leaves) = (on(&tap, "ingress"), on(&tap, "egress"));
    let (requests, answers) = (on(&bridge, "ingress"), on(&bridge, "egress"));
    let (comes, goes) = (on("up0", "ingress"), on("up0", "egress"));
    for (family, hook, priority, words) in [
        ("ip", "forward", 0, &["send to other networks", "other networks answer", "port forwards"][..]),
        ("ip", "output", 0, &["answers the guests about DHCP", "answers the guests about names"]),
        ("ip6", "output", 0, &["answers the guests about IPv6"]),
        // What lets the answers about names through lets others' through, too.
        ("ip", "postrouting", 0, &["send to other networks", "port forwards", "about DHCP", "about names"]),
        ("ip6", "postrouting", 0, &["send to other networks by IPv6", "answer to the guests by IPv6"]),
        ("netdev", &enters, 0, &["what the guest behind", "sends"]),
        ("netdev", &leaves, 0, &["what the guest behind", "receives"]),
        ("inet", &enters, 0, &["what the guest behind", "sends"]),
        ("netdev", &requests, 0, &["send to the host"]),
        ("netdev", &answers, 0, &["host sends to the guests"]),
        ("netdev", &comes, 0, &["comes for the guests from other networks"]),
        ("netdev", &goes, 0, &["guests send to other networks"]),
        ("ip6", "forward", 0, &["send to other networks by IPv6", "answer to the guests by IPv6"]),
        ("ip", "input", 0, &["DHCP", "names"]),
        ("ip6", "input", 0, &["IPv6: who is their router"]),
        ("ip", "prerouting", -300, &["send to other networks", "other networks answer"]),
        ("ip6", "prerouting", -300, &["send to other networks by IPv6", "answer to the guests by IPv6"]),
        ("arp", "input", 0, &["ARP"]),
        ("arp", "output", 0, &["ARP"]),
        ("bridge", "prerouting", -200, &["one another"]),
        ("bridge", "input", 0, &["send to the host"]),
        ("bridge", "output", 0, &["host sends"]),
        ("bridge", "postrouting", 0, &["receive"]),
    ] {
        apply(&format!(
            "table {family} others {{\n chain c {{\n type filter hook {hook} priority {priority}; policy drop;\n }}\n}}\n"
        ));
        let place = format!("the policy of the chain c in the table {family} others");
        let mut reported = lab.await_problem(&lan, &[&place]).await;
        let mut all = reported.clone();
        while lab.net.problem(lan.id).is_some() {
            follow(&reported);
            await_that("another problem, or none", || lab.net.problem(lan.id).as_ref() != Some(&reported)).await;
            reported = lab.net.problem(lan.id).unwrap_or_default();
            all.push_str(&reported);
        }
        assert!(words.iter().all(|word| all.contains(word)), "{family} {hook}: {words:?} in {all}");
        nft(&format!("delete table {family} others"));
        lab.await_problem(&lan, &[]).await;
    }
    lab.net.unplug(&nic).await.unwrap();
    ip("link del up0");
    lab.close(&[&lan]).await;
}

fn folder(lab: &Lab, switch: &Switch) -> PathBuf {
    lab.dir.path().join("net").join(switch.id.short())
}

#[tokio::test]
async fn a_taken_port_is_told_with_who_has_it_and_dhcp_works_without_names() {
    let (lab, _peer) = network().await;
    let own = fs::read_to_string("/proc/self/comm").unwrap();
    let own = format!("{} (pid {})", own.trim(), std::process::id());
    let names = UdpSocket::bind("0.0.0.0:53").unwrap();
    let switch = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&switch, &["port 53", &own, "its DHCP works"]).await;
    let config = || fs::read_to_string(folder(&lab, &switch).join("dnsmasq.conf")).unwrap();
    assert!(config().contains("port=0"), "{}", config());
    drop(names);
    lab.await_problem(&switch, &[]).await;
    await_that("it is told of names", || !config().contains("port=0")).await;
    await_that("somebody answers for names", || UdpSocket::bind("10.77.0.1:53").is_err()).await;
    lab.net.remove_switch(&switch, None).await.unwrap();

    let dhcp = UdpSocket::bind("0.0.0.0:67").unwrap();
    let switch = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&switch, &["dnsmasq", "67", &own]).await;
    drop(dhcp);
    lab.await_problem(&switch, &[]).await;
    ip("link del up0");
    lab.close(&[&switch]).await;
}

#[tokio::test]
async fn a_dnsmasq_that_cannot_live_is_told_in_its_own_words() {
    let (lab, _peer) = network().await;
    let switch = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&switch, &[]).await;
    // What it is to write to is a folder now.
    let leases = folder(&lab, &switch).join("leases");
    await_that("it has begun", || leases.exists()).await;
    fs::remove_file(&leases).unwrap();
    fs::DirBuilder::new().mode(0o700).create(&leases).unwrap();
    fs::write(leases.join("x"), "").unwrap();
    // It is started anew, because its configuration is.
    fs::remove_file(folder(&lab, &switch).join("dnsmasq.conf")).unwrap();
    lab.await_problem(&switch, &["dnsmasq has ended", "leases"]).await;
    fs::remove_dir_all(&leases).unwrap();
    lab.await_problem(&switch, &[]).await;

    // The folder of the switch is removed, while dnsmasq lives.
    fs::remove_dir_all(folder(&lab, &switch)).unwrap();
    await_that("the folder is there again", || folder(&lab, &switch).join("dnsmasq.conf").exists()).await;
    lab.await_problem(&switch, &[]).await;
    ip("link del up0");
    lab.close(&[&switch]).await;
}

#[tokio::test]
async fn an_adapter_with_an_address_that_runs_out_is_refused() {
    let (lab, _peer) = network().await;
    ip("addr add 192.0.2.7/24 dev up0 valid_lft 1000 preferred_lft 1000");
    let wan = lab::switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: true, dhcp: false });
    let refused = lab.net.survey(&wan, None).await.unwrap_err();
    assert!(matches!(&refused, NetError::Leased { adapter, what } if adapter == "up0" && what.contains("192.0.2.7")));
    assert!(refused.to_string().contains("static address"), "{refused}");
    ip("addr del 192.0.2.7/24 dev up0");

    // One that comes later moves too, and that it has run out is told.
    let moved = lab.net.survey(&wan, None).await.unwrap();
    lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
    ip("addr add 192.0.2.8/24 dev up0 valid_lft 2 preferred_lft 2");
    let moved = lab.net.survey(&wan, moved.as_ref()).await.unwrap();
    lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
    assert!(ip(&format!("addr show dev {}", wan.bridge())).contains("192.0.2.8"));
    lab.await_problem(&wan, &["192.0.2.8", "run out"]).await;
    let mut again = lab.net.survey(&wan, moved.as_ref()).await.unwrap();
    lab.net.put_switch(&wan, again.as_ref()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    lab.await_problem(&wan, &["192.0.2.8"]).await;
    assert!(!ip("addr").contains("192.0.2.8"), "what has run out does not come back by itself");
    // What is told helps.
    let bridge = wan.bridge();
    ip(&format!("addr add 192.0.2.10/24 dev {bridge}"));
    lab.await_problem(&wan, &[]).await;
    // The host's own DHCP client may be on the bridge.
    ip(&format!("addr add 192.0.2.11/24 dev {bridge} valid_lft 3 preferred_lft 3"));
    lab.await_problem(&wan, &["192.0.2.11", "run out", "static address"]).await;
    ip(&format!("addr add 192.0.2.12/24 dev {bridge} valid_lft 1000 preferred_lft 1000"));
    lab.await_problem(&wan, &[]).await;
    ip(&format!("addr del 192.0.2.12/24 dev {bridge}"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(lab.net.problem(wan.id), None, "somebody took it away");
    again = lab.net.survey(&wan, again.as_ref()).await.unwrap();
    lab.net.remove_switch(&wan, again.as_ref()).await.unwrap();
    ip("link del up0");
    lab.close(&[]).await;
}

#[tokio::test]
async fn a_host_that_has_its_ipv6_routes_from_a_router_is_not_cut_off() {
    let (lab, _peer) = network().await;
    fs::write("/proc/sys/net/ipv6/conf/up0/accept_ra", "1").unwrap();
    ip("-6 route add default via fe80::1 dev up0 proto ra");
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(Subnet6::parse("fd77::/64", true).unwrap());
    let lan = lab::switch(SwitchKind::Internal { subnet: Some(subnet) });
    let refused = lab.net.put_switch(&lan, None).await.unwrap_err().to_string();
    assert!(refused.contains("net.ipv6.conf.up0.accept_ra=2"), "{refused}");
    let forwarding = || fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap();
    assert_eq!(forwarding(), "0\n");
    assert!(ip("-6 route").contains("default via fe80::1"));
    // What is told helps.
    fs::write("/proc/sys/net/ipv6/conf/up0/accept_ra", "2").unwrap();
    lab.net.put_switch(&lan, None).await.unwrap();
    assert_eq!(forwarding(), "1\n");
    assert!(ip("-6 route").contains("default via fe80::1"), "{}", ip("-6 route"));
    ip("link del up0");
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn a_network_that_the_host_has_is_refused_in_both_families() {
    let (lab, _peer) = network().await;
    ip("-6 addr add fd77::9/64 dev up0 nodad");
    ip("-6 route add fd78:0:0:0:8::/80 via fd77::2");
    ip("-6 route add fd00::/8 via fd77::2");
    ip("route add 10.0.0.0/8 via 192.0.2.3");
    let wish = |v4: &str, v6: &str| {
        let mut subnet = Subnet::parse(v4, true).unwrap();
        subnet.ipv6 = Some(Subnet6::parse(v6, true).unwrap());
        lab::switch(SwitchKind::Internal { subnet: Some(subnet) })
    };
    for (v4, v6, with) in [
        ("10.77.0.0/24", "fd77::/64", "the address fd77::9/64"),
        ("10.77.0.0/24", "fd78::/64", "the route to fd78::8:0:0:0/80"),
        ("192.0.2.0/24", "fd79::/64", "the address 192.0.2.1/24"),
        ("10.0.0.0/8", "fd79::/64", "the route to 10.0.0.0/8"),
    ] {
        let refused = lab.net.survey(&wish(v4, v6), None).await.unwrap_err();
        assert!(matches!(&refused, NetError::Overlap { with: reported, .. } if reported == with), "{refused}");
    }
    // The router of a wide route, and nothing else, is in it.
    ip("-6 addr del fd77::9/64 dev up0");
    ip("-6 route add 2001:db8::/32 via fd77::2 dev up0 onlink");
    let refused = lab.net.survey(&wish("10.77.0.0/24", "fd77::/64"), None).await.unwrap_err().to_string();
    assert!(refused.contains("fd77::2, the gateway of the route to"), "{refused}");
    lab.net.survey(&wish("10.77.0.0/24", "fd79::/64"), None).await.unwrap();
    ip("link del up0");
    lab.close(&[]).await;
}
