//! What a program in the place of those that work on images can do, started in the very way that they are: nothing, but with the
//! files that it was lent. Each attempt succeeds when the layers are left out that refuse it, so each of these layers is what holds.
#![cfg(debug_assertions)]
#![allow(unsafe_code)]

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::intruder::{Intruder, Outcomes, outcomes};
use nix::libc;
use qherd::{
    host::image::{Copied, Folders, Keep, QemuImg, Unpack, Unpacker},
    model::{BaseImage, CloneMode, Compression, ImageFormat, Uids},
};
use tempfile::TempDir;

/// Of these tests alone.
const UIDS: &str = "1999960000-1999960999";

/// A folder with a script in it that is in the place of another program.
struct InPlace {
    dir: TempDir,
    _intruder: Intruder,
}

impl InPlace {
    /// The lines of the script; `$intruder` is the program.
    fn of(lines: &str) -> Self {
        let intruder = Intruder::build();
        intruder.show_to_all();
        let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
        // As of a program that is installed beside it, its folder is shown.
        let program = dir.path().join("intruder");
        fs::copy(intruder.path(), &program).unwrap();
        let script =
            format!("#!/bin/sh\n[ \"$1\" = --version ] && exit\nintruder={}\n{lines}\nexit 1\n", program.display());
        let place = Self { dir, _intruder: intruder };
        fs::write(place.program(), script).unwrap();
        for path in [place.dir.path().to_owned(), program, place.program()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        place
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("program")
    }
}

fn keep() -> Keep {
    Keep { uids: UIDS.parse::<Uids>().unwrap(), mark: format!("test-{}", std::process::id()) }
}

/// What the intruder says in qemu-img's place when an image is to be made, with some layers left out.
async fn tried(attempts: &[String], without: &str) -> Outcomes {
    // SAFETY: each test is a process of its own, and none of its other threads reads it.
    unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
    let words: Vec<String> = attempts.iter().map(|attempt| format!("'{attempt}'")).collect();
    let place = InPlace::of(&format!("$intruder {}", words.join(" ")));
    let images = QemuImg::find(&place.program(), Folders::default(), &keep()).await.unwrap();
    assert!(images.missing().is_empty());
    let made = tempfile::tempdir().unwrap();
    let said = images.create(&made.path().join("image"), 1).await.unwrap_err().to_string();
    let outcomes = outcomes(&said);
    assert_eq!(outcomes.len(), attempts.len(), "without {without}: {said}");
    outcomes
}

/// All of these are refused by any one of the layers, and by nothing without them.
async fn held_by(attempts: &[String], layers: &[&str]) {
    let refused = tried(attempts, "").await;
    assert!(refused.values().all(Option::is_some), "{refused:?}");
    for alone in layers.iter().filter(|_| layers.len() > 1) {
        let others: Vec<&str> = layers.iter().filter(|layer| *layer != alone).copied().collect();
        let refused = tried(attempts, &others.join(",")).await;
        assert!(refused.values().all(Option::is_some), "{alone} alone: {refused:?}");
    }
    let done = tried(attempts, &layers.join(",")).await;
    assert!(done.values().all(Option::is_none), "without {layers:?}: {done:?}");
}

fn named(attempts: &[&str]) -> Vec<String> {
    attempts.iter().map(|attempt| attempt.replace("PID", &std::process::id().to_string())).collect()
}

/// A folder and a file in it with these rights, and what is tried at them.
fn files(rights: [u32; 2]) -> (TempDir, Vec<String>) {
    let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
    let file = dir.path().join("another-vms-disk");
    fs::write(&file, "data").unwrap();
    for (path, rights) in [dir.path(), &file].into_iter().zip(rights) {
        fs::set_permissions(path, fs::Permissions::from_mode(rights)).unwrap();
    }
    let at = |what: &str, path: &Path| format!("{what}={}", path.display());
    let attempts =
        [at("read", &file), at("write", &file), at("open-to-write", &file), at("create", &dir.path().join("new"))];
    (dir, attempts.into())
}

#[tokio::test]
async fn files_that_were_not_lent_are_kept_from_qemu_img_by_its_user_its_root_and_landlock() {
    let (_dir, attempts) = files([0o700, 0o600]);
    held_by(&attempts, &["user", "landlock", "mounts"]).await;
    // This one the root shows, to a user that may not read it.
    held_by(&named(&["read=/etc/shadow", "open-to-read=/etc/shadow"]), &["user", "landlock"]).await;
}

#[tokio::test]
async fn files_that_anybody_may_use_are_kept_from_qemu_img_by_its_root_and_landlock() {
    let (_dir, attempts) = files([0o777, 0o666]);
    held_by(&attempts, &["landlock", "mounts"]).await;
}

/// It has none of root's rights even as root.
#[tokio::test]
async fn files_of_other_users_are_kept_from_qemu_img_as_it_has_no_capabilities() {
    let (dir, attempts) = files([0o700, 0o600]);
    for path in [dir.path().to_owned(), dir.path().join("another-vms-disk")] {
        std::os::unix::fs::chown(path, Some(1_999_961_000), Some(1_999_961_000)).unwrap();
    }
    let attempts: Vec<String> = attempts.into_iter().chain(named(&["setgroups", "setuid=1000"])).collect();
    let refused = tried(&attempts, "user,landlock,mounts").await;
    assert!(refused.values().all(Option::is_some), "{refused:?}");
    let done = tried(&attempts, "user,landlock,mounts,capabilities").await;
    assert!(done.values().all(Option::is_none), "{done:?}");
}

#[tokio::test]
async fn qemu_img_speaks_to_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let all = [format!("tcp-connect={address}"), "tcp-bind=127.0.0.1:0".to_owned(), format!("udp={address}")];
    // Of these the filter makes no socket, and what there is leads nowhere.
    for without in ["", "network,tcp"] {
        assert!(tried(&all, without).await.values().all(|outcome| *outcome == Some(97)), "without {without}");
    }
    assert!(tried(&all[..2], "filter,network").await.values().all(Option::is_some));
    let no_tcp = tried(&all, "filter,tcp").await;
    assert!(no_tcp[&all[0]].is_some() && no_tcp[&all[2]].is_some(), "{no_tcp:?}");
    assert!(tried(&all, "filter,network,tcp").await.values().all(Option::is_none));

    let (dir, _) = files([0o777, 0o666]);
    let bus = dir.path().join("bus");
    let _bus = UnixListener::bind(&bus).unwrap();
    fs::set_permissions(&bus, fs::Permissions::from_mode(0o777)).unwrap();
    held_by(&[format!("unix={}", bus.display())], &["filter", "mounts"]).await;
    let name = format!("qherd-test-{}", std::process::id());
    let _named = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    held_by(&[format!("unix=@{name}")], &["filter", "network", "landlock"]).await;
    held_by(&named(&["netlink"]), &["filter"]).await;
    held_by(&named(&["raw", "packet"]), &["filter", "capabilities", "user"]).await;
}

#[tokio::test]
async fn qemu_img_comes_to_no_other_process_and_to_no_more_of_the_kernel() {
    held_by(&named(&["signal=PID"]), &["user", "landlock"]).await;
    held_by(&named(&["unshare-user", "userfaultfd", "add-key", "kcmp"]), &["filter"]).await;
    // It locks memory.
    held_by(&named(&["io-uring"]), &["filter", "limits"]).await;
    // Of these the filter holds each alone, and so do the others together, but for what a host may grant everybody.
    let attempts = named(&["mount", "fsopen", "chroot", "unshare-net", "setns", "ptrace=PID", "bpf", "perf", "keyctl"]);
    let refused = tried(&attempts, "capabilities,user,landlock,mounts").await;
    assert!(refused.values().all(Option::is_some), "the filter alone: {refused:?}");
    let refused = tried(&attempts[..6], "filter").await;
    assert!(refused.values().all(Option::is_some), "all but the filter: {refused:?}");
    // SAFETY: numbers only; removed below.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o666) };
    held_by(&[format!("shm={id}")], &["ipc"]).await;
    // SAFETY: as above.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
}

#[tokio::test]
async fn what_qemu_img_uses_of_the_host_has_bounds() {
    held_by(&named(&["forks=300"]), &["cgroup"]).await;
    held_by(&named(&["memory=4200", "core", "lock-memory"]), &["limits"]).await;
}

/// What is lent may be had as it was lent, and nothing else; it grows as far as this image may, and is the daemon's to keep.
#[tokio::test]
async fn what_is_lent_is_opened_as_it_was_lent() {
    let lines = "image=$(echo \"$5\" | sed 's/.*\"filename\":\"\\([^\"]*\\)\".*/\\1/'); \
                 $intruder open-to-read=$image open-to-write=$image read=$image; \
                 $intruder open-to-write=$6 write=$6 extend=$6 open-to-read=/proc/self/fd/0 open-to-read=/proc/self/fd/900";
    let place = InPlace::of(lines);
    let dir = tempfile::tempdir().unwrap();
    for name in ["images", "vms"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let base = BaseImage::at(dir.path().join("images/base"), ImageFormat::Raw);
    fs::write(&base.path, [b'x'; 4096]).unwrap();
    fs::set_permissions(&base.path, fs::Permissions::from_mode(0o600)).unwrap();
    let folders = Folders { images: vec![dir.path().join("images")], storage: vec![dir.path().join("vms")] };
    let images = QemuImg::find(&place.program(), folders, &keep()).await.unwrap();
    let made = dir.path().join("vms/disk");
    let said =
        images.clone_base(&base, CloneMode::Full, &made, 1, &Arc::<Copied>::default()).await.unwrap_err().to_string();
    let words: Vec<(String, Option<i32>)> = outcomes(&said).into_iter().collect();
    let of = |attempt: &str, number: usize| {
        let mut all = words
            .iter()
            .filter(|(name, _)| name.starts_with(attempt) && !name.ends_with("/0") && !name.ends_with("/900"));
        all.nth(number).unwrap_or_else(|| panic!("{attempt} {number}: {said}")).1
    };
    assert_eq!(words.len(), 8, "{said}");
    // The base to read alone, the image to write to; by its own rights neither.
    assert_eq!((of("open-to-read", 0), of("read", 0), of("write", 0)), (None, Some(13), Some(13)), "{said}");
    let mut written = [of("open-to-write", 0), of("open-to-write", 1)];
    written.sort();
    assert_eq!(written, [None, Some(13)], "{said}");
    // SIGXFSZ.
    assert_eq!(of("extend", 0), Some(-25), "{said}");
    assert_eq!(words.iter().find(|(name, _)| name.ends_with("fd/900")).unwrap().1, Some(2), "{said}");
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(&made).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777, found.len()), (0, 0o600, 0));
}

/// Nothing that a run leaves behind is there when it has ended, also where nobody waits for it any more.
#[tokio::test]
async fn nothing_outlives_a_run_of_qemu_img() {
    let place = InPlace::of("setsid sleep 4004.27182 & \n [ \"$2\" = -q ] || exec sleep 4004.27182");
    let images = QemuImg::find(&place.program(), Folders::default(), &keep()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    // It holds on to where the words go.
    images.create(&dir.path().join("image"), 1).await.unwrap_err();
    assert!(qherd::host::process::find(&["sleep", "4004.27182"]).unwrap().is_empty());
    let groups = crate::groups::named(&format!("qherd-{}", keep().mark));
    assert!(groups.is_empty(), "{groups:?}");
}

/// The same walls are around what unpacks.
#[tokio::test]
async fn what_unpacks_has_its_two_files_and_nothing_else() {
    let (_dir, at_files) = files([0o777, 0o666]);
    let all = [
        "read=/etc/shadow",
        "signal=PID",
        "tcp-bind=127.0.0.1:0",
        "netlink",
        "unshare-user",
        "setuid=0",
        "forks=300",
        "memory=2000",
        "mount",
        "bpf",
        "io-uring",
        "ptrace=PID",
    ];
    let attempts: Vec<String> = at_files.into_iter().chain(named(&all)).collect();
    let words: Vec<String> = attempts.iter().map(|attempt| format!("'{attempt}'")).collect();
    let place = InPlace::of(&format!(
        "$intruder open-to-read=/proc/self/fd/$3 open-to-write=/proc/self/fd/$3 {} 2>/proc/self/fd/$4",
        words.join(" ")
    ));
    let unpacker = Unpacker::find(Some(&place.program()), &keep()).await;
    assert!(unpacker.missing().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed");
    fs::write(&packed, "x").unwrap();
    fs::set_permissions(&packed, fs::Permissions::from_mode(0o600)).unwrap();
    let (from, to) = (fs::File::open(&packed).unwrap(), tempfile::tempfile().unwrap());
    let job = Unpack { compression: Compression::Xz, from: &from, to: &to, room: 1 << 20 };
    unpacker.unpack(job, &Arc::default()).await.unwrap_err();
    let mut said = String::new();
    std::io::Seek::rewind(&mut (&to)).unwrap();
    std::io::Read::read_to_string(&mut (&to), &mut said).unwrap();
    let outcomes = outcomes(&said);
    assert!(attempts.iter().all(|attempt| outcomes[attempt].is_some()), "{said}");
    let lent =
        |what: &str| outcomes.iter().find(|(name, _)| name.starts_with(what) && name.contains("/fd/")).unwrap().1;
    assert_eq!((lent("open-to-read"), lent("open-to-write")), (&None, &Some(13)), "{said}");
}
