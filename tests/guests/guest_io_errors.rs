//! The host's storage fills up, or hangs, under a guest that writes. The disks lie on a file system of the test's own.

use std::{fs, time::Duration};

use crate::filesystem::Mount;
use crate::support::{Daemon, PATIENCE, guest};
use serde_json::{Value, json};

/// A daemon whose disks lie on `mount`, which is made below its state directory.
fn daemon(mount: impl FnOnce(&std::path::Path) -> Mount) -> (Daemon, Mount) {
    let folder = guest::image().parent().unwrap().display().to_string();
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--image-dir", &folder]);
    fs::create_dir(daemon.state()).unwrap();
    let mount = mount(&daemon.state().join("images"));
    daemon.run();
    (daemon, mount)
}

async fn booted(daemon: &Daemon, on_io_error: &str) -> String {
    let mut wish = guest::wish();
    wish["on_io_error"] = json!(on_io_error);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    id
}

/// Bytes that nobody can write any more but `spare` of them.
fn fill(mount: &Mount, spare: u64) -> std::path::PathBuf {
    let ballast = mount.path().join("ballast");
    let space = rustix::fs::statvfs(mount.path()).unwrap();
    let size = (space.f_bfree * space.f_frsize).saturating_sub(spare);
    rustix::fs::fallocate(fs::File::create(&ballast).unwrap(), rustix::fs::FallocateFlags::empty(), 0, size).unwrap();
    ballast
}

/// 48 MiB into what the guest does not use itself. Flushed: clusters that QEMU has not yet noted as used when it is killed
/// would be room for the next write.
const WRITE: &str =
    "dd if=/dev/urandom of=/dev/vda bs=1M seek=600 count=48 oflag=direct conv=notrunc,fsync; echo wri''tten-$?";

async fn paused(daemon: &Daemon, id: &str) -> Value {
    daemon.await_status(id, "paused").await;
    daemon.get(&format!("/vms/{id}/status")).await.expect(200)
}

#[tokio::test]
async fn a_guest_whose_disk_is_full_is_paused_and_goes_on_by_itself_with_retry_when_there_is_space() {
    let (mut daemon, mount) = daemon(|at| Mount::tmpfs(at, 256));
    let id = booted(&daemon, "retry").await;
    let ballast = fill(&mount, 8 << 20);
    let from = daemon.console(&id).await.len();
    let _serial = daemon.write_line(&id, WRITE);
    let status = paused(&daemon, &id).await;
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("I/O error on root: no space left") && reason.contains("goes on by itself"), "{reason}");

    // A daemon that was not there when it happened knows it all the same.
    daemon.kill();
    daemon.run();
    assert_eq!(paused(&daemon, &id).await["reason"], reason);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(daemon.status(&id).await, "paused", "there is no space yet");

    fs::remove_file(ballast).unwrap();
    daemon.await_status(&id, "running").await;
    daemon.await_console(&id, "written-0", from).await;
    assert_eq!(daemon.status(&id).await, "running");
}

#[tokio::test]
async fn a_guest_whose_disk_is_full_waits_for_a_client_unless_it_is_to_be_told() {
    let (daemon, mount) = daemon(|at| Mount::tmpfs(at, 256));
    let id = booted(&daemon, "pause").await;
    let ballast = fill(&mount, 8 << 20);
    let from = daemon.console(&id).await.len();
    let serial = daemon.write_line(&id, WRITE);
    let reason = paused(&daemon, &id).await["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("no space left") && reason.contains("start lets the guest go on"), "{reason}");
    fs::remove_file(&ballast).unwrap();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.await_console(&id, "written-0", from).await;
    assert_eq!(daemon.status(&id).await, "running");
    drop(serial);

    // A change of mind, while it is paused again.
    fill(&mount, 1 << 20);
    let serial = daemon.write_line(&id, &WRITE.replace("seek=600", "seek=700"));
    let from = daemon.console(&id).await.len();
    paused(&daemon, &id).await;
    daemon.put(&format!("/vms/{id}/policy"), json!({ "on_io_error": "retry" })).await.expect(200);
    fs::remove_file(&ballast).unwrap();
    daemon.await_console(&id, "written-0", from).await;
    drop(serial);

    // With `report` the guest learns of it, and runs on.
    daemon.put(&format!("/vms/{id}/policy"), json!({ "on_io_error": "report" })).await.expect(200);
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let from = daemon.console(&id).await.len();
    daemon.await_console(&id, "qherd-guest: beat=", from).await;
    fill(&mount, 1 << 20);
    let _serial = daemon.write_line(&id, &WRITE.replace("seek=600", "seek=800"));
    daemon.await_console(&id, "written-1", from).await;
    assert_eq!(daemon.status(&id).await, "running");
}

#[tokio::test]
async fn with_frozen_storage_the_monitor_goes_on_answering_and_a_forced_stop_says_what_it_waits_for() {
    let (daemon, mount) = {
        let image = tempfile::Builder::new().prefix("qherd-test-disk-").tempdir().unwrap();
        let file = image.path().join("disk.img");
        let (daemon, mount) = daemon(|at| Mount::ext4(at, &file, 512));
        (daemon, (mount, image))
    };
    let id = booted(&daemon, "pause").await;
    let frozen = mount.0.freeze();
    let from = daemon.console(&id).await.len();
    let serial = daemon.write_line(&id, WRITE);
    // Longer than it takes to find a monitor mute; the guest's heart goes on beating.
    let beats = daemon.beats(&id).await.len();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert_eq!(daemon.status(&id).await, "running");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(daemon.beats(&id).await.len() > beats);
    assert!(!daemon.console(&id).await[from..].contains("written-"), "the write hangs");

    let reported = daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await;
    let body = reported.expect(500);
    assert!(body["error"]["detail"].as_str().unwrap().contains("the kernel still holds it"), "{body}");
    assert_eq!(daemon.status(&id).await, "stopping");
    drop((serial, frozen));
    daemon.await_status(&id, "stopped").await;
    let begun = std::time::Instant::now();
    while !daemon.qemus().is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}
