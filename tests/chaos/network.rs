//! A network namespace of the chaos's own: what in it belongs to nobody, and what a switch or a NIC lacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::support::{
    Daemon,
    netns::{ip, ip_json, nft},
};

/// What qherd's bridges and taps are called.
const PREFIXES: [&str; 2] = ["qhb", "qht"];

/// What there is to be, by the records.
#[derive(Debug, Default)]
pub struct Wanted {
    pub bridges: BTreeSet<String>,
    /// The taps of live VMs, and the bridges that they are in.
    pub taps: BTreeMap<String, String>,
    /// NICs whose address is not of their switch's subnet, in words.
    pub strangers: Vec<String>,
}

/// Takes this thread, and all that it starts from now on, into a network namespace with nothing but a loopback; it goes
/// with the last process in it.
pub fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own; run this as root");
    ip("link set lo up");
}

/// What is still wrong after a while: what the host lacks is made up for.
pub async fn lasting_complaints(daemon: &Daemon) -> Vec<String> {
    for _ in 0..100 {
        if complaints(&wanted(daemon).await).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    complaints(&wanted(daemon).await)
}

async fn wanted(daemon: &Daemon) -> Wanted {
    let name = |prefix: &str, id: &Value| format!("{prefix}{}", &id.as_str().unwrap().replace('-', "")[..12]);
    let switches = daemon.get("/switches").await.expect(200);
    let bridges = switches.as_array().unwrap().iter().map(|switch| name("qhb", &switch["id"])).collect();
    let (mut taps, mut strangers) = (BTreeMap::new(), Vec::new());
    for vm in daemon.known().await {
        let nics = daemon.get(&format!("/vms/{}/networks", vm.id)).await.expect(200);
        for nic in nics.as_array().unwrap().iter().filter(|nic| !nic["switch"].is_null()) {
            if vm.has_process() {
                taps.insert(name("qht", &nic["id"]), name("qhb", &nic["switch"]["id"]));
            }
            let on = switches.as_array().unwrap().iter().find(|switch| switch["id"] == nic["switch"]["id"]);
            // 10.77.3.0/24, say.
            let subnet = on.and_then(|switch| switch["subnet"].as_str()).and_then(|subnet| subnet.strip_suffix("0/24"));
            let fits = |subnet: &str| nic["reserved"].as_str().is_some_and(|address| address.starts_with(subnet));
            if nic["status"] != "removing" && !subnet.is_none_or(fits) {
                strangers.push(format!("the address of {nic} is not of the subnet {subnet:?}"));
            }
        }
    }
    Wanted { bridges, taps, strangers }
}

pub fn complaints(wanted: &Wanted) -> Vec<String> {
    let mut wrong = Vec::new();
    let links = ip_json("link");
    let mut there = BTreeMap::new();
    for link in links.as_array().unwrap() {
        let name = link["ifname"].as_str().unwrap();
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            there.insert(name.to_owned(), link["master"].as_str().map(str::to_owned));
        }
    }
    for name in there.keys().filter(|name| !wanted.bridges.contains(*name) && !wanted.taps.contains_key(*name)) {
        wrong.push(format!("an interface that belongs to nobody: {name}"));
    }
    for bridge in wanted.bridges.iter().filter(|bridge| !there.contains_key(*bridge)) {
        wrong.push(format!("a switch without its bridge: {bridge}"));
    }
    for (tap, bridge) in &wanted.taps {
        if there.get(tap) != Some(&Some(bridge.clone())) {
            wrong.push(format!("the tap {tap} is to be in {bridge}, and is {:?}", there.get(tap)));
        }
    }
    wrong.extend(rules(wanted));
    wrong.extend(wanted.strangers.iter().cloned());
    wrong
}

/// What the rules say of taps and bridges that are not there, and of those that are not.
fn rules(wanted: &Wanted) -> Vec<String> {
    let text = nft("-j list ruleset");
    let ruleset: Value = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for item in ruleset["nftables"].as_array().unwrap() {
        if item["table"]["name"].as_str().is_some_and(|name| name.starts_with("qherd")) && wanted.bridges.is_empty() {
            wrong.push(format!("an nftables table that belongs to nobody: {}", item["table"]));
        }
        named.extend(item["chain"]["name"].as_str().and_then(ours));
        for set in [&item["set"], &item["map"]] {
            named.extend(set["name"].as_str().and_then(ours));
            // Those with a time-out forget by themselves.
            let flags = set["flags"].to_string();
            if !flags.contains("timeout") {
                words(&set["elem"], &mut named);
            }
        }
    }
    let wanted: BTreeSet<String> = wanted.bridges.iter().chain(wanted.taps.keys()).cloned().collect();
    wrong.extend(named.difference(&wanted).map(|name| format!("rules that belong to nobody: {name}")));
    wrong.extend(wanted.difference(&named).map(|name| format!("there are no rules for {name}")));
    wrong
}

/// A bridge's or a tap's name at the beginning of a word.
fn ours(word: &str) -> Option<String> {
    PREFIXES.iter().any(|prefix| word.starts_with(prefix)).then(|| word.chars().take(15).collect())
}

fn words(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(word) => into.extend(ours(word)),
        Value::Array(items) => items.iter().for_each(|item| words(item, into)),
        Value::Object(members) => members.values().for_each(|member| words(member, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_and_rules_without_an_owner_and_what_is_lacking_are_found() {
        enter();
        let nothing = Wanted::default();
        assert_eq!(complaints(&nothing), [] as [&str; 0]);
        let bridge = "qhb0123456789ab";
        let one = Wanted { bridges: [bridge.to_owned()].into(), ..Default::default() };
        assert_eq!(complaints(&one).len(), 2, "neither bridge nor rules: {:?}", complaints(&one));
        ip(&format!("link add {bridge} type bridge"));
        nft("add table bridge qherd_0");
        nft(&format!("add chain bridge qherd_0 {bridge}_arp"));
        assert_eq!(complaints(&one), [] as [&str; 0]);
        let wrong = complaints(&nothing).join("\n");
        for what in ["interface that belongs to nobody", "table that belongs to nobody", "rules that belong to nobody"]
        {
            assert!(wrong.contains(what), "{wrong}");
        }
        ip("link add qhtba9876543210 type bridge");
        let taps = [("qhtba9876543210".to_owned(), bridge.to_owned())].into();
        let wrong = complaints(&Wanted { taps, ..one }).join("\n");
        assert!(wrong.contains("is to be in") && wrong.contains("no rules for qht"), "{wrong}");
    }
}
