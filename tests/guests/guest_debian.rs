//! A whole Debian 12 on a switch: systemd-networkd in the place that udhcpc has in the small guest. Its boot takes minutes
//! without KVM, so it is run by hand: `scripts/build-guest --debian && cargo nextest run --test guests --run-ignored all
//! guest_debian::`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::nics::networks;
use crate::support::{Daemon, guest, netns::Host};
use serde_json::json;

/// For a boot, emulated.
const LONG: Duration = Duration::from_secs(900);

/// Waits until the guest says by its agent that it has the address that is its own.
async fn taken(daemon: &Daemon, id: &str) -> String {
    let begin = Instant::now();
    loop {
        let nic = networks(daemon, id).await.remove(0);
        if nic["addresses"][0].is_string() && nic["addresses"][0] == nic["reserved"] {
            return nic["reserved"].as_str().unwrap().to_owned();
        }
        assert!(begin.elapsed() < LONG, "{nic}\n{}", daemon.console(id).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Has the shell at the guest's serial console run something until it prints `wanted`.
async fn prints(daemon: &Daemon, id: &str, command: &str, wanted: &str) {
    let begin = Instant::now();
    let from = daemon.console(id).await.len();
    loop {
        let _serial = daemon.write_line(id, command);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let said = daemon.console(id).await;
        if said[from..].contains(wanted) {
            return;
        }
        assert!(begin.elapsed() < LONG, "{command} never printed {wanted}:\n{}", &said[from..]);
    }
}

#[tokio::test]
#[ignore = "a whole Debian boots for minutes without KVM"]
async fn networkd_of_a_debian_guest_has_the_address_the_way_out_and_the_names_of_its_switch() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let image = guest::image().with_file_name("debian.qcow2");
    assert!(Path::exists(&image), "{} is missing: run scripts/build-guest --debian", image.display());
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = json!({ "name": "deb", "vcpus": 1, "memory": 512, "disk_size": 2, "base_image": image });
    wish["networks"] = json!([{ "switch": "LAN", "address": "10.77.0.9" }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    assert_eq!(taken(&daemon, &id).await, "10.77.0.9");
    prints(&daemon, &id, "ip route", "default via 10.77.0.1").await;
    prints(&daemon, &id, "networkctl status --no-pager --all", "10.77.0.1").await;
    prints(&daemon, &id, "ping -c 1 10.77.0.1", "1 received").await;
    let nic = networks(&daemon, &id).await.remove(0);
    assert_eq!(nic["dns_name"], "deb.lan");
    let leases = daemon.get(&format!("/switches/{lan}/leases")).await.expect(200);
    assert_eq!((leases.as_array().unwrap().len(), &leases[0]["address"]), (1, &json!("10.77.0.9")), "{leases}");

    // A client that comes anew, as after a boot of the guest, is not refused what it had.
    prints(
        &daemon,
        &id,
        "networkctl renew eth0 ens1 enp1s0 2>/dev/null; systemctl restart systemd-networkd; echo a''new",
        "anew",
    )
    .await;
    prints(&daemon, &id, "ip addr", "10.77.0.9/24").await;
    let log = std::fs::read_to_string(daemon.state().join("net").join(&lan.replace('-', "")[..12]).join("dnsmasq.log"));
    assert!(!log.unwrap().contains("NAK"));
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}
