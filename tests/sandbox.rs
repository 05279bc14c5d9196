//! What a program in QEMU's place can do that the launcher has started: nothing of what an escaped QEMU would want. Each
//! attempt succeeds when the layers are left out that refuse it, so each of these layers is what holds.
#![cfg(debug_assertions)]
#![allow(unsafe_code)]

#[path = "support/intruder.rs"]
mod intruder;

use std::process::Stdio;

use intruder::{Intruder, Outcomes, outcomes};
use qherd::host::launcher::{Child, DNSMASQ, Permit, QEMU, QEMU_IMG, QEMU_PROBE, STORE_TRIAL};

const EPERM: Option<i32> = Some(1);
const ENOSYS: Option<i32> = Some(38);
const EAFNOSUPPORT: Option<i32> = Some(97);

/// What the intruder says as a child of this kind, with some layers left out.
fn tried(permit: Permit, attempts: &[String], without: &str) -> Outcomes {
    let intruder = Intruder::build();
    // SAFETY: each test is a process of its own, and this its only thread that reads it.
    unsafe { std::env::set_var("QHERD_TEST_WITHOUT_LAYERS", without) };
    let child = Child::new(permit, &intruder.path()).args(attempts);
    let output = child.command().unwrap().stderr(Stdio::piped()).output().unwrap();
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
