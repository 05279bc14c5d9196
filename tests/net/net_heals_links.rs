//! Whatever somebody changes of a switch's links, addresses, queues and settings is as it was again.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::lab::await_that;
use crate::support::{
    PATIENCE,
    netns::{ip, ip_json},
};
use crate::town::town;
use qherd::model::Nic;
use serde_json::Value;

fn value(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap().trim().to_owned()
}

/// Not the same at each look, or the kernel's own.
const PASSING: [&str; 12] = [
    "timer",
    "_id",
    "ifindex",
    "designated",
    "port_no",
    "operstate",
    "life_time",
    "handle",
    "topology_change",
    // An IPv6 address of the link is the kernel's own or ours, and the same.
    "protocol",
    "nodad",
    "tentative",
];

/// Settings of a bridge that change what becomes of frames, with values that nobody of ours has.
const BRIDGE: [(&str, &str); 8] = [
    ("stp_state", "1"),
    ("ageing_time", "0"),
    ("group_fwd_mask", "8"),
    ("group_addr", "01:80:c2:00:00:0e"),
    ("mcast_querier", "1"),
    ("nf_call_iptables", "1"),
    ("nf_call_ip6tables", "1"),
    ("nf_call_arptables", "1"),
];

fn forget(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let passing = |name: &str| ["id", "no"].contains(&name) || PASSING.iter().any(|part| name.contains(part));
            members.retain(|name, _| !passing(name));
            members.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

fn run(command: &str) -> String {
    let done = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A link as the kernel has it, with its addresses and its queue.
fn link(name: &str) -> Value {
    // One that is away for a moment.
    let list = |command: &str| {
        let done = std::process::Command::new("sh").args(["-c", &format!("{command} dev {name}")]).output().unwrap();
        serde_json::from_slice::<Value>(&done.stdout).unwrap_or_default()
    };
    let mut found = serde_json::json!([list("ip -j -d addr show"), list("tc -j qdisc show")]);
    forget(&mut found);
    if let Some(addresses) = found.pointer_mut("/0/0/addr_info").and_then(Value::as_array_mut) {
        addresses.sort_by_key(Value::to_string);
    }
    found
}

/// What there is to be changed of a link of ours: all by which it differs from one `plain` of its kind that nobody set up, and
/// all that a port of a bridge can be told.
fn changes(name: &str, plain: &str) -> Vec<String> {
    let (ours, plain) = (link(name), link(plain));
    let (ours, plain, queues) = (&ours[0][0], &plain[0][0], &ours[1]);
    let mut changes = Vec::new();
    for (field, value) in ours.as_object().unwrap() {
        match field.as_str() {
            "flags" if value.to_string().contains("\"UP\"") => changes.push(format!("ip link set {name} down")),
            "master" => changes.push(format!("ip link set {name} nomaster")),
            "mtu" => changes.push(format!("ip link set {name} mtu 1400")),
            // With another it would be another's.
            "ifalias" => changes.push(format!("ip link set {name} alias ''")),
            // Of a tap it is its own affair, as the guest has another; so is an adapter's.
            "address" if ours["linkinfo"]["info_kind"] == "bridge" && !ours["addr_info"][0].is_null() => {
                changes.push(format!("ip link set {name} address 02:00:00:00:00:99"))
            }
            _ => {}
        }
    }
    for address in ours["addr_info"].as_array().unwrap() {
        let (local, length) = (address["local"].as_str().unwrap(), &address["prefixlen"]);
        changes.push(format!("ip addr del {local}/{length} dev {name}"));
    }
    // What a tap is, its owner says.
    let parts = [("info_data", "bridge"), ("info_slave_data", "bridge_slave")];
    for (part, kind) in
        parts.into_iter().filter(|(_, kind)| *kind != "bridge" || ours["linkinfo"]["info_kind"] == *kind)
    {
        let (own, default) = (&ours["linkinfo"][part], &plain["linkinfo"][part]);
        let differs = |(field, value): &(&String, &Value)| default[*field] != **value && *field != "state";
        for (field, value) in own.as_object().into_iter().flatten().filter(differs) {
            let other = match &default[field] {
                Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
                other => other.to_string(),
            };
            assert!(!other.contains("null"), "{field} is {value}, and nothing by default");
            changes.push(format!("ip link set {name} type {kind} {field} {other}"));
        }
    }
    for (field, value) in ours["linkinfo"]["info_slave_data"].as_object().into_iter().flatten() {
        if let Some(is) = value.as_bool() {
            changes.push(format!("ip link set {name} type bridge_slave {field} {}", if is { "off" } else { "on" }));
        }
    }
    if ours["linkinfo"]["info_slave_kind"] == "bridge" {
        changes.push(format!("ip link set {name} type bridge_slave group_fwd_mask 8"));
        changes.push(format!("ip link set {name} type bridge_slave state 4"));
    }
    for (field, other) in BRIDGE.iter().filter(|(field, _)| !ours["linkinfo"]["info_data"][*field].is_null()) {
        let word = if *field == "group_addr" { "group_address" } else { field };
        changes.push(format!("ip link set {name} type bridge {word} {other}"));
    }
    for queue in queues.as_array().unwrap().iter().filter(|queue| queue["kind"] == "tbf") {
        assert_eq!(queue["root"], true);
        changes.push(format!("tc qdisc del dev {name} root"));
        changes.push(format!("tc qdisc replace dev {name} root tbf rate 1mbit burst 32k latency 50ms"));
    }
    if name.starts_with("qht") {
        changes.push(format!("tc qdisc replace dev {name} root htb"));
    }
    if name.starts_with("qhb") {
        changes.push(format!("ip link del {name}"));
    }
    changes
}

/// As the one below, with all that the kernel has of our links, found by itself.
#[tokio::test]
async fn all_that_the_kernel_has_of_a_link_is_right_again() {
    let town = town().await;
    let bridges = [town.lan.bridge(), town.wan.bridge(), town.shared.bridge()];
    let taps: Vec<String> = town.nics.iter().map(Nic::tap).collect();
    run(
        "ip link add plain type bridge; ip link set plain mtu 1500; ip tuntap add plaintap mode tap; ip link set plaintap master plain",
    );
    let all: Vec<String> = bridges
        .iter()
        .flat_map(|name| changes(name, "plain"))
        // What the host has on a switch that it shares is its administrator's to change.
        .filter(|change| !change.contains(&bridges[2]) || !change.contains("addr"))
        .chain(taps.iter().flat_map(|name| changes(name, "plaintap")))
        // Every setting of a port of each sort: one that is isolated, and one that is not.
        .filter(|change| !change.contains("bridge_slave") || taps[..2].iter().any(|tap| change.contains(tap)))
        // An adapter is its administrator's, but for what it does as a port of the bridge.
        .chain(changes("up0", "plaintap").into_iter().filter(|change| change.contains("bridge_slave")))
        .collect();
    for word in [
        "down",
        "nomaster",
        "alias",
        "mcast_snooping",
        "isolated",
        "addr del 10.",
        "addr del fd77::",
        "addr del fe80::",
        "qdisc del",
        "address 02",
        "learning off",
        "flood off",
        "hairpin on",
        "neigh_suppress on",
        "slave group_fwd_mask",
        "state 4",
        "stp_state 1",
        "ageing_time 0",
    ] {
        assert!(all.iter().any(|change| change.contains(word)), "{word} is not in {all:#?}");
    }
    let adapter = ["up0".to_owned()];
    let names = bridges.iter().chain(&taps).chain(&adapter);
    let wanted: Vec<(String, Value)> = names.map(|name| (name.clone(), link(name))).collect();
    for change in &all {
        run(change);
        let begun = Instant::now();
        while let Some((name, wanted)) = wanted.iter().find(|(name, wanted)| link(name) != *wanted) {
            assert!(begun.elapsed() < PATIENCE, "after {change}:\n{}\nis not\n{wanted}", link(name));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    town.lab.await_problem(&town.lan, &[]).await;
    run("ip tuntap del plaintap mode tap; ip link del plain");
    town.close().await;
}

#[tokio::test]
async fn links_addresses_and_settings_that_somebody_changes_are_right_again() {
    let town = town().await;
    let (lan, wan) = (town.lan.bridge(), town.wan.bridge());
    let taps: Vec<String> = town.nics.iter().map(Nic::tap).collect();
    let shown = |name: &str| ip_json(&format!("-d link show {name}"))[0].clone();
    let rate = || {
        let reported = std::process::Command::new("tc").args(["qdisc", "show", "dev", &taps[1]]).output().unwrap();
        String::from_utf8(reported.stdout).unwrap()
    };
    assert!(rate().contains("rate 80Mbit"), "{}", rate());
    assert_eq!(shown(&taps[1])["linkinfo"]["info_slave_data"]["isolated"], true);
    assert_eq!(shown(&lan)["linkinfo"]["info_data"]["mcast_snooping"], 0);

    let tap = &taps[1];
    let is_there = |name: &str| ip("link").contains(&format!(": {name}: "));
    let changes: Vec<(String, Box<dyn Fn() -> bool>)> = vec![
        (format!("ip link set {lan} down"), Box::new(|| shown(&lan)["flags"].to_string().contains("\"UP\""))),
        (format!("ip addr flush dev {lan}"), Box::new(|| ip(&format!("addr show {lan}")).contains("10.77.0.1/24"))),
        (
            format!("ip link set {lan} type bridge mcast_snooping 1"),
            Box::new(|| shown(&lan)["linkinfo"]["info_data"]["mcast_snooping"] == 0),
        ),
        (format!("ip link set {tap} nomaster"), Box::new(|| shown(tap)["master"] == lan.as_str())),
        (format!("ip link set {tap} down"), Box::new(|| shown(tap)["flags"].to_string().contains("\"UP\""))),
        (format!("ip link set {tap} mtu 1400"), Box::new(|| shown(tap)["mtu"] == 1500 && shown(&lan)["mtu"] == 1500)),
        (
            format!("ip link set {tap} type bridge_slave isolated off"),
            Box::new(|| shown(tap)["linkinfo"]["info_slave_data"]["isolated"] == true),
        ),
        (format!("tc qdisc del dev {tap} root"), Box::new(|| rate().contains("rate 80Mbit"))),
        (
            format!("tc qdisc replace dev {tap} root tbf rate 1mbit burst 32k latency 50ms"),
            Box::new(|| rate().contains("rate 80Mbit")),
        ),
        ("sysctl -q -w net.ipv4.ip_forward=0".into(), Box::new(|| value("ipv4/ip_forward") == "1")),
        (
            format!("sysctl -q -w net.ipv4.conf.{lan}.arp_ignore=0"),
            Box::new(|| value(&format!("ipv4/conf/{lan}/arp_ignore")) == "1"),
        ),
        (
            format!("sysctl -q -w net.ipv6.conf.{wan}.disable_ipv6=0"),
            Box::new(|| value(&format!("ipv6/conf/{wan}/disable_ipv6")) == "1"),
        ),
        (
            format!("sysctl -q -w net.ipv4.conf.{lan}.forwarding=0"),
            Box::new(|| value(&format!("ipv4/conf/{lan}/forwarding")) == "1"),
        ),
        (format!("ip link set {lan} arp off"), Box::new(|| !shown(&lan)["flags"].to_string().contains("NOARP"))),
        ("ip link set up0 nomaster".into(), Box::new(|| shown("up0")["master"] == wan.as_str())),
        ("ip link set up0 down".into(), Box::new(|| shown("up0")["flags"].to_string().contains("\"UP\""))),
        // The adapter's packets get smaller, and larger again.
        ("ip link set up0 mtu 1300".into(), Box::new(|| shown(&wan)["mtu"] == 1300 && shown(&taps[2])["mtu"] == 1300)),
        ("ip link set up0 mtu 9000".into(), Box::new(|| shown(&wan)["mtu"] == 9000 && shown(&taps[2])["mtu"] == 9000)),
        (
            format!("ip link set {lan} down; ip link set {lan} name astray; ip link set astray up"),
            Box::new(|| is_there(&lan) && !is_there("astray") && shown(&taps[0])["master"] == lan.as_str()),
        ),
        (
            format!("ip link set {tap} down; ip link set {tap} name astray"),
            Box::new(|| is_there(tap) && !is_there("astray") && shown(tap)["flags"].to_string().contains("\"UP\"")),
        ),
        (
            format!("ip route del 10.77.0.0/24 dev {lan}"),
            Box::new(|| ip("route").contains(&format!("10.77.0.0/24 dev {lan} proto kernel scope link src 10.77.0.1"))),
        ),
        (
            format!("ip link del {lan}"),
            Box::new(|| ip("link").contains(&lan) && shown(&taps[0])["master"] == lan.as_str()),
        ),
    ];
    for (command, is_right) in &changes {
        let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(done.success(), "{command}");
        await_that(command, is_right).await;
    }
    drop(changes);
    town.lab.await_problem(&town.lan, &[]).await;
    // What leads elsewhere is somebody's will.
    ip("route add blackhole 10.77.0.2/32");
    town.lab.await_problem(&town.lan, &["10.77.0.2", "ip route get", &lan]).await;
    ip("route del blackhole 10.77.0.2/32");
    town.lab.await_problem(&town.lan, &[]).await;
    town.close().await;
}
