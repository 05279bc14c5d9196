//! The daemon as a process: what becomes of its VMs when it ends, however it ends, and what it needs of the host for
//! itself.

#![allow(unsafe_code)]

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::Daemon;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

async fn running_vm(daemon: &Daemon) -> String {
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    daemon.create(wish).await
}

async fn pid_of(daemon: &Daemon, id: &str) -> i32 {
    daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap() as i32
}

async fn reason(daemon: &Daemon, id: &str) -> String {
    daemon.get(&format!("/vms/{id}/status")).await.expect(200)["reason"].as_str().unwrap().to_owned()
}

/// What is not logged happens all the same, and nothing else does.
#[tokio::test]
async fn a_daemon_that_logs_little_serves_until_it_is_told_to_end() {
    let mut daemon = Daemon::start_logging("error");
    let id = running_vm(&daemon).await;
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert!(daemon.terminate().success());
}

#[tokio::test]
async fn vms_outlive_their_daemon_and_are_taken_over_with_the_same_process() {
    let mut daemon = Daemon::start();
    let id = running_vm(&daemon).await;
    let pid = pid_of(&daemon, &id).await;
    for end in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        match end {
            Some(signal) => assert_eq!(ended_by(&mut daemon, signal).code(), Some(0), "{signal}"),
            None => daemon.kill(),
        }
        assert_eq!(daemon.qemus(), [pid], "{end:?}");
        daemon.run();
        // Its monitor answered within the daemon's start.
        assert_eq!((daemon.status(&id).await.as_str(), pid_of(&daemon, &id).await), ("running", pid), "{end:?}");
    }
    let stopped = daemon.post(&format!("/vms/{id}/stop?timeout=1"), json!({})).await.expect(200);
    assert_eq!((&stopped["forced"], daemon.qemus()), (&json!(true), vec![]));
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}

fn ended_by(daemon: &mut Daemon, signal: Signal) -> std::process::ExitStatus {
    daemon.signal(signal);
    daemon.wait()
}

#[tokio::test]
async fn vms_are_stopped_with_the_daemon_where_that_is_wanted() {
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--stop-vms-on-exit", "--stop-timeout", "1"]);
    let (one, two) = (running_vm(&daemon).await, running_vm(&daemon).await);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        assert_eq!(daemon.qemus().len(), 2);
        assert_eq!(ended_by(&mut daemon, signal).code(), Some(0), "{signal}");
        assert_eq!(daemon.qemus(), [] as [i32; 0], "{signal}");
        daemon.run();
        for id in [&one, &two] {
            assert_eq!(daemon.status(id).await, "stopped", "{signal}: no crash");
            daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
        }
    }
}

#[tokio::test]
async fn a_qemu_that_is_killed_is_a_crash_and_its_vm_starts_again() {
    let mut daemon = Daemon::start();
    let id = running_vm(&daemon).await;
    let await_crash = async |daemon: &Daemon, word: &str| {
        daemon.await_status(&id, "crashed").await;
        let reason = reason(daemon, &id).await;
        assert!(reason.contains(word), "no {word:?} in {reason:?}");
        assert_eq!(daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"], json!(null));
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
        assert_eq!(daemon.status(&id).await, "running");
        Pid::from_raw(pid_of(daemon, &id).await)
    };
    // While the daemon is its parent: the signal is known.
    kill(Pid::from_raw(pid_of(&daemon, &id).await), Signal::SIGKILL).unwrap();
    let pid = await_crash(&daemon, "SIGKILL").await;
    kill(pid, Signal::SIGSEGV).unwrap();
    let pid = await_crash(&daemon, "SIGSEGV").await;
    // While there is no daemon.
    daemon.kill();
    kill(pid, Signal::SIGKILL).unwrap();
    while !daemon.qemus().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.run();
    await_crash(&daemon, "while qherd was not running").await;
    // Taken over, it is somebody else's child: the end is seen, its signal is not.
    daemon.kill();
    daemon.run();
    let pid = pid_of(&daemon, &id).await;
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    await_crash(&daemon, "QEMU ended").await;
}

#[tokio::test]
async fn disks_consoles_and_definitions_are_for_the_daemons_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let daemon = Daemon::start();
    assert_eq!(mode(&daemon.state()), 0o700);
    // Also in a folder that was there before.
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    std::fs::create_dir(daemon.state()).unwrap();
    std::fs::set_permissions(daemon.state(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // As an earlier qherd may have left it.
    for folder in ["images", "exports"] {
        std::fs::create_dir(daemon.state().join(folder)).unwrap();
        std::fs::set_permissions(daemon.state().join(folder), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::write(daemon.state().join("lock"), "").unwrap();
    std::fs::set_permissions(daemon.state().join("lock"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut command = daemon.command();
    // SAFETY: one system call.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            nix::libc::umask(0);
            Ok(())
        });
    }
    daemon.run_as(command);
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    assert_eq!(mode(&daemon.state()), 0o755);
    for folder in ["images", "run", "db", "exports", "net"] {
        assert_eq!(mode(&daemon.state().join(folder)), 0o700, "{folder}");
    }
    // Also what lies in a folder that somebody may open one day.
    fn open_ones(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.metadata().unwrap().permissions().mode() & 0o077 != 0 {
                found.push(entry.path());
            }
            if entry.path().is_dir() {
                open_ones(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    open_ones(&daemon.state(), &mut found);
    assert_eq!(found, [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let plain = daemon.command();
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=256:2000").arg(plain.get_program()).args(plain.get_args());
    daemon.run_as(limited);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("2000"), "{files}");
}

/// One that was killed between fork and exec leaves a child that holds all its files for a moment.
#[test]
fn what_is_left_of_a_killed_daemon_is_waited_for() {
    let mut daemon = Daemon::start();
    daemon.kill();
    let lock = File::open(daemon.state().join("lock")).unwrap();
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let remnant = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        drop(held);
    });
    daemon.run();
    remnant.join().unwrap();
}

#[tokio::test]
async fn a_daemon_whose_ready_line_nobody_reads_serves_all_the_same() {
    let daemon = Daemon::prepare(&["--accel", "tcg"]);
    let log = File::create(daemon.dir.path().join("daemon.log")).unwrap();
    let mut child = daemon.command().stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    drop(child.stdout.take());
    daemon.await_log("cannot tell the address").await;
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}
