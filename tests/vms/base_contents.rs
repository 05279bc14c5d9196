//! A base image that was given by its path and is exchanged under its clones: in place, by its name, for the same again, and while
//! it is still being copied there.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::SystemTime,
};

use serde_json::{Value, json};

use crate::support::{Answer, Daemon};

async fn start(daemon: &Daemon, id: &str) -> Answer {
    daemon.post(&format!("/vms/{id}/start"), json!({})).await
}

async fn off(daemon: &Daemon, id: &str) {
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
}

async fn state(daemon: &Daemon) -> Value {
    daemon.get("/base-images").await.expect(200)[0]["state"].clone()
}

async fn refused(daemon: &Daemon, id: &str) {
    let answer = start(daemon, id).await;
    let said = answer.message();
    assert_eq!(answer.status, 409, "{answer:?}");
    for word in ["base.raw has another content", "the disk root", "it had 8388608 bytes of", "and has", "accept_base"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(state(daemon).await, "changed");
}

#[tokio::test]
async fn another_content_under_a_clone_is_refused_at_a_start_and_the_same_again_passes() {
    let mut daemon = Daemon::start();
    let base = daemon.bases().join("base.raw");
    let kept = daemon.dir.path().join("kept.raw");
    let content: Vec<u8> = (0..8_u32 << 20).map(|at| (at / 5000) as u8).collect();
    fs::write(&base, &content).unwrap();
    fs::copy(&base, &kept).unwrap();
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "base.raw" });
    let id = daemon.post("/vms", wish.clone()).await.expect(201)["id"].as_str().unwrap().to_owned();
    assert_eq!(state(&daemon).await, "as_cloned");
    start(&daemon, &id).await.expect(200);
    off(&daemon, &id).await;

    // Touched, it is the same.
    File::options().write(true).open(&base).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(state(&daemon).await, "as_cloned");
    start(&daemon, &id).await.expect(200);
    off(&daemon, &id).await;

    // Exchanged by its name, and in place; a daemon that comes later knows of it as well.
    let other = daemon.bases().join("other.raw");
    fs::write(&other, vec![7; 8 << 20]).unwrap();
    fs::rename(&other, &base).unwrap();
    refused(&daemon, &id).await;
    daemon.kill();
    daemon.run();
    refused(&daemon, &id).await;
    // A backup is put back.
    fs::copy(&kept, &base).unwrap();
    assert_eq!(state(&daemon).await, "as_cloned");
    start(&daemon, &id).await.expect(200);
    off(&daemon, &id).await;
    File::options().write(true).open(&base).unwrap().write_all_at(b"in place", 4 << 20).unwrap();
    refused(&daemon, &id).await;

    // Whoever says so goes on over it; whoever copies it has what is there now.
    let disk = format!("/vms/{id}/disks/root");
    for (body, said) in [(json!({ "accept_base": false }), "be true"), (json!({}), "accept_base")] {
        let answer = daemon.put(&disk, body).await;
        assert!(answer.status == 400 && answer.message().contains(said), "{answer:?}");
    }
    daemon.put(&disk, json!({ "accept_base": true })).await.expect(200);
    assert_eq!(state(&daemon).await, "as_cloned");
    start(&daemon, &id).await.expect(200);
    daemon.kill();
    daemon.run();
    off(&daemon, &id).await;
    start(&daemon, &id).await.expect(200);
    off(&daemon, &id).await;
    fs::remove_file(&base).unwrap();
    assert_eq!(state(&daemon).await, "missing");
}

#[tokio::test]
async fn a_base_that_somebody_still_writes_is_not_taken() {
    let daemon = Daemon::start();
    let base = daemon.bases().join("copied.raw");
    let copier = File::create(&base).unwrap();
    copier.set_len(8 << 20).unwrap();
    let wish =
        |clone: &str| json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "copied.raw", "clone": clone });
    for clone in ["linked", "full"] {
        let answer = daemon.post("/vms", wish(clone)).await;
        let me = format!("process {}", std::process::id());
        assert!(answer.status == 409 && answer.message().contains(&me), "{answer:?}");
    }
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    drop(copier);
    let id = daemon.post("/vms", wish("full")).await.expect(201)["id"].as_str().unwrap().to_owned();
    // It stands alone: what becomes of its base is nothing to it.
    fs::write(&base, "another").unwrap();
    start(&daemon, &id).await.expect(200);
    let answer = daemon.put(&format!("/vms/{id}/disks/root"), json!({ "accept_base": true })).await;
    assert!(answer.status == 400 && answer.message().contains("lies on a base image"), "{answer:?}");
    off(&daemon, &id).await;
}
