//! Files that are no images at all, told by their content; bases that somebody writes to; and the one look into a base
//! that everybody waits for. Archives are made by the programs that people use.

use std::{
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{Answer, Daemon, PATIENCE};
use serde_json::json;

async fn create(daemon: &Daemon, base: &str) -> Answer {
    let mut wish = daemon.wish();
    wish["base_image"] = json!(base);
    daemon.post("/vms", wish).await
}

/// Runs a shell line in a folder.
fn shell(folder: &Path, line: &str) {
    let output = Command::new("sh").args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An image with its signature and nothing else, for programs that not every machine has.
fn signed(folder: &Path, name: &str, at: u64, signature: &[u8]) {
    let file = std::fs::File::create(folder.join(name)).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(signature, at).unwrap();
}

#[tokio::test]
async fn what_is_no_disk_image_is_refused_with_what_it_is() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    shell(&bases, "printf disk > d.img; xz -k d.img; gzip -k d.img; bzip2 -k d.img");
    shell(&bases, "printf '<ovf/>' > vm.ovf; tar -cf appliance.ova vm.ovf d.img; tar -cf d.tar d.img");
    shell(&bases, "qemu-img create -q -f vpc -o subformat=fixed fixed.vhd 8M; qemu-img create -q -f vhdx x.vhdx 8M");
    shell(&bases, "qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 8M; cp /bin/true program");
    std::fs::write(bases.join("error.qcow"), "\n<!DOCTYPE html>\n<html><title>404 Not Found</title></html>").unwrap();
    std::fs::write(bases.join("error.img"), "{\"message\":\"Not Found\"}").unwrap();
    signed(&bases, "d.zst", 0, b"\x28\xb5\x2f\xfd");
    signed(&bases, "d.zip", 0, b"PK\x03\x04");
    signed(&bases, "cd.img", 0x8001, b"CD001");
    let cases = [
        ("d.img.xz", "compressed with xz; unpack it first with unxz"),
        ("d.img.gz", "compressed with gzip; unpack it first with gunzip"),
        ("d.img.bz2", "compressed with bzip2; unpack it first with bunzip2"),
        ("d.zst", "compressed with zstd; unpack it first with unzstd"),
        ("d.zip", "a zip archive"),
        ("appliance.ova", "an OVA (a tar archive)"),
        ("d.tar", "a tar archive"),
        ("fixed.vhd", "a fixed VHD image; convert it with qemu-img convert -f vpc -O qcow2"),
        ("x.vhdx", "not a VHDX image; convert it"),
        ("flat.vmdk", "VMDK"),
        ("program", "a program (ELF)"),
        ("error.qcow", "an HTML or XML page"),
        ("error.img", "a JSON text"),
        ("cd.img", "an ISO image (ISO 9660); put it into the CD drive with iso"),
    ];
    for (base, said) in cases {
        let answer = create(&daemon, base).await;
        assert_eq!(answer.status, 400, "{base}: {answer:?}");
        assert!(
            answer.message().starts_with("Invalid parameter: base_image must be a raw or qcow2 image, not "),
            "{answer:?}"
        );
        assert!(answer.message().contains(said), "no {said:?} in {answer:?}");
    }
    // As a further disk it is told by its place; as a CD it is no image either, but an ISO image is one.
    let mut wish = daemon.wish();
    wish["disks"] = json!([{ "disk_size": 1, "base_image": "d.tar" }]);
    let answer = daemon.post("/vms", wish).await;
    assert!(answer.status == 400 && answer.message().contains("disks[0].base_image must be"), "{answer:?}");
    for (iso, said) in [("error.img", "a JSON text"), ("d.img.xz", "xz"), ("x.vhdx", "a VHDX image")] {
        let mut wish = daemon.wish();
        wish["iso"] = json!(iso);
        let answer = daemon.post("/vms", wish).await;
        assert!(answer.status == 400 && answer.message().contains("iso must be an ISO image, not"), "{answer:?}");
        assert!(answer.message().contains(said), "{answer:?}");
    }
    // A name that no qcow2 image can hold.
    let long: PathBuf = (0..5).map(|_| "x".repeat(220)).collect();
    std::fs::create_dir_all(bases.join(&long)).unwrap();
    std::fs::copy(bases.join("blank.raw"), bases.join(&long).join("b.raw")).unwrap();
    let answer = create(&daemon, long.join("b.raw").to_str().unwrap()).await;
    assert!(answer.status == 400 && answer.message().contains("at most 1023 bytes"), "{answer:?}");
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
    let mut wish = daemon.wish();
    wish["iso"] = json!("cd.img");
    daemon.create(wish).await;
    create(&daemon, "d.img").await.expect(201);
}

/// A program that has an image open for writing, until it is dropped.
struct Writer(std::process::Child);

impl Writer {
    fn on(image: &Path) -> Self {
        let drive = format!("file={},format=raw,if=virtio", image.display());
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35,accel=tcg", "-nodefaults", "-display", "none", "-S", "-drive", &drive]);
        let mut writer = Self(qemu.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        // The lock is the kernel's to tell.
        let inode = format!(":{} ", image.metadata().unwrap().ino());
        let open = || {
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains("OFDLCK") && lock.contains(&inode) && lock.ends_with("101"))
        };
        while !open() {
            assert!(Instant::now() < deadline && writer.0.try_wait().unwrap().is_none(), "it does not open the image");
            std::thread::sleep(Duration::from_millis(50));
        }
        writer
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_base_that_another_program_writes_to_is_in_use_by_that_program() {
    let daemon = Daemon::start();
    create(&daemon, "blank.raw").await.expect(201);
    let writer = Writer::on(&daemon.bases().join("blank.raw"));
    let answer = create(&daemon, "blank.raw").await;
    let who = format!("in use by process {} (qemu-system-x86)", writer.0.id());
    assert!(answer.status == 409 && answer.message().contains(&who), "no {who:?} in {answer:?}");
    drop(writer);
    // A clone that runs has it open as well, and only reads it.
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    daemon.create(wish).await;
    create(&daemon, "blank.raw").await.expect(201);
}

/// A folder with a qemu-img that notes every check by a folder, as it may write no file, and holds it back while a file is
/// there.
fn held_back(folder: &Path) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|folder| folder.join("qemu-img")).find(|tool| tool.is_file()).unwrap();
    let (bin, folder, real) = (folder.join("bin"), folder.display(), real.display());
    std::fs::create_dir(&bin).unwrap();
    let lines = format!(
        "#!/bin/sh\nif [ \"$1\" = check ]; then mkdir {folder}/check-$$; while [ -e {folder}/hold ]; do sleep 0.05; done; fi\n\
         exec {real} \"$@\"\n"
    );
    std::fs::write(bin.join("qemu-img"), lines).unwrap();
    std::fs::set_permissions(bin.join("qemu-img"), PermissionsExt::from_mode(0o755)).unwrap();
    bin
}

#[tokio::test]
async fn a_large_base_is_looked_into_once_however_many_clone_it() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let bin = held_back(daemon.dir.path());
    let mut command = daemon.command();
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    // This qemu-img makes folders of its own.
    command.env("QHERD_TEST_WITHOUT_LAYERS", "landlock,mounts,user");
    daemon.run_as(command);
    shell(&daemon.bases(), "qemu-img create -q -f qcow2 large.qcow2 1G");
    let hold = daemon.dir.path().join("hold");
    std::fs::write(&hold, "").unwrap();
    let is_check = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("check-");
    let checks = || std::fs::read_dir(daemon.dir.path()).unwrap().flatten().filter(is_check).count();
    // None is done in time: each is told to come again, nobody waits for ever, and other images are not held up.
    let waiting = futures_util::future::join_all((0..12).map(|_| create(&daemon, "large.qcow2")));
    let other = async {
        while checks() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        create(&daemon, "blank.raw").await
    };
    let (answers, other) = tokio::join!(waiting, other);
    other.expect(201);
    for answer in answers {
        assert!(answer.status == 503 && answer.message().contains("is still being checked; try again"), "{answer:?}");
    }
    assert_eq!(checks(), 1);
    // The same look goes on, and is known from then on.
    let again = futures_util::future::join_all((0..3).map(|_| create(&daemon, "large.qcow2")));
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::fs::remove_file(&hold).unwrap();
    };
    let (answers, ()) = tokio::join!(again, release);
    answers.into_iter().for_each(|answer| drop(answer.expect(201)));
    create(&daemon, "large.qcow2").await.expect(201);
    assert_eq!(checks(), 1);
}
