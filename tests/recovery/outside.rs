//! The look from outside that the tests of crashes rely on: it finds what was planted, and nothing else.

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{Daemon, PATIENCE, crash::Side};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[tokio::test]
async fn whatever_belongs_to_nobody_is_found() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let other = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.assert_in_order().await;
    let (images, run) = (daemon.state().join("images"), daemon.state().join("run"));

    for (file, words) in [
        (images.join("11111111-1111-4111-8111-111111111111/root.qcow2"), "image folder of a VM that does not exist"),
        (images.join(&id).join("disk7.qcow2"), "an image that no disk uses"),
        (run.join("111111111111/qemu.log"), "run folder of a VM that does not exist"),
        (daemon.run_dir(&id).join("forgotten"), "forgotten"),
        (daemon.run_dir(&other).join("qmp.sock"), "is stopped and has"),
    ] {
        let folder = file.parent().unwrap();
        let made = !folder.exists();
        fs::create_dir_all(folder).unwrap();
        fs::write(&file, "").unwrap();
        finds(&daemon, words).await;
        fs::remove_file(&file).unwrap();
        if made {
            fs::remove_dir(folder).unwrap();
        }
    }

    let image = images.join(&other).join("root.qcow2");
    let aside = daemon.dir.path().join("aside");
    fs::rename(&image, &aside).unwrap();
    finds(&daemon, "a disk without its image").await;
    fs::rename(&aside, &image).unwrap();

    // One that only names the state directory, and one that says that it is the second QEMU of a VM.
    let state = daemon.state().join("lock").display().to_string();
    for (words, found) in [(vec![], "a process that belongs to nobody"), (vec!["-uuid", &id], "has the processes")] {
        // It waits for a line that never comes.
        let script = ["-c", "read line", &state];
        let mut process = Command::new("sh").args(script).args(words).stdin(Stdio::piped()).spawn().unwrap();
        finds(&daemon, found).await;
        process.kill().unwrap();
        process.wait().unwrap();
    }
    daemon.assert_in_order().await;

    // One that the daemon may have started without a word of the state directory, and one that says it is a dnsmasq.
    let mut helper = Command::new("sh");
    helper.args(["-c", "read line"]).current_dir(daemon.dir.path());
    let mut dnsmasq = Command::new("sh");
    dnsmasq.arg0("dnsmasq").args(["-c", "read line", &state]);
    for (mut command, found) in [(helper, "to nobody in the daemon's folder"), (dnsmasq, "a dnsmasq of no switch")] {
        let mut process = command.stdin(Stdio::piped()).spawn().unwrap();
        finds(&daemon, found).await;
        process.kill().unwrap();
        process.wait().unwrap();
    }
    daemon.assert_in_order().await;
}

#[tokio::test]
async fn a_vm_that_only_seems_to_run_is_found() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let known = daemon.known().await;
    kill(Pid::from_raw(daemon.qemus()[0]), Signal::SIGKILL).unwrap();
    daemon.await_status(&id, "crashed").await;
    // As it was told before.
    let wrong = daemon.complaints_about(&known, &Default::default()).join("\n");
    assert!(wrong.contains("is running and has the processes []") && wrong.contains("lacks"), "{wrong}");
    daemon.assert_in_order().await;
}

#[tokio::test]
async fn a_daemon_dies_at_the_commit_that_it_is_told_to_die_at() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    // The first start of all stores the boot of the host.
    daemon.run();
    daemon.kill();
    for (side, there) in [(Side::Before, 0), (Side::After, 1)] {
        // A create makes three: that it is being made, what it will hold, and that it is there.
        let command = daemon.dying_at(3, side);
        daemon.run_as(command);
        let request = daemon.http().post(daemon.at("/vms")).json(&daemon.wish());
        assert!(daemon.try_send(request).await.is_none(), "it lives");
        let deadline = Instant::now() + PATIENCE;
        while !daemon.has_died() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        daemon.run();
        assert_eq!(daemon.known().await.len(), there, "{side:?}");
        daemon.kill();
    }
}

async fn finds(daemon: &Daemon, words: &str) {
    let wrong = daemon.complaints().await;
    assert!(wrong.iter().any(|wrong| wrong.contains(words)), "{words:?} is not in {wrong:?}");
}
