//! `import libvirt`: what becomes of domains of different ages and makers, what is refused, and a domain that is taken over with
//! its disk.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    golden,
    screen::{bare, done, ran, run},
    support::{Daemon, guest},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/libvirt")
}

/// The domains, by their names.
fn domains(refused: bool) -> Vec<PathBuf> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|e| e == "xml"))
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("refused-") == refused)
        .collect();
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// Which switches are in the place of which networks.
fn networks(name: &str) -> &'static [&'static str] {
    match name {
        "small-print" => &["--network", "br0=LAN"],
        "rhel6" => &["--network", "br0=LAN"],
        "cloud-image" => &["--network", "virbr1=LAN", "--network", "eth1=Out"],
        "proxmox" => &["--network", "vmbr0=LAN"],
        _ => &[],
    }
}

/// A dry run, which needs no daemon.
fn dry(path: &Path, args: &[&str]) -> String {
    let words: Vec<&str> =
        ["import", "libvirt", path.to_str().unwrap(), "--dry-run"].iter().chain(args).copied().collect();
    ran(bare(&words)).expect(0).out
}

#[test]
fn every_domain_becomes_the_request_and_the_list_that_are_kept() {
    let files = domains(false);
    assert!(files.len() >= 10);
    for path in files {
        let name = name(&path);
        golden::compare(&format!("import.{name}"), &dry(&path, networks(&name)));
        // For programs it is the same, as data.
        let args: Vec<&str> = networks(&name).iter().chain(&["-o", "json"]).copied().collect();
        let data: Value = serde_json::from_str(&dry(&path, &args)).unwrap();
        assert!(data["request"]["disks"].is_array() && data["left"].is_array(), "{data}");
    }
}

#[test]
fn what_cannot_be_a_vm_here_is_refused_with_the_reason_and_what_to_do() {
    let mut said = String::new();
    for path in domains(true) {
        let text = ran(bare(&["import", "libvirt", path.to_str().unwrap(), "--dry-run"])).expect(2).err;
        said += &text.replace(&folder().display().to_string(), "");
    }
    golden::compare("import.refused", &said);
}

#[test]
fn what_is_no_domain_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let laughs = r#"<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
        <!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><domain type='kvm'><name>&c;</name></domain>"#;
    let deep = format!("<domain>{}", "<a>".repeat(1_000_000));
    let large = dir.path().join("large");
    fs::File::create(&large).unwrap().set_len(100 << 20).unwrap();
    let began = Instant::now();
    for (path, words) in [
        (file("laughs", laughs.as_bytes()), "DTD"),
        (file("deep", deep.as_bytes()), "nested deeper"),
        (large, "more than 4 MiB"),
        (
            file("latin", b"<?xml version='1.0' encoding='ISO-8859-1'?><domain><name>gr\xf6\xdfe</name></domain>"),
            "not UTF-8",
        ),
        (file("empty", b""), "no XML"),
        (file("pool", b"<pool type='dir'><name>default</name></pool>"), "<pool>"),
        (file("xen", b"<domain type='xen'><name>a</name></domain>"), "type xen"),
        (dir.path().to_owned(), "cannot be read"),
        (dir.path().join("nowhere"), "No such file"),
        (PathBuf::from("/dev/zero"), "more than 4 MiB"),
    ] {
        let said = ran(bare(&["import", "libvirt", path.to_str().unwrap(), "--dry-run"])).expect(2).err;
        assert!(said.contains(words), "{}: {said}", path.display());
    }
    // Not a figure: any of them that was worked on would take far longer.
    assert!(began.elapsed() < Duration::from_secs(60));
    // And what a terminal would act on is text.
    let evil = "<domain type='kvm'><name>a\u{9b}2J</name><memory>1</memory><os><type>hvm</type></os></domain>";
    let said =
        ran(bare(&["import", "libvirt", file("evil", evil.as_bytes()).to_str().unwrap(), "--dry-run"])).expect(2).err;
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}

#[test]
fn a_domain_comes_from_a_pipe_and_its_user_has_the_last_word() {
    let mut command = bare(&[
        "import",
        "libvirt",
        "-",
        "--dry-run",
        "-o",
        "json",
        "--name",
        "other",
        "--cpu-model",
        "none",
        "--cpu-feature",
        "aes",
    ]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = fs::read(folder().join("proxmox.xml")).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let data: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(data["request"]["name"], "other");
    assert_eq!(data["request"]["cpu"], json!({ "features": { "aes": true, "lahf_lm": true, "sep": true } }));
    let said = ran(bare(&[
        "import",
        "libvirt",
        folder().join("rhel6.xml").to_str().unwrap(),
        "--network",
        "br1=LAN",
        "--dry-run",
    ]));
    assert!(said.expect(2).err.contains("--network br1=… fits no interface"));
}

/// A copy of the test guest in the place of a domain's disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_taken_over_with_its_disk_and_boots() {
    let theirs = tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap();
    let folder_of_disks = theirs.path().canonicalize().unwrap();
    let disk = folder_of_disks.join("legacy-db.qcow2");
    // As libvirt has it: a disk that stands alone.
    let copied =
        Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(guest::image()).arg(&disk).status().unwrap();
    assert!(copied.success());
    let domain = fs::read_to_string(folder().join("rhel6.xml")).unwrap();
    let domain = domain
        .replace("/var/lib/libvirt/images/legacy-db.img", disk.to_str().unwrap())
        .replace("type='raw' cache='none'", "type='qcow2' cache='none'")
        .replace("4194304", "262144");
    let file = theirs.path().join("legacy-db.xml");
    fs::write(&file, domain).unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", folder_of_disks.to_str().unwrap()]);

    let said = done(&daemon, &["import", "libvirt", file.to_str().unwrap(), "--start", "--wait-for", "running"]);
    assert!(said.contains("legacy-db is made, and runs"), "{said}");
    assert!(said.contains("Not taken over") && said.contains("graphics vnc"), "{said}");
    let vms = daemon.get("/vms").await.expect(200);
    let id = vms[0]["id"].as_str().unwrap().to_owned();
    let beat = daemon.await_boot(&id, None).await;
    assert_eq!((beat.cpus, beat.nics), (2, 1));
    let whole = daemon.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!((&whole["mac_address"], &whole["disk_file"]), (&json!("52:54:00:6f:12:a4"), &json!(disk)));
    assert_eq!(whole["labels"]["libvirt/uuid"], "2c1f0a1e-8a53-1ff0-4d7e-9e5b5c1d7a20");
    assert_eq!((&whole["profile"], &whole["restart_policy"]), (&json!("pc"), &json!("on-failure")));

    // A second time there are not two of it.
    let again = run(&daemon, &["import", "libvirt", file.to_str().unwrap()]).expect(4);
    assert!(again.err.contains("a disk of the VM legacy-db"), "{}", again.err);
    done(&daemon, &["rm", "legacy-db"]);
    assert!(disk.exists(), "it stays");
    // What the guest wrote is in it: it is the same disk, and it is whole.
    let checked = Command::new("qemu-img").args(["check", "-q"]).arg(&disk).status().unwrap();
    assert!(checked.success());
}
