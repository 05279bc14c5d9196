//! A copy of a state directory that nothing tells to be one, beside the original: two daemons that know the same switches
//! and NICs by the same ids. Neither takes down, joins or changes what the other has on the host's network. Disks and
//! processes of copies are in `moved_state.rs`.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    Daemon, PATIENCE, dnsmasqs_below, kill_all,
    netns::{Host, ip_json, nft},
    network_mark,
};
use serde_json::{Value, json};

/// Every link with its mark and whose port it is.
fn links() -> Vec<[Value; 3]> {
    let links = ip_json("link").as_array().unwrap().clone();
    links.into_iter().map(|link| ["ifname", "ifalias", "master"].map(|field| link[field].clone())).collect()
}

#[tokio::test]
async fn two_daemons_of_one_state_leave_each_others_network_alone() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": lan }, { "switch": lan, "queues": 2 }]);
    let id = daemon.create(wish).await;
    daemon.kill();

    let mut other = Daemon::prepare(&["--accel", "tcg"]);
    assert!(Command::new("cp").arg("-a").args([daemon.state(), other.state()]).status().unwrap().success());
    // A backup need not have it, and somebody may have removed it.
    std::fs::remove_file(other.state().join("state.json")).unwrap();
    let bases = daemon.bases();
    other.add_args(&["--image-dir", bases.to_str().unwrap()]);
    daemon.run();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let (before, ruled) = (links(), nft("-s list ruleset"));
    assert_eq!(before.len(), 4, "{before:?}");

    other.run();
    assert_ne!(network_mark(&other.state()), network_mark(&daemon.state()));
    let switch = other.get(&format!("/switches/{lan}")).await.expect(200);
    assert!(switch["problem"].as_str().unwrap().contains("another state directory"), "{switch}");
    assert!(switch["problem"].as_str().unwrap().contains(&network_mark(&daemon.state())), "{switch}");
    // Neither a start, nor a NIC more of the taps that are there.
    let refused = other.post(&format!("/vms/{id}/start"), json!({})).await;
    assert!(refused.status >= 400, "{refused:?}");
    let refused = other.post(&format!("/vms/{id}/networks"), json!({ "switch": lan })).await;
    assert!([201, 409, 500].contains(&refused.status), "{refused:?}");
    other.delete(&format!("/vms/{id}")).await.expect(200);
    other.delete(&format!("/switches/{lan}")).await.expect(200);
    other.terminate();
    assert_eq!(links(), before);
    assert_eq!(nft("-s list ruleset"), ruled);
    daemon.await_status(&id, "running").await;
    for nic in daemon.get(&format!("/vms/{id}/networks")).await.expect(200).as_array().unwrap() {
        assert_eq!(nic["status"], "ok", "{nic}");
    }
    assert_eq!(daemon.get(&format!("/switches/{lan}")).await.expect(200)["problem"], Value::Null);

    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    assert_eq!(links().len(), 1);
    assert_eq!(nft("list ruleset"), "");
    drop((daemon, other));
    host.assert_untouched();
}

/// To another file system, say: it cannot prove that the original is no more, and tells its administrator what to do.
#[tokio::test]
async fn a_copy_that_takes_the_place_of_its_original_says_what_is_to_be_removed() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/switches/{lan}");
    daemon.terminate();
    let left = dnsmasqs_below(&daemon.state());
    let (old, kept) = (daemon.state(), daemon.dir.path().join("kept"));
    let before = network_mark(&old);
    std::fs::rename(&old, &kept).unwrap();
    assert!(Command::new("cp").arg("-a").args([&kept, &old]).status().unwrap().success());
    daemon.run();
    let problem = daemon.get(&path).await.expect(200)["problem"].as_str().unwrap().to_owned();
    assert!(nft("list ruleset").contains(&before));
    let commands: Vec<&str> = problem.split('`').skip(1).step_by(2).collect();
    assert_eq!(commands.len(), 4, "{problem}");
    for command in commands {
        assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    }
    // What the other's dnsmasq has is told by itself, until that is ended.
    kill_all(&left);
    let deadline = Instant::now() + PATIENCE;
    while daemon.get(&path).await.expect(200)["problem"] != Value::Null {
        assert!(Instant::now() < deadline, "{}", daemon.get(&path).await.expect(200));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!nft("list ruleset").contains(&before));
    daemon.delete(&path).await.expect(200);
    assert_eq!((links().len(), nft("list ruleset").as_str()), (1, ""));
    drop(daemon);
    host.assert_untouched();
}
