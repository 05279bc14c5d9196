//! `/switches` against a real daemon in a network namespace of the test's own: the API, External switches over a veth
//! pair, kill -9 in the middle, and a daemon without the right to change the network.

use crate::support;

use std::{net::UdpSocket, time::Duration};

use crate::support::{
    Daemon, PATIENCE,
    netns::{Host, Peer, ip, ip_json, nft},
};
use serde_json::{Value, json};

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

/// Names of interfaces that are ours.
fn ours() -> Vec<String> {
    let links = ip_json("link");
    let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("qh")).collect()
}

fn assert_nothing_left(host: &Host) {
    assert_eq!(ours(), [] as [String; 0]);
    assert!(!nft("list ruleset").contains("qherd"), "{}", nft("list ruleset"));
    host.assert_untouched();
}

/// Whether an answer has a message that holds all these words.
#[track_caller]
fn assert_told(answer: &support::Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{}", answer.body);
    for word in words {
        assert!(answer.body.to_string().contains(word), "{word}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_switch_is_made_shown_changed_and_deleted() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    assert_eq!(daemon.get("/switches").await.expect(200), json!([]));
    let private = daemon.post("/switches", json!({"name": "back", "type": "private", "notes": "n"})).await.expect(201);
    assert_eq!(
        (&private["name"], &private["type"], &private["notes"]),
        (&json!("back"), &json!("private"), &json!("n"))
    );
    assert_eq!(private["bridge"].as_str().unwrap().len(), 15);
    let wish = json!({"name": "back", "type": "internal", "subnet": "10.77.0.0/24", "nat": true});
    let internal = daemon.post("/switches", wish.clone()).await.expect(201);
    assert_eq!((&internal["host_address"], &internal["problem"]), (&json!("10.77.0.1"), &Value::Null));
    let listed = daemon.get("/switches").await.expect(200);
    assert_eq!(listed, json!([private, internal]), "the names may be the same");
    let path = format!("/switches/{}", id(&private));
    let changed = daemon.put(&path, json!({"notes": "other"})).await.expect(200);
    assert_eq!(changed["notes"], "other");
    assert_eq!(ours().len(), 2);

    // What is acknowledged is there after a kill -9, also when somebody removed the bridges meanwhile.
    daemon.kill();
    for name in ours() {
        ip(&format!("link del {name}"));
    }
    daemon.run();
    assert_eq!(daemon.get(&path).await.expect(200), changed);
    let shown = daemon.get(&format!("/switches/{}", id(&internal))).await.expect(200);
    assert_eq!(shown["problem"], Value::Null);
    assert_eq!(ours().len(), 2);
    assert_eq!(
        ip_json(&format!("addr show {}", shown["bridge"].as_str().unwrap()))[0]["addr_info"][0]["local"],
        "10.77.0.1"
    );

    assert_told(&daemon.post("/switches", wish).await, 409, &["10.77.0.0/24", "back", &id(&internal)]);
    for (body, status, words) in [
        (json!({"type": "private"}), 400, vec!["name", "be given"]),
        (json!({"name": "", "type": "private"}), 400, vec!["name"]),
        (json!({"name": "x"}), 400, vec!["type", "be given"]),
        (json!({"name": "x", "type": "bridge"}), 400, vec!["type", "private, internal, external"]),
        (json!({"name": "x", "type": "private", "subnet": "10.0.0.0/24"}), 400, vec!["subnet", "internal"]),
        (json!({"name": "x", "type": "private", "adapter": "eth0"}), 400, vec!["adapter", "external"]),
        (json!({"name": "x", "type": "internal", "nat": true}), 400, vec!["subnet", "nat"]),
        (json!({"name": "x", "type": "internal", "subnet": "10.0.0.7/24"}), 400, vec!["subnet", "10.0.0.0/24"]),
        (json!({"name": "x", "type": "internal", "subnet": "fd00::/64"}), 400, vec!["subnet"]),
        (json!({"name": "x", "type": "internal", "subnet": "10.0.0.0/31"}), 400, vec!["subnet"]),
        (json!({"name": "x", "type": "internal", "subnt": "10.0.0.0/24"}), 400, vec!["subnt", "did you mean subnet"]),
        (json!({"name": "x", "type": "external"}), 400, vec!["adapter"]),
        (json!({"name": "x", "type": "external", "adapter": "nope"}), 400, vec!["adapter", "nope"]),
        (json!({"name": "x", "type": "external", "adapter": "lo"}), 400, vec!["adapter", "loopback"]),
        (json!({"name": "x", "type": "external", "adapter": private["bridge"]}), 400, vec!["adapter", "qherd"]),
        (json!({"name": "x", "type": "private", "notes": "n".repeat(5000)}), 400, vec!["notes"]),
    ] {
        assert_told(&daemon.post("/switches", body).await, status, &words);
    }
    // A subnet where the host is already.
    let peer = Peer::new();
    peer.connect("eth7", "eth0");
    ip("addr add 172.20.0.2/16 dev eth7");
    ip("route add 10.200.0.0/16 via 172.20.0.1");
    // Wider ones than any subnet, as VPNs make them: they go on leading to the rest.
    ip("route add 0.0.0.0/1 via 172.20.0.1");
    ip("route add 10.0.0.0/8 via 172.20.0.1");
    ip("route add 198.51.100.0/24 via 172.20.0.5");
    for (subnet, what) in [
        ("172.20.0.0/24", "172.20.0.2/16"),
        ("10.200.0.0/16", "10.200.0.0/16"),
        ("10.192.0.0/12", "10.200.0.0/16"),
        ("172.20.0.4/30", "172.20.0.5, the gateway"),
        ("10.0.0.0/8", "overlaps"),
    ] {
        let answer = daemon.post("/switches", json!({"name": "x", "type": "internal", "subnet": subnet})).await;
        assert_told(&answer, 409, &[subnet, what]);
    }
    for subnet in ["172.20.5.0/24", "10.200.4.0/30"] {
        let free =
            daemon.post("/switches", json!({"name": "free", "type": "internal", "subnet": subnet})).await.expect(201);
        daemon.delete(&format!("/switches/{}", free["id"].as_str().unwrap())).await.expect(200);
    }
    assert_told(&daemon.get("/switches/x").await, 400, &["UUID"]);
    let nobody = "/switches/123e4567-e89b-12d3-a456-426614174000";
    assert_told(&daemon.get(nobody).await, 404, &["Switch not found"]);
    assert_told(&daemon.put(nobody, json!({"notes": ""})).await, 404, &["Switch not found"]);
    assert_told(&daemon.delete(nobody).await, 404, &["Switch not found"]);
    assert_told(&daemon.put(&path, json!({})).await, 400, &["notes"]);
    assert_eq!(ours().len(), 2, "nothing is left of what was refused");

    for switch in [&private, &internal] {
        let path = format!("/switches/{}", id(switch));
        daemon.delete(&path).await.expect(200);
        assert_told(&daemon.delete(&path).await, 404, &["Switch not found"]);
    }
    assert_nothing_left(&host);
}

#[tokio::test]
async fn a_hundred_switches_at_once_are_a_hundred_bridges() {
    let host = Host::leave();
    let daemon = Daemon::start();
    let wish = |n: usize| match n % 2 {
        0 => json!({"name": "lan", "type": "private"}),
        _ => json!({"name": "lan", "type": "internal", "subnet": format!("10.{n}.0.0/24")}),
    };
    let made = futures_util::future::join_all((0..100).map(|n| daemon.post("/switches", wish(n % 30)))).await;
    // Each subnet is there once, however many asked for it.
    let (good, bad): (Vec<_>, Vec<_>) = made.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((good.len(), bad.len()), (65, 35));
    assert!(bad.iter().all(|answer| answer.status == 409), "{bad:?}");
    assert_eq!(ours().len(), 65);
    let gone = good.iter().map(async |answer| daemon.delete(&format!("/switches/{}", id(&answer.body))).await);
    assert!(futures_util::future::join_all(gone).await.iter().all(|answer| answer.status == 200));
    assert_nothing_left(&host);
}

#[tokio::test]
async fn frames_larger_than_the_adapters_are_the_clients_mistake() {
    let host = Host::leave();
    let daemon = Daemon::start();
    let peer = Peer::new();
    peer.connect("up0", "up1");
    let words = ["mtu", "at most 1500", "up0"];
    let wish = json!({"name": "wan", "type": "external", "adapter": "up0", "mtu": 9000});
    assert_told(&daemon.post("/switches", wish).await, 400, &words);
    let theirs = json!({"name": "wan", "type": "External", "netAdapterName": "up0", "mtu": 9000});
    assert_told(&daemon.post("/hyperv/switches", theirs).await, 400, &words);
    assert_eq!(ours(), [] as [String; 0]);
    let wish = json!({"name": "wan", "type": "external", "adapter": "up0"});
    let made = daemon.post("/switches", wish).await.expect(201);
    let path = format!("/switches/{}", id(&made));
    assert_told(&daemon.put(&path, json!({"mtu": 9000})).await, 400, &words);
    let shown = daemon.get(&path).await.expect(200);
    assert_eq!((&shown["mtu"], &shown["problem"]), (&made["mtu"], &Value::Null), "it stays as it was");
    daemon.put(&path, json!({"mtu": 1400})).await.expect(200);
    daemon.delete(&path).await.expect(200);
    ip("link del up0");
    assert_nothing_left(&host);
}

/// Where an address of the host is.
fn device_of(address: &str) -> Vec<String> {
    let all = ip_json("addr");
    let bears = |link: &&Value| link["addr_info"].as_array().unwrap().iter().any(|info| info["local"] == address);
    all.as_array().unwrap().iter().filter(bears).map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

fn default_route(family: &str) -> Vec<Value> {
    ip_json(&format!("{family} route show default")).as_array().cloned().unwrap_or_default()
}

/// A machine on the network behind `up0`, which echoes datagrams; the host has addresses and default routes there.
fn network() -> Peer {
    let peer = Peer::new();
    peer.connect("up0", "up1");
    for address in ["192.0.2.2/24", "192.0.2.3/24", "fd00:2::2/64"] {
        ip(&format!("addr add {address} dev up0 {}", if address.contains(':') { "nodad" } else { "" }));
    }
    peer.ip("addr add 192.0.2.1/24 dev up1");
    peer.ip("addr add fd00:2::1/64 dev up1 nodad");
    ip("route add default via 192.0.2.1 metric 70 src 192.0.2.3");
    ip("route add 198.51.100.0/24 via 192.0.2.1 table 99");
    ip("-6 route add default via fd00:2::1 metric 71");
    peer.ip("addr add 203.0.113.1/32 dev lo");
    let (ready, bound) = std::sync::mpsc::channel();
    peer.within(move || {
        let socket = UdpSocket::bind("203.0.113.1:7").unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer)
            && length > 1
        {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    bound.recv().unwrap();
    peer
}

/// Something far away answers the host, by way of its default route.
async fn assert_reaches() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for _ in 0..300 {
        if socket.send_to(b"hello", "203.0.113.1:7").is_ok() && socket.recv_from(&mut [0; 100]).is_ok() {
            return;
        }
    }
    panic!("no answer\n{}\n{}", ip("addr"), ip("route"));
}

fn end_network() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let _ = socket.send_to(b"x", "203.0.113.1:7");
    ip("link del up0");
}

const ADDRESSES: [&str; 3] = ["192.0.2.2", "192.0.2.3", "fd00:2::2"];

fn assert_all_on(device: &str) {
    for address in ADDRESSES {
        assert_eq!(device_of(address), [device], "{address}\n{}", ip("addr"));
    }
    let [v4] = &default_route("")[..] else { panic!("{:?}", default_route("")) };
    assert_eq!((&v4["dev"], &v4["metric"], &v4["prefsrc"]), (&json!(device), &json!(70), &json!("192.0.2.3")));
    let [v6] = &default_route("-6")[..] else { panic!("{:?}", default_route("-6")) };
    assert_eq!((&v6["dev"], &v6["metric"]), (&json!(device), &json!(71)));
    let table = ip_json("route show table 99");
    assert_eq!((&table[0]["dev"], table.as_array().unwrap().len()), (&json!(device), 1));
}

#[tokio::test]
async fn an_external_switch_takes_the_hosts_addresses_along_and_gives_them_back() {
    let host = Host::leave();
    let _peer = network();
    let mut daemon = Daemon::start();
    let wish = json!({"name": "wan", "type": "external", "adapter": "up0"});
    assert_told(
        &daemon.post("/switches", wish.clone()).await,
        409,
        &["192.0.2.2/24", "default route", "allow_management_os"],
    );
    let theirs = json!({"name": "wan", "type": "External", "netAdapterName": "up0"});
    assert_told(&daemon.post("/hyperv/switches", theirs).await, 409, &["192.0.2.2/24", "allowManagementOS"]);
    assert_all_on("up0");
    assert_eq!(ours(), [] as [String; 0]);

    let mut allowed = wish.clone();
    allowed["allow_management_os"] = json!(true);
    let mac = ip_json("link show up0")[0]["address"].clone();
    let switch = daemon.post("/switches", allowed.clone()).await.expect(201);
    let bridge = switch["bridge"].as_str().unwrap();
    assert_all_on(bridge);
    assert_reaches().await;
    assert_eq!(ip_json(&format!("link show {bridge}"))[0]["address"], mac);
    assert_told(&daemon.post("/switches", allowed).await, 409, &["up0", "wan"]);

    // The daemon is killed; the host is started anew, as it were: the bridge is gone, the adapter has its own again.
    daemon.kill();
    assert_reaches().await;
    daemon.run();
    assert_all_on(bridge);
    daemon.kill();
    ip(&format!("link del {bridge}"));
    ip("addr add 192.0.2.2/24 dev up0");
    ip("addr add 192.0.2.3/24 dev up0");
    daemon.run();
    assert_all_on(bridge);
    assert_reaches().await;

    // Somebody removes the bridge, and with it what it carried.
    ip(&format!("link del {bridge}"));
    let carried =
        || device_of("192.0.2.3") == [bridge] && device_of("fd00:2::2") == [bridge] && !default_route("-6").is_empty();
    await_that("the bridge has its addresses again", carried).await;
    assert_all_on(bridge);
    // A DHCP client that knows nothing of the switch gives the adapter another address.
    ip("addr add 192.0.2.77/24 dev up0");
    await_that("the new address has moved", || device_of("192.0.2.77") == [bridge]).await;
    ip(&format!("addr del 192.0.2.77/24 dev {bridge}"));

    daemon.delete(&format!("/switches/{}", id(&switch))).await.expect(200);
    assert_all_on("up0");
    assert_reaches().await;
    // Without addresses it is taken as it is, and the host takes no part.
    ip("addr flush dev up0 scope global");
    ip("-6 route del default");
    let switch = daemon.post("/switches", wish).await.expect(201);
    let joined = ip_json("link show up0")[0]["master"].clone();
    assert_eq!(joined, switch["bridge"]);
    daemon.delete(&format!("/switches/{}", id(&switch))).await.expect(200);
    ip("link del up0");
    assert_nothing_left(&host);
}

async fn await_that(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}\n{}\n{}", ip("addr"), ip("route")));
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_a_whole_switch_or_none() {
    let host = Host::leave();
    let _peer = network();
    let mut daemon = Daemon::start();
    let wish = json!({"name": "wan", "type": "external", "adapter": "up0", "allow_management_os": true});
    let (mut cut, mut finished) = (0, 0);
    for round in 0..16_u64 {
        let existing = daemon.get("/switches").await.expect(200);
        let path = existing[0]["id"].as_str().map(|id| format!("/switches/{id}"));
        let request = async {
            let sent = match &path {
                Some(path) => daemon.http().delete(daemon.at(path)).send(),
                None => daemon.http().post(daemon.at("/switches")).json(&wish).send(),
            };
            sent.await.ok().map(|response| response.status().as_u16())
        };
        // Each time somewhat later; under load the steps last longer.
        let answer = tokio::time::timeout(Duration::from_millis(4 + 9 * round), request).await.ok().flatten();
        daemon.kill();
        // Nothing of the host's was lost at any moment.
        for address in ADDRESSES {
            assert!(!device_of(address).is_empty(), "round {round}: {address}\n{}", ip("addr"));
        }
        daemon.run();
        let switches = daemon.get("/switches").await.expect(200);
        match (answer, &path) {
            (Some(201), _) => assert_eq!(switches.as_array().unwrap().len(), 1),
            (Some(200), _) => assert_eq!(switches, json!([])),
            (Some(other), _) => panic!("{other}"),
            (None, _) => {}
        }
        if answer.is_some() {
            finished += 1
        } else {
            cut += 1
        }
        match switches[0]["bridge"].as_str() {
            Some(bridge) => {
                assert_eq!(ours(), [bridge], "round {round}");
                assert_eq!(switches[0]["problem"], Value::Null);
                assert_all_on(bridge);
            }
            None => {
                assert_eq!(ours(), [] as [String; 0], "round {round}");
                assert_all_on("up0");
            }
        }
        assert_reaches().await;
    }
    assert!(cut > 0, "{cut} cut, {finished} finished");
    for switch in daemon.get("/switches").await.expect(200).as_array().unwrap() {
        daemon.delete(&format!("/switches/{}", id(switch))).await.expect(200);
    }
    end_network();
    assert_nothing_left(&host);
}

#[tokio::test]
async fn without_the_capability_vms_work_and_switches_say_what_is_missing() {
    let host = Host::leave();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let plain = daemon.command();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]).arg(plain.get_program());
    command.args(plain.get_args()).current_dir(daemon.dir.path()).env("QHERD_LOG", "qherd=debug");
    daemon.run_as(command);
    let answer = daemon.post("/switches", json!({"name": "lan", "type": "private"})).await;
    assert_told(&answer, 500, &["Internal error during switch creation.", "CAP_NET_ADMIN"]);
    assert_eq!(daemon.get("/switches").await.expect(200), json!([]));
    let vm = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{vm}/start"), json!({})).await.expect(200);
    daemon.await_status(&vm, "running").await;
    daemon.delete(&format!("/vms/{vm}")).await.expect(200);
    assert_nothing_left(&host);
}
