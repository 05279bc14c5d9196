//! Files that cannot be a base image: each is refused with what to change, none hangs the daemon, and nothing is left
//! behind. All damage is real: made in the file, and found by qemu-img itself.

#![allow(unsafe_code)]

use std::{
    fs::File,
    os::unix::{
        fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::callers::token;
use crate::support::{Answer, Daemon};
use qherd::host::process;
use serde_json::json;

async fn create(daemon: &Daemon, base: impl AsRef<Path>) -> Answer {
    let mut wish = daemon.wish();
    wish["base_image"] = json!(base.as_ref());
    daemon.post("/vms", wish).await
}

/// 400 with every one of `words` (separated by `|`), or with another status that stands before them.
async fn refuse(daemon: &Daemon, cases: &[(&str, &str)]) {
    for (base, words) in cases {
        refuse_one(daemon, Path::new(base), 400, words).await;
    }
}

async fn refuse_one(daemon: &Daemon, base: &Path, status: u16, words: &str) {
    let answer = create(daemon, base).await;
    assert_eq!(answer.status, status, "{} → {}", base.display(), answer.body);
    for word in words.split('|') {
        assert!(answer.message().contains(word), "{}: no {word:?} in {:?}", base.display(), answer.message());
    }
}

async fn nothing_is_left(daemon: &Daemon) {
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!(daemon.get("/base-images").await.expect(200), json!([]));
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

fn qemu_img(folder: &Path, args: &str) -> i32 {
    let output = Command::new("qemu-img").args(args.split(' ')).current_dir(folder).output().unwrap();
    output.status.code().unwrap()
}

/// A qcow2 of 64 MiB that holds 4 MiB of data, with its first 8 KiB for finding the tables.
fn filled_qcow2(folder: &Path, name: &str) -> (Damaged, Vec<u8>) {
    let data: Vec<u8> = (0..4_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let raw = File::create(folder.join("filled.tmp")).unwrap();
    raw.write_all_at(&data, 0).unwrap();
    raw.set_len(64 << 20).unwrap();
    assert_eq!(qemu_img(folder, &format!("convert -f raw -O qcow2 filled.tmp {name}")), 0);
    std::fs::remove_file(folder.join("filled.tmp")).unwrap();
    let file = File::options().read(true).write(true).open(folder.join(name)).unwrap();
    let mut head = vec![0; 8192];
    file.read_exact_at(&mut head, 0).unwrap();
    (Damaged(folder.join(name)), head)
}

/// An image that is open only while something is done to it: one that somebody has open for writing is refused as that.
struct Damaged(PathBuf);

impl Damaged {
    fn open(&self) -> File {
        File::options().write(true).open(&self.0).unwrap()
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        self.open().write_all_at(bytes, at)
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.open().set_len(length)
    }
}

/// The most memory that the daemon has had, in KiB.
fn peak(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A big-endian number of the qcow2 header (docs/interop/qcow2.txt in QEMU).
fn header(head: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(head[at..at + 8].try_into().unwrap())
}

const L1_TABLE: usize = 40;
const REFCOUNT_TABLE: usize = 48;
const INCOMPATIBLE_FEATURES: usize = 72;

#[tokio::test]
async fn damaged_images_are_refused() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    let (_, _) = filled_qcow2(&bases, "good.qcow2");
    let (file, head) = filled_qcow2(&bases, "l1.qcow2");
    // The first L2 table is somewhere else, at an address that no table can have.
    file.write_all_at(&(1_u64 << 63 | 0x12_3456_7200).to_be_bytes(), header(&head, L1_TABLE)).unwrap();
    let (file, head) = filled_qcow2(&bases, "refcount.qcow2");
    // Every cluster counts as free: the next write would go over data.
    file.write_all_at(&[0; 64], header(&head, REFCOUNT_TABLE)).unwrap();
    let (file, _) = filled_qcow2(&bases, "cut.qcow2");
    file.set_len(1 << 20).unwrap();
    let (file, head) = filled_qcow2(&bases, "marked.qcow2");
    let corrupt = header(&head, INCOMPATIBLE_FEATURES) | 2;
    file.write_all_at(&corrupt.to_be_bytes(), INCOMPATIBLE_FEATURES as u64).unwrap();
    let (file, _) = filled_qcow2(&bases, "header.qcow2");
    file.set_len(50).unwrap();
    for name in ["l1.qcow2", "refcount.qcow2"] {
        assert_eq!(qemu_img(&bases, &format!("info {name}")), 0, "{name}: the header alone tells nothing");
        assert!(![0, 3].contains(&qemu_img(&bases, &format!("check -q {name}"))), "{name} is not damaged");
    }
    std::fs::write(bases.join("text.qcow2"), "This is a text.\n").unwrap();
    std::fs::write(bases.join("empty.qcow2"), "").unwrap();
    let damaged = "must be intact, but qemu-img check finds it damaged";
    refuse(
        &daemon,
        &[
            ("l1.qcow2", damaged),
            ("refcount.qcow2", damaged),
            ("cut.qcow2", damaged),
            ("marked.qcow2", "must be intact, but it is marked as damaged"),
            ("header.qcow2", "must be an intact qcow2 image: its header ends too early"),
            ("text.qcow2", "must be intact|no qcow2 header"),
            ("empty.qcow2", "must not be empty"),
        ],
    )
    .await;
    nothing_is_left(&daemon).await;
    // Mended, it is taken: what was found out of a file holds only for as long as the file is the same.
    std::fs::copy(bases.join("good.qcow2"), bases.join("l1.qcow2")).unwrap();
    for mended in ["l1.qcow2", "good.qcow2"] {
        create(&daemon, mended).await.expect(201);
    }
}

#[tokio::test]
async fn images_of_other_kinds_are_refused_with_what_to_do() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    for args in [
        "create -q -f vmdk disk.vmdk 64M",
        "create -q -f vdi disk.vdi 64M",
        "create -q -f vpc disk.vhd 64M",
        "create -q -f qcow2 -F raw -b blank.raw overlay.qcow2",
        "create -q -f qcow2 -o data_file=outside.raw,data_file_raw=on external.qcow2 64M",
        "create -q -f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 disk.luks 64M",
        "create -q -f qcow2 --object secret,id=s,data=x \
         -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 encrypted.qcow2 64M",
    ] {
        let args = args.split_whitespace().collect::<Vec<_>>().join(" ");
        // LUKS measures the processor first, and gives up on a busy one ("Unable to get accurate CPU usage").
        assert!((0..20).any(|_| qemu_img(&bases, &args) == 0), "{args}");
    }
    let convert = "qemu-img convert";
    refuse(
        &daemon,
        &[
            ("disk.vmdk", &format!("must be a raw or qcow2 image, not a VMDK image|{convert}")),
            ("disk.vdi", &format!("not a VDI image|{convert}")),
            ("disk.vhd", &format!("not a VHD image|{convert}")),
            ("disk.luks", &format!("not an encrypted (LUKS) image|{convert}")),
            ("overlay.qcow2", &format!("must stand alone|backing file blank.raw|{convert}")),
            ("external.qcow2", &format!("must stand alone|outside.raw|{convert}")),
            ("encrypted.qcow2", "must not be encrypted"),
        ],
    )
    .await;
    // An image larger than the disk that is to be made of it.
    File::create(bases.join("large.raw")).unwrap().set_len((2 << 30) + 512).unwrap();
    let mut wish = daemon.wish();
    wish["base_image"] = json!("large.raw");
    for clone in ["linked", "full"] {
        wish["clone"] = json!(clone);
        let answer = daemon.post("/vms", wish.clone()).await;
        let message = "disk_size must be at least 3 (GiB), the size of the base image (2147484160 bytes), not 1.";
        assert_eq!((answer.status, answer.message()), (400, format!("Invalid parameter: {message}").as_str()));
    }
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_base_image_must_lie_in_an_image_directory() {
    let daemon = Daemon::start();
    let (bases, root) = (daemon.bases(), daemon.dir.path().to_owned());
    std::fs::write(root.join("secret.raw"), vec![0; 4096]).unwrap();
    std::fs::create_dir(bases.join("sub")).unwrap();
    symlink(root.join("secret.raw"), bases.join("link.raw")).unwrap();
    symlink(&root, bases.join("folder")).unwrap();
    symlink("blank.raw", bases.join("alias.raw")).unwrap();
    symlink("loop.raw", bases.join("loop.raw")).unwrap();
    let outside = "must lie in an image directory|--image-dir";
    let absolute = |path: &str| bases.join(path).display().to_string();
    refuse(
        &daemon,
        &[
            (&root.join("secret.raw").display().to_string(), outside),
            // The same words whether it exists or not: nobody can feel their way around the host.
            (&root.join("no-secret.raw").display().to_string(), outside),
            ("../secret.raw", outside),
            ("sub/../../secret.raw", outside),
            (&absolute("../secret.raw"), outside),
            (&absolute("missing/../../secret.raw"), outside),
            ("link.raw", outside),
            ("folder/secret.raw", outside),
            ("folder/no-secret.raw", outside),
            ("/dev/zero", outside),
            ("/etc/passwd", outside),
            ("/", outside),
            (".", outside),
            ("..", outside),
            (&bases.display().to_string(), outside),
        ],
    )
    .await;
    let not_found = |path: &str| format!("Base image not found: {path}.");
    for missing in ["missing.raw", "sub/missing.raw", &absolute("missing.raw"), "nbd://127.0.0.1/x", "json:{}"] {
        refuse_one(&daemon, Path::new(missing), 404, &not_found(missing)).await;
    }
    nothing_is_left(&daemon).await;
    create(&daemon, "alias.raw").await.expect(201);
    create(&daemon, absolute("sub/../blank.raw")).await.expect(201);
}

#[tokio::test]
async fn what_is_no_readable_file_is_refused_without_being_opened() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--image-dir", "/dev"]);
    let bases = daemon.bases();
    nix::unistd::mkfifo(&bases.join("fifo.raw"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bases.join("socket.raw")).unwrap();
    std::fs::create_dir_all(bases.join("folder.qcow2")).unwrap();
    std::fs::create_dir_all(bases.join("closed")).unwrap();
    std::fs::copy(bases.join("blank.raw"), bases.join("closed/inside.raw")).unwrap();
    std::fs::write(bases.join("unreadable.raw"), vec![0; 4096]).unwrap();
    let close = |path: &str, mode| std::fs::set_permissions(bases.join(path), PermissionsExt::from_mode(mode)).unwrap();
    close("unreadable.raw", 0);
    close("closed", 0);
    let mut command = daemon.command();
    // The superuser may read everything; without these two capabilities it is held to the modes like anybody else.
    // SAFETY: async-signal-safe system calls only; anybody else has nothing to lose and gets EPERM.
    unsafe {
        command.pre_exec(|| {
            const DAC_OVERRIDE: u64 = 1;
            const DAC_READ_SEARCH: u64 = 2;
            for capability in [DAC_OVERRIDE, DAC_READ_SEARCH] {
                nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            Ok(())
        })
    };
    daemon.run_as(command);
    let regular = "must be a regular file";
    let permission = "must be readable by qherd|Permission denied";
    refuse(
        &daemon,
        &[
            ("fifo.raw", regular),
            ("socket.raw", regular),
            ("folder.qcow2", regular),
            ("/dev/zero", regular),
            ("/dev/null", regular),
            ("unreadable.raw", permission),
            ("closed/inside.raw", permission),
            (&"x".repeat(300), "must be readable by qherd|name too long"),
        ],
    )
    .await;
    nothing_is_left(&daemon).await;
    close("closed", 0o700);
}

#[tokio::test]
async fn a_disk_that_qherd_made_is_never_a_base_image() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["clone"] = json!("full");
    let made = daemon.post("/vms", wish).await.expect(201);
    let (id, disk) = (made["id"].as_str().unwrap(), made["disk_file"].as_str().unwrap());
    symlink(disk, daemon.bases().join("alias.qcow2")).unwrap();
    // No image directory can hold the state directory; of one that is a storage directory too, see bad_hyperv.
    let outside = "must lie in an image directory";
    refuse(&daemon, &[(disk, outside), ("alias.qcow2", outside)]).await;
    // Also where there is none any more, or never was.
    refuse(&daemon, &[(&daemon.state().join("images/else.qcow2").display().to_string(), outside)]).await;
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    refuse(&daemon, &[(disk, outside)]).await;
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_link_to_a_file_whose_name_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let daemon = Daemon::start();
    let real = daemon.bases().join(std::ffi::OsStr::from_bytes(b"bad\xff.raw"));
    std::fs::copy(daemon.bases().join("blank.raw"), &real).unwrap();
    symlink(&real, daemon.bases().join("link")).unwrap();
    refuse(&daemon, &[("link", "base_image must have a path that is UTF-8")]).await;
    nothing_is_left(&daemon).await;
}

/// What an image names is the choice of whoever made it, so nothing looks there: a pipe would hold whoever opens it.
#[tokio::test]
async fn what_an_image_names_is_not_opened() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    let pipe = bases.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (name, backing) in [
        ("relative.qcow2", "pipe".to_owned()),
        ("absolute.qcow2", pipe.display().to_string()),
        ("json.qcow2", format!("json:{{\"driver\":\"file\",\"filename\":\"{}\"}}", pipe.display())),
        ("nbd.qcow2", "nbd:127.0.0.1:9".to_owned()),
    ] {
        assert_eq!(qemu_img(&bases, &format!("create -q -u -f qcow2 -F raw -b {backing} {name} 64M")), 0, "{name}");
    }
    let extent = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                  RW 131072 FLAT \"pipe\" 0\n";
    std::fs::write(bases.join("extent.vmdk"), extent).unwrap();
    let (file, _) = filled_qcow2(&bases, "endless.qcow2");
    // 8 EiB, and an L1 table of 32 GiB to go with it.
    file.write_all_at(&(i64::MAX as u64).to_be_bytes(), 24).unwrap();
    file.write_all_at(&u32::MAX.to_be_bytes(), 36).unwrap();
    refuse(
        &daemon,
        &[
            ("relative.qcow2", "must stand alone, but it has the backing file pipe"),
            ("absolute.qcow2", "must stand alone"),
            ("json.qcow2", "must stand alone"),
            ("nbd.qcow2", "must stand alone"),
            ("extent.vmdk", "not the descriptor of a VMDK image"),
            ("endless.qcow2", "must be an intact qcow2 image"),
        ],
    )
    .await;
    let nobody = File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap_err();
    assert_eq!(nobody.raw_os_error(), Some(nix::libc::ENXIO), "somebody reads from the pipe");
    nothing_is_left(&daemon).await;
}

/// Tables and sizes that somebody made up cost neither time nor memory.
#[tokio::test]
async fn what_is_absurd_in_size_is_refused_in_bounded_time_and_memory() {
    let daemon = Daemon::start();
    let bases = daemon.bases();
    let giant = File::create(bases.join("giant.raw")).unwrap();
    // As large as the file system lets it be, without a byte in it.
    let sizes = [i64::MAX as u64, 15 << 40, 1 << 40];
    assert!(sizes.iter().any(|size| giant.set_len(*size).is_ok()));
    drop(giant);
    symlink("nowhere.raw", bases.join("dangling.raw")).unwrap();
    let intact = "must be an intact qcow2 image";
    let mut cases = vec![("giant.raw", "disk_size must be at least")];
    for (name, at, bytes) in [
        ("size.qcow2", 24, u64::MAX.to_be_bytes().as_slice()),
        ("tables.qcow2", 36, &u32::MAX.to_be_bytes()),
        ("refcounts.qcow2", 56, &u32::MAX.to_be_bytes()),
        ("snapshots.qcow2", 60, &u32::MAX.to_be_bytes()),
        ("clusters.qcow2", 20, &63_u32.to_be_bytes()),
        ("header.qcow2", 100, &u32::MAX.to_be_bytes()),
    ] {
        filled_qcow2(&bases, name).0.write_all_at(bytes, at).unwrap();
        cases.push((name, intact));
    }
    let (before, begun) = (peak(&daemon), std::time::Instant::now());
    refuse(&daemon, &cases).await;
    refuse_one(&daemon, Path::new("dangling.raw"), 404, "Base image not found: dangling.raw.").await;
    assert!(peak(&daemon) < before + (64 << 10), "it took {} KiB", peak(&daemon) - before);
    assert!(begun.elapsed() < crate::support::PATIENCE);
    nothing_is_left(&daemon).await;
}

/// A qcow2 of a few hundred KiB of whose 8192 clusters for each of `tables` qemu-img complains: all tables are the same one, and so
/// are all their clusters.
fn complained_of(folder: &Path, name: &str, tables: u64) {
    assert_eq!(qemu_img(folder, &format!("create -q -f qcow2 {name} {}M", 512 * tables)), 0);
    let file = File::options().read(true).write(true).open(folder.join(name)).unwrap();
    let mut head = vec![0; 104];
    file.read_exact_at(&mut head, 0).unwrap();
    let cluster = 1 << 16;
    let (used, end) = (1_u64 << 63, file.metadata().unwrap().len().next_multiple_of(cluster));
    for table in 0..tables {
        file.write_all_at(&(used | end).to_be_bytes(), header(&head, L1_TABLE) + 8 * table).unwrap();
    }
    file.write_all_at(&(used | (end + cluster)).to_be_bytes().repeat(8192), end).unwrap();
    file.write_all_at(&[7; 1 << 16], end + cluster).unwrap();
}

#[tokio::test]
async fn what_qemu_img_complains_of_without_end_is_not_kept() {
    let daemon = Daemon::start();
    // Of 100 MiB, and some GiB until it is given up.
    complained_of(&daemon.bases(), "some.qcow2", 64);
    let before = peak(&daemon);
    while create(&daemon, "some.qcow2").await.status == 503 {}
    refuse(&daemon, &[("some.qcow2", "must be intact, but qemu-img check finds it damaged")]).await;
    assert!(peak(&daemon) < before + (32 << 10), "it took {} KiB", peak(&daemon) - before);
}

#[tokio::test]
async fn images_that_take_one_client_long_delay_no_other() {
    let daemon = Daemon::start();
    let [hostile, good] = [(); 2].map(|()| token(&daemon.state(), &["create", "--role", "operator"]));
    let images: Vec<String> = (0..6).map(|number| format!("{number}.qcow2")).collect();
    images.iter().for_each(|name| complained_of(&daemon.bases(), name, 4096));
    assert_eq!(qemu_img(&daemon.bases(), "create -q -f qcow2 good.qcow2 1M"), 0);
    let create = async |token: &str, base: &str| {
        let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 4096, "base_image": base });
        daemon.send(daemon.http().post(daemon.at("/vms")).bearer_auth(token).json(&wish)).await
    };
    // They take up all places that their client has, and then some; and it has asked for the good one as well.
    let all = images.iter().map(String::as_str).chain(["good.qcow2"]);
    let hang = futures_util::future::join_all(all.map(|name| create(&hostile, name)));
    let parent = format!("PPid:\t{}\n", daemon.pid());
    let is_ours = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains(&parent));
    let others = async {
        while process::find(&["check", "-q"]).unwrap().iter().filter(|pid| is_ours(pid)).count() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        create(&good, "good.qcow2").await.expect(201)
    };
    tokio::select! {
        all = hang => panic!("{all:?}"),
        made = others => drop(made),
    }
}

#[tokio::test]
async fn a_base_image_exchanged_for_an_overlay_is_refused_at_the_start() {
    let daemon = Daemon::start();
    assert_eq!(qemu_img(&daemon.bases(), "create -q -f qcow2 base.qcow2 64M"), 0);
    let mut wish = daemon.wish();
    wish["base_image"] = json!("base.qcow2");
    let id = daemon.create(wish).await;
    let secret = daemon.bases().parent().unwrap().join("secret.raw");
    std::fs::write(&secret, [7; 4096]).unwrap();
    let overlay = format!("create -q -f qcow2 -F raw -b {} base.qcow2 64M", secret.display());
    assert_eq!(qemu_img(&daemon.bases(), &overlay), 0);
    let refused = daemon.post(&format!("/vms/{id}/start"), json!({})).await;
    let said = refused.message();
    assert!(refused.status == 409 && said.contains("it must stand alone, but it has the backing file"), "{refused:?}");
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}
