//! The daemon dies at every commit of what is done with a disk that was there before: whatever becomes of the VM, the file is
//! as it was, to the byte.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, crash::Side};

struct Theirs(TempDir);

impl Theirs {
    fn disk(&self, name: &str) -> PathBuf {
        let path = self.0.path().canonicalize().unwrap().join(name);
        if !path.exists() {
            let precious: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
            fs::write(&path, precious).unwrap();
        }
        path
    }
}

fn attach(path: &Path) -> Value {
    json!({ "path": path, "format": "raw" })
}

fn state(path: &Path) -> (Vec<u8>, u32, u64) {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (fs::read(path).unwrap(), metadata.mode(), metadata.ino())
}

/// Does it once for each of its commits and each side of it, on a VM that has a disk of theirs; `{}` stands for its id.
async fn dies_at_every_commit_of(method: Method, path: &str, body: impl Fn(&Theirs) -> Value, vm: bool) {
    let theirs = Theirs(tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap());
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", theirs.0.path().to_str().unwrap()]);
    let disks = [theirs.disk("root.img"), theirs.disk("data.img")];
    let before = disks.each_ref().map(|path| state(path));
    let mut deaths = 0;
    for commit in 1..20 {
        for side in Side::BOTH {
            let made = json!({ "vcpus": 1, "memory": 64, "disks": [attach(&disks[0]), { "disk_size": 1 }] });
            let id = if vm { daemon.create(made).await } else { String::new() };
            daemon.kill();
            daemon.run_as(daemon.dying_at(commit, side));
            let request =
                daemon.http().request(method.clone(), daemon.at(&path.replace("{}", &id))).json(&body(&theirs));
            let answer = daemon.try_send(request).await;
            let lives = answer.is_some() && daemon.comes_to_rest().await && !daemon.has_died();
            if lives {
                let answer = answer.unwrap();
                assert!((200..300).contains(&answer.status), "{answer:?}");
                daemon.kill();
                daemon.run();
            } else {
                deaths += 1;
                if !daemon.has_died() {
                    daemon.wait();
                }
                daemon.recover_dying().await;
            }
            let now = disks.each_ref().map(|path| state(path));
            assert!(now == before, "{side:?} commit {commit}: a disk is not what it was");
            for vm in daemon.get("/vms").await.expect(200).as_array().unwrap() {
                daemon.delete(&format!("/vms/{}", vm["id"].as_str().unwrap())).await.expect(200);
            }
            let now = disks.each_ref().map(|path| state(path));
            assert!(now == before, "{side:?} commit {commit}: the deletion touched a disk");
            assert_eq!(daemon.leftovers(), Vec::<PathBuf>::new(), "{side:?} commit {commit}");
            if lives && side == Side::Before {
                assert!(deaths > 0, "no crash made a difference");
                return;
            }
        }
    }
    panic!("it never ends");
}

#[tokio::test]
async fn a_create_leaves_an_attached_disk_as_it_was() {
    let wish = |theirs: &Theirs| {
        let disks = [attach(&theirs.disk("root.img")), attach(&theirs.disk("data.img")), json!({ "disk_size": 1 })];
        json!({ "vcpus": 1, "memory": 64, "disks": disks })
    };
    dies_at_every_commit_of(Method::POST, "/vms", wish, false).await;
}

#[tokio::test]
async fn a_create_with_start_leaves_an_attached_disk_as_it_was() {
    let wish = |theirs: &Theirs| json!({ "vcpus": 1, "memory": 64, "disks": [attach(&theirs.disk("root.img"))], "start": true });
    dies_at_every_commit_of(Method::POST, "/vms", wish, false).await;
}

#[tokio::test]
async fn adding_a_disk_leaves_it_as_it_was() {
    let disk = |theirs: &Theirs| attach(&theirs.disk("data.img"));
    dies_at_every_commit_of(Method::POST, "/vms/{}/disks", disk, true).await;
}

#[tokio::test]
async fn a_delete_leaves_an_attached_disk_as_it_was() {
    dies_at_every_commit_of(Method::DELETE, "/vms/{}", |_| json!({}), true).await;
}

#[tokio::test]
async fn an_attached_disk_that_is_gone_keeps_no_vm_from_being_deleted_and_the_store_is_in_order() {
    let theirs = Theirs(tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap());
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", theirs.0.path().to_str().unwrap()]);
    let disk = theirs.disk("root.img");
    let id = daemon.create(json!({ "vcpus": 1, "memory": 64, "disks": [attach(&disk)] })).await;
    daemon.terminate();
    let check = crate::db::done(&mut crate::db::db(&daemon.state(), &["check"]));
    assert!(check.contains("layer"), "{check}");
    let away = disk.with_extension("away");
    fs::rename(&disk, &away).unwrap();
    daemon.run();
    let refused = daemon.post(&format!("/vms/{id}/start"), json!({})).await;
    assert!(refused.status >= 400, "{refused:?}");
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert!(away.exists());
    assert_eq!(daemon.leftovers(), Vec::<PathBuf>::new());
}
