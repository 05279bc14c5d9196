//! The daemon dies right before and right after every commit of whatever makes, attaches, keeps and deletes volumes, and at every
//! commit of the recovery that follows: what a volume or a VM names is there with its data, and nothing else is.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::support::{Answer, Daemon, PATIENCE, crash::Side};
use reqwest::Method;
use serde_json::{Value, json};

/// A volume that nobody has, and a VM with a disk beside its root disk.
struct Before {
    volume: PathBuf,
    id: String,
    vm: String,
    disk: PathBuf,
}

fn path_of(value: &Value) -> PathBuf {
    value["disk_file"].as_str().unwrap().into()
}

fn io(disk: &Path, command: &str) {
    let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && !said.contains("failed"), "{command}: {done:?}");
}

async fn prepare(daemon: &Daemon) -> Before {
    let volume = daemon.post("/volumes", json!({ "name": "data", "disk_size": 1 })).await.expect(201);
    let vm = daemon.create(daemon.wish()).await;
    let disk = daemon.post(&format!("/vms/{vm}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    let id = volume["id"].as_str().unwrap().to_owned();
    let before = Before { volume: path_of(&volume), id, vm: format!("/vms/{vm}"), disk: path_of(&disk) };
    io(&before.volume, "write -P 1 1M 64k");
    io(&before.disk, "write -P 2 1M 64k");
    before
}

fn images(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            images(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "qcow2") {
            found.insert(path);
        }
    }
}

/// Waits until what there is of files is what VMs and volumes name. Returns the volumes.
async fn check(daemon: &Daemon) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let volumes = daemon.get("/volumes").await.expect(200).as_array().unwrap().clone();
        let mut named: BTreeSet<PathBuf> = volumes.iter().map(path_of).collect();
        for vm in daemon.get("/vms").await.expect(200).as_array().unwrap() {
            let disks = daemon.get(&format!("/vms/{}/disks", vm["id"].as_str().unwrap())).await.expect(200);
            for disk in disks.as_array().unwrap() {
                named.insert(path_of(disk));
                let is_volume = |volume: &&Value| path_of(volume) == path_of(disk);
                let volume = volumes.iter().find(is_volume);
                assert_eq!(volume.map_or(&Value::Null, |volume| &volume["id"]), &disk["volume"], "{disk} {volumes:?}");
                let attached = volume.map_or(&Value::Null, |volume| &volume["attached"]["disk"]);
                assert!(volume.is_none() || *attached == disk["name"], "{disk} {volumes:?}");
            }
        }
        let mut found = BTreeSet::new();
        images(&daemon.state().join("images"), &mut found);
        let let_go = |volume: &Value| volume["attached"].is_null() || volume["attached"]["disk"].is_string();
        if found == named && volumes.iter().all(let_go) {
            return volumes;
        }
        assert!(Instant::now() < deadline, "{found:?}, not {named:?}\n{}", daemon.log_text());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Asks for the same on a daemon that dies at its first commit, at its second, and so on until it lives; `look` is given what the
/// volumes are then.
async fn dies_at_every_commit_of(
    most: u64,
    wish: impl Fn(&Before) -> (Method, String, Value),
    look: impl Fn(&Before, Option<Answer>, &[Value]),
) {
    let mut daemon = Daemon::start();
    for commit in 1.. {
        for side in Side::BOTH {
            let before = prepare(&daemon).await;
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let (method, path, body) = wish(&before);
            let request = daemon.http().request(method, daemon.at(&path)).json(&body);
            let answer = daemon.try_send(request).await;
            let lives = answer.is_some() && daemon.comes_to_rest().await;
            if lives {
                assert!(answer.as_ref().unwrap().status < 300, "{answer:?}");
                daemon.kill();
                daemon.run();
            } else {
                assert!(commit <= most, "it makes {commit} commits");
                if !daemon.has_died() {
                    daemon.wait();
                }
                daemon.recover_dying().await;
            }
            let volumes = check(&daemon).await;
            look(&before, answer, &volumes);
            // Whatever it was cut off in, what is there works.
            daemon.post(&format!("{}/start", before.vm), json!({})).await.expect(200);
            daemon.delete(&before.vm).await.expect(200);
            for volume in check(&daemon).await {
                daemon.delete(&format!("/volumes/{}", volume["id"].as_str().unwrap())).await.expect(200);
            }
            assert!(check(&daemon).await.is_empty());
            if lives && side == Side::Before {
                assert!(commit > 1, "it makes no commit");
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_volume_is_made_whole_or_not_at_all() {
    let wish = |_: &Before| (Method::POST, "/volumes".to_owned(), json!({ "name": "more", "disk_size": 1 }));
    dies_at_every_commit_of(2, wish, |before, answer, volumes| {
        assert!(volumes.len() == 2 || (volumes.len() == 1 && answer.is_none()), "{volumes:?}");
        io(&before.volume, "read -P 1 1M 64k");
        io(&before.disk, "read -P 2 1M 64k");
    })
    .await;
}

#[tokio::test]
async fn a_deletion_leaves_all_of_a_volume_or_nothing() {
    let wish = |before: &Before| (Method::DELETE, format!("/volumes/{}", before.id), json!({}));
    dies_at_every_commit_of(2, wish, |before, answer, volumes| {
        assert!(volumes.is_empty() || answer.is_none(), "{volumes:?}");
        if !volumes.is_empty() {
            io(&before.volume, "read -P 1 1M 64k");
        }
    })
    .await;
}

#[tokio::test]
async fn a_volume_that_is_attached_is_a_disk_or_nobodys_and_keeps_its_data() {
    let wish = |before: &Before| (Method::POST, format!("{}/disks", before.vm), json!({ "volume": before.id }));
    // One of them finds that somebody else has stored the layer, and is made again.
    dies_at_every_commit_of(4, wish, |before, answer, volumes| {
        let attached = volumes[0]["attached"]["disk"] == "disk2";
        assert!(attached || (answer.is_none() && volumes[0]["attached"].is_null()), "{volumes:?}");
        io(&before.volume, "read -P 1 1M 64k");
    })
    .await;
}

#[tokio::test]
async fn a_disk_that_is_kept_is_a_disk_or_a_volume_and_keeps_its_data() {
    let wish = |before: &Before| (Method::DELETE, format!("{}/disks/disk1?keep=true", before.vm), json!({}));
    dies_at_every_commit_of(3, wish, |before, answer, volumes| {
        assert!(answer.is_none() || volumes.len() == 2, "{volumes:?}");
        assert!(answer.is_none() || volumes.iter().all(|volume| volume["attached"].is_null()), "{volumes:?}");
        io(&before.disk, "read -P 2 1M 64k");
    })
    .await;
}

/// Its VM goes with what is its own alone.
#[tokio::test]
async fn a_vm_that_is_deleted_leaves_its_volumes() {
    let mut daemon = Daemon::start();
    for commit in 1.. {
        let before = prepare(&daemon).await;
        let attached = json!({ "volume": before.id });
        daemon.post(&format!("{}/disks", before.vm), attached).await.expect(201);
        daemon.delete(&format!("{}/disks/disk1?keep=true", before.vm)).await.expect(200);
        daemon.kill();
        let command = daemon.dying_at(commit, Side::After);
        // What the daemon before had not stored yet of the disk that was kept, it may die of at once.
        let lives = daemon.try_run_as(command)
            && daemon.try_send(daemon.http().delete(daemon.at(&before.vm))).await.is_some()
            && daemon.comes_to_rest().await;
        if lives {
            daemon.kill();
            daemon.run();
        } else {
            if !daemon.has_died() {
                daemon.wait();
            }
            daemon.recover_dying().await;
        }
        daemon.try_send(daemon.http().delete(daemon.at(&before.vm))).await;
        let volumes = check(&daemon).await;
        assert!(volumes.len() == 2 && volumes.iter().all(|volume| volume["attached"].is_null()), "{volumes:?}");
        io(&before.volume, "read -P 1 1M 64k");
        io(&before.disk, "read -P 2 1M 64k");
        for volume in volumes {
            daemon.delete(&format!("/volumes/{}", volume["id"].as_str().unwrap())).await.expect(200);
        }
        if lives {
            assert!(commit > 1, "it makes no commit");
            return;
        }
        daemon.kill();
        daemon.run();
    }
}

/// It is found where the state directory is.
#[tokio::test]
async fn a_volume_moves_with_the_state_directory() {
    let mut daemon = Daemon::start();
    let before = prepare(&daemon).await;
    daemon.delete(&format!("{}/disks/disk1?keep=true", before.vm)).await.expect(200);
    daemon.kill();
    let (state, aside) = (daemon.state(), daemon.state().with_extension("moved"));
    std::fs::rename(&state, &aside).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--accel", "tcg", "--state-dir"]).arg(&aside);
    command.arg("--image-dir").arg(daemon.bases()).stdin(std::process::Stdio::null());
    command.env("QHERD_LOG", "qherd=debug");
    daemon.run_as(command);
    let volumes = daemon.get("/volumes").await.expect(200).as_array().unwrap().clone();
    assert_eq!(volumes.len(), 2);
    for volume in volumes {
        let file = path_of(&volume);
        assert!(file.starts_with(&aside) && file.exists(), "{volume}");
        let attach = json!({ "volume": volume["id"] });
        daemon.post(&format!("{}/disks", before.vm), attach).await.expect(201);
    }
    daemon.post(&format!("{}/start", before.vm), json!({})).await.expect(200);
    daemon.delete(&before.vm).await.expect(200);
    daemon.kill();
    std::fs::rename(&aside, &state).unwrap();
    daemon.run();
    for volume in daemon.get("/volumes").await.expect(200).as_array().unwrap() {
        assert!(path_of(volume).starts_with(&state), "{volume}");
        daemon.delete(&format!("/volumes/{}", volume["id"].as_str().unwrap())).await.expect(200);
    }
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}
