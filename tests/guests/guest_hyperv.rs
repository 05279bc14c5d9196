//! Real guests under the Hyper-V dialect: stops and restarts that are their agent's alone, a suspended guest that stands
//! still, and a CD of a distribution that boots.

use crate::hyperv;

use crate::hyperv::{Client, Mount};
use crate::support::{Daemon, guest};
use serde_json::json;

fn prepared(args: &[&str]) -> Daemon {
    let folder = guest::image().parent().unwrap().display().to_string();
    let mut daemon = hyperv::prepared(&["--image-dir", &folder]);
    daemon.add_args(args);
    daemon
}

#[tokio::test]
async fn a_guest_is_stopped_and_restarted_by_its_agent_or_left_running() {
    let mut daemon = prepared(&[]);
    let mut hasty = daemon.command();
    hasty.env("QHERD_STOP_TIMEOUT", "2");
    daemon.run_as(hasty);
    let mut wish = guest::wish();
    (wish["name"], wish["start"]) = (json!("guest"), json!(true));
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}");
    let first = daemon.await_boot(&id, None).await;

    // The restart is under way when it is answered; the time that a stop is given does not count for a boot.
    let client = Client::at(&daemon, Mount::Root);
    let answer = client.post(&format!("{path}/restart"), json!({})).await.expect(200);
    assert_eq!(answer, json!({ "restarted": "guest" }));
    let second = daemon.await_boot(&id, Some(&first)).await;
    daemon.await_status(&id, "running").await;

    // Suspended, it stands still; the KVM dialect lets it go on.
    client.post(&format!("{path}/suspend"), json!({})).await.expect(200);
    let standing = daemon.beats(&id).await.len();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(daemon.beats(&id).await.len(), standing);
    daemon.post(&format!("/vms/{id}/resume"), json!({})).await.expect(200);
    daemon.await_beat(&id, |beat| beat.boot == second.boot && beat.beat > second.beat + 1).await;

    // An agent that does what it is told, in a guest that does not: after the time that this daemon gives it, it runs.
    // What is typed comes back on the console as well, hence the quotes.
    let deaf =
        "mv /sbin/shutdown /sbin/away; echo '#!/bin/sh' >/sbin/shutdown; chmod +x /sbin/shutdown; echo made de''af";
    daemon.type_line(&id, deaf, "made deaf").await;
    let answer = client.post(&format!("{path}/stop"), json!({})).await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert_eq!(answer.body["error"], "Shutdown integration service not available or not enabled");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("in time") && detail.contains("force"), "{detail}");
    assert_eq!(client.state(&id).await, "Running");
    let last = daemon.beats(&id).await.pop().unwrap();
    daemon.await_beat(&id, |beat| beat.boot == second.boot && beat.beat > last.beat).await;

    // With the usual time, and a guest that heeds.
    daemon.terminate();
    daemon.run();
    daemon.await_status(&id, "running").await;
    let client = Client::at(&daemon, Mount::Root);
    daemon.type_line(&id, "mv /sbin/away /sbin/shutdown; echo made we''ll", "made well").await;
    let answer = client.post(&format!("{path}/stop"), json!({})).await.expect(200);
    assert_eq!(answer, json!({ "stopped": "guest" }));
    assert_eq!((client.state(&id).await.as_str(), daemon.qemus()), ("Off", vec![]));
    client.delete(&path).await.expect(200);
}

/// The rescue CD of Debian's `grub-rescue-pc`, from an empty disk, on both machines. Its menu is on the serial console.
#[tokio::test]
async fn the_cd_of_a_distribution_boots_where_the_disk_is_empty() {
    const CD: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";
    assert!(std::path::Path::new(CD).exists(), "{CD} is missing: install grub-rescue-pc (scripts/test does it)");
    let mut daemon = prepared(&["--image-dir", "/usr/lib/grub-rescue"]);
    daemon.run();
    let client = Client::at(&daemon, Mount::Root);
    let mut wish = hyperv::wish("rescue");
    (wish["memoryMB"], wish["isoPath"]) = (json!(128), json!(CD));
    let id = client.created("/vms", wish).await;
    let path = format!("/vms/{id}");
    client.post(&format!("{path}/start"), json!({})).await.expect(200);
    daemon.await_console(&id, "GNU GRUB", 0).await;
    assert_eq!(client.state(&id).await, "Running");

    // Without the CD there is nothing that boots.
    client.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(client.put(&path, json!({ "isoPath": null })).await.expect(200)["updated"], true);
    assert_eq!(client.get(&path).await.expect(200)["IsoPath"], json!(null));
    client.post(&format!("{path}/start"), json!({})).await.expect(200);
    client.delete(&path).await.expect(200);
    assert!(std::path::Path::new(CD).exists(), "it is the user's");

    // By the KVM dialect on the other machine: a disk that boots comes before the CD.
    let mut wish = daemon.wish();
    (wish["iso"], wish["profile"], wish["start"], wish["memory"]) = (json!(CD), json!("pc"), json!(true), json!(128));
    let id = daemon.create(wish).await;
    daemon.await_console(&id, "GNU GRUB", 0).await;
    // Its menu keeps a core busy.
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    let mut wish = guest::wish();
    (wish["iso"], wish["start"]) = (json!(CD), json!(true));
    let id = daemon.create(wish).await;
    daemon.await_beat(&id, |beat| beat.disk_mib == 1024).await;
    assert!(!daemon.console(&id).await.contains("GNU GRUB  version"), "the disk boots");
}
