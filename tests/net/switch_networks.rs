//! NICs on switches, of VMs whose guest never boots: taps, rules, addresses, and who looks after them when the
//! daemon dies or somebody takes a tap away. What a real guest sees of it is in `guest_networks.rs`.

use std::{collections::BTreeSet, time::Duration};

use crate::nics::{links, networks, tap_of, taps};
use crate::support::{
    Daemon, PATIENCE,
    netns::{Host, ip, nft},
};
use serde_json::{Value, json};

async fn switch(daemon: &Daemon, body: Value) -> String {
    let made = daemon.post("/switches", body).await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

/// A wish for a VM with these NICs, that is started.
fn running(daemon: &Daemon, networks: Value) -> Value {
    let mut wish = daemon.wish();
    (wish["networks"], wish["start"]) = (networks, json!(true));
    wish
}

fn master(tap: &str) -> Option<String> {
    let link = links().into_iter().find(|link| link["ifname"] == tap)?;
    link["master"].as_str().map(str::to_owned)
}

/// Waits until `done` says so.
async fn until<F: Future<Output = bool>>(daemon: &Daemon, what: &str, mut done: impl FnMut() -> F) {
    let begin = std::time::Instant::now();
    while !done().await {
        assert!(begin.elapsed() < PATIENCE, "never: {what}\n{}", daemon.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_nic_on_a_switch_has_a_tap_for_as_long_as_its_vm_runs() {
    let host = Host::leave();
    let daemon = Daemon::start();
    let lan = switch(&daemon, json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" })).await;
    let yard = switch(&daemon, json!({ "name": "Yard", "type": "private" })).await;
    let id = daemon
        .create(running(&daemon, json!([{ "switch": "lan", "name": "front" }, { "switch": yard, "queues": 3 }])))
        .await;
    let nics = networks(&daemon, &id).await;
    let (one, three) = (&nics[0], &nics[1]);
    assert_eq!(one["switch"], json!({ "id": lan, "name": "LAN" }));
    assert_eq!((&one["name"], &one["status"], &one["user"]), (&json!("front"), &json!("ok"), &Value::Null));
    assert_eq!((&three["queues"], &three["switch"]["name"]), (&json!(3), &json!("Yard")));
    assert_eq!(taps(), BTreeSet::from([tap_of(one), tap_of(three)]).into_iter().collect::<Vec<_>>());
    let bridge = daemon.get(&format!("/switches/{lan}")).await.expect(200)["bridge"].as_str().unwrap().to_owned();
    assert_eq!(master(&tap_of(one)), Some(bridge));
    assert!(nft("list ruleset").contains(one["mac"].as_str().unwrap()), "{}", nft("list ruleset"));

    // Descriptors of ours would keep the taps from going.
    let ours = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
    let held = ours.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("tun"))).count();
    assert_eq!(held, 0);
    until(&daemon, "figures of the NICs", || async {
        daemon.get(&format!("/vms/{id}/performance")).await.expect(200)["network_in_packets"].is_u64()
    })
    .await;
    let figures = daemon.get(&format!("/vms/{id}/performance")).await.expect(200);
    assert_eq!(figures["networks"].as_array().unwrap().len(), 2, "{figures}");
    assert!(figures["network_out_bytes"].is_u64() && figures["networks"][0]["in_bytes"].is_u64(), "{figures}");

    let used = daemon.delete(&format!("/switches/{lan}")).await;
    assert_eq!(used.status, 409, "{used:?}");
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!((taps(), nft("list ruleset").contains(one["mac"].as_str().unwrap())), (Vec::<String>::new(), false));
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(taps().len(), 2);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(taps(), Vec::<String>::new());
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    daemon.delete(&format!("/switches/{yard}")).await.expect(200);
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
    host.assert_untouched();
}

#[tokio::test]
async fn a_nic_comes_and_goes_with_its_tap_and_a_daemon_that_was_killed_looks_after_it_again() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    switch(&daemon, json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" })).await;
    let id = daemon.create(running(&daemon, json!([]))).await;
    let path = format!("/vms/{id}/networks");
    for (body, queues) in [(json!({ "switch": "LAN" }), 1), (json!({ "switch": "LAN", "queues": 2 }), 2)] {
        let added = daemon.post(&path, body).await.expect(201);
        assert_eq!((&added["applied"], &added["queues"]), (&json!("live"), &json!(queues)), "{added}");
        assert!(master(&tap_of(&added)).is_some());
    }
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].clone();
    let before = taps();
    assert_eq!(before.len(), 2);
    daemon.kill();
    assert_eq!(taps(), before, "the guest goes on");
    daemon.run();
    daemon.await_status(&id, "running").await;
    let nics = networks(&daemon, &id).await;
    assert!(nics.iter().all(|nic| nic["status"] == "ok"), "{nics:?}");
    assert_eq!(daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"], pid);

    // The firmware does not let go; what is left of the removal goes with QEMU.
    let removed = daemon.delete(&format!("{path}/net0")).await.expect(200);
    assert_eq!(removed["pending"], true, "{removed}");
    assert_eq!(taps(), before);
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    assert_eq!(networks(&daemon, &id).await[1]["status"], "removing");
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(taps(), Vec::<String>::new());
    assert_eq!(networks(&daemon, &id).await.len(), 1);

    // A power cut of guest and daemon alike.
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(taps().len(), 1);
    daemon.kill();
    for qemu in daemon.qemus() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(qemu), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    daemon.run();
    daemon.await_status(&id, "crashed").await;
    assert_eq!(taps(), Vec::<String>::new());
    assert!(!nft("list ruleset").contains("qht"), "{}", nft("list ruleset"));
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_tap_that_somebody_removed_is_told_and_qemu_lives_on() {
    let host = Host::leave();
    let daemon = Daemon::start();
    switch(&daemon, json!({ "name": "Yard", "type": "private" })).await;
    let id = daemon.create(running(&daemon, json!([{ "switch": "Yard" }, { "switch": "Yard", "queues": 2 }]))).await;
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].clone();
    for nic in networks(&daemon, &id).await {
        ip(&format!("link delete {}", tap_of(&nic)));
    }
    until(&daemon, "both are degraded", || async {
        networks(&daemon, &id).await.iter().all(|nic| nic["status"] == "degraded")
    })
    .await;
    let nics = networks(&daemon, &id).await;
    assert!(nics[1]["reason"].as_str().unwrap().contains("removed its tap"), "{nics:?}");
    // Of several queues: QEMU would abort if it were asked to unplug it.
    let removed = daemon.delete(&format!("/vms/{id}/networks/net1")).await.expect(200);
    assert_eq!(removed["pending"], true, "{removed}");
    let now = daemon.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!((&now["status"], &now["pid"]), (&json!("running"), &pid));
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let nics = networks(&daemon, &id).await;
    assert_eq!((nics.len(), &nics[0]["status"]), (1, &json!("ok")), "{nics:?}");
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_hundred_nics_at_once_on_one_switch_share_nothing() {
    let host = Host::leave();
    let daemon = Daemon::start();
    switch(&daemon, json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" })).await;
    let mut ids = Vec::new();
    for _ in 0..13 {
        let mut wish = daemon.wish();
        wish["networks"] = json!([]);
        ids.push(daemon.create(wish).await);
    }
    // Two of them run.
    for id in &ids[..2] {
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    }
    let adding = (0..100).map(|number| {
        let path = format!("/vms/{}/networks", ids[number % 13]);
        let daemon = &daemon;
        async move { daemon.post(&path, json!({ "switch": "LAN" })).await.expect(201) }
    });
    let added = futures_util::future::join_all(adding).await;
    let distinct = |of: &dyn Fn(&Value) -> String| added.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct(&|nic| nic["mac"].to_string()), distinct(&tap_of)), (100, 100));
    assert_eq!(taps().len(), 16, "eight NICs of each VM that runs");
    assert_eq!(distinct(&|nic| nic["reserved"].as_str().unwrap().to_owned()), 100);
    for id in &ids {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(taps(), Vec::<String>::new());
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_switch_gives_as_many_nics_an_address_as_its_subnet_has() {
    let host = Host::leave();
    let daemon = Daemon::start();
    switch(&daemon, json!({ "name": "tiny", "type": "internal", "subnet": "10.77.0.0/30" })).await;
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": "tiny" }]);
    let first = daemon.create(wish.clone()).await;
    let full = daemon.post("/vms", wish.clone()).await;
    assert!(full.status == 409 && full.message().contains("no address left"), "{full:?}");
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1);
    // A NIC that goes, or a VM, gives it back.
    daemon.delete(&format!("/vms/{first}/networks/net0")).await.expect(200);
    let second = daemon.create(wish.clone()).await;
    daemon.delete(&format!("/vms/{second}")).await.expect(200);
    daemon.create(wish).await;
    switch(&daemon, json!({ "name": "Tiny", "type": "private" })).await;
    let ambiguous = daemon.post(&format!("/vms/{first}/networks"), json!({ "switch": "TINY" })).await;
    assert!(ambiguous.status == 400 && ambiguous.message().contains("2 bear the name"), "{ambiguous:?}");
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_daemon_that_dies_while_it_adds_removes_or_starts_leaves_no_tap_behind() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    switch(&daemon, json!({ "name": "Yard", "type": "private" })).await;
    let id = daemon.create(running(&daemon, json!([]))).await;
    let path = format!("/vms/{id}/networks");
    let is_consistent = async |daemon: &Daemon, what: &str| {
        until(daemon, what, || async {
            let nics = networks(daemon, &id).await;
            let whole = nics.iter().all(|nic| nic["status"] == "ok");
            let mut wanted: Vec<String> = nics.iter().map(tap_of).collect();
            wanted.sort();
            whole && taps() == wanted
        })
        .await;
    };
    for delay in [4, 10, 16, 25, 40] {
        let request = daemon.http().post(daemon.at(&path)).json(&json!({ "switch": "Yard" })).send();
        let cut_short = tokio::spawn(request);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        daemon.kill();
        let _ = cut_short.await;
        daemon.run();
        daemon.await_status(&id, "running").await;
        is_consistent(&daemon, &format!("an add that was cut short after {delay} ms is whole or gone")).await;
    }
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(taps(), Vec::<String>::new());
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": "Yard" }, { "switch": "Yard", "queues": 2 }]);
    let other = daemon.create(wish).await;
    for delay in [5, 15, 30, 60] {
        let request = daemon.http().post(daemon.at(&format!("/vms/{other}/start"))).json(&json!({})).send();
        let cut_short = tokio::spawn(request);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        daemon.kill();
        let _ = cut_short.await;
        daemon.run();
        until(&daemon, "the start that was cut short is finished or unwound", || async {
            match daemon.status(&other).await.as_str() {
                "running" => taps().len() == 2,
                "stopped" => taps().is_empty(),
                _ => false,
            }
        })
        .await;
        daemon.post(&format!("/vms/{other}/stop?force=true"), json!({})).await.expect(200);
        assert_eq!(taps(), Vec::<String>::new());
    }
    drop(daemon);
    host.assert_untouched();
}
