//! A VM whose host no longer has what the VM was made with: an ISO image, a base image, a machine type, memory to promise.
//! The start says which and what to do, and the API mends what a client can mend.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::mounts::{in_private_mounts, run};
use crate::support::{Answer, Daemon};
use serde_json::{Value, json};

fn iso(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.bases().join(name);
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

async fn with_iso(daemon: &Daemon, name: &str, start: bool) -> String {
    let mut wish = daemon.wish();
    (wish["iso"], wish["start"]) = (json!(iso(daemon, name)), json!(start));
    daemon.create(wish).await
}

async fn start(daemon: &Daemon, id: &str) -> Answer {
    daemon.post(&format!("/vms/{id}/start"), json!({})).await
}

/// Files that the VM's QEMU has open: each in its set, and by a copy of that.
async fn open_files(daemon: &Daemon, id: &str) -> BTreeSet<PathBuf> {
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).collect()
}

#[tokio::test]
async fn an_iso_that_is_gone_is_told_and_ejected_or_exchanged() {
    let daemon = Daemon::start();
    let id = with_iso(&daemon, "first.iso", false).await;
    let (path, first) = (format!("/vms/{id}/iso"), daemon.bases().join("first.iso"));
    fs::remove_file(&first).unwrap();
    for path in ["", "/hyperv"] {
        let answer = daemon.post(&format!("{path}/vms/{id}/start"), json!({})).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        let said = answer.body.to_string();
        assert!(["ISO image", first.to_str().unwrap(), "PUT /vms/{id}/iso"].iter().all(|w| said.contains(w)), "{said}");
    }
    assert_eq!(daemon.status(&id).await, "stopped");
    let missing = daemon.put(&path, json!({ "iso": "no.iso" })).await;
    assert!(missing.status == 400 && missing.message().contains("iso must exist"), "{missing:?}");
    let second = iso(&daemon, "second.iso");
    let answer = daemon.put(&path, json!({ "iso": "second.iso" })).await.expect(200);
    assert_eq!((&answer["iso"], &answer["applied"]), (&json!(second), &json!("next_start")), "{answer}");
    start(&daemon, &id).await.expect(200);
    assert!(open_files(&daemon, &id).await.contains(&second));
    // By null and by DELETE; both again and again.
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    for _ in 0..2 {
        assert_eq!(daemon.put(&path, json!({ "iso": null })).await.expect(200)["iso"], Value::Null);
        assert_eq!(daemon.delete(&path).await.expect(200)["iso"], Value::Null);
    }
    assert!(second.exists(), "it is the user's");
    assert_eq!(daemon.put(&path, json!({})).await.status, 400);
    assert_eq!(daemon.put(&path, json!({ "iso": "/etc/passwd" })).await.status, 400);
    assert_eq!(daemon.put(&path, json!({ "iso": "" })).await.status, 400);
}

#[tokio::test]
async fn a_running_vm_has_its_cd_exchanged_at_once() {
    let mut daemon = Daemon::start();
    let id = with_iso(&daemon, "first.iso", true).await;
    let path = format!("/vms/{id}/iso");
    let names = ["first.iso", "second.iso", "third.iso"];
    let files = names.map(|name| iso(&daemon, name));
    let is_missing = async |daemon: &Daemon, wanted: Option<&Path>| {
        let open = open_files(daemon, &id).await;
        let isos: Vec<&PathBuf> = open.iter().filter(|file| files.contains(file)).collect();
        assert_eq!(isos, wanted.into_iter().collect::<Vec<_>>());
        let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
        // It is shown as it was sent.
        let shown = config["iso"].as_str().map(|iso| daemon.bases().join(iso));
        assert_eq!((shown.as_deref(), &config["pending"]), (wanted, &json!({})));
    };
    is_missing(&daemon, Some(&files[0])).await;
    for next in [Some(1), Some(2), None, Some(0), Some(0), None, None, Some(1)] {
        let answer = daemon.put(&path, json!({ "iso": next.map(|next| names[next]) })).await.expect(200);
        assert_eq!((&answer["applied"], &answer["pending"]), (&json!("live"), &json!({})), "{answer}");
        is_missing(&daemon, next.map(|next| files[next].as_path())).await;
    }
    // A daemon after this one goes on from what QEMU has.
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    daemon.put(&path, json!({ "iso": "third.iso" })).await.expect(200);
    is_missing(&daemon, Some(&files[2])).await;
    assert_eq!(daemon.delete(&path).await.expect(200)["applied"], "live");
    is_missing(&daemon, None).await;

    // One that was started without a drive has it from the next start on.
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let bare = daemon.create(wish).await;
    let answer = daemon.put(&format!("/vms/{bare}/iso"), json!({ "iso": "first.iso" })).await.expect(200);
    assert_eq!((&answer["applied"], &answer["pending"]["iso"]["in_effect"]), (&json!("next_start"), &Value::Null));
    daemon.post(&format!("/vms/{bare}/stop"), json!({ "force": true })).await.expect(200);
    start(&daemon, &bare).await.expect(200);
    assert!(open_files(&daemon, &bare).await.contains(&files[0]));
}

#[tokio::test]
async fn a_base_image_that_is_gone_is_told_with_the_disk_that_needs_it() {
    let daemon = Daemon::start();
    let base = daemon.bases().join("base.raw");
    fs::copy(daemon.bases().join("blank.raw"), &base).unwrap();
    let mut wish = daemon.wish();
    wish["base_image"] = json!(base);
    let id = daemon.create(wish).await;
    let aside = base.with_extension("aside");
    fs::rename(&base, &aside).unwrap();
    let answer = start(&daemon, &id).await.expect(500);
    let said = answer["error"]["detail"].as_str().unwrap();
    let words = ["the base image that the disk root was cloned from", base.to_str().unwrap(), "put it back"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(daemon.status(&id).await, "stopped");
    fs::rename(&aside, &base).unwrap();
    start(&daemon, &id).await.expect(200);
    // The disk itself.
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    let disk = daemon.get(&format!("/vms/{id}/config")).await.expect(200)["disk_file"].as_str().unwrap().to_owned();
    fs::rename(&disk, &aside).unwrap();
    let answer = start(&daemon, &id).await.expect(500);
    assert!(answer["error"]["detail"].as_str().unwrap().contains(&format!("the disk {disk}")), "{answer}");
    fs::rename(&aside, &disk).unwrap();
    start(&daemon, &id).await.expect(200);
}

fn db(daemon: &Daemon, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    let output = command.arg("db").args(args).arg("--state-dir").arg(daemon.state()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// An export with the data of every VM changed, and with the checksums that belong to that.
fn rewritten(export: &str, change: impl Fn(&str) -> String) -> String {
    let line = |line: &str| {
        if line.starts_with("{\"records\"") {
            return format!("{}}}\n", line.split_once(',').unwrap().0);
        }
        let Some((before, rest)) = line.split_once("\"crc\":\"").filter(|_| line.starts_with("{\"name\":\"vm/")) else {
            return format!("{line}\n");
        };
        let data = rest.split_once("\"data\":").unwrap().1.strip_suffix("}}").unwrap();
        let changed = change(data);
        assert_ne!(data, changed);
        format!("{before}\"crc\":\"{:08x}\",\"data\":{changed}}}}}\n", crc32fast::hash(changed.as_bytes()))
    };
    export.lines().map(line).collect()
}

#[tokio::test]
async fn a_machine_type_that_qemu_does_not_know_is_told_and_exchanged_for_the_latest_of_its_kind() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["profile"] = json!("pc");
    let (q35, pc) = (daemon.create(daemon.wish()).await, daemon.create(wish).await);
    let machine = async |daemon: &Daemon, id: &str| {
        let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
        config["machine_type"].as_str().unwrap().to_owned()
    };
    let latest = machine(&daemon, &q35).await;
    assert!(latest.starts_with("pc-q35-"), "{latest}");
    // As after the upgrade to a QEMU that has dropped them.
    assert!(daemon.terminate().success());
    let export = daemon.dir.path().join("export");
    db(&daemon, &["export", export.to_str().unwrap()]);
    let text = fs::read_to_string(&export).unwrap();
    let change =
        |data: &str| data.replace(&format!("\"{latest}\""), "\"pc-q35-0.9\"").replace("\"pc-i440fx-", "\"pc-i440fx-0.");
    fs::write(&export, rewritten(&text, change)).unwrap();
    db(&daemon, &["import", "--replace", export.to_str().unwrap()]);
    daemon.run();
    let answer = start(&daemon, &q35).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    for word in ["does not know its machine type pc-q35-0.9", "PUT /vms/{id}/machine", "QEMU "] {
        assert!(answer.message().contains(word), "no {word:?} in {answer:?}");
    }
    assert_eq!((daemon.status(&q35).await.as_str(), daemon.qemus()), ("stopped", vec![]));
    let put = async |daemon: &Daemon, id: &str, body: Value| daemon.put(&format!("/vms/{id}/machine"), body).await;
    for (wrong, words) in [
        ("pc-q35-0.9", format!("type must be a machine type of QEMU |such as {latest}")),
        ("pc", "type must be of the same kind as pc-q35-0.9".to_owned()),
        ("none", "of the same kind".to_owned()),
    ] {
        let answer = put(&daemon, &q35, json!({ "type": wrong })).await;
        assert!(answer.status == 400 && words.split('|').all(|w| answer.message().contains(w)), "{answer:?}");
    }
    let answer = put(&daemon, &q35, json!({})).await.expect(200);
    assert_eq!((&answer["machine_type"], &answer["applied"]), (&json!(latest), &json!("next_start")), "{answer}");
    start(&daemon, &q35).await.expect(200);
    // The same is fine in any state, and another is not while it runs.
    put(&daemon, &q35, json!({ "type": "q35" })).await.expect(200);
    assert_eq!(put(&daemon, &q35, json!({ "type": "pc-q35-6.2" })).await.status, 409);
    put(&daemon, &pc, json!({ "type": "pc" })).await.expect(200);
    start(&daemon, &pc).await.expect(200);
    assert!(machine(&daemon, &pc).await.starts_with("pc-i440fx-"), "the hardware stays");
    assert_eq!(put(&daemon, &pc, json!({ "typ": "pc" })).await.status, 400);
}

/// The host's own setting stays as it is: the daemon sees another file in its place, and a limit has every allocation
/// fail that the setting would refuse.
#[test]
fn where_memory_is_promised_only_once_a_vm_has_what_it_was_given_and_no_room_to_grow() {
    let name = "where_memory_is_promised_only_once_a_vm_has_what_it_was_given_and_no_room_to_grow";
    in_private_mounts(module_path!(), name, || async {
        let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
        let mode = daemon.dir.path().join("overcommit");
        fs::write(&mode, "2\n").unwrap();
        run("mount", &["--bind", mode.to_str().unwrap(), "/proc/sys/vm/overcommit_memory"]);
        daemon.run();
        // QEMU's own needs beside 2 GiB for the guest.
        run("prlimit", &["--pid", &daemon.pid().to_string(), &format!("--as={}:", 8_u64 << 30)]);
        let mut wish = daemon.wish();
        wish["memory"] = json!(2048);
        let id = daemon.create(wish.clone()).await;
        let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
        let host = config["max_memory"].as_u64().unwrap();
        assert!(host > 9000, "it can grow at another time; a host of {host} MiB is too small for this test");
        start(&daemon, &id).await.expect(200);
        let answer = daemon.put(&format!("/vms/{id}/memory"), json!({ "memory": 3072 })).await.expect(200);
        assert_eq!(answer["applied"], "next_start", "{answer}");
        // What somebody asked for is not taken away in silence.
        wish["max_memory"] = json!(host);
        let id = daemon.create(wish).await;
        let answer = start(&daemon, &id).await.expect(500);
        let said = answer["error"]["detail"].as_str().unwrap();
        for word in ["Cannot allocate memory", "vm.overcommit_memory=2", "max_memory", "vm.overcommit_ratio"] {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        assert_eq!(daemon.status(&id).await, "stopped");
    });
}
