//! What switches do for their NICs beside carrying frames, without a guest that boots: addresses and MAC addresses of the
//! client's choice, changes in place, forwards, names. What a real guest gets of it is in `guest_addresses.rs`.

use crate::hyperv;

use crate::hyperv::{Client, MOUNTS};
use crate::nics::networks;
use crate::support::{
    Answer, Daemon,
    netns::{Host, Peer, ip},
};
use serde_json::{Value, json};

async fn switch(daemon: &Daemon, body: Value) -> String {
    daemon.post("/switches", body).await.expect(201)["id"].as_str().unwrap().to_owned()
}

async fn vm(daemon: &Daemon, name: &str, networks: Value) -> String {
    let mut wish = daemon.wish();
    (wish["name"], wish["networks"]) = (json!(name), networks);
    daemon.create(wish).await
}

fn refused(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    // Each dialect has a shape of its own.
    let reported = answer.body.to_string();
    assert!(words.iter().all(|word| reported.contains(word)), "{words:?}: {reported}");
}

fn nat(name: &str, subnet: &str) -> Value {
    json!({ "name": name, "type": "internal", "subnet": subnet, "nat": true })
}

#[tokio::test]
async fn addresses_and_mac_addresses_of_the_clients_choice_are_had_by_one() {
    let host = Host::leave();
    let daemon = Daemon::start();
    switch(&daemon, nat("LAN", "10.77.0.0/24")).await;
    switch(&daemon, json!({ "name": "Yard", "type": "private" })).await;
    let own = json!([{ "switch": "LAN", "address": "10.77.0.9", "mac": "00:16:3E:00:00:01" }]);
    let web = vm(&daemon, "web", own).await;
    let nic = networks(&daemon, &web).await.remove(0);
    assert_eq!((&nic["reserved"], &nic["mac"]), (&json!("10.77.0.9"), &json!("00:16:3e:00:00:01")));
    assert_eq!((&nic["addresses"], &nic["dns_name"]), (&json!([]), &json!("web.lan")), "it is off");
    let db = vm(&daemon, "db", json!([])).await;
    let path = format!("/vms/{db}/networks");
    for (body, status, words) in [
        (json!({ "switch": "LAN", "address": "10.77.0.9" }), 409, &["10.77.0.9", "LAN", "web", &web][..]),
        (json!({ "switch": "LAN", "mac": "00:16:3e:00:00:01" }), 409, &["00:16:3e:00:00:01", "web", &web]),
        (json!({ "user": {}, "mac": "00:16:3e:00:00:01" }), 409, &["00:16:3e:00:00:01", "web"]),
        (json!({ "switch": "LAN", "address": "10.78.0.9" }), 400, &["address must be one of 10.77.0.2 to 10.77.0.254"]),
        (json!({ "switch": "LAN", "address": "10.77.0.1" }), 400, &["10.77.0.2 to 10.77.0.254"]),
        (json!({ "switch": "LAN", "address": "10.77.0" }), 400, &["address must"]),
        (
            json!({ "switch": "Yard", "address": "224.0.0.1" }),
            400,
            &["address must be an address that a guest can have"],
        ),
        (json!({ "switch": "LAN", "mac": "01:00:5e:00:00:01" }), 400, &["mac must", "01:00:5e:00:00:01"]),
        (json!({ "user": {}, "isolated": true }), 400, &["isolated must not be set"]),
        (json!({ "user": {}, "bandwidth": { "in_bits_per_second": 1000000 } }), 400, &["bandwidth must not be set"]),
        (
            json!({ "switch": "Yard", "bandwidth": { "in_bits_per_second": 1 } }),
            400,
            &["bandwidth.in_bits_per_second", "64000"],
        ),
        (json!({ "switch": "Yard", "bandwidth": { "in": 1 } }), 400, &["bandwidth.in"]),
        (json!({ "switch": "Yard", "max_addresses": 0 }), 400, &["max_addresses must be from 1 to 4096"]),
        (json!({ "switch": "LAN", "max_addresses": 30 }), 400, &["max_addresses must not be given"]),
        (json!({ "switch": "Yard", "vlan": 7 }), 400, &["vlan"]),
    ] {
        refused(&daemon.post(&path, body).await, status, words);
    }
    assert_eq!(networks(&daemon, &db).await, [] as [Value; 0], "nothing of it is left");
    // Without a subnet an address is only the one that the NIC sends from; another switch knows nothing of it.
    let still = json!({ "switch": "Yard", "address": "10.77.0.9", "isolated": true });
    let added = daemon.post(&path, still).await.expect(201);
    assert_eq!(
        (&added["reserved"], &added["isolated"], &added["dns_name"]),
        (&json!("10.77.0.9"), &json!(true), &Value::Null)
    );

    // What is free is given; what is given up is free.
    let moved = daemon.put(&format!("/vms/{web}/networks/net0"), json!({ "address": "10.77.0.2" })).await.expect(200);
    assert_eq!((&moved["reserved"], &moved["applied"]), (&json!("10.77.0.2"), &json!("next_start")));
    let added = daemon.post(&path, json!({ "switch": "LAN" })).await.expect(201);
    assert_eq!(added["reserved"], "10.77.0.3");
    let nic = format!("{path}/{}", added["id"].as_str().unwrap());
    refused(&daemon.put(&nic, json!({ "address": "10.77.0.2" })).await, 409, &["10.77.0.2", "web"]);
    refused(&daemon.put(&nic, json!({})).await, 400, &["at least one"]);
    refused(&daemon.put(&nic, json!({ "adress": "10.77.0.4" })).await, 400, &["adress", "did you mean address"]);
    refused(&daemon.put(&format!("{path}/net9"), json!({ "isolated": true })).await, 404, &["net9"]);
    daemon.put(&nic, json!({ "address": "10.77.0.9" })).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn the_port_of_a_running_vm_changes_at_once() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    switch(&daemon, nat("LAN", "10.77.0.0/24")).await;
    let mut wish = daemon.wish();
    (wish["networks"], wish["start"]) = (json!([{ "switch": "LAN" }]), json!(true));
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}/networks/net0");
    let rate = json!({ "in_bits_per_second": 10_000_000, "out_bits_per_second": null });
    let body = json!({ "address": "10.77.0.40", "allow_spoofing": true, "isolated": true, "bandwidth": rate });
    let changed = daemon.put(&path, body.clone()).await.expect(200);
    assert_eq!((&changed["applied"], &changed["status"]), (&json!("live"), &json!("ok")), "{changed}");
    let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!(config["pending"], json!({}), "{config}");
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    let nic = networks(&daemon, &id).await.remove(0);
    assert_eq!((&nic["reserved"], &nic["bandwidth"]), (&json!("10.77.0.40"), &rate));
    assert_eq!((&nic["allow_spoofing"], &nic["isolated"]), (&json!(true), &json!(true)));
    // Null is nothing special again.
    let cleared = daemon.put(&path, json!({ "bandwidth": null, "isolated": false })).await.expect(200);
    assert_eq!(
        (&cleared["bandwidth"], &cleared["isolated"], &cleared["reserved"]),
        (&Value::Null, &json!(false), &json!("10.77.0.40"))
    );
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_subnet_changes_under_its_nics_and_they_keep_their_place_in_it() {
    let host = Host::leave();
    let daemon = Daemon::start();
    let lan = switch(&daemon, nat("LAN", "10.77.0.0/24")).await;
    switch(&daemon, nat("Other", "10.79.0.0/24")).await;
    let path = format!("/switches/{lan}");
    let (near, far) =
        (json!([{ "switch": "LAN", "address": "10.77.0.9" }]), json!([{ "switch": "LAN", "address": "10.77.0.200" }]));
    let (one, two) = (vm(&daemon, "one", near).await, vm(&daemon, "two", far).await);
    let reserved = async |id: &str| networks(&daemon, id).await[0]["reserved"].clone();
    let changed =
        daemon.put(&path, json!({ "subnet": "10.78.0.0/28", "mtu": 1400, "dns": ["9.9.9.9"], "domain": "Lab" })).await;
    let changed = changed.expect(200);
    assert_eq!(
        (&changed["subnet"], &changed["nat"], &changed["mtu"]),
        (&json!("10.78.0.0/28"), &json!(true), &json!(1400))
    );
    assert_eq!((&changed["dns"], &changed["domain"]), (&json!(["9.9.9.9"]), &json!("lab")));
    let reported = changed["readdressed"].as_array().unwrap();
    assert_eq!(
        (reported.len(), &reported[0]["from"], &reported[0]["to"], &reported[0]["vm_id"]),
        (2, &json!("10.77.0.9"), &json!("10.78.0.9"), &json!(one))
    );
    assert_eq!(
        (reserved(&one).await, reserved(&two).await),
        (json!("10.78.0.9"), json!("10.78.0.8")),
        "200 is 8 of 16"
    );
    assert_eq!(networks(&daemon, &one).await[0]["dns_name"], "one.lab");
    for (body, status, words) in [
        (json!({ "subnet": "10.79.0.0/25" }), 409, &["10.79.0.0/25", "Other"][..]),
        (json!({ "subnet": "8.8.8.0/24" }), 400, &["subnet must be in 10.0.0.0/8", "allow-subnets"]),
        (json!({ "subnet": "169.254.169.252/30" }), 400, &["subnet must be in"]),
        (json!({ "subnet": "10.80.0.0/30" }), 400, &["room for the 2", "addresses for 1"]),
        (json!({ "mtu": 500 }), 400, &["mtu must be from 576"]),
        (json!({ "ipv6": { "subnet": "fd77::/48" } }), 400, &["ipv6 must"]),
        (json!({ "dns": ["9.9.9.9", "9.9.9.9"] }), 400, &["dns must", "repeated"]),
        (json!({ "domain": "x.local" }), 400, &["domain must"]),
        (json!({}), 400, &["at least one"]),
        (json!({ "nam": "x" }), 400, &["nam"]),
    ] {
        refused(&daemon.put(&path, body).await, status, words);
    }
    let same = daemon.get(&path).await.expect(200);
    assert_eq!((&same["subnet"], &same["mtu"]), (&json!("10.78.0.0/28"), &json!(1400)));
    // Null is what nobody said; what is not given stays.
    let plain = daemon.put(&path, json!({ "mtu": null, "dns": null, "domain": null, "notes": "n" })).await.expect(200);
    assert_eq!((&plain["mtu"], &plain["dns"], &plain["domain"]), (&Value::Null, &Value::Null, &json!("lan")));
    assert_eq!((&plain["subnet"], &plain["readdressed"]), (&json!("10.78.0.0/28"), &Value::Null));
    let yard = switch(&daemon, json!({ "name": "Yard", "type": "private" })).await;
    let never = daemon.put(&format!("/switches/{yard}"), json!({ "subnet": "10.81.0.0/24" })).await;
    refused(&never, 400, &["subnet must be given only for internal switches"]);
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_port_of_the_host_leads_to_one_guest_and_goes_with_its_nic() {
    let host = Host::leave();
    // Its end of the cable is there for as long as it is.
    let peer = Peer::new();
    peer.connect("up0", "far");
    ip("addr add 192.0.2.1/24 dev up0");
    let mut daemon = Daemon::start();
    let lan = switch(&daemon, nat("LAN", "10.77.0.0/24")).await;
    let other = switch(&daemon, nat("Other", "10.78.0.0/24")).await;
    let quiet = switch(&daemon, json!({ "name": "Quiet", "type": "internal", "subnet": "10.79.0.0/24" })).await;
    let web = vm(&daemon, "web", json!([{ "switch": "LAN" }, { "switch": "Quiet" }])).await;
    let db = vm(&daemon, "db", json!([{ "switch": "Other" }])).await;
    let path = format!("/switches/{lan}/forwards");
    let body = json!({ "host_port": 8443, "vm": web, "guest_port": 443 });
    let made = daemon.post(&path, body.clone()).await.expect(201);
    assert_eq!(
        (&made["guest_address"], &made["device"], &made["host_address"]),
        (&json!("10.77.0.2"), &json!("net0"), &Value::Null)
    );
    let listener = std::net::TcpListener::bind("192.0.2.1:8444").unwrap();
    let api = json!(daemon.url.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
    let with = |changes: &[(&str, Value)]| {
        let mut body = body.clone();
        changes.iter().for_each(|(name, value)| body[*name] = value.clone());
        body
    };
    for (to, body, status, words) in [
        (&lan, body.clone(), 409, &["tcp 0.0.0.0:8443", "web", "LAN"][..]),
        (&other, with(&[("vm", json!(db)), ("host_address", json!("192.0.2.1"))]), 409, &["8443", "web", &web, "LAN"]),
        (
            &lan,
            with(&[("host_address", json!("192.0.2.1")), ("host_port", json!(8444))]),
            409,
            &["192.0.2.1:8444", "in use"],
        ),
        (&lan, with(&[("host_address", json!("192.0.2.9")), ("host_port", json!(8444))]), 409, &["192.0.2.9:8444"]),
        (&lan, with(&[("host_address", json!("127.0.0.1")), ("host_port", json!(9))]), 400, &["host_address must"]),
        // What answers there is taken for the API.
        (&lan, with(&[("host_port", api.clone()), ("host_address", json!("192.0.2.1"))]), 400, &["qherd's API"]),
        (&lan, with(&[("host_port", json!(0))]), 400, &["host_port must be a port from 1 to 65535"]),
        (&lan, with(&[("guest_port", json!(65_536))]), 400, &["guest_port must be a port from 1 to 65535"]),
        (&lan, with(&[("vm", json!("web"))]), 400, &["vm must be the id of a VM"]),
        (&lan, with(&[("vm", json!(lan))]), 404, &["VM not found"]),
        (&lan, with(&[("vm", json!(db)), ("host_port", json!(9))]), 409, &["db", "no NIC on the switch LAN"]),
        (&lan, with(&[("network", json!("net1")), ("host_port", json!(9))]), 404, &["net1"]),
        (&quiet, with(&[("host_port", json!(9))]), 409, &["Quiet", "no NAT"]),
        (&lan, with(&[("port", json!(9))]), 400, &["port"]),
        (&web, body.clone(), 404, &["Switch not found"]),
    ] {
        refused(&daemon.post(&format!("/switches/{to}/forwards"), body).await, status, words);
    }
    drop(listener);
    daemon.post(&path, with(&[("protocol", json!("udp"))])).await.expect(201);
    refused(&daemon.put(&format!("/switches/{lan}"), json!({ "nat": false })).await, 409, &["port forwards", "8443"]);
    daemon.kill();
    daemon.run();
    let list = daemon.get(&path).await.expect(200);
    assert_eq!((list.as_array().unwrap().len(), &list[0]), (2, &made));
    // Sixty-four of one NIC, and no more.
    for port in 1..=62 {
        daemon.post(&path, with(&[("host_port", json!(20_000 + port))])).await.expect(201);
    }
    refused(&daemon.post(&path, with(&[("host_port", json!(30_000))])).await, 400, &["at most 64"]);
    let gone = daemon.delete(&format!("{path}/{}", made["id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&gone["status"], &gone["host_port"]), (&json!("deleted"), &json!(8443)));
    refused(
        &daemon.delete(&format!("{path}/{}", made["id"].as_str().unwrap())).await,
        404,
        &["Port forward not found"],
    );
    refused(&daemon.delete(&format!("{path}/net0")).await, 400, &["Invalid UUID format."]);

    // The NIC goes, and so do they: the ports are others' at once.
    daemon.delete(&format!("/vms/{web}")).await.expect(200);
    assert_eq!(daemon.get(&path).await.expect(200), json!([]));
    let theirs = with(&[("vm", json!(db)), ("protocol", json!("udp"))]);
    daemon.post(&format!("/switches/{other}/forwards"), theirs).await.expect(201);
    daemon.put(&format!("/switches/{lan}"), json!({ "nat": false })).await.expect(200);
    drop((daemon, peer));
    host.assert_untouched();
}

#[tokio::test]
async fn the_other_dialect_has_all_of_it_in_its_own_words() {
    let daemon = hyperv::started();
    for (number, mount) in MOUNTS.into_iter().enumerate() {
        let client = Client::at(&daemon, mount);
        let subnet = format!("10.{}.0.0/24", 90 + number);
        let body = json!({
            "name": "LAN", "type": "Internal", "subnet": subnet, "nat": true, "dns": [], "domain": "lab",
            "hostAccess": true, "ipv6": { "subnet": format!("fd77:{number}::/64"), "nat": true }, "mtu": 1400,
        });
        let lan = client.post("/switches", body).await.expect(201)["id"].as_str().unwrap().to_owned();
        let path = format!("/switches/{lan}");
        let reported = client.get(&path).await.expect(200);
        assert_eq!(
            (&reported["Dns"], &reported["Domain"], &reported["HostAccess"]),
            (&json!([]), &json!("lab"), &json!(true)),
            "{reported}"
        );
        assert_eq!((&reported["Mtu"], &reported["IPv6"]["Nat"]), (&json!(1400), &json!(true)));
        refused(&client.put(&path, json!({ "hostAcces": true })).await, 400, &["hostAcces", "did you mean hostAccess"]);
        refused(&client.put(&path, json!({ "mtu": 1000 })).await, 400, &["mtu must be from 1280"]);
        client.put(&path, json!({ "dns": null, "hostAccess": false, "ipv6": null })).await.expect(200);
        let reported = client.get(&path).await.expect(200);
        assert_eq!(
            (&reported["Dns"], &reported["HostAccess"], &reported["IPv6"]),
            (&Value::Null, &json!(false), &Value::Null)
        );

        let body = json!({
            "name": "web", "memoryMB": 64, "vcpu": 1, "diskPath": "D:/HyperV", "diskGB": 1, "switchId": lan,
        });
        let web = client.post("/vms", body).await.expect(201)["id"].as_str().unwrap().to_owned();
        let adapters = format!("/vms/{web}/network-adapters");
        let add = json!({
            "switchId": lan, "macAddress": format!("00163E0000{number:02}"), "address": format!("10.{}.0.9", 90 + number),
            "allowSpoofing": true, "bandwidth": { "inBitsPerSecond": 1_000_000 },
        });
        let added = client.post(&adapters, add.clone()).await.expect(201);
        refused(&client.post(&adapters, add).await, 409, &["00:16:3e:00:00", "web"]);
        let list = client.get(&adapters).await.expect(200);
        let nic = &list[1];
        assert_eq!(
            (&nic["MacAddress"], &nic["AllowSpoofing"]),
            (&json!(format!("00163E0000{number:02}")), &json!(true))
        );
        assert_eq!((&nic["IPAddresses"], &nic["Bandwidth"]["InBitsPerSecond"]), (&json!([]), &json!(1_000_000)));
        assert_eq!(
            (&list[0]["ReservedIPAddress"], &list[0]["DnsName"]),
            (&json!(format!("10.{}.0.2", 90 + number)), &json!("web.lab"))
        );
        let nic = format!("{adapters}/{}", added["id"].as_str().unwrap());
        client.put(&nic, json!({ "allowSpoofing": false, "isolated": true, "bandwidth": null })).await.expect(200);
        let now = client.get(&adapters).await.expect(200)[1].clone();
        assert_eq!(
            (&now["AllowSpoofing"], &now["Isolated"], &now["Bandwidth"]),
            (&json!(false), &json!(true), &Value::Null)
        );
        refused(&client.put(&nic, json!({})).await, 400, &["allowSpoofing", "at least one"]);
        refused(&client.put(&format!("{adapters}/x"), json!({ "isolated": true })).await, 404, &["not found"]);

        let forwards = format!("{path}/forwards");
        let forward = json!({ "hostPort": 8443 + number, "vmId": web, "guestPort": 443 });
        let made = client.post(&forwards, forward.clone()).await.expect(201);
        let list = client.get(&forwards).await.expect(200);
        assert_eq!(
            (&list[0]["Id"], &list[0]["VmName"], &list[0]["GuestPort"]),
            (&made["id"], &json!("web"), &json!(443))
        );
        refused(&client.post(&forwards, forward).await, 409, &["leads to the VM web"]);
        refused(
            &client.post(&forwards, json!({ "hostPort": 0, "vmId": web, "guestPort": 1 })).await,
            400,
            &["hostPort must"],
        );
        refused(
            &client.post(&forwards, json!({ "hostPort": 1, "vmId": lan, "guestPort": 1 })).await,
            400,
            &["vmId must"],
        );
        client.delete(&format!("{forwards}/{}", made["id"].as_str().unwrap())).await.expect(200);
        refused(&client.delete(&format!("{forwards}/{lan}")).await, 404, &["Port forward not found"]);
        assert_eq!(client.get(&format!("{path}/leases")).await.expect(200), json!([]));
    }
}
