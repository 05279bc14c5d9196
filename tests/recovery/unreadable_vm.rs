//! A VM whose record cannot be read, and whose guest lives: what its switch gave it stays its own.

use crate::db;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::nics::{networks, tap_of, taps};
use crate::support::{
    Daemon,
    netns::{Host, ip_json},
};
use serde_json::{Value, json};

/// Changes the records of a daemon that does not run.
fn change_records(daemon: &Daemon, change: impl Fn(String) -> String) {
    let changed: Vec<String> = db::records(&daemon.state()).into_iter().map(change).collect();
    db::done(&mut db::import(&daemon.state(), &changed, &["--replace"]));
}

/// Waits until the list of a switch's DHCP has `line`: the lists are written beside the start, one after the other.
async fn await_list(list: &Path, line: &str) {
    let begin = Instant::now();
    while !fs::read_to_string(list).is_ok_and(|lines| lines.contains(line)) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{} never has {line:?}", list.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_live_guest_whose_record_cannot_be_read_keeps_its_address_and_its_name() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let wish = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let switch = daemon.post("/switches", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
    let running = |name: &str, networks: Value| {
        let mut wish = daemon.wish();
        (wish["name"], wish["networks"], wish["start"]) = (json!(name), networks, json!(true));
        wish
    };
    let web = daemon.create(running("web", json!([{ "switch": "LAN" }]))).await;
    let nic = networks(&daemon, &web).await.remove(0);
    assert_eq!(nic["reserved"], "10.77.0.2");
    let next = running("db", json!([{ "switch": "LAN" }]));
    let taken = json!({ "switch": "LAN", "address": "10.77.0.2" });
    let same = json!({ "switch": "LAN", "mac": nic["mac"] });

    // What is known of its address then is what DHCP was told.
    let folder = daemon.state().join("net").join(&switch.replace('-', "")[..12]);
    let own = format!("{},id:*,10.77.0.2,web\n", nic["mac"].as_str().unwrap());
    await_list(&folder.join("hosts"), &own).await;
    await_list(&folder.join("names"), "10.77.0.2 web.lan web\n").await;
    daemon.kill();
    let damage = |from: &'static str, to: &'static str| {
        let web = web.clone();
        move |line: String| if line.contains(&format!("vm/{web}")) { line.replace(from, to) } else { line }
    };
    change_records(&daemon, damage("\"memory\":64", "\"memory\":65"));
    daemon.run();
    daemon.get(&format!("/vms/{web}")).await.expect(500);
    // Another comes, and DHCP is told of it.
    let other = daemon.create(next).await;
    assert_eq!(networks(&daemon, &other).await[0]["reserved"], "10.77.0.3");
    await_list(&folder.join("hosts"), ",10.77.0.3,db\n").await;
    await_list(&folder.join("names"), "10.77.0.3 db.lan db\n").await;
    let [hosts, names] = ["hosts", "names"].map(|list| fs::read_to_string(folder.join(list)).unwrap());
    assert!(hosts.contains(&own), "{hosts}");
    assert_eq!(names, "10.77.0.2 web.lan web\n10.77.0.3 db.lan db\n");
    for body in [taken, same] {
        let refused = daemon.post(&format!("/vms/{other}/networks"), body).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.message().contains("a VM whose record cannot be read"), "{refused:?}");
    }
    daemon.delete(&format!("/vms/{other}")).await.expect(200);
    let refused = daemon.delete(&format!("/switches/{switch}")).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.message().contains(&web) && refused.message().contains("cannot be read"), "{refused:?}");
    assert!(taps().contains(&tap_of(&nic)));
    assert!(!ip_json(&format!("link show {}", tap_of(&nic)))[0]["master"].is_null());

    // Once it can be read, it is as it was.
    daemon.kill();
    change_records(&daemon, damage("\"memory\":65", "\"memory\":64"));
    daemon.run();
    daemon.await_status(&web, "running").await;
    assert_eq!(networks(&daemon, &web).await[0]["reserved"], "10.77.0.2");
    daemon.delete(&format!("/vms/{web}")).await.expect(200);
    daemon.delete(&format!("/switches/{switch}")).await.expect(200);
    assert_eq!(taps(), Vec::<String>::new());
    host.assert_untouched();
}
