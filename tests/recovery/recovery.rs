//! The daemon is killed half-way through an operation: what it had not acknowledged is gone, what it had is there, and
//! nothing is taken for a crash that was none.

use std::time::Duration;

use crate::stand_in::StandIn;
use crate::support::{Daemon, Hold, PATIENCE};
use serde_json::{Value, json};

#[tokio::test]
async fn a_create_with_start_that_was_cut_short_leaves_no_vm() {
    let stand_in = StandIn::holding();
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let request = tokio::spawn(daemon.http().post(daemon.at("/vms")).json(&wish).send());
    while daemon.qemus().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]), "nobody was told of it");
    daemon.kill();
    let _ = request.await;
    daemon.run();
    let begun = std::time::Instant::now();
    while daemon.get("/vms").await.expect(200) != json!([]) || !daemon.qemus().is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
    stand_in.let_go();
}

/// The kernel holds the process, so that the daemon dies between the cut and the end for certain.
#[tokio::test]
async fn a_forced_stop_that_the_daemon_did_not_live_to_see_is_no_crash() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    wish["restart_policy"] = json!("always");
    let id = daemon.create(wish).await;
    let hold = Hold::on(daemon.qemus()[0]);
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(500);
    daemon.kill();
    drop(hold);
    while !daemon.qemus().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.run();
    daemon.await_status(&id, "stopped").await;
    let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    assert_eq!((&status["next_restart"], &status["reason"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn reads_are_answered_while_vms_are_taken_over() {
    let mut daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let pid = daemon.qemus();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid[0]), nix::sys::signal::Signal::SIGSTOP).unwrap();
    daemon.kill();
    daemon.run();
    // Its monitor will not answer, and nothing waits for it.
    let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    // What was last known of it holds until its monitor had its time.
    assert_eq!(status["status"], "running", "{status}");
    daemon.await_status(&id, "unresponsive").await;
    let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    assert!(status["reason"].as_str().unwrap().contains("connecting"), "{status}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid[0]), nix::sys::signal::Signal::SIGCONT).unwrap();
    daemon.await_status(&id, "running").await;
    assert_eq!(daemon.qemus(), pid);
}
