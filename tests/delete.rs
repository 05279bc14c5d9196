//! A deletion that cannot be completed at once: the VM is told as what it is, and goes at the next try.

mod support;

use std::{fs, path::PathBuf};

use serde_json::json;
use support::{Answer, Daemon};

const LONG: u64 = 3600;

/// A running VM whose disk cannot be removed, because a folder has taken its place.
async fn with_an_odd_disk(daemon: &Daemon) -> (String, PathBuf) {
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let disk = daemon.state().join("images").join(&id).join("root.qcow2");
    fs::remove_file(&disk).unwrap();
    fs::create_dir(&disk).unwrap();
    (id, disk)
}

async fn delete(daemon: &Daemon, id: &str) -> Answer {
    daemon.delete(&format!("/vms/{id}")).await
}

#[tokio::test]
async fn what_cannot_be_removed_is_named_and_the_vm_can_be_deleted_again() {
    let daemon = Daemon::start();
    let (id, disk) = with_an_odd_disk(&daemon).await;
    let stop = format!("/vms/{id}/stop");
    let (stopped, ()) = tokio::join!(daemon.post(&stop, json!({ "timeout": LONG })), async {
        daemon.await_status(&id, "stopping").await;
        for _ in 0..2 {
            let body = delete(&daemon, &id).await.expect(500);
            let detail = body["error"]["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("cannot remove {}", disk.display())), "{detail}");
            assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
        }
    });
    assert_eq!(stopped.expect(200)["forced"], true);
    fs::remove_dir(&disk).unwrap();
    delete(&daemon, &id).await.expect(200);
    delete(&daemon, &id).await.expect(404);
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_deletion_that_was_begun_is_completed_by_the_next_daemon() {
    let mut daemon = Daemon::start();
    let (id, disk) = with_an_odd_disk(&daemon).await;
    delete(&daemon, &id).await.expect(500);
    daemon.kill();
    fs::remove_dir(&disk).unwrap();
    daemon.run();
    daemon.get(&format!("/vms/{id}")).await.expect(404);
    assert_eq!((daemon.leftovers(), daemon.get("/vms").await.expect(200)), (vec![], json!([])));
}
