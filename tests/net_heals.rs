//! Whatever somebody changes of the host's side of a switch is as it was again: each thing is changed by hand, one after
//! the other, and what there is to be changed is taken from the kernel.

#[path = "support/lab.rs"]
mod lab;
mod support;

use std::{collections::HashMap, fs, time::Duration};

use lab::{Lab, await_that, nic, nic_on};
use qherd::model::{Bandwidth, Nic, Switch, SwitchKind, SwitchPort};
use serde_json::Value;
use support::{
    PATIENCE,
    netns::{Peer, ip, ip_json, nft},
};

/// The tables of ours as `nft -j` lists them.
fn listed() -> Vec<Value> {
    let text = nft("-j list ruleset");
    let all: Value = serde_json::from_str(&text).unwrap();
    let ours = |item: &&Value| {
        let object = item.as_object().and_then(|object| object.values().next());
        object.is_some_and(|object| {
            [&object["table"], &object["name"]].iter().any(|name| name.as_str().unwrap_or("").starts_with("qherd_"))
        })
    };
    all["nftables"].as_array().unwrap().iter().filter(ours).cloned().collect()
}

fn is_dynamic(set: &Value) -> bool {
    set["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "dynamic"))
}

/// What has to be the same again: without handles, counts, and what packets put there; in no order but that of rules.
fn essence() -> Vec<String> {
    fn forget(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for name in ["handle", "packets", "bytes", "expires", "index"] {
                    members.remove(name);
                }
                members.values_mut().for_each(forget);
            }
            Value::Array(items) => items.iter_mut().for_each(forget),
            _ => {}
        }
    }
    let mut reported = Vec::new();
    for mut item in listed() {
        forget(&mut item);
        for kind in ["set", "map"] {
            if let Some(set) = item.get_mut(kind) {
                if is_dynamic(set) {
                    set.as_object_mut().unwrap().remove("elem");
                }
                if let Some(elements) = set.get_mut("elem").and_then(Value::as_array_mut) {
                    elements.sort_by_key(Value::to_string);
                }
            }
        }
        reported.push(item);
    }
    // Rules stay in their order; the rest has none, and the rules of a chain come together.
    reported.sort_by_key(|item| match item.get("rule") {
        Some(rule) => format!("rule {} {} {}", rule["family"], rule["table"], rule["chain"]),
        None => item.to_string(),
    });
    reported.iter().map(Value::to_string).collect()
}

/// Every command that takes one thing of ours away, in an order that does not depend on the kernel's.
fn removals() -> Vec<String> {
    let mut commands = Vec::new();
    let mut rules: HashMap<String, usize> = HashMap::new();
    for item in listed() {
        let (kind, object) = item.as_object().unwrap().iter().next().unwrap();
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        let mut add = |command: String| commands.push((command.clone(), command));
        match kind.as_str() {
            "table" => add(format!("delete table {family} {name}")),
            "chain" => add(format!("flush chain {family} {table} {name}")),
            "rule" => {
                let chain = format!("{family} {table} {}", text("chain"));
                let at = rules.entry(chain.clone()).or_default();
                *at += 1;
                let handle = format!("delete rule {chain} handle {}", object["handle"]);
                commands.push((format!("delete rule {chain} {at:05}"), handle));
            }
            "set" | "map" if !is_dynamic(object) && object.get("elem").is_some() => {
                add(format!("flush {kind} {family} {table} {name}"));
                for element in object["elem"].as_array().unwrap() {
                    add(format!("delete element {family} {table} {name} {{ {} }}", written(element)));
                }
            }
            _ => {}
        }
    }
    commands.sort();
    commands.into_iter().map(|(_, command)| command).collect()
}

/// The key of an element, as nft reads it.
fn written(element: &Value) -> String {
    match element {
        // Of a map: the key comes first.
        Value::Array(pair) => written(&pair[0]),
        Value::Object(object) if object.contains_key("elem") => written(&object["elem"]["val"]),
        Value::Object(object) if object.contains_key("concat") => {
            object["concat"].as_array().unwrap().iter().map(written).collect::<Vec<_>>().join(" . ")
        }
        Value::Object(object) if object.contains_key("prefix") => {
            format!("{}/{}", object["prefix"]["addr"].as_str().unwrap(), object["prefix"]["len"])
        }
        Value::Object(object) if object.contains_key("range") => {
            object["range"].as_array().unwrap().iter().map(written).collect::<Vec<_>>().join("-")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

struct Town {
    lab: Lab,
    peer: Peer,
    lan: Switch,
    wan: Switch,
    nics: Vec<Nic>,
    guests: Vec<support::netns::Guest>,
}

/// A switch of each kind that matters, with ports of all sorts.
async fn town() -> Town {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    let lan = lab.internal("10.77.0.0/24", true).await;
    let wan = lab.switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: false, dhcp: false }).await;
    let limited = SwitchPort {
        isolated: true,
        bandwidth: Bandwidth { inbound: Some(80_000_000), outbound: Some(8_000_000) },
        address: Some([10, 77, 0, 3].into()),
        ..SwitchPort::on(lan.id)
    };
    let nics = vec![nic_on(&lan, Some([10, 77, 0, 2].into())), nic(limited), nic_on(&wan, None)];
    let mut guests = Vec::new();
    for nic in &nics {
        guests.push(lab.guest(nic).await);
    }
    Town { lab, peer, lan, wan, nics, guests }
}

impl Town {
    async fn close(self) {
        for nic in &self.nics {
            self.lab.net.unplug(nic).await.unwrap();
        }
        drop(self.guests);
        self.lab.net.remove_switch(&self.wan, None).await.unwrap();
        ip("link del up0");
        drop(self.peer);
        self.lab.close(&[&self.lan]).await;
    }
}

#[tokio::test]
async fn every_rule_and_element_that_somebody_removes_comes_back() {
    let town = town().await;
    let whole = essence();
    let count = removals().len();
    assert!(count > 60, "{count}");
    for at in 0..count {
        // Handles are new ones each time.
        let command = removals()[at].clone();
        let done = std::process::Command::new("nft").arg(&command).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        let back = async {
            while essence() != whole {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let back = tokio::time::timeout(PATIENCE, back).await;
        assert!(back.is_ok(), "after {command}:\n{}\nis not\n{}", essence().join("\n"), whole.join("\n"));
    }
    nft("flush ruleset");
    await_that("all tables are back", || essence() == whole).await;
    town.close().await;
}

fn value(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap().trim().to_owned()
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
        ("ip link set up0 nomaster".into(), Box::new(|| shown("up0")["master"] == wan.as_str())),
        ("ip link set up0 down".into(), Box::new(|| shown("up0")["flags"].to_string().contains("\"UP\""))),
        // The adapter's packets get smaller, and larger again.
        ("ip link set up0 mtu 1300".into(), Box::new(|| shown(&wan)["mtu"] == 1300 && shown(&taps[2])["mtu"] == 1300)),
        ("ip link set up0 mtu 9000".into(), Box::new(|| shown(&wan)["mtu"] == 9000 && shown(&taps[2])["mtu"] == 9000)),
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
    town.close().await;
}

#[tokio::test]
async fn what_a_switch_and_a_port_may_is_changed_in_place() {
    let lab = Lab::new().await;
    let mut lan = lab.internal("10.77.0.0/24", false).await;
    let mut na = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let guest = lab.guest(&na).await;
    let mtu = |name: &str| ip_json(&format!("link show {name}"))[0]["mtu"].clone();

    lan.mtu = Some(9000);
    lan.kind = SwitchKind::Internal { subnet: Some(qherd::model::Subnet::parse("10.78.0.0/24", true).unwrap()) };
    lab.net.put_switch(&lan, None).await.unwrap();
    let addresses = ip(&format!("addr show {}", lan.bridge()));
    assert!(addresses.contains("10.78.0.1/24") && !addresses.contains("10.77"), "{addresses}");
    assert_eq!((mtu(&lan.bridge()), mtu(&na.tap())), (9000.into(), 9000.into()));
    // What somebody else put there stays.
    ip(&format!("addr add 198.51.100.1/24 dev {}", lan.bridge()));
    lan.kind = SwitchKind::Internal { subnet: None };
    lab.net.put_switch(&lan, None).await.unwrap();
    let addresses = ip(&format!("addr show {}", lan.bridge()));
    assert!(addresses.contains("198.51.100.1/24") && !addresses.contains("10.78"), "{addresses}");

    for (rate, word) in [(Some(16_000_000), "rate 16Mbit"), (Some(8_000_000), "rate 8Mbit"), (None, "tbf")] {
        na.backend = qherd::model::NicBackend::Switch(SwitchPort {
            bandwidth: Bandwidth { inbound: rate, outbound: None },
            isolated: rate.is_some(),
            ..SwitchPort::on(lan.id)
        });
        lab.net.adopt(&na).await;
        let reported = std::process::Command::new("tc").args(["qdisc", "show", "dev", &na.tap()]).output().unwrap();
        let reported = String::from_utf8(reported.stdout).unwrap();
        assert_eq!(reported.contains(word), rate.is_some(), "{reported}");
        let shown =
            ip_json(&format!("-d link show {}", na.tap()))[0]["linkinfo"]["info_slave_data"]["isolated"].clone();
        assert_eq!(shown, rate.is_some());
    }
    lab.net.unplug(&na).await.unwrap();
    drop(guest);
    lab.close(&[&lan]).await;
}
