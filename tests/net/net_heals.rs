//! Whatever somebody changes of the host's side of a switch is as it was again: each thing is changed by hand, one after
//! the other, and what there is to be changed is taken from the kernel.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::lab::{Lab, await_that, nic_on};
use crate::support::{
    PATIENCE,
    netns::{ip, ip_json, nft},
    network_mark,
};
use crate::town::town;
use qherd::{
    model::{Bandwidth, Nic, Switch, SwitchKind, SwitchPort},
    net::nft::{Family, Kernel, TableName},
};
use serde_json::Value;

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

/// Takes one thing of ours away.
enum Removal {
    Command(String),
    /// The rule at this place of a chain, whatever its handle is by then.
    Rule(String, usize),
}

impl Removal {
    fn command(&self) -> String {
        match self {
            Self::Command(command) => command.clone(),
            Self::Rule(chain, at) => {
                let reported: Value = serde_json::from_str(&nft(&format!("-j list chain {chain}"))).unwrap();
                let rules = reported["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("rule"));
                format!("delete rule {chain} handle {}", rules.collect::<Vec<_>>()[*at]["handle"])
            }
        }
    }
}

/// Everything of ours, each thing alone and each as a whole.
fn removals() -> Vec<Removal> {
    let mut removals = Vec::new();
    let mut rules: HashMap<String, usize> = HashMap::new();
    for item in listed() {
        let (kind, object) = item.as_object().unwrap().iter().next().unwrap();
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        let mut add = |command: String| removals.push(Removal::Command(command));
        match kind.as_str() {
            "table" => add(format!("delete table {family} {name}")),
            "chain" => {
                add(format!("flush chain {family} {table} {name}"));
                // Others are held by the rules that lead to them.
                if !object["hook"].is_null() {
                    add(format!("flush chain {family} {table} {name}; delete chain {family} {table} {name}"));
                }
            }
            "rule" => {
                let chain = format!("{family} {table} {}", text("chain"));
                let at = rules.entry(chain.clone()).or_default();
                removals.push(Removal::Rule(chain.clone(), *at));
                *at += 1;
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
    removals
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

#[tokio::test]
async fn every_rule_and_element_that_somebody_removes_comes_back() {
    let town = town().await;
    // What the host has on a switch that it shares is looked at, and its link-local address comes when the bridge has a carrier.
    let own = || {
        let shown = ip_json(&format!("-6 addr show dev {}", town.shared.bridge()));
        shown[0]["addr_info"][0]["local"].as_str().map(str::to_owned)
    };
    await_that("the rules know the address", || own().is_some_and(|own| nft("list ruleset").contains(&own))).await;
    let whole = essence();
    // Read by the daemon's own means, which are quick; what it reads is held against what nft lists at the end.
    let kernel = Kernel::open().unwrap();
    let listed = nft("list tables");
    let name = listed.lines().find_map(|line| line.strip_prefix("table inet ")).unwrap();
    let tables = [Family::Arp, Family::Bridge, Family::Inet].map(|family| TableName { family, name: name.to_owned() });
    let wanted = kernel.read(&tables).await.unwrap();
    let removals = removals();
    let count = removals.len();
    assert!(count > 300, "{count}");
    let begun = Instant::now();
    for removal in removals {
        let command = removal.command();
        let done = std::process::Command::new("nft").arg(&command).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        let back = async {
            while kernel.read(&tables).await.unwrap() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let back = tokio::time::timeout(PATIENCE, back).await;
        assert!(back.is_ok(), "after {command}:\n{}\nis not\n{}", essence().join("\n"), whole.join("\n"));
    }
    // A look that nobody asked for comes every twenty seconds, and mends one of them at most: it is the kernel's word that has
    // the others mended. How long that takes is `scripts/bench`'s to say.
    let looks = begun.elapsed().as_secs() / 20 + 1;
    assert!(count as u64 > 5 * looks, "{count} repairs and {looks} looks");
    assert_eq!(essence(), whole);
    // One with a set of its own, which the kernel does not let go alone.
    nft(&format!("add rule bridge {name} prerouting ip saddr {{ 192.0.2.1, 192.0.2.3 }} drop"));
    await_that("what somebody added is gone", || essence() == whole).await;
    // Asleep they are all there, and no frame meets them.
    for table in &tables {
        nft(&format!("add table {} {} {{ flags dormant; }}", table.family, table.name));
        await_that("the table is awake", || essence() == whole).await;
    }
    nft("flush ruleset");
    await_that("all tables are back", || essence() == whole).await;
    town.close().await;
}

/// The settings that a bridge or tap of ours has otherwise than an interface has them by default.
fn settings(name: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for entry in fs::read_dir(format!("/proc/sys/net/{family}/conf/{name}")).unwrap().flatten() {
            let setting = entry.file_name().into_string().unwrap();
            let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/{family}/conf/{name}/{setting}"));
            if let (Ok(value), Ok(default)) = (read(name), read("default"))
                && value != default
                // The kernel's own count and secret, and what it makes of the MTU.
                && !["mc_forwarding", "stable_secret", "mtu"].contains(&setting.as_str())
            {
                found.push((format!("{family}/conf/{name}/{setting}"), value.trim().to_owned()));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_setting_and_file_that_somebody_changes_is_right_again() {
    let town = town().await;
    let bridges = [&town.lan, &town.wan, &town.shared].map(Switch::bridge);
    let names = bridges.into_iter().chain(town.nics.iter().map(Nic::tap));
    let ours: Vec<(String, String)> = names.flat_map(|name| settings(&name)).collect();
    assert!(ours.len() >= 15, "{ours:?}");
    for (path, right) in &ours {
        let other = if right == "0" { "1" } else { "0" };
        fs::write(format!("/proc/sys/net/{path}"), other).unwrap();
        await_that(path, || value(path) == *right).await;
    }
    let folder = town.lab.dir.path().join("net").join(town.lan.id.short());
    let state = network_mark(town.lab.dir.path());
    let public = Path::new("/run/qherd").join(state).join(town.lan.id.short());
    let files = [&folder, &public].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    // What dnsmasq writes itself is not ours to mend.
    let ours = files.map(|file| file.path()).filter(|path| !path.ends_with("leases") && !path.ends_with("dnsmasq.log"));
    let ours: Vec<_> = ours.map(|path| (fs::read_to_string(&path).unwrap(), path)).collect();
    assert_eq!(ours.len(), 5, "{ours:?}");
    let addresses = town.lab.dir.path().join("net").join(format!("{}.addresses", town.lan.id.short()));
    let own = fs::read_to_string(&addresses).unwrap();
    assert!(own.starts_with("10.77.0.1/24\nfd77::1/64\nfe80::"), "{own}");
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let change = |path: &Path| fs::write(path, "port=0\n").unwrap();
    for spoil in [&remove as &dyn Fn(&Path), &change] {
        for (text, path) in &ours {
            spoil(path);
            await_that(&format!("{} is as it was", path.display()), || {
                fs::read_to_string(path).is_ok_and(|now| now == *text)
            })
            .await;
        }
        spoil(&addresses);
        town.lab.net.put_switch(&town.lan, None).await.unwrap();
        assert_eq!(fs::read_to_string(&addresses).unwrap(), own);
    }
    town.lab.await_problem(&town.lan, &[]).await;
    town.close().await;
}

fn value(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap().trim().to_owned()
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
