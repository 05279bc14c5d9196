//! NICs of VMs whose guest never boots: definitions, ports of the host, odd input, and a guest that does not let
//! go. What is on a switch is in `switch_networks.rs`, what a real guest sees of it in `guest_networks.rs`.

use crate::support;

use std::{collections::BTreeSet, net::TcpListener};

use crate::support::Daemon;
use qherd::host::process;
use serde_json::{Value, json};

async fn networks(daemon: &Daemon, id: &str) -> Vec<Value> {
    daemon.get(&format!("/vms/{id}/networks")).await.expect(200).as_array().unwrap().clone()
}

async fn devices(daemon: &Daemon, id: &str) -> Vec<String> {
    networks(daemon, id).await.iter().map(|n| n["device"].as_str().unwrap().to_owned()).collect()
}

async fn pending(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}/config")).await.expect(200)["pending"].clone()
}

/// A port of 127.0.0.1 that nobody uses right now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn forward(port: u16) -> Value {
    json!({ "user": { "forwards": [{ "protocol": "tcp", "host_address": "127.0.0.1", "host_port": port, "guest_port": 22 }] } })
}

#[tokio::test]
async fn a_vm_has_the_nics_that_it_was_created_with() {
    let mut daemon = Daemon::start();
    let by_default = daemon.create(daemon.wish()).await;
    let [nic] = &networks(&daemon, &by_default).await[..] else { panic!() };
    let mac = nic["mac"].as_str().unwrap();
    assert!(mac.starts_with("52:54:00:") && mac == mac.to_lowercase(), "{nic}");
    assert_eq!(
        (&nic["name"], &nic["device"], &nic["status"]),
        (&json!("Network Adapter"), &json!("net0"), &json!("ok"))
    );
    assert_eq!((&nic["switch"], &nic["user"]), (&Value::Null, &json!({ "forwards": [], "carrier": null })));
    assert_eq!((&nic["queues"], &nic["addresses"], &nic["traffic"]), (&json!(1), &json!([]), &Value::Null));
    assert_eq!(daemon.get(&format!("/vms/{by_default}/config")).await.expect(200)["mac_address"], mac);

    let mut wish = daemon.wish();
    wish["networks"] = json!([]);
    let without = daemon.create(wish).await;
    assert_eq!(networks(&daemon, &without).await, [] as [Value; 0]);
    assert_eq!(daemon.get(&format!("/vms/{without}/config")).await.expect(200)["mac_address"], Value::Null);
    daemon.post(&format!("/vms/{without}/start"), json!({})).await.expect(200);

    let port = free_port();
    let mut wish = daemon.wish();
    wish["networks"] = json!([forward(port), { "user": {}, "name": "out" }]);
    wish["start"] = json!(true);
    let two = daemon.create(wish).await;
    let nics = networks(&daemon, &two).await;
    assert_eq!((&nics[0]["user"]["forwards"][0]["host_port"], &nics[1]["name"]), (&json!(port), &json!("out")));
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let figures = daemon.get(&format!("/vms/{two}/performance")).await.expect(200);
    assert_eq!(figures["network_in_bytes"], Value::Null, "{figures}");

    let macs: BTreeSet<String> = nics.iter().map(|nic| nic["mac"].to_string()).collect();
    daemon.kill();
    daemon.run();
    let again = networks(&daemon, &two).await;
    assert_eq!(macs, again.iter().map(|nic| nic["mac"].to_string()).collect());
    assert_eq!(again[0]["id"], nics[0]["id"]);
    for id in [by_default, without, two] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn nics_come_and_go_while_the_vm_is_stopped() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let path = format!("/vms/{id}/networks");
    let added = daemon.post(&path, json!({ "user": {}, "name": "second" })).await.expect(201);
    assert_eq!(
        (&added["device"], &added["applied"], &added["vm_id"]),
        (&json!("net1"), &json!("next_start"), &json!(id))
    );
    let gone = daemon.delete(&format!("{path}/net0")).await.expect(200);
    assert_eq!(
        (&gone["device"], &gone["status"], &gone["pending"]),
        (&json!("net0"), &json!("deleted"), &json!(false))
    );
    assert_eq!(devices(&daemon, &id).await, ["net1"]);
    // A name is never used again, and an id names a NIC as well.
    let third = daemon.post(&path, json!({ "user": {} })).await.expect(201);
    assert_eq!(third["device"], "net2");
    daemon.delete(&format!("{path}/{}", third["id"].as_str().unwrap())).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(devices(&daemon, &id).await, ["net1"]);
}

#[tokio::test]
async fn a_nic_is_plugged_into_a_running_vm_and_a_guest_that_does_not_let_go_keeps_it_for_now() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}/networks");
    let port = free_port();
    let added = daemon.post(&path, forward(port)).await.expect(201);
    assert_eq!((&added["device"], &added["applied"], &added["status"]), (&json!("net1"), &json!("live"), &json!("ok")));
    assert_eq!(pending(&daemon, &id).await, json!({}));
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();

    // The firmware never lets go.
    let removed = daemon.delete(&format!("{path}/net1")).await.expect(200);
    assert_eq!((&removed["pending"], &removed["status"]), (&json!(true), &json!("deleted")), "{removed}");
    let nics = networks(&daemon, &id).await;
    assert_eq!((nics.len(), &nics[1]["status"], &nics[1]["device"]), (2, &json!("removing"), &json!("net1")));
    assert_eq!(pending(&daemon, &id).await["networks"]["in_effect"].as_array().unwrap().len(), 2);
    // Its slot is not given away: seven remain of eight, and the first NIC has one of them.
    for number in 2..=7 {
        let added = daemon.post(&path, json!({ "user": {} })).await.expect(201);
        assert_eq!((&added["device"], &added["applied"]), (&json!(format!("net{number}")), &json!("live")));
    }
    let full = daemon.post(&path, json!({ "user": {} })).await;
    assert!(full.status == 409 && full.message().contains("no free slot"), "{full:?}");
    let disk = daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await;
    assert_eq!(disk.status, 409, "{disk:?}");

    // The power-off finishes it.
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(devices(&daemon, &id).await, ["net0", "net2", "net3", "net4", "net5", "net6", "net7"]);
    assert_eq!(pending(&daemon, &id).await, json!({}));
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test]
async fn a_port_of_the_host_that_is_taken_is_refused_with_nothing_left() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--forward-address", "192.0.2.1"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = |answer: &support::Answer| {
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(answer.message().contains(&format!("tcp 127.0.0.1:{port}")), "{answer:?}");
        assert!(answer.message().contains("in use"), "{answer:?}");
    };
    let mut wish = daemon.wish();
    (wish["networks"], wish["start"]) = (json!([forward(port)]), json!(true));
    refused(&daemon.post("/vms", wish.clone()).await);
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());

    // Stopped it may have it: the port may be free by then.
    wish["start"] = json!(false);
    let id = daemon.create(wish).await;
    refused(&daemon.post(&format!("/vms/{id}/start"), json!({})).await);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus().len()), ("stopped", 0));

    let other = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{other}/start"), json!({})).await.expect(200);
    refused(&daemon.post(&format!("/vms/{other}/networks"), forward(port)).await);
    assert_eq!((devices(&daemon, &other).await, pending(&daemon, &other).await), (vec!["net0".to_owned()], json!({})));
    drop(taken);
    let added = daemon.post(&format!("/vms/{other}/networks"), forward(port)).await.expect(201);
    assert_eq!(added["applied"], "live", "{added}");
    refused(&daemon.post(&format!("/vms/{id}/start"), json!({})).await);
    let foreign =
        json!({ "user": { "forwards": [{ "host_address": "192.0.2.1", "host_port": 2222, "guest_port": 22 }] } });
    let foreign = daemon.post(&format!("/vms/{other}/networks"), foreign).await;
    assert!(foreign.status == 409 && foreign.message().contains("192.0.2.1:2222"), "{foreign:?}");
}

/// Whoever is told that a VM has stopped, or is gone, may have its ports: another VM, or its own next start.
#[tokio::test]
async fn ports_of_the_host_are_free_when_the_end_of_their_vm_is_told() {
    let daemon = Daemon::start();
    // An address of this test's own: nobody else has a port there.
    let [.., high, low] = std::process::id().to_be_bytes();
    let (address, ports) = (format!("127.77.{high}.{low}"), 20_000..20_032_u16);
    let forward = |port: &u16| json!({ "host_address": address, "host_port": port, "guest_port": 22 });
    let forwards: Vec<Value> = ports.clone().collect::<Vec<_>>().iter().map(forward).collect();
    let mut wish = daemon.wish();
    wish["networks"] = forwards.chunks(8).map(|some| json!({ "user": { "forwards": some } })).collect();
    wish["start"] = json!(true);
    let mut id = daemon.create(wish.clone()).await;
    for round in 0..6 {
        // None of them sees that its QEMU ends.
        for nic in networks(&daemon, &id).await {
            let router = nic["mac"].as_str().unwrap().replacen("52:54:", "52:55:", 1);
            let [pid] = process::find(&["--mac-addr", &router]).unwrap()[..] else { panic!("{nic}") };
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
        }
        let vm = format!("/vms/{id}");
        match round % 2 {
            0 => drop(daemon.post(&format!("{vm}/stop"), json!({ "force": true })).await.expect(200)),
            _ => drop(daemon.delete(&vm).await.expect(200)),
        }
        let taken: Vec<u16> =
            ports.clone().filter(|port| TcpListener::bind((address.as_str(), *port)).is_err()).collect();
        assert_eq!(taken, [] as [u16; 0], "round {round}");
        match round % 2 {
            0 => drop(daemon.post(&format!("{vm}/start"), json!({})).await.expect(200)),
            _ => id = daemon.create(wish.clone()).await,
        }
    }
}

#[tokio::test]
async fn forwards_listen_where_the_administrator_lets_them_and_never_in_the_apis_place() {
    let forward = |address: &str, port: u16| json!({ "user": { "forwards": [{ "host_address": address, "host_port": port, "guest_port": 22 }] } });
    for (daemon, allowed) in [
        (Daemon::start(), false),
        (Daemon::start_with(&["--accel", "tcg", "--forward-address", "192.0.2.1,192.0.2.2"]), true),
        (Daemon::start_with(&["--accel", "tcg", "--forward-address", "0.0.0.0"]), true),
    ] {
        let id = daemon.create(daemon.wish()).await;
        let path = format!("/vms/{id}/networks");
        daemon.post(&path, forward("127.0.0.2", free_port())).await.expect(201);
        let elsewhere = daemon.post(&path, forward("192.0.2.2", free_port())).await;
        assert_eq!(elsewhere.status, if allowed { 201 } else { 400 }, "{elsewhere:?}");
        assert!(allowed || elsewhere.message().contains("host_address must be a loopback address"), "{elsewhere:?}");
        let api: u16 = daemon.url.rsplit_once(':').unwrap().1.parse().unwrap();
        for address in ["127.0.0.1", "127.0.0.2"] {
            let refused = daemon.post(&path, forward(address, api)).await;
            assert_eq!(refused.status, 400, "{refused:?}");
            assert!(refused.message().contains("a port of qherd's API"), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn odd_nics_are_refused_and_leave_nothing() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let path = format!("/vms/{id}/networks");
    let twice = json!({ "host_port": 2222, "guest_port": 22 });
    let one = |forward: Value| json!({ "user": { "forwards": [forward] } });
    for (body, status, words) in [
        (json!({}), 400, "switch must be given, or user"),
        (json!({ "switch": "LAN", "user": {} }), 400, "switch must not be combined with user"),
        (json!({ "switch": 7 }), 400, "switch must be"),
        (json!({ "switch": "nowhere" }), 404, "Switch not found: nowhere."),
        (json!({ "switch": "123e4567-e89b-42d3-a456-426614174000" }), 404, "Switch not found: 123e4567"),
        (json!({ "user": {}, "queues": 2 }), 400, "queues must be 1 for a NIC on the user-mode network"),
        (json!({ "user": {}, "queues": 0 }), 400, "queues must be greater than 0"),
        (json!({ "user": {}, "queues": 9 }), 400, "queues must be at most 8"),
        (json!({ "user": {}, "queues": "2" }), 400, "queues must be a whole number"),
        (json!({ "user": {}, "allow_spoofing": true }), 400, "allow_spoofing must not be set"),
        (json!({ "user": {}, "allow_spoofing": 1 }), 400, "allow_spoofing must be"),
        (json!({ "user": {}, "name": "a\nb" }), 400, "name must consist of"),
        (json!({ "user": {}, "mac": "01:00:5e:00:00:01" }), 400, "mac must"),
        (json!({ "user": { "forward": [] } }), 400, "forward is not known"),
        (
            json!({ "user": { "forwards": [twice, twice] } }),
            400,
            "user.forwards[1].host_port must name a port of the host that no other does; tcp 127.0.0.1:2222 is repeated",
        ),
        (one(json!({ "host_port": 0, "guest_port": 22 })), 400, "user.forwards[0].host_port must be from 1 to 65535"),
        (
            one(json!({ "host_port": 70000, "guest_port": 22 })),
            400,
            "user.forwards[0].host_port must be from 1 to 65535",
        ),
        (one(json!({ "host_port": 22 })), 400, "guest_port must be given"),
        (one(json!({ "protocol": "sctp", "host_port": 22, "guest_port": 22 })), 400, "protocol"),
        (one(json!({ "host_address": "192.0.2.1", "host_port": 2222, "guest_port": 22 })), 400, "--forward-address"),
        (one(json!({ "host_address": "224.0.0.1", "host_port": 2222, "guest_port": 22 })), 400, "host_address"),
        (one(json!({ "host_address": "localhost", "host_port": 22, "guest_port": 22 })), 400, "host_address"),
        (json!([]), 400, ""),
    ] {
        let answer = daemon.post(&path, body.clone()).await;
        assert!(answer.status == status && answer.message().contains(words), "{body}: {answer:?}");
        // The same among the NICs of a create names its place.
        let mut wish = daemon.wish();
        wish["networks"] = json!([{ "user": {} }, body]);
        let answer = daemon.post("/vms", wish).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(status == 404 || answer.message().contains("networks[1]"), "{answer:?}");
    }
    let mut wish = daemon.wish();
    wish["networks"] = json!(vec![json!({ "user": {} }); 10]);
    // Nothing is there that could be removed: it is the wish that is too large.
    let answer = daemon.post("/vms", wish).await;
    assert!(answer.status == 400 && answer.message().contains("networks[9] must have a slot"), "{answer:?}");
    for (method, path, status, words) in [
        ("GET", "/vms/nonsense/networks", 400, "Invalid UUID format."),
        ("DELETE", "/vms/ID/networks/net9", 404, "NIC not found: net9."),
        ("DELETE", "/vms/ID/networks/123e4567-e89b-12d3-a456-426614174000", 404, "NIC not found: 123e4567"),
        ("DELETE", "/vms/123e4567-e89b-12d3-a456-426614174000/networks/net0", 404, "VM not found"),
        ("GET", "/vms/123e4567-e89b-12d3-a456-426614174000/networks", 404, "VM not found"),
    ] {
        let path = path.replace("ID", &id);
        let answer = if method == "GET" { daemon.get(&path).await } else { daemon.delete(&path).await };
        assert!(answer.status == status && answer.message().contains(words), "{method} {path}: {answer:?}");
    }
    assert_eq!(devices(&daemon, &id).await, ["net0"]);
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_hundred_nics_at_once_have_a_hundred_addresses() {
    let daemon = Daemon::start();
    let mut ids = Vec::new();
    for _ in 0..15 {
        let mut wish = daemon.wish();
        wish["networks"] = json!([]);
        ids.push(daemon.create(wish).await);
    }
    let adding = (0..100).map(|number| {
        let path = format!("/vms/{}/networks", ids[number % 15]);
        let daemon = &daemon;
        async move { daemon.post(&path, json!({ "user": {} })).await.expect(201) }
    });
    let added = futures_util::future::join_all(adding).await;
    let distinct = |field: &str| added.iter().map(|nic| nic[field].to_string()).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct("mac"), distinct("id")), (100, 100));
}
