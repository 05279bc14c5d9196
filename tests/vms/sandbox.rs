//! What a program in QEMU's place can do that the launcher has started: nothing of what an escaped QEMU would want. Each
//! attempt succeeds when the layers are left out that refuse it, so each of these layers is what holds.
#![cfg(debug_assertions)]
#![allow(unsafe_code)]

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::{fs::PermissionsExt, net::SocketAddr},
    },
    path::{Path, PathBuf},
    slice::from_ref,
};

use crate::intruder::{Intruder, Outcomes, outcomes};
use nix::libc;
use qherd::{
    host::{
        cgroups::Group,
        launcher::{Child, DNSMASQ, PASST, Permit, QEMU, QEMU_IMG, QEMU_PROBE, STORE_TRIAL, UNPACK},
        sandbox::{Made, Needs, Programs, Sandbox},
    },
    model::{Layer, Uids, VmId},
};
use tempfile::TempDir;
use uuid::Uuid;

const EPERM: Option<i32> = Some(1);
const ENOSYS: Option<i32> = Some(38);
const EAFNOSUPPORT: Option<i32> = Some(97);

/// What the intruder says as a child of this kind, with some layers left out.
fn tried(permit: Permit, attempts: &[String], without: &str) -> Outcomes {
    let intruder = Intruder::build();
    // SAFETY: each test is a process of its own, and this its only thread that reads it.
    unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
    let child = Child::new(permit, &intruder.path()).args(attempts);
    let output = child.piped().spawn().unwrap().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let outcomes = outcomes(&said);
    assert_eq!(outcomes.len(), attempts.len(), "{said}");
    outcomes
}

/// Attempts, what the filter answers, and what comes of them without it and with all capabilities: of some no more than
/// another error, as their arguments are no good.
const FILTERED: &[(&str, Option<i32>, Option<i32>)] = &[
    ("unshare-user", EPERM, None),
    ("unshare-net", EPERM, None),
    ("clone-user", EPERM, None),
    ("clone3", ENOSYS, Some(22)),
    ("setns", EPERM, None),
    ("mount", EPERM, None),
    ("fsopen", EPERM, None),
    ("chroot", EPERM, None),
    ("bpf", EPERM, None),
    ("perf", EPERM, None),
    ("io-uring", EPERM, None),
    ("userfaultfd", EPERM, None),
    ("add-key", EPERM, None),
    ("keyctl", EPERM, Some(126)),
    ("kcmp", EPERM, None),
    ("ptrace=PID", EPERM, None),
    ("process-vm=PID", EPERM, Some(14)),
    ("reboot", EPERM, Some(22)),
    ("sethostname", EPERM, Some(22)),
    ("settime", EPERM, Some(22)),
    ("tiocsti", EPERM, Some(25)),
];

/// And of sockets, which some kinds need.
const SOCKETS: &[(&str, Option<i32>, Option<i32>)] =
    &[("netlink", EPERM, None), ("vsock", EAFNOSUPPORT, None), ("raw", EPERM, None), ("packet", EPERM, None)];

/// Attempts at another process are at this one.
fn at_me(attempt: &str) -> String {
    attempt.replace("PID", &std::process::id().to_string())
}

#[test]
fn system_calls_that_a_child_has_no_use_for_are_refused_by_the_filter() {
    let all: Vec<_> = FILTERED.iter().chain(SOCKETS).collect();
    let attempts: Vec<String> = all.iter().map(|(attempt, ..)| at_me(attempt)).collect();
    // Nothing else holds them here.
    let refused = tried(QEMU, &attempts, "capabilities");
    let let_through = tried(QEMU, &attempts, "capabilities,filter");
    for (attempt, refusal, without) in all {
        let attempt = at_me(attempt);
        assert_eq!((&refused[&attempt], &let_through[&attempt]), (refusal, without), "{attempt}");
    }
}

#[test]
fn every_kind_of_child_has_the_filter_and_only_dnsmasq_any_socket() {
    let attempts: Vec<String> = FILTERED.iter().chain(SOCKETS).map(|(attempt, ..)| at_me(attempt)).collect();
    for permit in [QEMU_PROBE, QEMU_IMG, DNSMASQ, STORE_TRIAL, UNPACK] {
        let refused = tried(permit, &attempts, "capabilities");
        assert!(FILTERED.iter().all(|(attempt, refusal, _)| refused[&at_me(attempt)] == *refusal), "{refused:?}");
    }
    let outcome = |permit| tried(permit, &["netlink".into(), "raw".into(), "tcp-bind=127.0.0.1:0".into()], "");
    assert!(outcome(DNSMASQ).values().all(Option::is_none));
    for permit in [QEMU_IMG, STORE_TRIAL, UNPACK] {
        assert!(outcome(permit).values().all(|outcome| *outcome == EAFNOSUPPORT));
    }
}

/// What passt needs to wall itself in, and to look at routes, and nothing else.
#[test]
fn passt_makes_namespaces_and_mounts_of_its_own_and_no_more_than_others() {
    let own = ["unshare-user", "unshare-net", "mount", "netlink"];
    let attempts: Vec<String> = FILTERED.iter().chain(SOCKETS).map(|(attempt, ..)| at_me(attempt)).collect();
    let refused = tried(PASST, &attempts, "capabilities");
    for (attempt, refusal, _) in FILTERED.iter().chain(SOCKETS) {
        let wanted = if own.contains(attempt) { &None } else { refusal };
        assert_eq!(&refused[&at_me(attempt)], wanted, "{attempt}");
    }
    let talks = ["tcp-bind=127.0.0.1:0".to_owned()];
    assert_eq!(tried(PASST, &talks, "")[&talks[0]], None);
}

/// A program in passt's place that does not wall itself in.
#[tokio::test]
async fn what_carries_a_nic_beside_qemu_is_its_vms_user_and_hurts_nobody() {
    let intruder = Intruder::build();
    intruder.show_to_all();
    let (_dir, file) = folder([0o700, 0o600]);
    let attempts = [
        format!("read={}", file.display()),
        "read=/etc/shadow".to_owned(),
        "setuid=0".to_owned(),
        "core".to_owned(),
        at_me("signal=PID"),
    ];
    let uids: Uids = UIDS.parse().unwrap();
    let sandbox = Sandbox::find(programs(&intruder.path()), uids.clone(), &mark()).await;
    let outcome = |without: &str| {
        // SAFETY: each test is a process of its own, and none of its other threads reads it.
        unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
        let (cell, uid) = sandbox.cell_to_try().unwrap();
        assert!(uids.contains(uid));
        let child = Child::new(PASST, &intruder.path()).args(&attempts).within(cell);
        outcomes(&String::from_utf8(child.piped().spawn().unwrap().output().unwrap().stderr).unwrap())
    };
    let refused = outcome("");
    assert!(attempts.iter().all(|attempt| refused[attempt].is_some()), "{refused:?}");
    let by_nothing = outcome("user,capabilities,limits,landlock");
    assert!(by_nothing.values().all(Option::is_none), "{by_nothing:?}");
    // A signal is refused by each of these alone.
    for without in ["user,capabilities", "landlock"] {
        assert_eq!(outcome(without)[&attempts[4]], EPERM, "without {without}");
    }
    // In the group of its QEMU, which ends whatever is left of it.
    unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", "") };
    let Made { cell, shown, group } = sandbox.cell(needs(64 << 20)).unwrap();
    let group = group.unwrap();
    let beside = sandbox.cell_beside(&shown, Some(&group)).unwrap();
    let child = Child::new(PASST, Path::new("/bin/sleep")).arg("1000").within(beside).spawn().unwrap();
    assert_eq!(group.processes(), [child.pid().as_raw_pid()]);
    group.end();
    assert!(!child.output().unwrap().status.success());
    drop(cell);
}

/// The daemon of this test is root.
#[test]
fn what_root_may_is_refused_for_want_of_capabilities() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let chown = format!("chown={}", file.path().display());
    let attempts = ["setuid=1000", "setgroups", "mount", "unshare-net", "fsopen", "chroot", "raw", "packet", &chown];
    let attempts = attempts.map(str::to_owned);
    assert!(tried(QEMU, &attempts, "filter").values().all(|outcome| *outcome == EPERM));
    assert!(tried(QEMU, &attempts, "filter,capabilities").values().all(Option::is_none));
}

#[test]
fn limits_are_not_raised_again() {
    let attempts = ["core", "lock-memory"].map(str::to_owned);
    assert!(tried(QEMU, &attempts, "").values().all(|outcome| *outcome == EPERM));
    assert!(tried(QEMU, &attempts, "limits").values().all(Option::is_none));
    let descriptors = ["descriptors".to_owned()];
    assert_eq!(tried(QEMU, &descriptors, "")["descriptors"], EPERM);
    let memory = ["memory=4200".to_owned()];
    assert_eq!(tried(QEMU_IMG, &memory, "")["memory=4200"], Some(12));
    assert_eq!(tried(QEMU_IMG, &memory, "limits")["memory=4200"], None);
}

/// Of this test alone.
const UIDS: &str = "1999990000-1999990999";

/// What the intruder says as a QEMU in a VM's cell, with some layers left out.
async fn tried_in_a_cell(attempts: &[String], without: &str) -> Outcomes {
    tried_in_a_cell_of(attempts, without, 256 << 20).await
}

fn programs(program: &Path) -> Programs<'_> {
    Programs { program, version: "", others: &[], permit: QEMU_PROBE, kvm: false }
}

fn needs(memory: u64) -> Needs {
    Needs { vm: Some(VmId::from(Uuid::new_v4())), network: false, memory }
}

async fn tried_in_a_cell_of(attempts: &[String], without: &str, memory: u64) -> Outcomes {
    let intruder = Intruder::build();
    intruder.show_to_all();
    // SAFETY: each test is a process of its own, and none of its other threads reads it.
    unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
    let uids: Uids = UIDS.parse().unwrap();
    let sandbox = Sandbox::find(programs(&intruder.path()), uids.clone(), &mark()).await;
    assert_eq!(sandbox.missing(), []);
    let Made { cell, shown, group } = sandbox.cell(needs(memory)).unwrap();
    let left_out = |layer: &Layer| {
        let named = |layer: &Layer| without.split(',').any(|name| name == layer.name());
        named(layer) || *layer == Layer::Tcp && named(&Layer::Landlock)
    };
    assert!(Layer::ALL.iter().all(|layer| shown.layers.contains(layer) != left_out(layer)), "{shown:?}");
    assert_eq!(shown.uid.is_some_and(|uid| uids.contains(uid)), !left_out(&Layer::User));
    assert_eq!((shown.cgroup.is_some(), group.is_some()), (!left_out(&Layer::Cgroup), !left_out(&Layer::Cgroup)));
    let child = Child::new(QEMU, &intruder.path()).args(attempts).within(cell);
    let output = child.piped().spawn().unwrap().output().unwrap();
    group.iter().for_each(Group::end);
    let said = String::from_utf8(output.stderr).unwrap();
    let outcomes = outcomes(&said);
    assert_eq!(outcomes.len(), attempts.len(), "{said}");
    outcomes
}

/// Of this test alone, as of one state directory.
fn mark() -> String {
    format!("test-{}", std::process::id())
}

/// A folder, and a file in it, with these rights.
fn folder(rights: [u32; 2]) -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
    let file = dir.path().join("another-vms-disk");
    std::fs::write(&file, "data").unwrap();
    for (path, rights) in [dir.path(), &file].into_iter().zip(rights) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(rights)).unwrap();
    }
    (dir, file)
}

fn at_files(dir: &Path, file: &Path) -> [String; 4] {
    let (dir, file) = (dir.display(), file.display());
    [format!("read={file}"), format!("write={file}"), format!("create={dir}/new"), format!("list={dir}")]
}

/// Three layers hold each of these, each alone; without all nothing does.
#[tokio::test]
async fn files_of_anybody_are_kept_from_a_vm_by_its_user_by_its_root_and_by_landlock() {
    let (dir, file) = folder([0o700, 0o600]);
    let attempts = at_files(dir.path(), &file);
    for (without, refusal) in [("", 2), ("user,landlock", 2), ("user,mounts", 13), ("landlock,mounts", 13)] {
        let tried = tried_in_a_cell(&attempts, without).await;
        assert!(tried.values().all(|outcome| *outcome == Some(refusal)), "without {without}: {tried:?}");
    }
    let tried = tried_in_a_cell(&attempts, "user,landlock,mounts").await;
    assert!(tried.values().all(Option::is_none), "{tried:?}");
    // This one the root shows, to a user that may not read it.
    let shadow = ["read=/etc/shadow".to_owned()];
    for without in ["", "user", "landlock"] {
        assert_eq!(tried_in_a_cell(&shadow, without).await[&shadow[0]], Some(13), "without {without}");
    }
    assert_eq!(tried_in_a_cell(&shadow, "user,landlock").await[&shadow[0]], None);
}

/// What anybody may write and read is no more a VM's business.
#[tokio::test]
async fn files_that_anybody_may_use_are_kept_from_a_vm_by_its_root_and_by_landlock() {
    let (dir, file) = folder([0o777, 0o666]);
    let attempts = at_files(dir.path(), &file);
    for (without, refusal) in [("", Some(2)), ("landlock", Some(2)), ("mounts", Some(13)), ("landlock,mounts", None)] {
        let tried = tried_in_a_cell(&attempts, without).await;
        assert!(tried.values().all(|outcome| *outcome == refusal), "without {without}: {tried:?}");
    }
    // The system's own it needs, and cannot write to.
    let shown =
        ["read=/usr/bin/env", "read=/proc/self/status", "write=/dev/null", "read=/dev/urandom"].map(str::to_owned);
    assert!(tried_in_a_cell(&shown, "").await.values().all(Option::is_none));
    let written = ["create=/usr/new", "create=/new", "create=/etc/new"].map(str::to_owned);
    let tried = tried_in_a_cell(&written, "user,landlock").await;
    assert!(tried.values().all(|outcome| *outcome == Some(30)), "{tried:?}");
}

/// Those that anybody may connect to, as to the system bus: Landlock asks nobody about them.
#[tokio::test]
async fn sockets_of_the_host_are_kept_from_a_vm_by_its_root_and_its_network() {
    let (dir, _) = folder([0o777, 0o666]);
    let path = dir.path().join("bus");
    let _bus = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let bus = format!("unix={}", path.display());
    assert_eq!(tried_in_a_cell(from_ref(&bus), "").await[&bus], Some(2));
    assert_eq!(tried_in_a_cell(from_ref(&bus), "mounts").await[&bus], None);
    let name = format!("qherd-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let named = format!("unix=@{name}");
    for (without, refusal) in
        [("", Some(111)), ("network", Some(1)), ("landlock", Some(111)), ("network,landlock", None)]
    {
        assert_eq!(tried_in_a_cell(from_ref(&named), without).await[&named], refusal, "without {without}");
    }
}

#[tokio::test]
async fn the_hosts_network_is_kept_from_a_vm_without_a_nic_on_the_user_mode_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tcp = [format!("tcp-connect={address}"), "tcp-bind=127.0.0.1:0".to_owned()];
    let udp = format!("udp={address}");
    let attempts = [tcp[0].clone(), tcp[1].clone(), udp.clone()];
    for (without, connect, bind, datagram) in [
        ("", Some(13), Some(13), Some(101)),
        ("network", Some(13), Some(13), None),
        // An address that nobody has cannot be bound, where nothing is up.
        ("tcp", Some(101), None, Some(101)),
        ("network,tcp", None, None, None),
    ] {
        let tried = tried_in_a_cell(&attempts, without).await;
        let outcome = (tried[&tcp[0]], tried[&tcp[1]], tried[&udp]);
        assert_eq!(outcome, (connect, bind, datagram), "without {without}");
    }
}

#[tokio::test]
async fn shared_memory_of_the_host_is_kept_from_a_vm() {
    // SAFETY: numbers only; removed below.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o666) };
    assert!(id >= 0);
    let attempt = format!("shm={id}");
    let outcomes = [
        tried_in_a_cell(from_ref(&attempt), "").await[&attempt],
        tried_in_a_cell(from_ref(&attempt), "ipc").await[&attempt],
    ];
    // SAFETY: as above.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    assert_eq!(outcomes, [Some(22), None]);
}

#[tokio::test]
async fn other_processes_are_kept_from_a_vm() {
    let me = format!("signal={}", std::process::id());
    let attempts = [me.clone()];
    for without in ["", "user", "landlock"] {
        assert_eq!(tried_in_a_cell(&attempts, without).await[&me], Some(1), "without {without}");
    }
    assert_eq!(tried_in_a_cell(&attempts, "user,landlock").await[&me], None);
    let environment = format!("read=/proc/{}/environ", std::process::id());
    let attempts = [environment.clone()];
    for without in ["", "user"] {
        assert_eq!(tried_in_a_cell(&attempts, without).await[&environment], Some(13), "without {without}");
    }
}

/// As many as the limit says at most, so that nobody else's are used up: its user has a bound, and its group.
#[tokio::test]
async fn processes_of_a_vm_have_a_bound() {
    let attempts = ["forks=2100".to_owned()];
    for (without, refusal) in [("", Some(11)), ("user", Some(11)), ("cgroup", Some(11)), ("user,cgroup", None)] {
        assert_eq!(tried_in_a_cell(&attempts, without).await["forks=2100"], refusal, "without {without}");
    }
}

#[tokio::test]
async fn memory_of_a_vm_has_a_bound() {
    let attempts = ["eat=48", "eat=200"].map(str::to_owned);
    let tried = tried_in_a_cell_of(&attempts, "", 96 << 20).await;
    assert_eq!((tried["eat=48"], tried["eat=200"]), (None, Some(-9)));
    let tried = tried_in_a_cell_of(&attempts, "cgroup", 96 << 20).await;
    assert_eq!((tried["eat=48"], tried["eat=200"]), (None, None));
}

/// A bound follows what the VM is to have, but never below what is in use: the kernel would end it.
#[tokio::test]
async fn a_bound_of_memory_follows_and_ends_nobody() {
    let program = Path::new("/bin/sleep");
    let sandbox = Sandbox::find(programs(program), UIDS.parse().unwrap(), &mark()).await;
    let Made { cell, group, shown } = sandbox.cell(needs(64 << 20)).unwrap();
    let group = group.unwrap();
    let folders = crate::groups::groups(&serde_json::json!(shown));
    let bound = || crate::groups::memory_bound(&folders);
    let child = Child::new(QEMU, program).arg("1000").within(cell).spawn().unwrap();
    assert!(crate::groups::holds(&folders, child.pid().as_raw_pid()));
    for mib in [128, 32] {
        group.bound_memory(mib << 20).unwrap();
        assert_eq!(bound(), mib << 20);
    }
    group.bound_memory(4096).unwrap();
    assert_eq!(bound(), 32 << 20);
    let found = sandbox.group_of(child.pid().as_raw_pid()).unwrap();
    assert_eq!(found.path(), group.path());
    found.end();
    assert!(!folders.iter().any(|folder| folder.exists()));
    child.output().unwrap();
}

/// What a QEMU that was taken over leaves running ends with its group; nobody else's group is touched.
#[tokio::test]
async fn nothing_outlives_its_group() {
    let shell = Path::new("/bin/sh");
    let sandbox = Sandbox::find(programs(Path::new("/bin/sleep")), UIDS.parse().unwrap(), &mark()).await;
    let running = |seconds: &str| qherd::host::process::find(&["sleep", seconds]).unwrap().len();
    let leaving = |seconds: &str| {
        let Made { cell, group, .. } = sandbox.cell(needs(256 << 20)).unwrap();
        let script = format!("setsid sleep {seconds} >&- 2>&- & exit");
        let child = Child::new(QEMU, shell).args(["-c", &script]).within(cell).piped();
        child.spawn().unwrap().output().unwrap();
        // The shell does not wait for what it has begun.
        let begin = std::time::Instant::now();
        while running(seconds) == 0 {
            assert!(begin.elapsed() < std::time::Duration::from_secs(20), "it does not sleep");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        group.unwrap()
    };
    let (one, other) = ("4001.27182", "4002.27182");
    let (first, second) = (leaving(one), leaving(other));
    first.end();
    // Neither is the second swept, which has somebody in it.
    sandbox.sweep();
    assert_eq!((running(one), running(other)), (0, 1));
    let found =
        sandbox.left_by(&qherd::model::Sandbox { cgroup: Some(second.path().to_owned()), ..Default::default() });
    found.expect("it is there").end();
    assert_eq!(running(other), 0);
    assert!(
        sandbox
            .left_by(&qherd::model::Sandbox { cgroup: Some(second.path().to_owned()), ..Default::default() })
            .is_none()
    );
}

#[tokio::test]
async fn no_two_children_that_live_have_the_same_user() {
    let intruder = Intruder::build();
    intruder.show_to_all();
    let uids = "1999980000-1999980001".parse().unwrap();
    let sandbox = Sandbox::find(programs(&intruder.path()), uids, &mark()).await;
    let groups = std::cell::RefCell::new(Vec::new());
    let sleeping = || {
        let Made { cell, shown, group } = sandbox.cell(needs(256 << 20))?;
        groups.borrow_mut().extend(group);
        let sleep = Child::new(QEMU, Path::new("/bin/sleep")).arg("1000").within(cell);
        Ok::<_, std::io::Error>((sleep.spawn()?, shown.uid.unwrap()))
    };
    let (one, first) = sleeping().unwrap();
    let (other, second) = sleeping().unwrap();
    assert_ne!(first, second);
    let full = sleeping().unwrap_err().to_string();
    assert!(full.contains("--vm-uids 1999980000-1999980001"), "{full}");
    one.kill();
    one.output().unwrap();
    let (third, again) = sleeping().unwrap();
    assert_eq!(again, first);
    for child in [other, third] {
        child.kill();
        child.output().unwrap();
    }
    groups.borrow().iter().for_each(Group::end);
}
