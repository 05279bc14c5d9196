//! What real guests get from the DHCP and the DNS of a switch: an address that was another's a moment ago, one for each of
//! two clones, names and their way back, IPv6; and an address also where nobody can answer questions for names.

use std::time::{Duration, Instant};

use crate::nics::networks;
use crate::support::{Daemon, PATIENCE, guest, netns::Host};
use serde_json::{Value, json};

async fn create(daemon: &Daemon, name: &str) -> String {
    let mut wish = guest::wish();
    (wish["name"], wish["networks"], wish["start"]) = (json!(name), json!([{ "switch": "LAN" }]), json!(true));
    daemon.create(wish).await
}

/// The address of fd77::/64 that a guest makes of its MAC address (RFC 4291, appendix A).
fn of_mac(mac: &str) -> String {
    let bytes: Vec<u16> = mac.split(':').map(|byte| u16::from_str_radix(byte, 16).unwrap()).collect();
    let pair = |high: u16, low: u16| high << 8 | low;
    let host = [pair(bytes[0] ^ 2, bytes[1]), pair(bytes[2], 0xff), pair(0xfe, bytes[3]), pair(bytes[4], bytes[5])];
    std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, host[0], host[1], host[2], host[3]).to_string()
}

/// Waits until the guest has taken an address, and returns it.
async fn taken(daemon: &Daemon, id: &str) -> String {
    let begin = Instant::now();
    loop {
        let nic = networks(daemon, id).await.remove(0);
        if let Some(address) = nic["addresses"][0].as_str() {
            return address.to_owned();
        }
        assert!(begin.elapsed() < PATIENCE, "{nic}\n{}", daemon.console(id).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Has the guest run something until it prints `wanted`.
async fn prints(daemon: &Daemon, id: &str, command: &str, wanted: &str) {
    let begin = Instant::now();
    let from = daemon.console(id).await.len();
    while begin.elapsed() < 3 * PATIENCE {
        // Open until the guest has answered: QEMU drops what a client sent that has hung up.
        let _serial = daemon.write_line(id, command);
        tokio::time::sleep(Duration::from_secs(3)).await;
        if daemon.console(id).await[from..].contains(wanted) {
            return;
        }
    }
    panic!("{command} never printed {wanted}:\n{}", &daemon.console(id).await[from..]);
}

#[tokio::test]
async fn an_address_and_a_name_go_with_their_vm_and_clones_each_have_their_own() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let body = json!({
        "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true, "dns": ["192.0.2.53"],
        "ipv6": { "subnet": "fd77::/64", "nat": true },
    });
    let lan = daemon.post("/switches", body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let (web, db) = (create(&daemon, "web").await, create(&daemon, "Data Base").await);
    assert_eq!((taken(&daemon, &web).await, taken(&daemon, &db).await), ("10.77.0.2".into(), "10.77.0.3".into()));
    // A name, short and long, and the way back; the other's is not this one's.
    prints(&daemon, &web, "nslookup data-base.lan 10.77.0.1", "10.77.0.3").await;
    prints(&daemon, &db, "nslookup 10.77.0.2 10.77.0.1", "web.lan").await;

    // It has made itself an IPv6 address, knows its router, and is called by its name there too.
    let own = of_mac(networks(&daemon, &db).await[0]["mac"].as_str().unwrap());
    prints(&daemon, &db, "ip -6 addr show dev eth0", &format!("{own}/64")).await;
    prints(&daemon, &db, "ip -6 route", "default via fe80::").await;
    prints(&daemon, &db, "ping -6 -c 1 -W 9 fd77::1", "1 packets received").await;
    prints(&daemon, &web, "nslookup -type=aaaa data-base.lan 10.77.0.1", &own).await;

    // Clones send one client id; each has the address of its own NIC, however often they ask.
    let ask = "udhcpc -f -n -q -i eth0 -x 0x3d:01636c6f6e65 -s /usr/lib/guest/dhcp 2>&1";
    for _ in 0..2 {
        prints(&daemon, &web, ask, "lease of 10.77.0.2 obtained").await;
        prints(&daemon, &db, ask, "lease of 10.77.0.3 obtained").await;
    }
    let leases = daemon.get(&format!("/switches/{lan}/leases")).await.expect(200);
    let reported: Vec<_> = leases
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| (&lease["address"], &lease["hostname"], &lease["vm_id"]))
        .collect();
    assert_eq!(
        reported,
        [(&json!("10.77.0.2"), &json!("web"), &json!(web)), (&json!("10.77.0.3"), &json!("data-base"), &json!(db))]
    );

    // The next VM is given the address of one that is gone, and gets it.
    daemon.delete(&format!("/vms/{web}")).await.expect(200);
    let left = daemon.get(&format!("/switches/{lan}/leases")).await.expect(200);
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    let next = create(&daemon, "next").await;
    let nic = networks(&daemon, &next).await.remove(0);
    assert_eq!((&nic["reserved"], &nic["addresses"]), (&json!("10.77.0.2"), &json!([])), "it has not got it yet");
    assert_eq!(taken(&daemon, &next).await, "10.77.0.2");
    prints(&daemon, &db, "nslookup next.lan 10.77.0.1", "10.77.0.2").await;
    prints(&daemon, &next, "ip addr show dev eth0", "10.77.0.2/24").await;
    // Off, it has none.
    daemon.post(&format!("/vms/{next}/stop?force=true"), json!({})).await.expect(200);
    let nic = networks(&daemon, &next).await.remove(0);
    assert_eq!((&nic["addresses"], &nic["reserved"]), (&json!([]), &json!("10.77.0.2")));
    for id in [db, next] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(daemon.get(&format!("/switches/{lan}/leases")).await.expect(200), Value::Array(Vec::new()));
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_list_tells_the_address_of_a_guest_that_nobody_has_asked() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    (wish["networks"], wish["start"]) = (json!([{ "user": {} }]), json!(true));
    let id = daemon.create(wish).await;
    for _ in 0..2 {
        let begin = Instant::now();
        loop {
            let listed = daemon.get("/vms").await.expect(200);
            if listed[0]["addresses"].as_array().unwrap().iter().any(|address| address.as_str().unwrap().contains('.'))
            {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{listed}\n{}", daemon.console(&id).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // A next daemon has asked nobody yet.
        daemon.kill();
        daemon.run();
    }
}

#[tokio::test]
async fn an_address_is_waited_for_until_the_dhcp_has_given_it() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let body = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" });
    daemon.post("/switches", body).await.expect(201);
    let id = create(&daemon, "web").await;
    let path = format!("/vms/{id}/status?wait=ip&timeout=110");
    let status = daemon.get(&path).await.expect(200);
    assert_eq!(status["reached"], true, "{status}\n{}", daemon.console(&id).await);
    assert_eq!(networks(&daemon, &id).await[0]["addresses"], json!(["10.77.0.2"]));
    // There by now, at once.
    assert_eq!(daemon.get(&path).await.expect(200)["reached"], true);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_guest_has_an_address_also_where_the_port_of_dns_is_taken() {
    let host = Host::leave();
    let taken_by =
        (std::net::UdpSocket::bind("0.0.0.0:53").unwrap(), std::net::TcpListener::bind("0.0.0.0:53").unwrap());
    let daemon = guest::daemon();
    let body =
        json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true, "dns": ["192.0.2.53"] });
    daemon.post("/switches", body).await.expect(201);
    let id = create(&daemon, "web").await;
    assert_eq!(taken(&daemon, &id).await, "10.77.0.2");
    // It is told of those whom the switch would have asked.
    let ask = "echo '#!/bin/sh' >/tmp/e; echo env >>/tmp/e; chmod +x /tmp/e; udhcpc -f -n -q -i eth0 -s /tmp/e 2>&1 | grep dns=";
    prints(&daemon, &id, ask, "dns=192.0.2.53").await;
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    drop((daemon, taken_by));
    host.assert_untouched();
}
