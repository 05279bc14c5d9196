//! QEMU opens no file of the host: the daemon does, looks at what it has opened, and hands it over. What was exchanged since
//! it was checked, or leads elsewhere by now, is refused at the start, and nothing is read or written by way of it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Answer, Daemon, qemus_below};
use serde_json::json;

fn qemu_img(words: &[&str]) {
    let output = Command::new("qemu-img").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn refuses(answer: &Answer, words: &[&str]) {
    let said = answer.body.to_string();
    assert!(answer.status >= 400 && words.iter().all(|word| said.contains(word)), "{} {said}", answer.status);
}

/// What stands for a file of the host that a guest must not see.
fn secret(daemon: &Daemon) -> PathBuf {
    let secret = daemon.dir.path().join("secret");
    fs::write(&secret, vec![b's'; 1 << 20]).unwrap();
    secret
}

#[tokio::test]
async fn a_base_image_that_was_exchanged_for_a_way_to_another_file_is_not_handed_over() {
    let daemon = Daemon::start();
    let (secret, base, kept) = (secret(&daemon), daemon.bases().join("base.qcow2"), daemon.bases().join("kept"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&base), "64M"]);
    let mut wish = daemon.wish();
    wish["base_image"] = json!(base);
    let id = daemon.create(wish).await;
    fs::rename(&base, &kept).unwrap();
    let start = async || daemon.post(&format!("/vms/{id}/start"), json!({})).await;

    symlink(&secret, &base).unwrap();
    refuses(&start().await, &[text(&base), "is a link"]);
    fs::remove_file(&base).unwrap();

    let data_file = format!("data_file={},data_file_raw=on", secret.display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data_file, text(&base), "1M"]);
    refuses(&start().await, &[text(&base), "keeps its data in", text(&secret)]);
    fs::remove_file(&base).unwrap();

    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", text(&secret), text(&base)]);
    refuses(&start().await, &[text(&base), "it has the backing file", text(&secret)]);
    fs::remove_file(&base).unwrap();

    fs::copy(&secret, &base).unwrap();
    refuses(&start().await, &[text(&base), "be a qcow2 image, as it was"]);
    fs::remove_file(&base).unwrap();

    nix::unistd::mkfifo(&base, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuses(&start().await, &[text(&base), "no regular file"]);
    fs::remove_file(&base).unwrap();

    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
    fs::rename(&kept, &base).unwrap();
    start().await.expect(200);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
}

/// As a QEMU that a guest has taken over could leave it.
#[tokio::test]
async fn a_disk_whose_header_leads_to_another_file_neither_starts_nor_grows() {
    let daemon = Daemon::start();
    let secret = secret(&daemon);
    let before = fs::read(&secret).unwrap();
    let id = daemon.create(daemon.wish()).await;
    let disk = daemon.state().join(format!("images/{id}/root.qcow2"));
    let kept = disk.with_extension("kept");
    fs::rename(&disk, &kept).unwrap();
    // Made beside it: qemu-img empties the data file.
    let elsewhere = daemon.dir.path().join("elsewhere");
    let data_file = format!("data_file={},data_file_raw=on", elsewhere.display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data_file, text(&disk), "1G"]);
    fs::remove_file(&elsewhere).unwrap();
    fs::rename(&secret, &elsewhere).unwrap();

    refuses(&daemon.post(&format!("/vms/{id}/start"), json!({})).await, &[text(&disk), text(&elsewhere)]);
    // Stored for the next start, which is refused; or refused at once.
    daemon.put(&format!("/vms/{id}/disk"), json!({ "disk_size": 3 })).await;
    refuses(&daemon.post(&format!("/vms/{id}/start"), json!({})).await, &[text(&disk)]);
    assert!(fs::read(&elsewhere).unwrap() == before, "untouched");

    fs::remove_file(&disk).unwrap();
    symlink(&elsewhere, &disk).unwrap();
    refuses(&daemon.post(&format!("/vms/{id}/start"), json!({})).await, &[text(&disk), "is a link"]);
    fs::remove_file(&disk).unwrap();
    fs::rename(&kept, &disk).unwrap();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert!(fs::read(&elsewhere).unwrap() == before);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
}

/// Files below `folder` that a process has open, with the access that it has.
fn open_below(pid: i32, folder: &Path) -> BTreeMap<PathBuf, Vec<&'static str>> {
    let mut found: BTreeMap<PathBuf, Vec<&'static str>> = BTreeMap::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(path) = fs::read_link(descriptor.path()) else { continue };
        if !path.starts_with(folder) || !path.is_file() {
            continue;
        }
        let info = format!("/proc/{pid}/fdinfo/{}", descriptor.file_name().to_str().unwrap());
        let info = fs::read_to_string(info).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        let access = match (flags & nix::libc::O_ACCMODE, flags & nix::libc::O_APPEND != 0) {
            (nix::libc::O_RDONLY, _) => "read",
            (nix::libc::O_RDWR, _) => "read-write",
            (_, true) => "append",
            (_, false) => "write",
        };
        found.entry(path).or_default().push(access);
    }
    found.values_mut().for_each(|all| all.dedup());
    found
}

#[tokio::test]
async fn qemu_has_what_its_devices_declare_and_the_daemon_keeps_no_copy() {
    let mut daemon = Daemon::start();
    let iso = daemon.bases().join("one.iso");
    fs::write(&iso, vec![0; 1 << 20]).unwrap();
    let mut wish = daemon.wish();
    (wish["iso"], wish["start"]) = (json!(iso), json!(true));
    let id = daemon.create(wish).await;
    let pid = qemus_below(&daemon.state())[0];
    let root = daemon.dir.path().canonicalize().unwrap();
    let run = daemon.run_dir(&id).canonicalize().unwrap();
    let image = |name: &str| root.join(format!("state/images/{id}/{name}"));
    let started: BTreeMap<_, _> = [
        (root.join("bases/blank.raw"), vec!["read"]),
        (root.join("bases/one.iso"), vec!["read"]),
        (image("root.qcow2"), vec!["read-write"]),
        (run.join("console.log"), vec!["read"]),
        (run.join("qemu.log"), vec!["read"]),
    ]
    .into();
    let held = || open_below(pid, &root);
    assert_eq!(held(), started);
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!words.contains("\"filename\":\"/") || words.contains("\"filename\":\"/dev/fdset/"), "{words}");

    let added = daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    let name = added["name"].as_str().unwrap();
    let mut wanted = started.clone();
    wanted.insert(image(&format!("{name}.qcow2")), vec!["read-write"]);
    assert_eq!(held(), wanted);
    // The drive lets go of its medium for good.
    daemon.put(&format!("/vms/{id}/iso"), json!({ "iso": null })).await.expect(200);
    wanted.remove(&root.join("bases/one.iso"));
    assert_eq!(held(), wanted);

    let own = open_below(daemon.pid(), &root);
    let guests = own.keys().filter(|path| wanted.contains_key(*path)).collect::<Vec<_>>();
    assert!(guests.is_empty(), "{guests:?}");
    // A daemon that takes it over knows what is in the drive.
    daemon.put(&format!("/vms/{id}/iso"), json!({ "iso": iso })).await.expect(200);
    daemon.kill();
    daemon.run();
    let again = daemon.put(&format!("/vms/{id}/iso"), json!({ "iso": iso })).await.expect(200);
    assert_eq!(again["applied"], "live", "{again}");
    wanted.insert(root.join("bases/one.iso"), vec!["read"]);
    assert_eq!(held(), wanted);

    // A halted QEMU 7.2 keeps what is taken back until it goes on: that is not taken for what is in the drive.
    let more = ["two", "three"].map(|name| daemon.bases().join(format!("{name}.iso")));
    more.iter().for_each(|iso| fs::write(iso, vec![0; 1 << 20]).unwrap());
    daemon.post(&format!("/vms/{id}/suspend"), json!({})).await.expect(200);
    for iso in [&more[0], &iso, &more[1], &more[0]] {
        let exchanged = daemon.put(&format!("/vms/{id}/iso"), json!({ "iso": iso })).await.expect(200);
        assert_eq!(exchanged["applied"], "live", "{exchanged}");
    }
    daemon.post(&format!("/vms/{id}/resume"), json!({})).await.expect(200);
    wanted.remove(&root.join("bases/one.iso"));
    wanted.insert(root.join("bases/two.iso"), vec!["read"]);
    // What it kept goes with the next one that is taken back.
    daemon.put(&format!("/vms/{id}/iso"), json!({ "iso": more[1] })).await.expect(200);
    daemon.put(&format!("/vms/{id}/iso"), json!({ "iso": more[0] })).await.expect(200);
    assert_eq!(held(), wanted);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
}
