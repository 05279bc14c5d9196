//! Disks that are there already and are attached as they are, on VMs whose guest never boots: which may be, who has them,
//! and that they stay as they were.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{mounts, support::Daemon};

/// A daemon with a folder of somebody's disks.
fn daemon() -> (Daemon, TempDir) {
    let theirs = tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", theirs.path().to_str().unwrap()]);
    (daemon, theirs)
}

fn raw(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, "precious").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    path
}

fn qcow2(folder: &Path, name: &str, args: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(args).arg(&path).arg("1G").status();
    assert!(made.unwrap().success());
    path
}

/// What is to be the same afterwards.
fn state(path: &Path) -> (Vec<u8>, u32, u32, u64) {
    let metadata = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), metadata.mode(), metadata.uid(), metadata.ino())
}

fn attach(path: &Path, format: &str) -> Value {
    json!({ "path": path, "format": format })
}

#[tokio::test]
async fn what_was_there_is_used_as_it_is_and_stays_when_the_disk_or_the_vm_goes() {
    let (mut daemon, theirs) = daemon();
    // No whole number of GiB, nor of MiB.
    let root = raw(theirs.path(), "root.img", (64 << 20) + 512);
    let data = qcow2(theirs.path(), "data.qcow2", &[]);
    let more = raw(theirs.path(), "more.img", 1 << 20);
    for (path, mode) in [(&root, 0o640), (&data, 0o600), (&more, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(path, Some(1234), Some(1234)).unwrap();
    }
    let before = [&root, &data, &more].map(|path| state(path));
    let same = |when: &str| {
        let now = [&root, &data, &more].map(|path| state(path));
        assert!(now == before, "{when}");
    };
    let sent = json!({
        "vcpus": 1, "memory": 64, "disks": [attach(&root, "raw"), attach(&data, "qcow2"), { "disk_size": 1 }],
    });
    let id = daemon.create(sent.clone()).await;
    same("attached to a new VM");
    let path = format!("/vms/{id}");
    let read = daemon.get(&path).await.expect(200);
    assert_eq!(read["disks"], sent["disks"], "as it was sent");
    assert_eq!((&read["disk_file"], &read["disk_size"]), (&json!(root), &json!(1)));
    let listed = daemon.get(&format!("{path}/disks")).await.expect(200);
    let shown = |at: usize| (&listed[at]["name"], &listed[at]["attached"], &listed[at]["format"]);
    assert_eq!(shown(0), (&json!("root"), &json!(true), &json!("raw")));
    assert_eq!(shown(1), (&json!("disk1"), &json!(true), &json!("qcow2")));
    assert_eq!(shown(2), (&json!("disk2"), &json!(false), &json!("qcow2")));
    // Sent again it is equal, also what the reply to a GET has.
    assert_eq!(daemon.put(&path, sent.clone()).await.expect(200)["pending"], json!({}));

    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    let added = daemon.post(&format!("{path}/disks"), attach(&more, "raw")).await.expect(201);
    assert_eq!((&added["name"], &added["applied"]), (&json!("disk3"), &json!("live")), "{added}");
    // QEMU has exactly the bytes that were there.
    let blocks = daemon.get(&format!("{path}/config")).await.expect(200);
    assert_eq!(blocks["pending"], json!({}));
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    daemon.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    same("after a run");

    let removed = daemon.delete(&format!("{path}/disks/disk3")).await.expect(200);
    assert!(removed["message"].as_str().unwrap().contains("stays as it is"), "{removed}");
    same("detached");
    // It can be had again.
    daemon.post(&format!("{path}/disks"), attach(&more, "raw")).await.expect(201);
    daemon.delete(&path).await.expect(200);
    same("the VM is deleted");
    assert_eq!(daemon.leftovers(), Vec::<PathBuf>::new());
    let left: Vec<_> = fs::read_dir(theirs.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[tokio::test]
async fn a_disk_grows_when_that_is_asked_for_and_at_no_other_time() {
    let (daemon, theirs) = daemon();
    let root = raw(theirs.path(), "root.img", 3 << 29);
    let data = qcow2(theirs.path(), "data.qcow2", &[]);
    let id = daemon
        .create(json!({ "vcpus": 1, "memory": 64, "disks": [attach(&root, "raw"), attach(&data, "qcow2")] }))
        .await;
    let path = format!("/vms/{id}");
    let size = || fs::metadata(&root).unwrap().len();
    // One GiB and a half is two, as a whole number.
    daemon.put(&path, json!({ "disk_size": 2 })).await.expect(200);
    assert_eq!(size(), 3 << 29);
    daemon.put(&path, json!({ "disk_size": 3 })).await.expect(200);
    assert_eq!(size(), 3 << 30);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    let grown = daemon.put(&format!("{path}/disks/disk1"), json!({ "disk_size": 2 })).await.expect(200);
    assert_eq!(grown["applied"], "live", "{grown}");
    daemon.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&data).output().unwrap();
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["virtual-size"], 2_u64 << 30);
    assert_eq!(daemon.put(&path, json!({ "disk_size": 1 })).await.status, 409);
}

#[tokio::test]
async fn nobody_else_gets_a_disk_that_somebody_has() {
    let (daemon, theirs) = daemon();
    let folder = theirs.path().canonicalize().unwrap();
    let disk = raw(&folder, "disk.img", 1 << 20);
    let wish = |path: &Path| json!({ "vcpus": 1, "memory": 64, "name": "first", "disks": [attach(path, "raw")] });
    let id = daemon.create(wish(&disk)).await;
    let other = daemon.create(daemon.wish()).await;
    symlink(&disk, folder.join("alias")).unwrap();
    for path in
        [disk.clone(), folder.join("alias"), folder.join("../").join(folder.file_name().unwrap()).join("disk.img")]
    {
        for answer in [
            daemon.post("/vms", wish(&path)).await,
            daemon.post(&format!("/vms/{other}/disks"), attach(&path, "raw")).await,
            daemon.post(&format!("/vms/{id}/disks"), attach(&path, "raw")).await,
            daemon.put(&format!("/vms/{other}"), json!({ "disks": [attach(&path, "raw")] })).await,
        ] {
            assert_eq!(answer.status, 409, "{answer:?}");
            assert!(answer.message().contains(&format!("a disk of the VM first ({id})")), "{answer:?}");
        }
    }
    // Many at once: one of them.
    let contested = raw(&folder, "contested.img", 1 << 20);
    let answers = futures_util::future::join_all((0..8).map(|_| daemon.post("/vms", wish(&contested)))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);

    // A base of somebody is nobody's disk, and the other way round. (The image directory is a storage directory here.)
    let daemon = Daemon::prepare(&["--accel", "tcg"]);
    let bases = daemon.bases().display().to_string();
    let mut daemon = daemon;
    daemon.add_args(&["--storage-dir", &bases]);
    daemon.run();
    let user = daemon.create(daemon.wish()).await;
    let blank = daemon.bases().join("blank.raw");
    let refused = daemon.post("/vms", wish(&blank)).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.message().contains("the base image of a disk of the VM") && refused.message().contains(&user));
    let attached = raw(&daemon.bases(), "attached.raw", 1 << 20);
    daemon.create(wish(&attached)).await;
    let mut clone = daemon.wish();
    clone["base_image"] = json!(attached);
    let refused = daemon.post("/vms", clone).await;
    assert!(refused.status == 400 && refused.message().contains("not be a disk of a VM"), "{refused:?}");
}

#[test]
fn a_disk_is_the_same_by_whatever_name_it_is_mounted() {
    mounts::in_private_mounts(
        module_path!(),
        "a_disk_is_the_same_by_whatever_name_it_is_mounted",
        the_same_by_other_names,
    );
}

async fn the_same_by_other_names() {
    let theirs = tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap();
    let folder = theirs.path().canonicalize().unwrap();
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--storage-dir", folder.to_str().unwrap()]);
    daemon.run();
    let mounted = |from: &Path, name: &str| {
        let at = folder.join(name);
        if from.is_dir() {
            fs::create_dir(&at).unwrap()
        } else {
            fs::write(&at, "").unwrap()
        }
        mounts::run("mount", &["--bind", from.to_str().unwrap(), at.to_str().unwrap()]);
        at
    };
    let refused = async |path: &Path, format: &str, status: u16, words: &str| {
        let wish = json!({ "vcpus": 1, "memory": 64, "name": "second", "disks": [attach(path, format)] });
        let answer = daemon.post("/vms", wish).await;
        assert!(answer.status == status && answer.message().contains(words), "{words}: {answer:?}");
    };
    fs::create_dir(folder.join("own")).unwrap();
    let disk = raw(&folder.join("own"), "disk.img", 1 << 20);
    let first =
        daemon.create(json!({ "vcpus": 1, "memory": 64, "name": "first", "disks": [attach(&disk, "raw")] })).await;
    let whose = format!("a disk of the VM first ({first}) by another name");
    refused(&mounted(&folder.join("own"), "folder").join("disk.img"), "raw", 409, &whose).await;
    refused(&mounted(&disk, "file.img"), "raw", 409, &whose).await;

    // Nor is it anybody's base.
    let base = daemon.bases().join("mounted.raw");
    fs::write(&base, "").unwrap();
    mounts::run("mount", &["--bind", disk.to_str().unwrap(), base.to_str().unwrap()]);
    let answer = daemon.post("/vms", json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": base })).await;
    assert!(answer.status == 400 && answer.message().contains("not be a disk of a VM"), "{answer:?}");
    mounts::run("umount", &[base.to_str().unwrap()]);

    // A clone lies on its base, and an image of the store is nobody's disk.
    let clone = daemon.create(daemon.wish()).await;
    let base = mounted(&daemon.bases(), "bases").join("blank.raw");
    refused(&base, "raw", 409, &format!("({clone}) by another name")).await;
    let image = json!({ "name": "stored", "path": daemon.bases().join("blank.raw") });
    daemon.post("/images", image).await.expect(201);
    let layers = mounted(&daemon.state().join("layers"), "layers");
    let mut files = fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path());
    let layer = files.find(|path| path.extension().is_some_and(|e| e == "qcow2")).unwrap();
    refused(&layer, "qcow2", 409, "a file of the image store").await;
    // What else is qherd's own is not in a storage directory, whatever it is called.
    let own = mounted(&daemon.state(), "state").join("layers").join(layer.file_name().unwrap());
    refused(&own, "qcow2", 400, "lie in a storage directory").await;

    // What lies on the disk of somebody.
    let over = qcow2(&folder, "over.qcow2", &["-F", "raw", "-b", folder.join("file.img").to_str().unwrap()]);
    refused(&over, "qcow2", 409, "which is a disk of a VM").await;
    drop(daemon);
}

#[tokio::test]
async fn what_may_not_be_a_disk_is_refused_and_nothing_is_left() {
    let (daemon, theirs) = daemon();
    let folder = theirs.path().canonicalize().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let good = raw(&folder, "good.img", 1 << 20);
    let outside = raw(elsewhere.path(), "outside.img", 1 << 20);
    symlink(&outside, folder.join("link.img")).unwrap();
    fs::hard_link(raw(&folder, "one.img", 1 << 20), folder.join("two.img")).unwrap();
    fs::write(folder.join("empty.img"), "").unwrap();
    nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let image = qcow2(&folder, "image.qcow2", &[]);
    let secret = qcow2(&folder, "secret.qcow2", &["-u", "-b", outside.to_str().unwrap(), "-F", "raw"]);
    let over = |name: &str, below: &str| qcow2(&folder, name, &["-u", "-b", below, "-F", "qcow2"]);
    let deep = over("deep.qcow2", secret.to_str().unwrap());
    over("round1.qcow2", "round2.qcow2");
    let round = over("round2.qcow2", "round1.qcow2");
    qcow2(&folder, "level0.qcow2", &[]);
    let levels: Vec<PathBuf> =
        (1..18).map(|level| over(&format!("level{level}.qcow2"), &format!("level{}.qcow2", level - 1))).collect();
    let tall = levels[16].clone();
    // As old programs wrote it: the format of what is below is nowhere.
    let nameless = folder.join("nameless.qcow2");
    let mut header = fs::read(over("named.qcow2", "good.img")).unwrap();
    let word = header.windows(4).position(|four| four == 0xe279_2aca_u32.to_be_bytes()).unwrap();
    header[word..word + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    fs::write(&nameless, header).unwrap();
    let data = folder.join("data.raw");
    let option = format!("data_file={},data_file_raw=on", data.display());
    let split = qcow2(&folder, "split.qcow2", &["-o", &option]);
    fs::write(folder.join("packed.img"), b"\x1f\x8b precious").unwrap();
    let own = daemon.create(daemon.wish()).await;
    let owned = daemon.state().join("images").join(&own).join("root.qcow2");
    let named = |name: &str| folder.join(name);
    for (path, format, words) in [
        (outside.clone(), "raw", "lie in a storage directory"),
        (named("link.img"), "raw", "lie in a storage directory"),
        (named("../nowhere.img"), "raw", "lie in a storage directory"),
        (PathBuf::from("/etc/shadow"), "raw", "lie in a storage directory"),
        (owned, "qcow2", "lie in a storage directory"),
        (daemon.state().join("db/db"), "raw", "lie in a storage directory"),
        (PathBuf::from("good.img"), "raw", "be an absolute path"),
        (named("missing.img"), "raw", "exist"),
        (folder.join("pipe"), "raw", "be a regular file"),
        (named("two.img"), "raw", "have one name"),
        (named("empty.img"), "raw", "not be empty"),
        (image.clone(), "raw", "has the header of a qcow2 one"),
        (good.clone(), "qcow2", "be a qcow2 image"),
        (secret, "qcow2", "lie on nothing outside of the image and storage directories"),
        (deep, "qcow2", "lie on nothing outside of the image and storage directories"),
        (round, "qcow2", "lies on itself"),
        (tall, "qcow2", "lie on at most 16 files"),
        (nameless, "qcow2", "say which format its backing file good.img has"),
        (split, "qcow2", "keeps its data in"),
        (named("packed.img"), "raw", "compressed with gzip"),
        (data, "raw", "exist"),
    ] {
        // The raw file beside a qcow2 header may be one by itself.
        if path.ends_with("data.raw") && path.exists() {
            continue;
        }
        let disk = attach(&path, format);
        let answer = daemon.post(&format!("/vms/{own}/disks"), disk.clone()).await;
        assert!(answer.status == 400 && answer.message().contains(words), "{disk}: {answer:?}");
        let answer = daemon.post("/vms", json!({ "vcpus": 1, "memory": 64, "disks": [disk.clone()] })).await;
        assert!(answer.status == 400 && answer.message().contains("disks[0].path"), "{disk}: {answer:?}");
    }
    for (disk, words) in [
        (json!({ "path": good }), "format must be given beside path"),
        (json!({ "format": "raw" }), "format must only be given beside path"),
        (json!({ "path": good, "format": "vmdk" }), "format must be"),
        (json!({ "path": good, "format": "raw", "disk_size": 1 }), "disk_size must not be given beside path"),
        (
            json!({ "path": good, "format": "raw", "base_image": "blank.raw" }),
            "base_image must not be given beside path",
        ),
    ] {
        let answer = daemon.post(&format!("/vms/{own}/disks"), disk.clone()).await;
        assert!(answer.status == 400 && answer.message().contains(words), "{disk}: {answer:?}");
    }
    for (wish, words) in [
        (json!({ "vcpus": 1, "memory": 64 }), "base_image must be given"),
        (
            json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "disks": [{ "disk_size": 1 }] }),
            "base_image must be given",
        ),
        (json!({ "vcpus": 1, "memory": 64, "base_image": "blank.raw" }), "disk_size must be given"),
        (
            json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "disks": [attach(&good, "raw")] }),
            "disk_size must not be given",
        ),
    ] {
        let answer = daemon.post("/vms", wish.clone()).await;
        assert!(answer.status == 400 && answer.message().contains(words), "{wish}: {answer:?}");
    }
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1);
    assert_eq!(fs::read(&good).unwrap()[..8], *b"precious");
}

#[tokio::test]
async fn an_overlay_is_attached_with_what_it_lies_on() {
    let (daemon, theirs) = daemon();
    let folder = theirs.path().canonicalize().unwrap();
    // As vagrant-libvirt and OpenStack lay them: the base by a relative name.
    raw(&folder, "box.img", 1 << 30);
    let overlay = qcow2(&folder, "overlay.qcow2", &["-u", "-b", "box.img", "-F", "raw"]);
    let wish = json!({ "vcpus": 1, "memory": 64, "disks": [attach(&overlay, "qcow2")] });
    let id = daemon.create(wish.clone()).await;
    let listed = daemon.get(&format!("/vms/{id}/disks")).await.expect(200);
    assert_eq!((&listed[0]["base_image"], &listed[0]["attached"]), (&json!(folder.join("box.img")), &json!(true)));
    daemon.put(&format!("/vms/{id}"), wish).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    // What it lies on is nobody's to write to.
    let answer = daemon
        .post("/vms", json!({ "vcpus": 1, "memory": 64, "disks": [attach(&folder.join("box.img"), "raw")] }))
        .await;
    assert!(answer.status == 409 && answer.message().contains(&id), "{answer:?}");
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert!(overlay.exists() && folder.join("box.img").exists());
}

#[tokio::test]
async fn a_chain_of_overlays_is_attached_whole_and_grows_at_its_top() {
    let (daemon, theirs) = daemon();
    let folder = theirs.path().canonicalize().unwrap();
    // As snapshots of other managers leave them.
    raw(&folder, "box.img", 1 << 20);
    qcow2(&folder, "one.qcow2", &["-u", "-b", "box.img", "-F", "raw"]);
    qcow2(&folder, "two.qcow2", &["-u", "-b", "one.qcow2", "-F", "qcow2"]);
    let top = qcow2(&folder, "top.qcow2", &["-u", "-b", "two.qcow2", "-F", "qcow2"]);
    let below = ["two.qcow2", "one.qcow2", "box.img"].map(|name| folder.join(name));
    let before = below.each_ref().map(|path| state(path));
    let wish = json!({ "vcpus": 1, "memory": 64, "name": "old", "disks": [attach(&top, "qcow2")] });
    let id = daemon.create(wish.clone()).await;
    let path = format!("/vms/{id}");
    daemon.put(&path, wish).await.expect(200);
    daemon.put(&format!("{path}/disk"), json!({ "disk_size": 2 })).await.expect(200);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    let pid = daemon.get(&path).await.expect(200)["pid"].to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: Vec<PathBuf> = open.filter_map(|file| fs::read_link(file.unwrap().path()).ok()).collect();
    assert!(below.iter().chain([&top]).all(|path| open.contains(path)), "{open:?}");
    daemon.put(&format!("{path}/disk"), json!({ "disk_size": 3 })).await.expect(200);
    // One more with a chain, to a VM that runs.
    qcow2(&folder, "data1.qcow2", &["-u", "-b", "one.qcow2", "-F", "qcow2"]);
    let data = qcow2(&folder, "data2.qcow2", &["-u", "-b", "data1.qcow2", "-F", "qcow2"]);
    let added = daemon.post(&format!("{path}/disks"), attach(&data, "qcow2")).await.expect(201);
    assert_eq!(added["applied"], "live", "{added}");
    // Each file is somebody's, and none is anybody's to write to.
    let bases = daemon.get("/base-images").await.expect(200);
    let bases: Vec<&str> = bases.as_array().unwrap().iter().map(|base| base["path"].as_str().unwrap()).collect();
    assert!(below.iter().all(|path| bases.contains(&path.to_str().unwrap())), "{bases:?}");
    for (file, format) in below.iter().zip(["qcow2", "qcow2", "raw"]) {
        let wish = json!({ "vcpus": 1, "memory": 64, "disks": [attach(file, format)] });
        let answer = daemon.post("/vms", wish).await;
        assert!(answer.status == 409 && answer.message().contains(&id), "{answer:?}");
    }
    let info = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(&top).output().unwrap();
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!((&info["virtual-size"], &info["backing-filename"]), (&json!(3_u64 << 30), &json!("two.qcow2")));

    daemon.post(&format!("{path}/stop"), json!({ "force": true })).await.expect(200);
    // An image of it holds all of the chain.
    let image = daemon.post("/images", json!({ "name": "whole", "from_vm": id })).await.expect(201);
    let made = image["layer"]["file"].as_str().unwrap();
    let compared = Command::new("qemu-img").args(["compare", "-U"]).arg(&top).arg(made).output().unwrap();
    assert!(compared.status.success(), "{compared:?}");
    fs::rename(&below[2], folder.join("away.img")).unwrap();
    let lost = daemon.post(&format!("{path}/start"), json!({})).await;
    assert!(lost.status >= 400 && lost.body.to_string().contains("box.img"), "{lost:?}");
    fs::rename(folder.join("away.img"), &below[2]).unwrap();
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    daemon.delete(&path).await.expect(200);
    assert!(below.each_ref().map(|path| state(path)) == before && top.exists() && data.exists());
}

#[tokio::test]
async fn a_disk_of_a_vm_is_nobodys_base_by_another_name_either() {
    let (daemon, theirs) = daemon();
    let disk = raw(theirs.path(), "disk.img", 1 << 20);
    daemon.create(json!({ "vcpus": 1, "memory": 64, "disks": [attach(&disk, "raw")] })).await;
    let own = daemon.create(daemon.wish()).await;
    let own = daemon.state().join("images").join(own).join("root.qcow2");
    for (file, name) in [(&disk, "theirs.raw"), (&own, "own.qcow2")] {
        fs::hard_link(file, daemon.bases().join(name)).unwrap();
        let mut clone = daemon.wish();
        clone["base_image"] = json!(name);
        let refused = daemon.post("/vms", clone).await;
        assert!(refused.status == 400 && refused.message().contains("not be a disk of a VM"), "{refused:?}");
    }
    // A file with two names that is nobody's disk is as good as any.
    fs::hard_link(daemon.bases().join("blank.raw"), daemon.bases().join("twin.raw")).unwrap();
    let mut clone = daemon.wish();
    clone["base_image"] = json!("twin.raw");
    daemon.create(clone).await;
}
