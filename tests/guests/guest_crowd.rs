//! Thirty real guests on one switch. It takes minutes without KVM, so it is run by hand:
//! `cargo nextest run --test guest_crowd --run-ignored all`.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use crate::nics::networks;
use crate::support::{Daemon, guest, netns::Host};
use serde_json::json;

const GUESTS: usize = 30;
/// Emulated, all at once, on few cores.
const LONG: Duration = Duration::from_secs(1800);

async fn address(daemon: &Daemon, id: &str) -> Option<String> {
    networks(daemon, id).await[0]["addresses"][0].as_str().map(str::to_owned)
}

#[tokio::test]
#[ignore = "thirty guests take minutes without KVM"]
async fn thirty_guests_on_one_switch_each_have_their_own_address_and_name() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let wish = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut ids = Vec::new();
    for number in 0..GUESTS {
        let mut wish = guest::wish();
        (wish["name"], wish["memory"]) = (json!(format!("vm{number}")), json!(128));
        (wish["networks"], wish["start"]) = (json!([{ "switch": "LAN" }]), json!(true));
        ids.push(daemon.create(wish).await);
    }
    let begin = Instant::now();
    for id in &ids {
        while address(&daemon, id).await.is_none() {
            assert!(begin.elapsed() < LONG, "{}", daemon.console(id).await);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    eprintln!("{GUESTS} guests have their addresses {} s after the last was created", begin.elapsed().as_secs());
    let mut all = BTreeSet::new();
    for id in &ids {
        let nic = networks(&daemon, id).await.remove(0);
        assert_eq!(nic["addresses"][0], nic["reserved"], "{nic}");
        all.insert(nic["reserved"].to_string());
    }
    assert_eq!(all.len(), GUESTS, "{all:?}");
    let folder = daemon.state().join("net").join(&lan.replace('-', "")[..12]);
    let log = fs::read_to_string(folder.join("dnsmasq.log")).unwrap();
    assert!(!log.contains("NAK"), "{log}");
    let leases = daemon.get(&format!("/switches/{lan}/leases")).await.expect(200);
    assert_eq!(leases.as_array().unwrap().len(), GUESTS, "{leases}");

    // Each resolves the next one's name, and reaches it.
    for (at, id) in ids.iter().enumerate() {
        let next = (at + 1) % GUESTS;
        let of_next = address(&daemon, &ids[next]).await.unwrap();
        let ask = format!(
            "until nslookup vm{next}.lan 10.77.0.1 | grep -q {of_next} && ping -c 1 -W 9 {of_next} >/dev/null; do sleep 1; done; echo met-''{next}"
        );
        daemon.type_line(id, &ask, &format!("met-{next}")).await;
    }
    for id in &ids {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}
