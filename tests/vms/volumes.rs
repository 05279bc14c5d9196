//! Volumes, on VMs whose guest never boots: disks that stay when their VM goes, who may have them, and that nothing is deleted under
//! anybody.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::Daemon;

fn io(disk: &Path, command: &str) {
    let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(disk).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && !said.contains("failed"), "{command}: {done:?}");
}

/// A VM with a second disk that has something in it. Returns its path and the disk's file.
async fn with_data(daemon: &Daemon, more: Value) -> (String, PathBuf) {
    let id = daemon.create(daemon.wish()).await;
    let path = format!("/vms/{id}");
    let mut disk = json!({ "disk_size": 1 });
    disk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let disk = daemon.post(&format!("{path}/disks"), disk).await.expect(201);
    let file = PathBuf::from(disk["disk_file"].as_str().unwrap());
    io(&file, "write -P 42 3M 64k");
    (path, file)
}

async fn volumes(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/volumes").await.expect(200).as_array().unwrap().clone()
}

/// The disk `disk1` of a VM becomes a volume. Returns its path.
async fn kept(daemon: &Daemon, vm: &str) -> String {
    let done = daemon.delete(&format!("{vm}/disks/disk1?keep=true&name=data")).await.expect(200);
    format!("/volumes/{}", done["volume"].as_str().unwrap())
}

#[tokio::test]
async fn a_disk_that_is_kept_outlives_its_vm_and_becomes_a_disk_of_another() {
    let mut daemon = Daemon::start();
    let (one, file) = with_data(&daemon, json!({})).await;
    let done = daemon.delete(&format!("{one}/disks/disk1?keep=true&name=data")).await.expect(200);
    assert!(done["message"].as_str().unwrap().contains("stay in the volume"), "{done}");
    let id = done["volume"].as_str().unwrap().to_owned();
    let volume = format!("/volumes/{id}");
    let shown = daemon.get(&volume).await.expect(200);
    assert_eq!((&shown["id"], &shown["name"], &shown["disk_size"]), (&json!(id), &json!("data"), &json!(1)));
    assert_eq!((&shown["attached"], &shown["disk_file"]), (&json!(null), &json!(file)));
    assert!(shown["allocated"].as_u64().unwrap() >= 65536, "{shown}");
    daemon.delete(&one).await.expect(200);
    io(&file, "read -P 42 3M 64k");
    daemon.kill();
    daemon.run();
    assert_eq!(daemon.get("/volumes").await.expect(200), json!([shown]));
    assert!(!daemon.log_text().contains("disks of VMs that are not recorded"));

    let content = daemon.http().get(daemon.at(&format!("{volume}/content"))).send().await.unwrap();
    let tag = content.headers()["etag"].clone();
    let whole = content.bytes().await.unwrap();
    assert_eq!(whole, fs::read(&file).unwrap());
    let rest = daemon.http().get(daemon.at(&format!("{volume}/content")));
    let rest = rest.header("range", "bytes=1000-").header("if-range", tag).send().await.unwrap();
    assert_eq!(rest.status(), 206);
    assert_eq!(rest.bytes().await.unwrap(), whole.slice(1000..));

    let other = format!("/vms/{}", daemon.create(daemon.wish()).await);
    daemon.post(&format!("{other}/start"), json!({})).await.expect(200);
    let disk = daemon.post(&format!("{other}/disks"), json!({ "volume": id })).await.expect(201);
    let found = (&disk["name"], &disk["volume"], &disk["disk_size"], &disk["applied"]);
    assert_eq!(found, (&json!("disk1"), &json!(id), &json!(1), &json!("live")), "{disk}");
    let attached = daemon.get(&volume).await.expect(200)["attached"].clone();
    assert_eq!(
        (&attached["disk"], format!("/vms/{}", attached["vm_id"].as_str().unwrap())),
        (&json!("disk1"), other.clone())
    );
    // It is sent back as it is shown.
    let whole = daemon.get(&other).await.expect(200);
    assert_eq!(daemon.put(&other, json!({ "disks": whole["disks"] })).await.expect(200)["pending"], json!({}));
    // Nothing is deleted or read under anybody.
    let third = format!("/vms/{}", daemon.create(daemon.wish()).await);
    for answer in [
        daemon.delete(&volume).await,
        daemon.get(&format!("{volume}/content")).await,
        daemon.post(&format!("{third}/disks"), json!({ "volume": id })).await,
    ] {
        let said = answer.message();
        assert!(answer.status == 409 && said.contains("is the disk disk1 of the VM"), "{answer:?}");
    }
    // It grows as a disk does, and knows it afterwards.
    daemon.put(&format!("{other}/disks/disk1"), json!({ "disk_size": 2 })).await.expect(200);
    daemon.post(&format!("{other}/stop?force=true"), json!({})).await.expect(200);
    daemon.delete(&other).await.expect(200);
    let shown = daemon.get(&volume).await.expect(200);
    assert_eq!((&shown["attached"], &shown["disk_size"]), (&json!(null), &json!(2)));
    io(&file, "read -P 42 3M 64k");

    daemon.post(&format!("{third}/disks"), json!({ "volume": id })).await.expect(201);
    let gone = daemon.delete(&format!("{third}/disks/disk1")).await.expect(200);
    assert!(gone["message"].as_str().unwrap().contains("stay in the volume"), "{gone}");
    daemon.delete(&volume).await.expect(200);
    assert!(volumes(&daemon).await.is_empty() && !file.exists());
    assert_eq!(daemon.get(&volume).await.status, 404);
    daemon.delete(&third).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_volume_is_made_empty_or_of_an_image_and_keeps_the_image() {
    let daemon = Daemon::start();
    fs::write(daemon.bases().join("disk.raw"), vec![7; 1 << 20]).unwrap();
    daemon.post("/images", json!({ "name": "disk:1", "path": "disk.raw" })).await.expect(201);
    let wish = |base: &str, clone: &str| json!({ "name": "data", "disk_size": 2, "base_image": base, "clone": clone });
    let empty = daemon.post("/volumes", json!({ "name": "data", "disk_size": 1 })).await.expect(201);
    let linked = daemon.post("/volumes", wish("disk:1", "linked")).await.expect(201);
    let full = daemon.post("/volumes", wish("disk.raw", "full")).await.expect(201);
    assert_eq!(
        (&empty["base_image"], &linked["clone"], &full["clone"]),
        (&json!(null), &json!("linked"), &json!("full"))
    );
    let vm = format!("/vms/{}", daemon.create(daemon.wish()).await);
    for (volume, pattern) in [(&empty, 0), (&linked, 7), (&full, 7)] {
        let id = volume["id"].as_str().unwrap();
        let content = daemon.http().get(daemon.at(&format!("/volumes/{id}/content"))).send().await.unwrap();
        // What holds only what differs is of no use elsewhere.
        assert_eq!(content.status(), if volume["id"] == linked["id"] { 409 } else { 200 });
        drop(content.bytes().await);
        let disk = daemon.post(&format!("{vm}/disks"), json!({ "volume": id })).await.expect(201);
        assert_eq!((&disk["base_image"], &disk["clone"]), (&volume["base_image"], &volume["clone"]));
        io(Path::new(disk["disk_file"].as_str().unwrap()), &format!("read -P {pattern} 0 1M"));
    }
    daemon.post(&format!("{vm}/start"), json!({})).await.expect(200);
    daemon.delete(&format!("{vm}?graceful=false")).await.expect(200);
    let tree = daemon.get("/images/disk:1").await.expect(200);
    assert_eq!(tree["volumes"], json!([{ "id": linked["id"], "name": "data" }]));
    // Nobody has it now but the volume.
    let answer = daemon.delete("/images/disk:1").await;
    assert!(answer.status == 409 && answer.message().contains("in use by a volume: the volume data ("), "{answer:?}");
    for volume in volumes(&daemon).await {
        daemon.delete(&format!("/volumes/{}", volume["id"].as_str().unwrap())).await.expect(200);
    }
    daemon.delete("/images/disk:1").await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_vm_may_boot_from_a_volume_which_stays_when_it_goes() {
    let daemon = Daemon::start();
    let made = json!({ "name": "system", "disk_size": 1, "base_image": "blank.raw" });
    let volume = daemon.post("/volumes", made).await.expect(201)["id"].clone();
    let sent = json!({ "vcpus": 1, "memory": 64, "disks": [{ "volume": volume }] });
    let vm = format!("/vms/{}", daemon.create(sent.clone()).await);
    let shown = daemon.get(&vm).await.expect(200);
    assert_eq!(shown["disks"], sent["disks"], "as it was sent");
    daemon.post(&format!("{vm}/start"), json!({})).await.expect(200);
    let answer = daemon.post("/vms", sent).await;
    assert!(answer.status == 409 && answer.message().contains("is the disk root of the VM"), "{answer:?}");
    daemon.delete(&vm).await.expect(200);
    assert_eq!(volumes(&daemon).await[0]["attached"], json!(null));
}

#[tokio::test]
async fn what_cannot_be_kept_attached_or_made_is_refused_and_nothing_is_left() {
    let theirs = tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", theirs.path().to_str().unwrap()]);
    fs::write(theirs.path().join("a.raw"), vec![0; 1 << 20]).unwrap();
    let (vm, _) = with_data(&daemon, json!({})).await;
    let theirs = json!({ "path": theirs.path().join("a.raw"), "format": "raw" });
    daemon.post(&format!("{vm}/disks"), theirs).await.expect(201);
    let unknown = "123e4567-e89b-42d3-a456-426614174000";
    let of_disks = |disk: &str| format!("{vm}/disks/{disk}");
    for (path, status, said) in [
        (of_disks("root?keep=true"), 400, "root disk"),
        (of_disks("disk2?keep=true"), 400, "keep must only be given of a disk that qherd made"),
        (of_disks("disk7?keep=true"), 404, "disk7"),
        (of_disks("disk1?name=x"), 400, "name must only be given with keep=true"),
        (of_disks("disk1?keep=true&name=a/b"), 400, "name"),
        (of_disks("disk1?keep=perhaps"), 400, "keep"),
        (format!("/volumes/{unknown}"), 404, "Volume not found"),
        ("/volumes/x".to_owned(), 404, "Volume not found"),
    ] {
        let answer = daemon.delete(&path).await;
        assert!(answer.status == status && answer.message().contains(said), "{path}: {answer:?}");
    }
    for (path, body, status, said) in [
        (format!("{vm}/disks"), json!({ "volume": unknown }), 404, "Volume not found"),
        (
            format!("{vm}/disks"),
            json!({ "volume": unknown, "disk_size": 1 }),
            400,
            "disk_size must not be given beside",
        ),
        (format!("{vm}/disks"), json!({ "volume": unknown, "base_image": "blank.raw" }), 400, "base_image must not"),
        ("/volumes".to_owned(), json!({ "name": "a", "disk_size": 0 }), 400, "disk_size"),
        ("/volumes".to_owned(), json!({ "name": "", "disk_size": 1 }), 400, "name"),
        ("/volumes".to_owned(), json!({ "name": "a", "disk_size": 1, "base_image": "none.raw" }), 404, "not found"),
    ] {
        let answer = daemon.post(&path, body.clone()).await;
        assert!(answer.status == status && answer.message().contains(said), "{body}: {answer:?}");
    }
    daemon.put(&vm, json!({ "protected": true })).await.expect(200);
    let answer = daemon.delete(&of_disks("disk1?keep=true")).await;
    assert!(answer.status == 409 && answer.message().contains("protected"), "{answer:?}");
    assert!(volumes(&daemon).await.is_empty(), "a disk that was not removed has become none");
    assert_eq!(daemon.get(&format!("{vm}/disks")).await.expect(200)[1]["volume"], json!(null));
}

#[tokio::test]
async fn of_several_who_want_a_volume_at_once_one_has_it() {
    let daemon = Daemon::start();
    let (one, file) = with_data(&daemon, json!({})).await;
    let volume = kept(&daemon, &one).await;
    let id = volume.strip_prefix("/volumes/").unwrap();
    let mut vms = vec![one];
    for _ in 0..3 {
        vms.push(format!("/vms/{}", daemon.create(daemon.wish()).await));
    }
    let attach = vms.iter().map(|vm| {
        let (daemon, at) = (&daemon, format!("{vm}/disks"));
        async move { daemon.post(&at, json!({ "volume": id })).await.status }
    });
    let attached = futures_util::future::join_all(attach);
    let (attached, deleted) = tokio::join!(attached, daemon.delete(&volume));
    let given = attached.iter().filter(|status| **status == 201).count() + usize::from(deleted.status == 200);
    assert_eq!(given, 1, "{attached:?} {deleted:?}");
    assert!(attached.iter().all(|status| [201, 404, 409].contains(status)), "{attached:?}");
    assert_eq!(file.exists(), deleted.status != 200);
}

#[tokio::test]
async fn what_happens_to_volumes_is_told() {
    let daemon = Daemon::start();
    let begin = daemon.get("/events?after=0&wait=0&limit=1000").await.expect(200)["next"].clone();
    let (vm, _) = with_data(&daemon, json!({})).await;
    let volume = kept(&daemon, &vm).await;
    daemon.delete(&volume).await.expect(200);
    let made = daemon.post("/volumes", json!({ "name": "other", "disk_size": 1 })).await.expect(201);
    let after = begin.as_str().unwrap();
    let events = daemon.get(&format!("/events?after={after}&type=volume&wait=10")).await.expect(200);
    let reported: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            assert!(event["by"][0]["caller"].is_string(), "{event}");
            (event["type"].clone(), format!("/volumes/{}", event["volume_id"].as_str().unwrap()), event["name"].clone())
        })
        .collect();
    let other = format!("/volumes/{}", made["id"].as_str().unwrap());
    assert_eq!(
        reported,
        [
            (json!("volume.created"), volume.clone(), json!("data")),
            (json!("volume.deleted"), volume, json!("data")),
            (json!("volume.created"), other, json!("other")),
        ]
    );
}
