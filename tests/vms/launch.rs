//! What really makes a start fail: the reply says what failed and why, nothing is left of the attempt, and the next one
//! succeeds once the cause is gone.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::stand_in::StandIn;
use crate::support::{Answer, Daemon};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

/// Starts a VM that cannot start; returns the cause that is told.
async fn cause_of_failure(daemon: &Daemon, id: &str) -> String {
    let cause = cause(daemon.post(&format!("/vms/{id}/start"), json!({})).await);
    assert_nothing_left(daemon, id).await;
    cause
}

#[track_caller]
fn cause(answer: Answer) -> String {
    let body = answer.expect(500);
    body["error"]["detail"].as_str().unwrap_or_else(|| panic!("no cause: {body}")).to_owned()
}

async fn assert_nothing_left(daemon: &Daemon, id: &str) {
    assert_eq!(daemon.status(id).await, "stopped");
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
    // With when they were written, beside them.
    let is_log = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".times");
        ["console.log", "qemu.log"].contains(&name)
    };
    let left = || -> Vec<PathBuf> {
        let files = fs::read_dir(daemon.run_dir(id)).into_iter().flatten().map(|entry| entry.unwrap().path());
        files.filter(|path| !is_log(path)).collect()
    };
    // What cannot be removed for want of a descriptor is removed later.
    let begin = Instant::now();
    while !left().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", left());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn assert_starts(daemon: &Daemon, id: &str) {
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(daemon.status(id).await, "running");
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// All or nothing: what `start: true` made is gone when the start fails.
async fn assert_creates_nothing(daemon: &Daemon, words: &[&str]) {
    let mut wish = daemon.wish();
    wish["start"] = Value::Bool(true);
    let before = (daemon.leftovers(), daemon.get("/vms").await.expect(200));
    assert_says(&cause(daemon.post("/vms", wish).await), words);
    assert_eq!((daemon.leftovers(), daemon.get("/vms").await.expect(200)), before);
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

fn overlay(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.state().join("images").join(id).join("root.qcow2")
}

#[tokio::test]
async fn a_base_image_that_is_gone_is_named() {
    let mut daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let details = async |daemon: &Daemon| daemon.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(details(&daemon).await["last_failure"], Value::Null);
    let (base, away) = (daemon.bases().join("blank.raw"), daemon.dir.path().join("away"));
    fs::rename(&base, &away).unwrap();
    let cause = cause_of_failure(&daemon, &id).await;
    assert_says(&cause, &["base image", &base.display().to_string(), "No such file"]);
    assert!(overlay(&daemon, &id).exists());
    // It stays until a start succeeds, over the daemon's end as well.
    let failed = details(&daemon).await["last_failure"].clone();
    assert_says(failed["reason"].as_str().unwrap(), &["base image", &base.display().to_string()]);
    assert!(humantime::parse_rfc3339(failed["at"].as_str().unwrap()).is_ok(), "{failed}");
    daemon.kill();
    daemon.run();
    assert_eq!(details(&daemon).await["last_failure"], failed);
    fs::rename(&away, &base).unwrap();
    assert_starts(&daemon, &id).await;
    assert_eq!(details(&daemon).await["last_failure"], Value::Null);
}

#[tokio::test]
async fn a_disk_that_is_gone_is_named() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let (disk, away) = (overlay(&daemon, &id), daemon.dir.path().join("away"));
    fs::rename(&disk, &away).unwrap();
    let cause = cause_of_failure(&daemon, &id).await;
    assert_says(&cause, &["the disk", &disk.display().to_string(), "No such file"]);
    fs::rename(&away, &disk).unwrap();
    assert_starts(&daemon, &id).await;
}

/// All or nothing: also the reason of the crash is what it was, and beside it stands what is lacking now.
#[tokio::test]
async fn a_crashed_vm_that_does_not_start_stays_crashed() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.qemus()[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.await_status(&id, "crashed").await;
    let before = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    let (disk, away) = (overlay(&daemon, &id), daemon.dir.path().join("away"));
    fs::rename(&disk, &away).unwrap();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(500);
    let mut after = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    let reason = after["reason"].as_str().unwrap();
    let lacking = reason.strip_prefix(before["reason"].as_str().unwrap()).unwrap_or_else(|| panic!("{reason}"));
    assert!(lacking.contains(&disk.display().to_string()) && lacking.contains("No such file"), "{reason}");
    after["reason"] = before["reason"].clone();
    assert_eq!(after, before);
    fs::rename(&away, &disk).unwrap();
    assert_starts(&daemon, &id).await;
}

#[tokio::test]
async fn a_damaged_disk_is_named() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let disk = fs::read(overlay(&daemon, &id)).unwrap();
    fs::write(overlay(&daemon, &id), vec![0; disk.len()]).unwrap();
    let cause = cause_of_failure(&daemon, &id).await;
    assert_says(&cause, &["root.qcow2 cannot be used", "it must be a qcow2 image"]);
    fs::write(overlay(&daemon, &id), disk).unwrap();
    assert_starts(&daemon, &id).await;
}

#[tokio::test]
async fn a_run_directory_that_cannot_be_made_is_named() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let dir = daemon.run_dir(&id);
    fs::write(&dir, "in the way").unwrap();
    let cause = cause(daemon.post(&format!("/vms/{id}/start"), json!({})).await);
    assert_says(&cause, &["cannot make", &dir.display().to_string(), "File exists"]);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
    assert_eq!(fs::read_to_string(&dir).unwrap(), "in the way");
    fs::remove_file(&dir).unwrap();
    assert_starts(&daemon, &id).await;
}

#[tokio::test]
async fn a_qemu_that_ends_at_once_is_told_with_its_exit_status() {
    let stand_in = StandIn::new("exit 7");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let words = ["QEMU ended with exit status 7", "no message"];
    let id = daemon.create(daemon.wish()).await;
    assert_says(&cause_of_failure(&daemon, &id).await, &words);
    assert_creates_nothing(&daemon, &words).await;
}

#[tokio::test]
async fn a_qemu_that_is_killed_is_told_with_the_signal() {
    let stand_in = StandIn::new("kill -KILL $$");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let id = daemon.create(daemon.wish()).await;
    assert_says(&cause_of_failure(&daemon, &id).await, &["QEMU was ended by SIGKILL"]);
}

#[tokio::test]
async fn a_qemu_that_complains_is_quoted() {
    let stand_in = StandIn::new("echo first >&2; echo 'qemu: the flux is not compensated' >&2; exit 1");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let words = ["exit status 1", "the flux is not compensated"];
    let id = daemon.create(daemon.wish()).await;
    assert_says(&cause_of_failure(&daemon, &id).await, &words);
    assert_creates_nothing(&daemon, &words).await;
}

/// It would outlive every stop: the process that qherd knows is the wrapper's.
#[tokio::test]
async fn a_qemu_behind_a_wrapper_that_does_not_exec_it_is_refused_and_ended_with_it() {
    let stand_in = StandIn::new("qemu-system-x86_64 \"$@\"; exit");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let words = ["QEMU runs in thread", "--qemu", "exec qemu-system-x86_64"];
    let id = daemon.create(daemon.wish()).await;
    assert_says(&cause_of_failure(&daemon, &id).await, &words);
    assert_creates_nothing(&daemon, &words).await;
}

/// Takes as long as a start may wait for the monitor.
#[tokio::test]
async fn a_qemu_that_hangs_before_its_monitor_is_given_up_and_killed() {
    let stand_in = StandIn::new("kill -STOP $$");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let id = daemon.create(daemon.wish()).await;
    assert_says(&cause_of_failure(&daemon, &id).await, &["does not answer on its monitor", "greeting", "30s"]);
}

#[tokio::test]
async fn a_qemu_that_was_removed_is_named() {
    let stand_in = StandIn::new("");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let id = daemon.create(daemon.wish()).await;
    let away = stand_in.path().with_extension("away");
    fs::rename(stand_in.path(), &away).unwrap();
    let words = ["cannot run", &stand_in.as_arg(), "No such file"];
    assert_says(&cause_of_failure(&daemon, &id).await, &words);
    assert_creates_nothing(&daemon, &words).await;
    fs::rename(&away, stand_in.path()).unwrap();
    assert_starts(&daemon, &id).await;
}

#[tokio::test]
async fn a_guest_that_the_host_has_no_memory_for_fails_in_the_words_of_qemu() {
    let stand_in = StandIn::new("ulimit -v 4000000");
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let mut wish = daemon.wish();
    wish["memory"] = json!(4096);
    let id = daemon.create(wish).await;
    let cause = cause_of_failure(&daemon, &id).await;
    assert_says(&cause, &["QEMU ended with exit status 1", "cannot set up guest memory", "Cannot allocate memory"]);
}

/// With ever more free descriptors the start fails at ever later steps, until it has enough.
#[tokio::test]
async fn a_start_without_descriptors_says_what_it_wanted_one_for() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let open = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let pid = Pid::from_raw(daemon.pid());
    let (mut causes, before) = (Vec::new(), open());
    // Descriptors are numbered from the lowest free one on, and none gets a number from the limit on. So the first limit
    // leaves none, whatever the daemon has open for a moment longer, and each further one at most one more.
    for limit in 3.. {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let whole = prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
        let answer = daemon.post(&format!("/vms/{id}/start"), json!({})).await;
        prlimit(pid, Resource::Nofile, whole).unwrap();
        if answer.status == 200 {
            daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
            break;
        }
        let cause = cause(answer);
        assert_says(&cause, &["Too many open files"]);
        assert!(!cause.starts_with("Too many open files"), "for what? {cause}");
        assert_nothing_left(&daemon, &id).await;
        causes.push(cause);
    }
    // One descriptor that a failed start leaks has become dozens.
    assert!(causes.len() > 12 && open() < before + causes.len() / 2, "{before} were open, {} are: {causes:#?}", open());
    // What is opened side by side takes more at once than the sockets that come after it, which so never lack one.
    for what in ["cannot make logs", "cannot be used", "cannot make a sandbox", "cannot run"] {
        assert!(causes.iter().any(|cause| cause.contains(what)), "{what}: {causes:#?}");
    }
    assert_starts(&daemon, &id).await;
}
