//! What a program in QEMU's place can do that the launcher has started: nothing of what an escaped QEMU would want. Each
//! attempt succeeds when the layers are left out that refuse it, so each of these layers is what holds.
#![cfg(debug_assertions)]
#![allow(unsafe_code)]

use std::os::unix::fs::PermissionsExt;

use crate::intruder::{Intruder, Outcomes, outcomes};
use qherd::{
    host::{
        launcher::{Child, DNSMASQ, Permit, QEMU, QEMU_IMG, QEMU_PROBE, STORE_TRIAL},
        sandbox::Sandbox,
    },
    model::{Layer, Uids},
};

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
    for permit in [QEMU_PROBE, QEMU_IMG, DNSMASQ, STORE_TRIAL] {
        let refused = tried(permit, &attempts, "capabilities");
        assert!(FILTERED.iter().all(|(attempt, refusal, _)| refused[&at_me(attempt)] == *refusal), "{refused:?}");
    }
    let outcome = |permit| tried(permit, &["netlink".into(), "raw".into(), "tcp-bind=127.0.0.1:0".into()], "");
    assert!(outcome(DNSMASQ).values().all(Option::is_none));
    for permit in [QEMU_IMG, STORE_TRIAL] {
        assert!(outcome(permit).values().all(|outcome| *outcome == EAFNOSUPPORT));
    }
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
    let intruder = Intruder::build();
    intruder.show_to_all();
    // SAFETY: each test is a process of its own, and none of its other threads reads it.
    unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
    let uids: Uids = UIDS.parse().unwrap();
    let sandbox = Sandbox::find(&intruder.path(), "", &[], false, uids.clone()).await;
    assert_eq!(sandbox.missing(), []);
    let (cell, shown) = sandbox.cell(7).unwrap();
    let left_out = |layer: &Layer| without.split(',').any(|name| name == layer.name());
    assert!(Layer::ALL.iter().all(|layer| shown.layers.contains(layer) != left_out(layer)), "{shown:?}");
    assert_eq!(shown.uid.is_some_and(|uid| uids.contains(uid)), !left_out(&Layer::User));
    let child = Child::new(QEMU, &intruder.path()).args(attempts).within(cell);
    let output = child.piped().spawn().unwrap().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let outcomes = outcomes(&said);
    assert_eq!(outcomes.len(), attempts.len(), "{said}");
    outcomes
}

/// Two layers hold each of these, each alone; without both nothing does.
#[tokio::test]
async fn files_of_anybody_are_kept_from_a_vm_by_its_user_and_by_landlock() {
    let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let other = dir.path().join("another-vms-disk");
    std::fs::write(&other, "data").unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = other.display();
    let attempts = [
        "read=/etc/shadow".to_owned(),
        format!("read={other}"),
        format!("write={other}"),
        format!("create={}/new", dir.path().display()),
        format!("list={}", dir.path().display()),
    ];
    for without in ["", "user", "landlock"] {
        let tried = tried_in_a_cell(&attempts, without).await;
        assert!(tried.values().all(|outcome| *outcome == Some(13)), "without {without}: {tried:?}");
    }
    let tried = tried_in_a_cell(&attempts, "user,landlock").await;
    assert!(tried.values().all(Option::is_none), "{tried:?}");
}

/// What anybody may write and read is no more a VM's business.
#[tokio::test]
async fn files_that_anybody_may_use_are_kept_from_a_vm_by_landlock() {
    let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
    let file = dir.path().join("public");
    std::fs::write(&file, "data").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let attempts = [
        format!("read={}", file.display()),
        format!("write={}", file.display()),
        format!("create={}/new", dir.path().display()),
        format!("list={}", dir.path().display()),
    ];
    assert!(tried_in_a_cell(&attempts, "").await.values().all(|outcome| *outcome == Some(13)));
    assert!(tried_in_a_cell(&attempts, "landlock").await.values().all(Option::is_none));
    // The system's own it needs.
    let shown =
        ["read=/usr/bin/env", "read=/proc/self/status", "write=/dev/null", "read=/dev/urandom"].map(str::to_owned);
    assert!(tried_in_a_cell(&shown, "").await.values().all(Option::is_none));
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

/// As many as the limit says at most, so that nobody else's are used up.
#[tokio::test]
async fn processes_of_a_vm_have_a_bound() {
    let attempts = ["forks=2100".to_owned()];
    assert_eq!(tried_in_a_cell(&attempts, "").await["forks=2100"], Some(11));
    assert_eq!(tried_in_a_cell(&attempts, "user").await["forks=2100"], None);
}

#[tokio::test]
async fn no_two_children_that_live_have_the_same_user() {
    let intruder = Intruder::build();
    intruder.show_to_all();
    let sandbox = Sandbox::find(&intruder.path(), "", &[], false, "1999980000-1999980001".parse().unwrap()).await;
    let sleeping = |seed: u32| {
        let (cell, shown) = sandbox.cell(seed)?;
        let sleep = Child::new(QEMU, std::path::Path::new("/bin/sleep")).arg("1000").within(cell);
        Ok::<_, std::io::Error>((sleep.spawn()?, shown.uid.unwrap()))
    };
    let (one, first) = sleeping(5).unwrap();
    let (other, second) = sleeping(5).unwrap();
    assert_ne!(first, second);
    let full = sleeping(5).unwrap_err().to_string();
    assert!(full.contains("--vm-uids 1999980000-1999980001"), "{full}");
    one.kill();
    one.output().unwrap();
    let (third, again) = sleeping(9).unwrap();
    assert_eq!(again, first);
    for child in [other, third] {
        child.kill();
        child.output().unwrap();
    }
}
