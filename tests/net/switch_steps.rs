//! The daemon dies after each change that it makes of the host's network while a switch of each kind is
//! made, changed or removed, or a VM with NICs on one is started: requests to the kernel, batches of rules, settings, taps,
//! files, dnsmasqs. The next one has all of it whole, or gone, and an adapter keeps the host's addresses at every moment.
//! Commits of switches are `switch_crash_points.rs`'; those of forwards and ports are here.

use crate::nics;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::nics::{links, networks, tap_of, taps};
use crate::support::{
    Daemon, PATIENCE,
    crash::Side,
    netns::{Host, Peer, ip, ip_json, nft},
    network_mark,
};
use reqwest::Method;
use serde_json::{Value, json};

/// More than any of these takes.
const MOST: u64 = 200;

/// What a daemon still does that has answered, it does by then.
const SOON: Duration = Duration::from_millis(300);

type Operation = (Method, String, Value);

/// Where a daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// After a change of the host's network.
    Step,
    Commit(Side),
}

impl Place {
    fn dying_at(self, daemon: &Daemon, number: u64) -> Command {
        match self {
            Self::Step => daemon.dying_at_step(number, Side::After),
            Self::Commit(side) => daemon.dying_at(number, side),
        }
    }
}

/// What is done over and over. Each asks for one of two states, where it is not there.
struct Trial<'a> {
    there: &'a dyn Fn(&Value) -> Option<Operation>,
    back: &'a dyn Fn(&Value) -> Option<Operation>,
    /// Of the host, right after a death.
    is_in_place: &'a dyn Fn(),
}

/// What there is of switches and NICs, and that the host has it whole and nothing beside it.
async fn whole(daemon: &Daemon) -> Value {
    assert!(daemon.comes_to_rest().await, "{}", daemon.log_text());
    daemon.assert_in_order().await;
    let switches = daemon.get("/switches").await.expect(200);
    let mut bridges: Vec<&str> = switches.as_array().unwrap().iter().map(|s| s["bridge"].as_str().unwrap()).collect();
    bridges.sort_unstable();
    let links = links();
    let mut there: Vec<&str> = links.iter().map(|link| link["ifname"].as_str().unwrap()).collect();
    there.retain(|name| name.starts_with("qhb"));
    there.sort_unstable();
    assert_eq!(there, bridges);
    let rules = nft("list ruleset");
    assert_eq!(rules.is_empty(), bridges.is_empty(), "{rules}");
    assert!(bridges.iter().all(|bridge| rules.contains(bridge)), "{rules}");
    let (mut switches, mut forwards) = (switches.clone(), Vec::new());
    for switch in switches.as_array_mut().unwrap() {
        assert_eq!(switch["problem"], Value::Null, "{switch}");
        switch["forwards"] =
            daemon.get(&format!("/switches/{}/forwards", switch["id"].as_str().unwrap())).await.expect(200);
        forwards.extend(switch["forwards"].as_array().unwrap().clone());
    }
    let mut vms = daemon.get("/vms").await.expect(200);
    let mut ports = Vec::new();
    for vm in vms.as_array_mut().unwrap() {
        let nics = networks(daemon, vm["id"].as_str().unwrap()).await;
        if vm["status"] == "running" {
            assert!(nics.iter().all(|nic| nic["status"] == "ok"), "{nics:?}");
            ports.extend(nics.iter().map(nics::tap_of));
        }
        vm["networks"] = json!(nics);
    }
    ports.sort();
    assert_eq!(taps(), ports, "{vms}");
    let live = vms.as_array().unwrap().iter().filter(|vm| vm["status"] == "running");
    let live: Vec<Value> = live.flat_map(|vm| vm["networks"].as_array().unwrap().clone()).collect();
    let begun = Instant::now();
    while let Some(complaint) = differs(&live, &forwards) {
        assert!(begun.elapsed() < PATIENCE, "{complaint}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    json!({ "switches": switches, "vms": vms })
}

/// What of live ports and of forwards the host has otherwise than the API says.
fn differs(live: &[Value], forwards: &[Value]) -> Option<String> {
    for nic in live {
        let tap = tap_of(nic);
        let link = ip_json(&format!("-d link show {tap}"));
        if link[0]["linkinfo"]["info_slave_data"]["isolated"] != nic["isolated"] {
            return Some(format!("{nic} is {link}"));
        }
        let queue = Command::new("tc").args(["-j", "qdisc", "show", "dev", &tap]).output().unwrap().stdout;
        let queue: Value = serde_json::from_slice(&queue).unwrap();
        let inbound = nic["bandwidth"]["in_bits_per_second"].as_u64().map(|bits| bits / 8);
        let bucket = queue.as_array().unwrap().iter().find(|queue| queue["kind"] == "tbf");
        if bucket.and_then(|bucket| bucket["options"]["rate"].as_u64()) != inbound {
            return Some(format!("{nic} is queued by {queue}"));
        }
        let rules = nft("list ruleset");
        let limited = rules.contains(&format!("\"{tap}\" limit rate over"));
        if limited == nic["bandwidth"]["out_bits_per_second"].is_null() {
            return Some(format!("{nic} is limited: {limited}\n{rules}"));
        }
        let given = nic["reserved"].as_str().unwrap();
        if !rules.contains(&format!("\"{tap}\" . {given}")) {
            return Some(format!("{nic} has another address in\n{rules}"));
        }
    }
    let rules = nft("list ruleset");
    let leads = rules.matches(" : 10.77.0.").count();
    let complete = forwards.iter().filter(|_| !live.is_empty()).all(|forward| {
        let to = format!(
            "{} : {} . {}",
            forward["host_port"],
            forward["guest_address"].as_str().unwrap(),
            forward["guest_port"]
        );
        rules.contains(&to)
    });
    (!complete || !live.is_empty() && leads != forwards.len()).then(|| format!("{forwards:?} are\n{rules}"))
}

async fn send(daemon: &Daemon, (method, path, body): Operation) -> Option<u16> {
    let request = daemon.http().request(method, daemon.at(&path)).json(&body);
    daemon.try_send(request).await.map(|answer| answer.status)
}

/// Has the daemon die after each of its steps on the way there, and then on the way back. What the host has before the next step
/// is the same.
async fn dies_at_every_step(daemon: &mut Daemon, trial: Trial<'_>) {
    dies_at_each(daemon, Place::Step, &trial).await;
}

/// As above, and at each of its commits, on both sides of it.
async fn dies_at_every_step_and_commit(daemon: &mut Daemon, trial: Trial<'_>) {
    for place in [Place::Step, Place::Commit(Side::Before), Place::Commit(Side::After)] {
        dies_at_each(daemon, place, &trial).await;
    }
}

async fn dies_at_each(daemon: &mut Daemon, place: Place, trial: &Trial<'_>) {
    for (there, back) in [(trial.there, trial.back), (trial.back, trial.there)] {
        let mut step = 0;
        loop {
            let mut is = whole(daemon).await;
            if there(&is).is_none() {
                let undone = send(daemon, back(&is).unwrap()).await;
                assert!(undone.is_some_and(|status| status < 300), "{undone:?}");
                is = whole(daemon).await;
            }
            daemon.kill();
            // Those of its start come first.
            let answer = loop {
                step += 1;
                assert!(step < MOST, "it never ends");
                let command = place.dying_at(daemon, step);
                if daemon.try_run_as(command) {
                    break send(daemon, there(&is).unwrap()).await;
                }
                await_death(daemon).await;
                (trial.is_in_place)();
            };
            assert!(answer.is_none_or(|status| status < 300), "{answer:?}");
            // What nobody waits for has its steps too.
            let died = tokio::time::timeout(SOON, await_death(daemon)).await.is_ok();
            if !died {
                daemon.kill();
            }
            (trial.is_in_place)();
            daemon.run();
            assert!(answer.is_none() || there(&whole(daemon).await).is_none(), "it was answered: step {step}");
            if !died {
                assert!(answer.is_some() && step > 1, "it dies nowhere");
                break;
            }
        }
    }
}

async fn await_death(daemon: &mut Daemon) {
    let died = async {
        while !daemon.has_died() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, died).await.unwrap();
}

/// All of it is deleted, and nothing is left.
async fn close(mut daemon: Daemon, host: &Host) {
    daemon.kill();
    daemon.run();
    for vm in whole(&daemon).await["vms"].as_array().unwrap() {
        daemon.delete(&format!("/vms/{}", vm["id"].as_str().unwrap())).await.expect(200);
    }
    for switch in daemon.get("/switches").await.expect(200).as_array().unwrap() {
        daemon.delete(&format!("/switches/{}", switch["id"].as_str().unwrap())).await.expect(200);
    }
    whole(&daemon).await;
    let left = std::fs::read_dir(daemon.state().join("net")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["id"]);
    assert!(!std::path::Path::new("/run/qherd").join(network_mark(&daemon.state())).exists());
    drop(daemon);
    host.assert_untouched();
}

fn switch_of(there: &Value) -> Option<String> {
    there["switches"][0]["id"].as_str().map(|id| format!("/switches/{id}"))
}

fn made(there: &Value, wish: &Value) -> Option<Operation> {
    switch_of(there).is_none().then(|| (Method::POST, "/switches".into(), wish.clone()))
}

fn removed(there: &Value) -> Option<Operation> {
    switch_of(there).map(|path| (Method::DELETE, path, json!({})))
}

#[tokio::test]
async fn a_switch_with_nat_is_whole_or_gone_wherever_the_daemon_dies() {
    let host = Host::leave();
    let ipv6 = json!({ "subnet": "fd77::/64", "nat": true });
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true, "ipv6": ipv6 });
    let mut daemon = Daemon::start();
    let trial = Trial { there: &|is| made(is, &lan), back: &removed, is_in_place: &|| () };
    dies_at_every_step(&mut daemon, trial).await;
    close(daemon, &host).await;
}

#[tokio::test]
async fn a_private_switch_is_whole_or_gone_wherever_the_daemon_dies() {
    let host = Host::leave();
    let lan = json!({ "name": "LAN", "type": "private" });
    let mut daemon = Daemon::start();
    let trial = Trial { there: &|is| made(is, &lan), back: &removed, is_in_place: &|| () };
    dies_at_every_step(&mut daemon, trial).await;
    close(daemon, &host).await;
}

#[tokio::test]
async fn an_external_switch_never_costs_the_host_its_address_wherever_the_daemon_dies() {
    let host = Host::leave();
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("route add default via 192.0.2.2");
    let is_in_place = || assert!(ip("addr").contains("192.0.2.1/24"), "{}", ip("addr"));
    let wan = json!({ "name": "WAN", "type": "external", "adapter": "up0", "allow_management_os": true });
    let mut daemon = Daemon::start();
    let trial = Trial { there: &|is| made(is, &wan), back: &removed, is_in_place: &is_in_place };
    dies_at_every_step(&mut daemon, trial).await;
    close(daemon, &host).await;
    is_in_place();
    assert!(ip("route").contains("default via 192.0.2.2 dev up0"), "{}", ip("route"));
    assert!(ip("-d link show up0").contains("up0") && !ip("-d link show up0").contains("master"));
}

#[tokio::test]
async fn an_external_switch_without_the_host_is_whole_or_gone_wherever_the_daemon_dies() {
    let host = Host::leave();
    let peer = Peer::new();
    peer.connect("up0", "up1");
    let wan = json!({ "name": "WAN", "type": "external", "adapter": "up0" });
    let mut daemon = Daemon::start();
    let trial = Trial { there: &|is| made(is, &wan), back: &removed, is_in_place: &|| () };
    dies_at_every_step(&mut daemon, trial).await;
    close(daemon, &host).await;
    assert!(!ip("-d link show up0").contains("master"));
}

#[tokio::test]
async fn a_changed_subnet_is_the_old_or_the_new_one_wherever_the_daemon_dies() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": "LAN" }]);
    daemon.create(wish).await;
    let brought = |is: &Value, subnet: &str, change: Value| {
        (is["switches"][0]["subnet"] != subnet).then(|| (Method::PUT, format!("/switches/{lan}"), change))
    };
    let there = |is: &Value| {
        let change = json!({ "subnet": "10.78.0.0/24", "nat": false, "mtu": 1400 });
        brought(is, "10.78.0.0/24", change)
    };
    let back = |is: &Value| brought(is, "10.77.0.0/24", json!({ "subnet": "10.77.0.0/24", "nat": true, "mtu": null }));
    let is_in_place = || {
        let addresses = ip("addr");
        assert!(addresses.contains("10.77.0.1/24") || addresses.contains("10.78.0.1/24"), "{addresses}");
    };
    dies_at_every_step(&mut daemon, Trial { there: &there, back: &back, is_in_place: &is_in_place }).await;
    let switch = daemon.get(&format!("/switches/{lan}")).await.expect(200);
    let vm = switch["vms"][0]["id"].as_str().unwrap();
    let prefix = switch["subnet"].as_str().unwrap().trim_end_matches("0/24");
    let nic = networks(&daemon, vm).await.remove(0);
    assert!(nic["reserved"].as_str().unwrap().starts_with(prefix), "{nic} {switch}");
    close(daemon, &host).await;
}

#[tokio::test]
async fn a_vm_has_its_taps_or_does_not_run_wherever_the_daemon_dies() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" });
    daemon.post("/switches", lan).await.expect(201);
    let mut wish = daemon.wish();
    let bandwidth = json!({ "in_bits_per_second": 1_000_000 });
    wish["networks"] =
        json!([{ "switch": "LAN", "bandwidth": bandwidth }, { "switch": "LAN", "isolated": true, "queues": 2 }]);
    daemon.create(wish).await;
    let request = |is: &Value, action: &str| {
        let path = format!("/vms/{}/{action}", is["vms"][0]["id"].as_str().unwrap());
        (Method::POST, path, json!({}))
    };
    let is_running = |is: &Value| is["vms"][0]["status"] == "running";
    let there = |is: &Value| (!is_running(is)).then(|| request(is, "start"));
    let back = |is: &Value| is_running(is).then(|| request(is, "stop?force=true"));
    dies_at_every_step(&mut daemon, Trial { there: &there, back: &back, is_in_place: &|| () }).await;
    close(daemon, &host).await;
}

/// A VM with one NIC on a switch with NAT, running.
async fn running(daemon: &Daemon) -> (String, String) {
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    (wish["networks"], wish["start"]) = (json!([{ "switch": "LAN" }]), json!(true));
    let vm = daemon.create(wish).await;
    (lan, vm)
}

#[tokio::test]
async fn a_port_forward_leads_to_its_guest_or_is_gone_wherever_the_daemon_dies() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let (lan, vm) = running(&daemon).await;
    let path = format!("/switches/{lan}/forwards");
    let forward = |is: &Value| is["switches"][0]["forwards"][0]["id"].as_str().map(str::to_owned);
    let there = |is: &Value| {
        let body = json!({ "host_port": 8443, "vm": vm, "guest_port": 443 });
        forward(is).is_none().then(|| (Method::POST, path.clone(), body))
    };
    let back = |is: &Value| forward(is).map(|id| (Method::DELETE, format!("{path}/{id}"), json!({})));
    dies_at_every_step_and_commit(&mut daemon, Trial { there: &there, back: &back, is_in_place: &|| () }).await;
    close(daemon, &host).await;
}

#[tokio::test]
async fn the_port_of_a_running_vm_is_the_old_or_the_new_one_wherever_the_daemon_dies() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let (_, vm) = running(&daemon).await;
    let path = format!("/vms/{vm}/networks/net0");
    let isolated = |is: &Value| is["vms"][0]["networks"][0]["isolated"] == true;
    let there = |is: &Value| {
        let bandwidth = json!({ "in_bits_per_second": 8_000_000, "out_bits_per_second": 16_000_000 });
        let body = json!({ "isolated": true, "bandwidth": bandwidth, "address": "10.77.0.40" });
        (!isolated(is)).then(|| (Method::PUT, path.clone(), body))
    };
    let back = |is: &Value| {
        let body = json!({ "isolated": false, "bandwidth": null, "address": "10.77.0.2" });
        isolated(is).then(|| (Method::PUT, path.clone(), body))
    };
    dies_at_every_step_and_commit(&mut daemon, Trial { there: &there, back: &back, is_in_place: &|| () }).await;
    close(daemon, &host).await;
}
