//! A deletion that cannot be completed at once: the VM is told as what it is, and goes at the next try.

use std::{fs, path::PathBuf};

use crate::support::{Answer, Daemon, Hold};
use serde_json::json;

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

/// Between the moment when it could be seen that the disks can be removed, and the one when they were to be.
#[tokio::test]
async fn a_deletion_that_was_refused_is_not_done_by_the_next_daemon() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let (images, away) = (daemon.state().join("images"), daemon.dir.path().join("away"));
    let hold = Hold::on(daemon.qemus()[0]);
    delete(&daemon, &id).await.expect(500);
    fs::rename(&images, &away).unwrap();
    drop(hold);
    daemon.await_status(&id, "stopped").await;
    let refused = delete(&daemon, &id).await;
    assert!(refused.message().contains("its storage is not mounted, it seems"), "{refused:?}");
    refused.expect(409);
    daemon.kill();
    fs::rename(&away, &images).unwrap();
    daemon.run();
    assert_eq!(daemon.status(&id).await, "stopped");
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    delete(&daemon, &id).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_delete_that_failed_can_be_tried_again_after_a_restart() {
    let mut daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    // A folder in the disk's place cannot be removed like a file, not even by root.
    let disk = daemon.state().join("images").join(&id).join("root.qcow2");
    fs::remove_file(&disk).unwrap();
    fs::create_dir(&disk).unwrap();
    daemon.delete(&format!("/vms/{id}")).await.expect(500);
    daemon.kill();
    daemon.run();
    daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    daemon.delete(&format!("/vms/{id}")).await.expect(500);
    fs::remove_dir(&disk).unwrap();
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert!(!disk.parent().unwrap().exists());
    daemon.get(&format!("/vms/{id}/status")).await.expect(404);
}
