//! What real guests see of their NICs: two on the same switches, beside the host and a network behind an adapter;
//! NICs that come and go while a guest runs. The daemon and everything else is in a network namespace of the test's own.

use std::time::Duration;

use crate::nics::{networks, tap_of, taps};
use crate::support::{
    Daemon, PATIENCE, guest,
    netns::{Host, Peer, ip},
};
use serde_json::{Value, json};

async fn create(daemon: &Daemon, networks: Value) -> String {
    let mut wish = guest::wish();
    (wish["networks"], wish["start"]) = (networks, json!(true));
    daemon.create(wish).await
}

/// Has the guest do something until it works; drivers, DHCP and bridges need their time.
async fn works(daemon: &Daemon, id: &str, command: &str) {
    let line = format!(
        "n=0; until {command} || [ $n = 20 ]; do n=$((n+1)); sleep 1; done; [ $n != 20 ] && echo it-''works || echo it-''fails"
    );
    assert_told(daemon, id, &line, "it-works", "it-fails").await;
}

/// Has the guest try something that does not work.
async fn fails(daemon: &Daemon, id: &str, command: &str) {
    assert_told(daemon, id, &format!("{command} && echo it-''works || echo it-''fails"), "it-fails", "it-works").await;
}

async fn assert_told(daemon: &Daemon, id: &str, line: &str, wanted: &str, other: &str) {
    let from = daemon.console(id).await.len();
    // Open until the guest has answered: QEMU drops what a client sent that has hung up.
    let _serial = daemon.write_line(id, line);
    let begin = std::time::Instant::now();
    loop {
        let log = daemon.console(id).await.split_off(from);
        assert!(!log.contains(other), "{line}:\n{log}\n{line}");
        if log.contains(wanted) {
            return;
        }
        assert!(begin.elapsed() < 3 * PATIENCE, "no answer to {line}:\n{log}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Gives an interface an address instead of the DHCP that never answers, and would take it away again.
fn fixed(interface: &str, address: &str) -> String {
    let stopped = format!("kill $(cat /run/dhcp.{interface} 2>/dev/null) 2>/dev/null && sleep 1");
    format!("{{ {stopped} && ip addr replace {address}/24 dev {interface}; }}")
}

fn ping(address: &str) -> String {
    format!("ping -c 1 -W 3 {address} >/dev/null 2>&1")
}

/// Waits until the NIC of the place `index` fulfils `wanted`.
async fn await_nic(daemon: &Daemon, id: &str, index: usize, wanted: impl Fn(&Value) -> bool) -> Value {
    let begin = std::time::Instant::now();
    loop {
        let nics = networks(daemon, id).await;
        if let Some(nic) = nics.get(index).filter(|nic| wanted(nic)) {
            return nic.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "{nics:?}\n{}", daemon.console(id).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn guests_reach_each_other_the_host_and_a_network_as_their_switches_say() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let peer = Peer::new();
    peer.connect("uplink", "far");
    peer.ip("addr add 192.0.2.1/24 dev far");
    for body in [
        json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" }),
        json!({ "name": "Yard", "type": "private" }),
        json!({ "name": "Street", "type": "external", "adapter": "uplink" }),
    ] {
        daemon.post("/switches", body).await.expect(201);
    }
    let nics = json!([{ "switch": "LAN" }, { "switch": "Yard" }]);
    let (one, two) = (create(&daemon, nics.clone()).await, create(&daemon, nics).await);
    for (id, own) in [(&one, "10.99.0.1"), (&two, "10.99.0.2")] {
        daemon.await_boot(id, None).await;
        daemon.await_beat(id, |beat| beat.nics == 2).await;
        works(&daemon, id, &fixed("eth1", own)).await;
    }

    // The internal switch gives addresses, and leads to the host and to each other.
    let mut addresses = Vec::new();
    for id in [&one, &two] {
        works(&daemon, id, &ping("10.77.0.1")).await;
        let nic = await_nic(&daemon, id, 0, |nic| nic["addresses"] != json!([])).await;
        let address = nic["addresses"][0].as_str().unwrap().to_owned();
        works(&daemon, id, &format!("ip addr show dev eth0 | grep -q {address}/24")).await;
        addresses.push(address);
    }
    works(&daemon, &one, &ping(&addresses[1])).await;
    // The private one leads to each other, and not to the host.
    works(&daemon, &one, &ping("10.99.0.2")).await;
    works(&daemon, &two, &ping("10.99.0.1")).await;
    fails(&daemon, &one, "ping -c 2 -W 2 -I eth1 10.77.0.1 >/dev/null 2>&1").await;
    // What the switch's DHCP does not know, the guest agent tells.
    await_nic(&daemon, &two, 1, |nic| nic["addresses"] == json!(["10.99.0.2"])).await;
    // Whoever tells of an address is named, in both dialects.
    let answer = daemon.get(&format!("/vms/{two}/addresses")).await.expect(200);
    let rows = answer.as_array().unwrap();
    let mut by: Vec<_> =
        rows.iter().map(|row| (row["source"].as_str().unwrap(), row["address"].as_str().unwrap())).collect();
    by.sort_unstable();
    assert_eq!(by, [("agent", &*addresses[1]), ("agent", "10.99.0.2"), ("dhcp", &addresses[1]), ("seen", "10.99.0.2")]);
    assert!(rows.iter().all(|row| row["age"].as_u64().is_some_and(|age| age < 600)), "{answer}");
    let leased = rows.iter().find(|row| row["source"] == "dhcp").unwrap();
    assert!(leased["expires"].as_u64() > Some(0), "{answer}");
    let theirs = daemon.get(&format!("/hyperv/vms/{two}/addresses")).await.expect(200);
    assert_eq!(theirs.as_array().unwrap().len(), rows.len());
    assert!(theirs.as_array().unwrap().iter().any(|row| row["Source"] == "Seen" && row["IPAddress"] == "10.99.0.2"));
    // Longer than a guest's words are taken for new: what it told is known while it runs, also where nobody asks it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let listed = daemon.get("/vms?fields=id,addresses").await.expect(200);
    let row = listed.as_array().unwrap().iter().find(|row| row["id"] == json!(two)).unwrap();
    for address in [&*addresses[1], "10.99.0.2"] {
        assert!(row["addresses"].as_array().unwrap().contains(&json!(address)), "{listed}");
    }
    let figures = daemon.get(&format!("/vms/{one}/performance")).await.expect(200);
    for nic in figures["networks"].as_array().unwrap() {
        assert!(nic["in_bytes"].as_u64() > Some(0) && nic["out_bytes"].as_u64() > Some(0), "{figures}");
    }
    assert!(figures["network_in_bytes"].as_u64() > Some(0), "{figures}");

    // A NIC is plugged in, carries traffic at once, and comes out again.
    let path = format!("/vms/{one}/networks");
    let added = daemon.post(&path, json!({ "switch": "Street" })).await.expect(201);
    assert_eq!(added["applied"], "live", "{added}");
    daemon.await_beat(&one, |beat| beat.nics == 3).await;
    works(&daemon, &one, &fixed("eth2", "192.0.2.2")).await;
    works(&daemon, &one, &ping("192.0.2.1")).await;
    let removed = daemon.delete(&format!("{path}/net2")).await.expect(200);
    assert_eq!(removed["pending"], false, "{removed}");
    assert!(!taps().contains(&tap_of(&added)));
    let beat = daemon.beats(&one).await.last().unwrap().beat;
    daemon.await_beat(&one, |now| now.beat > beat && now.nics == 2).await;

    // Somebody removes a tap: the NIC comes back with a new one, at once or, where QEMU would not outlive that, when its VM
    // is started again.
    let first = networks(&daemon, &one).await[0].clone();
    ip(&format!("link delete {}", tap_of(&first)));
    let health = daemon.get("/health").await.expect(200);
    if health["qemu_version"].as_str().unwrap().starts_with("7.") {
        daemon.await_log("plugging it anew").await;
    } else {
        daemon.await_log("the NIC is without its tap for now").await;
        let degraded = await_nic(&daemon, &one, 0, |nic| nic["status"] == "degraded").await;
        assert!(degraded["reason"].as_str().unwrap().contains("removed its tap"), "{degraded}");
        let last = daemon.beats(&one).await.pop().unwrap();
        daemon.await_beat(&one, |now| now.beat > last.beat).await;
        daemon.post(&format!("/vms/{one}/stop?force=true"), json!({})).await.expect(200);
        daemon.post(&format!("/vms/{one}/start"), json!({})).await.expect(200);
        daemon.await_boot(&one, Some(&last)).await;
    }
    await_nic(&daemon, &one, 0, |nic| nic["status"] == "ok" && taps().contains(&tap_of(nic))).await;
    assert_eq!(networks(&daemon, &one).await[0]["mac"], first["mac"]);
    works(&daemon, &one, &format!("ip addr show | grep -q {}/24", addresses[0])).await;
    works(&daemon, &one, &ping(&addresses[1])).await;

    for id in [one, two] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(taps(), Vec::<String>::new());
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_nic_of_several_queues_works_and_a_guest_lets_go_of_a_nic_when_it_has_booted() {
    let host = Host::leave();
    let mut daemon = guest::daemon();
    daemon.post("/switches", json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" })).await.expect(201);
    let mut wish = guest::wish();
    (wish["vcpus"], wish["start"]) = (json!(2), json!(true));
    wish["networks"] = json!([{ "switch": "LAN", "queues": 2 }, { "user": {} }]);
    let id = daemon.create(wish).await;
    // While the firmware runs nobody lets go; that it was asked is remembered.
    let path = format!("/vms/{id}/networks");
    let removed = daemon.delete(&format!("{path}/net1")).await.expect(200);
    assert_eq!(removed["status"], "deleted", "{removed}");
    let first = daemon.await_boot(&id, None).await;
    let begin = std::time::Instant::now();
    while networks(&daemon, &id).await.len() > 1 {
        assert!(begin.elapsed() < PATIENCE, "{}", daemon.log_text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let beat = daemon.beats(&id).await.last().unwrap().beat;
    daemon.await_beat(&id, |now| now.beat > beat && now.nics == 1).await;
    works(&daemon, &id, &ping("10.77.0.1")).await;

    // Another daemon plugs and unplugs a NIC of several queues, and a reset does not disturb the other.
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    let added = daemon.post(&path, json!({ "switch": "LAN", "queues": 2 })).await.expect(201);
    assert_eq!(added["applied"], "live", "{added}");
    daemon.await_beat(&id, |beat| beat.nics == 2).await;
    works(&daemon, &id, "ping -c 1 -W 3 -I eth1 10.77.0.1 >/dev/null 2>&1").await;
    let removed = daemon.delete(&format!("{path}/net2")).await.expect(200);
    assert_eq!(removed["pending"], false, "{removed}");
    daemon.post(&format!("/vms/{id}/reboot"), json!({})).await.expect(200);
    daemon.await_boot(&id, Some(&first)).await;
    works(&daemon, &id, &ping("10.77.0.1")).await;
    assert_eq!(taps().len(), 1);
    daemon.post(&format!("/vms/{id}/stop"), json!({})).await.expect(200);
    assert_eq!(taps(), Vec::<String>::new());
    drop(daemon);
    host.assert_untouched();
}
