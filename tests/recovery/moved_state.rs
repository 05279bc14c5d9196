//! A state directory that is renamed, reached by links, copied and restored, with VMs that run, are stopped and are half
//! made: no image is lost or changed, what runs is taken over by its own and left alone by every other, and a deletion
//! stays where it was asked for. The daemon is looked at from outside, and every image by its contents.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use crate::support::{
    Daemon,
    netns::{self, Host},
};
use qherd::{
    model::{Disk, LayerId, VmId},
    store::{Batch, Store},
    vm::{core::DiskNo, records},
};
use serde_json::{Value, json};

/// Every image below a folder, by its contents.
fn sums(folder: &Path) -> BTreeMap<PathBuf, u64> {
    fn look(folder: &Path, root: &Path, sums: &mut BTreeMap<PathBuf, u64>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                look(&path, root, sums);
            } else if path.extension().is_some_and(|kind| kind == "qcow2") {
                let mut hasher = DefaultHasher::new();
                fs::read(&path).unwrap().hash(&mut hasher);
                sums.insert(path.strip_prefix(root).unwrap().to_owned(), hasher.finish());
            }
        }
    }
    let mut found = BTreeMap::new();
    look(folder, folder, &mut found);
    found
}

/// The daemon's command on another state directory, started in `folder`.
fn serving(daemon: &Daemon, state: impl AsRef<Path>, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--accel", "tcg", "--state-dir"]).arg(state.as_ref());
    command.arg("--image-dir").arg(daemon.bases()).stdin(Stdio::null());
    command.current_dir(folder).env("QHERD_LOG", "qherd=debug");
    command
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Data in an image that no QEMU has open.
fn write_into(image: &Path) {
    let written =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 0x5a 0 1M"]).arg(image).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
}

/// A VM with a disk that was added.
async fn with_disk(daemon: &Daemon, start: bool) -> String {
    let mut wish = daemon.wish();
    wish["start"] = json!(start);
    let id = daemon.create(wish).await;
    daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    id
}

async fn about(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}")).await.expect(200)
}

async fn files(daemon: &Daemon, id: &str) -> Vec<PathBuf> {
    let disks = daemon.get(&format!("/vms/{id}/disks")).await.expect(200);
    disks.as_array().unwrap().iter().map(|disk| disk["disk_file"].as_str().unwrap().into()).collect()
}

fn lives(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// What a daemon leaves that is killed while it makes a VM: a record that says so, and its images.
async fn half_made(state: &Path, like: &str) -> String {
    let store = Store::open(&state.join("db")).unwrap();
    let mut definition = records::get(&store, like).unwrap().unwrap().record.definition;
    let id = VmId::random();
    let spec = Arc::make_mut(&mut definition);
    spec.id = id;
    let folder = state.join("images").join(id.to_string());
    copy(&state.join("images").join(like), &folder);
    for disk in &mut spec.disks {
        (disk.file, disk.layer) = (folder.join(disk.file.file_name().unwrap()).into(), LayerId::random());
    }
    let mut vm = records::Stored { record: qherd::vm::core::unmade(definition), known: Default::default() };
    let disks = vm.record.definition.disks.iter();
    vm.record.run.held.images = disks.map(|disk| (DiskNo::of(&disk.name).unwrap(), disk.clone().into())).collect();
    records::commit_all(&store, Batch::new(), &mut [&mut vm]).await.unwrap();
    id.to_string()
}

#[tokio::test]
async fn no_image_is_lost_whatever_the_state_directory_is_called() {
    let mut daemon = Daemon::start();
    let root = daemon.dir.path().canonicalize().unwrap();
    let at = |name: &str| root.join(name);
    let (runs, stopped) = (with_disk(&daemon, true).await, with_disk(&daemon, false).await);
    write_into(&daemon.state().join("images").join(&stopped).join("disk1.qcow2"));
    let pid = about(&daemon, &runs).await["pid"].as_i64().unwrap() as i32;
    let before = sums(&daemon.state().join("images"));
    assert_eq!(before.len(), 4);

    fs::create_dir_all(at("elsewhere/deeper")).unwrap();
    std::os::unix::fs::symlink(at("moved"), at("link")).unwrap();
    let renamed = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
    // Each name, and what the directory is called then.
    let names: [(PathBuf, &str, Option<&str>); 6] = [
        (at("moved"), "moved", Some("state")),
        (at("link"), "moved", None),
        (at("elsewhere/../moved"), "moved", None),
        ("../../moved".into(), "moved", None),
        (at("elsewhere/state"), "elsewhere/state", Some("moved")),
        (at("state"), "state", Some("elsewhere/state")),
    ];
    for (named, is, was) in names {
        daemon.terminate();
        if let Some(was) = was {
            renamed(was, is);
        }
        daemon.run_as(serving(&daemon, &named, &at("elsewhere/deeper")));
        let images = at(is).join("images");
        daemon.await_status(&runs, "running").await;
        assert_eq!(about(&daemon, &runs).await["pid"], pid, "{is}");
        assert_eq!(sums(&images), before, "{is}");
        for id in [&runs, &stopped] {
            let folder = images.join(id);
            assert_eq!(files(&daemon, id).await, [folder.join("root.qcow2"), folder.join("disk1.qcow2")], "{is}");
        }
        let said = about(&daemon, &stopped).await;
        assert_eq!((&said["status"], &said["reason"]), (&json!("stopped"), &Value::Null), "{is}");
        // What it is told to do it does here.
        daemon.post(&format!("/vms/{stopped}/start"), json!({})).await.expect(200);
        daemon.post(&format!("/vms/{stopped}/stop"), json!({ "force": true })).await.expect(200);
        assert_eq!(sums(&images), before, "{is}");
    }
    // A disk that was taken out goes, and it alone; one is added to what has run through it all.
    daemon.delete(&format!("/vms/{stopped}/disks/disk1")).await.expect(200);
    daemon.post(&format!("/vms/{runs}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    daemon.put(&format!("/vms/{stopped}/disk"), json!({ "disk_size": 2 })).await.expect(200);
    let left: Vec<_> = sums(&at("state/images")).into_keys().collect();
    let mut expected = vec![format!("{runs}/root.qcow2"), format!("{runs}/disk1.qcow2"), format!("{runs}/disk2.qcow2")];
    expected.push(format!("{stopped}/root.qcow2"));
    expected.sort();
    assert_eq!(left, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    for id in [runs, stopped] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert!(!lives(pid));
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_copy_has_nothing_to_say_over_the_original() {
    let mut daemon = Daemon::start();
    let root = daemon.dir.path().canonicalize().unwrap();
    let (runs, stopped) = (with_disk(&daemon, true).await, with_disk(&daemon, false).await);
    let pid = about(&daemon, &runs).await["pid"].as_i64().unwrap() as i32;
    daemon.kill();
    let half = half_made(&daemon.state(), &stopped).await;
    let before = sums(&daemon.state().join("images"));
    assert_eq!(before.len(), 6);

    copy(&daemon.state(), &root.join("copy"));
    daemon.run_as(serving(&daemon, root.join("copy"), &root));
    daemon.await_status(&runs, "crashed").await;
    let said = about(&daemon, &runs).await;
    assert!(said["reason"].as_str().unwrap().contains("left alone"), "{said}");
    // Unwound here, and only here.
    daemon.get(&format!("/vms/{half}")).await.expect(404);
    assert!(!root.join("copy/images").join(&half).exists());
    daemon.post(&format!("/vms/{stopped}/start"), json!({})).await.expect(200);
    for id in [&runs, &stopped] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(sums(&root.join("copy/images")), BTreeMap::new());
    daemon.terminate();
    assert!(lives(pid));
    assert_eq!(sums(&daemon.state().join("images")), before);

    // A backup in the place of the original, which goes on under another name.
    fs::rename(daemon.state(), root.join("old")).unwrap();
    copy(&root.join("old"), &daemon.state());
    daemon.run();
    daemon.await_status(&runs, "crashed").await;
    daemon.delete(&format!("/vms/{runs}")).await.expect(200);
    daemon.terminate();
    assert!(lives(pid));
    assert_eq!(sums(&root.join("old/images")), before);

    daemon.run_as(serving(&daemon, root.join("old"), &root));
    daemon.await_status(&runs, "running").await;
    assert_eq!(about(&daemon, &runs).await["pid"], pid);
    daemon.get(&format!("/vms/{half}")).await.expect(404);
    for id in [&runs, &stopped] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert!(!lives(pid));
    assert_eq!(sums(&root.join("old/images")), BTreeMap::new());
}

#[tokio::test]
async fn a_copy_leaves_the_originals_network_alone() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let root = daemon.dir.path().canonicalize().unwrap();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": lan }]);
    wish["start"] = json!(true);
    wish["restart_policy"] = json!("always");
    let id = daemon.create(wish).await;
    let links = || -> Vec<(String, Value)> {
        let links = netns::ip_json("link").as_array().unwrap().clone();
        links.iter().map(|link| (link["ifname"].as_str().unwrap().to_owned(), link["ifalias"].clone())).collect()
    };
    let rules = || netns::nft("-s list ruleset");
    daemon.kill();
    let (before, ruled) = (links(), rules());
    assert_eq!(before.len(), 3, "{before:?}");

    copy(&daemon.state(), &root.join("copy"));
    daemon.run_as(serving(&daemon, root.join("copy"), &root));
    daemon.await_status(&id, "crashed").await;
    let said = about(&daemon, &id).await;
    assert_eq!(said["next_restart"], Value::Null, "{said}");
    let switch = daemon.get(&format!("/switches/{lan}")).await.expect(200);
    assert!(switch["problem"].as_str().unwrap().contains("another state directory"), "{switch}");
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    daemon.terminate();
    assert_eq!(links(), before);
    assert_eq!(rules(), ruled);

    daemon.run();
    daemon.await_status(&id, "running").await;
    assert_eq!(daemon.get(&format!("/vms/{id}/networks")).await.expect(200)[0]["status"], "ok");
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    assert_eq!(links().len(), 1);
    host.assert_untouched();
}

#[tokio::test]
async fn disks_outside_of_a_copied_state_directory_stay_the_originals() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let root = daemon.dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("vms")).unwrap();
    daemon.add_args(&["--storage-dir", root.join("vms").to_str().unwrap()]);
    daemon.run();
    let wish = json!({ "name": "a", "memoryMB": 64, "vcpu": 1, "diskPath": root.join("vms"), "diskGB": 1 });
    let id = daemon.post("/hyperv/vms", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
    let before = sums(&root.join("vms"));
    assert_eq!(before.len(), 1);
    daemon.terminate();

    copy(&daemon.state(), &root.join("copy"));
    let mut command = serving(&daemon, root.join("copy"), &root);
    command.arg("--storage-dir").arg(root.join("vms"));
    daemon.run_as(command);
    let refused = daemon.post(&format!("/vms/{id}/start"), json!({})).await;
    assert!(refused.message().contains("of which this state directory is a copy"), "{refused:?}");
    refused.expect(409);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.terminate();
    assert_eq!(sums(&root.join("vms")), before);

    daemon.run();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(sums(&root.join("vms")), BTreeMap::new());
}

/// As a daemon leaves it that dies before the image of a disk which was taken out is gone.
async fn still_holds_disk2(daemon: &Daemon, id: &str) {
    let store = Store::open(&daemon.state().join("db")).unwrap();
    let mut vm = records::get(&store, id).unwrap().unwrap();
    let images = &mut vm.record.run.held.images;
    let disk = (*images[&DiskNo(1)]).clone();
    let (name, file, layer) = ("disk2".to_owned(), disk.file.with_file_name("disk2.qcow2"), LayerId::random());
    images.insert(DiskNo(2), Disk { name, file: file.into(), layer, ..disk }.into());
    records::commit_all(&store, Batch::new(), &mut [&mut vm]).await.unwrap();
}

#[tokio::test]
async fn where_a_disk_of_the_record_is_missing_nothing_is_removed() {
    let mut daemon = Daemon::start();
    let id = with_disk(&daemon, false).await;
    daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    daemon.delete(&format!("/vms/{id}/disks/disk2")).await.expect(200);
    daemon.kill();
    let folder = daemon.state().join("images").join(&id);
    let (root, away) = (folder.join("root.qcow2"), daemon.dir.path().join("away"));
    // A disk of a backup, and what somebody has put beside them.
    let (orphan, others) = (folder.join("disk2.qcow2"), ["disk3.qcow2", "disk01.qcow2", "root.bak", "disk2.qcow2.old"]);
    for name in others.iter().map(|name| folder.join(name)).chain([orphan.clone()]) {
        fs::write(name, "precious").unwrap();
    }
    fs::rename(&root, &away).unwrap();
    still_holds_disk2(&daemon, &id).await;
    daemon.run();
    let said = about(&daemon, &id).await;
    assert!(said["reason"].as_str().unwrap().contains("root.qcow2 cannot be used"), "{said}");
    assert!(orphan.exists());
    daemon.kill();
    fs::rename(&away, &root).unwrap();
    daemon.run();
    assert_eq!(about(&daemon, &id).await["reason"], Value::Null);
    daemon.await_log("removed the image of a disk that was taken out").await;
    assert!(!orphan.exists() && folder.join("disk1.qcow2").exists());
    let others_are_there = || others.iter().all(|name| fs::read(folder.join(name)).unwrap() == b"precious");
    assert!(others_are_there());
    // Nor is anything written over.
    let refused = daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await;
    assert!(refused.message().contains("disk3.qcow2 that no record names"), "{refused:?}");
    refused.expect(409);
    assert!(others_are_there());
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert!(others_are_there() && !root.exists());
}

#[tokio::test]
async fn images_can_be_kept_elsewhere_by_a_link_and_nothing_foreign_goes_with_them() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let root = daemon.dir.path().canonicalize().unwrap();
    let (disks, theirs) = (root.join("large disk"), root.join("theirs"));
    for folder in [&disks, &theirs, &daemon.state()] {
        fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink(&disks, daemon.state().join("images")).unwrap();
    let unknown = disks.join(VmId::random().to_string());
    fs::create_dir(&unknown).unwrap();
    let foreign = [disks.join("root.qcow2"), unknown.join("root.qcow2"), theirs.join("root.qcow2")];
    for file in &foreign {
        fs::write(file, "precious").unwrap();
    }
    daemon.run();
    let (runs, stopped, linked) =
        (with_disk(&daemon, true).await, with_disk(&daemon, false).await, daemon.create(daemon.wish()).await);
    daemon.delete(&format!("/vms/{stopped}/disks/disk1")).await.expect(200);
    daemon.await_log("removed the image of a disk that was taken out").await;
    daemon.kill();
    let half = half_made(&daemon.state(), &stopped).await;
    // One whose folder leads elsewhere by now.
    fs::rename(disks.join(&linked), root.join("away")).unwrap();
    std::os::unix::fs::symlink(&theirs, disks.join(&linked)).unwrap();
    daemon.run();
    daemon.await_status(&runs, "running").await;
    daemon.get(&format!("/vms/{half}")).await.expect(404);
    let left: Vec<_> = sums(&disks).into_keys().filter(|file| !file.starts_with(&linked)).collect();
    let unknown = unknown.file_name().unwrap().to_str().unwrap();
    let mut expected = vec!["root.qcow2".to_owned(), format!("{unknown}/root.qcow2")];
    expected.extend([format!("{runs}/root.qcow2"), format!("{runs}/disk1.qcow2"), format!("{stopped}/root.qcow2")]);
    expected.sort();
    assert_eq!(left, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    daemon.post(&format!("/vms/{stopped}/start"), json!({})).await.expect(200);
    for id in [&runs, &stopped] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
        assert!(!disks.join(id).exists());
    }
    let refused = daemon.delete(&format!("/vms/{linked}")).await.expect(500);
    assert!(refused["error"]["detail"].as_str().unwrap().contains("is outside of the state and storage"), "{refused}");
    assert!(foreign.iter().all(|file| fs::read(file).unwrap() == b"precious"));
}

#[tokio::test]
async fn an_image_that_another_program_has_open_is_not_removed() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let image = daemon.state().join("images").join(&id).join("root.qcow2");
    let mut holder = Command::new("qemu-io");
    holder.args(["-f", "qcow2"]).arg(&image);
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It answers when it has the image open.
    std::io::Write::write_all(holder.stdin.as_mut().unwrap(), b"length\n").unwrap();
    let mut answer = [0];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut answer).unwrap();
    let refused = daemon.delete(&format!("/vms/{id}")).await.expect(500);
    assert!(refused["error"]["detail"].as_str().unwrap().contains("another program has it open"), "{refused}");
    assert!(image.exists());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}
