//! Restarts by policy: after which end, when, how often; and that neither a client's word nor the death of the daemon
//! is lost on them. QEMU is killed, or its disk is away, for real.

use std::{path::PathBuf, time::Duration};

use crate::support::{Daemon, PATIENCE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

async fn running(daemon: &Daemon, policy: Value) -> String {
    let mut wish = daemon.wish();
    wish.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
    wish["start"] = json!(true);
    daemon.create(wish).await
}

async fn status(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}/status")).await.expect(200)
}

async fn await_that(daemon: &Daemon, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let status = status(daemon, id).await;
        if wanted(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "never {what}: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn kill_qemu(daemon: &Daemon) -> i32 {
    let [pid] = daemon.qemus()[..] else { panic!("{:?}", daemon.qemus()) };
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    pid
}

async fn await_new_run(daemon: &Daemon, id: &str, before: i32) {
    let begun = std::time::Instant::now();
    while daemon.qemus().iter().all(|qemu| *qemu == before) {
        assert!(begun.elapsed() < PATIENCE, "no new QEMU");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Asked only now: until its end is noticed, the one that was killed is running too.
    daemon.await_status(id, "running").await;
    assert_eq!(daemon.qemus().len(), 1);
}

/// A VM whose restarts fail, waiting for one that is some seconds away.
async fn waiting(daemon: &Daemon, policy: &str) -> (String, PathBuf) {
    let id = running(daemon, json!({ "restart_policy": policy })).await;
    let disk = daemon.state().join("images").join(&id).join("root.qcow2");
    std::fs::rename(&disk, disk.with_extension("away")).unwrap();
    kill_qemu(daemon);
    let status = await_that(daemon, &id, "three times restarted", |status| status["restarts"] == 4).await;
    assert_eq!(status["status"], "crashed", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("did not start again") && reason.contains("restart 4 follows at"), "{reason}");
    assert!(status["next_restart"].is_string(), "{status}");
    (id, disk)
}

#[tokio::test]
async fn a_vm_that_crashes_is_restarted_on_failure_again_and_again() {
    let daemon = Daemon::start();
    let id = running(&daemon, json!({ "restart_policy": "on-failure" })).await;
    for restarts in 1..=2 {
        let pid = kill_qemu(&daemon);
        let crashed = await_that(&daemon, &id, "crashed", |status| status["restarts"] == restarts).await;
        if crashed["status"] == "crashed" {
            assert!(crashed["reason"].as_str().unwrap().contains("SIGKILL"), "{crashed}");
            assert!(crashed["next_restart"].is_string(), "{crashed}");
        }
        await_new_run(&daemon, &id, pid).await;
        let after = status(&daemon, &id).await;
        assert_eq!((&after["restarts"], &after["next_restart"]), (&json!(restarts), &Value::Null));
    }
    // A client's own start begins anew.
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    assert_eq!(status(&daemon, &id).await["restarts"], 0);
}

#[tokio::test]
async fn without_a_policy_a_crash_is_final() {
    let daemon = Daemon::start();
    let id = running(&daemon, json!({})).await;
    kill_qemu(&daemon);
    let crashed = await_that(&daemon, &id, "crashed", |status| status["status"] == "crashed").await;
    assert_eq!((&crashed["restarts"], &crashed["next_restart"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn what_a_client_stops_stays_stopped_whatever_the_policy() {
    let mut daemon = Daemon::start();
    for policy in ["on-failure", "always"] {
        let id = running(&daemon, json!({ "restart_policy": policy })).await;
        for stop in [json!({ "force": true }), json!({ "timeout": 1 })] {
            daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
            daemon.post(&format!("/vms/{id}/stop"), stop).await.expect(200);
            let after = status(&daemon, &id).await;
            assert_eq!((&after["status"], &after["next_restart"]), (&json!("stopped"), &Value::Null), "{policy}");
        }
    }
    daemon.kill();
    daemon.run();
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

#[tokio::test]
async fn a_stop_ends_the_waiting_for_a_restart_at_once() {
    let daemon = Daemon::start();
    for stop in [json!({ "force": true }), json!({})] {
        let (id, disk) = waiting(&daemon, "on-failure").await;
        std::fs::rename(disk.with_extension("away"), &disk).unwrap();
        daemon.post(&format!("/vms/{id}/stop"), stop).await.expect(200);
        let after = status(&daemon, &id).await;
        assert_eq!(after["status"], "stopped");
        assert_eq!((&after["restarts"], &after["next_restart"]), (&json!(0), &Value::Null));
        // That its disk is back is noticed by itself.
        await_that(&daemon, &id, "without a reason", |status| status["reason"].is_null()).await;
    }
}

#[tokio::test]
async fn a_start_does_not_wait_for_the_restart_and_begins_anew() {
    let daemon = Daemon::start();
    let (id, disk) = waiting(&daemon, "always").await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(500);
    assert_eq!(status(&daemon, &id).await["restarts"], 4, "all or nothing");
    std::fs::rename(disk.with_extension("away"), &disk).unwrap();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let after = status(&daemon, &id).await;
    assert_eq!((&after["status"], &after["restarts"]), (&json!("running"), &json!(0)));
}

#[tokio::test]
async fn a_vm_that_waits_for_a_restart_is_deleted_at_once() {
    let daemon = Daemon::start();
    let (id, disk) = waiting(&daemon, "on-failure").await;
    std::fs::remove_file(disk.with_extension("away")).unwrap();
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn a_policy_that_is_taken_back_ends_the_waiting() {
    let daemon = Daemon::start();
    let (id, _) = waiting(&daemon, "on-failure").await;
    daemon.put(&format!("/vms/{id}/policy"), json!({ "restart_policy": "never" })).await.expect(200);
    let after = status(&daemon, &id).await;
    assert_eq!((&after["status"], &after["next_restart"]), (&json!("crashed"), &Value::Null));
}

#[tokio::test]
async fn a_vm_is_given_up_after_as_many_restarts_as_it_may_have() {
    let daemon = Daemon::start();
    let id = running(&daemon, json!({ "restart_policy": "on-failure", "max_restarts": 2 })).await;
    let disk = daemon.state().join("images").join(&id).join("root.qcow2");
    std::fs::rename(&disk, disk.with_extension("away")).unwrap();
    kill_qemu(&daemon);
    let given_up = await_that(&daemon, &id, "given up", |status| {
        status["reason"].as_str().is_some_and(|reason| reason.contains("given up after 2 restarts"))
    });
    let given_up = given_up.await;
    assert_eq!((&given_up["status"], &given_up["next_restart"]), (&json!("crashed"), &Value::Null));
}

#[tokio::test]
async fn the_death_of_the_daemon_neither_loses_nor_doubles_a_restart() {
    let mut daemon = Daemon::start();
    let id = running(&daemon, json!({ "restart_policy": "on-failure" })).await;
    // While it waits.
    let pid = kill_qemu(&daemon);
    await_that(&daemon, &id, "crashed", |status| status["restarts"] == 1).await;
    daemon.kill();
    daemon.run();
    await_new_run(&daemon, &id, pid).await;
    assert_eq!(status(&daemon, &id).await["restarts"], 1);
    // A crash while there is no daemon.
    daemon.kill();
    let pid = kill_qemu(&daemon);
    while !daemon.qemus().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.run();
    await_new_run(&daemon, &id, pid).await;
    assert_eq!(status(&daemon, &id).await["restarts"], 2);
    // And none where nothing ended.
    let pids = daemon.qemus();
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    assert_eq!((daemon.qemus(), status(&daemon, &id).await["restarts"].clone()), (pids, json!(2)));
}

#[tokio::test]
async fn the_policy_is_shown_changed_part_by_part_and_kept() {
    let mut daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let fields = ["restart_policy", "max_restarts", "autostart", "on_io_error"];
    let shown = async |daemon: &Daemon| {
        let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
        let details = daemon.get(&format!("/vms/{id}")).await.expect(200);
        fields.map(|field| {
            assert_eq!(config[field], details[field]);
            config[field].clone()
        })
    };
    let off = json!({ "enabled": false, "order": 0, "delay": 0 });
    assert_eq!(shown(&daemon).await, [json!("never"), Value::Null, off.clone(), json!("pause")]);
    let path = format!("/vms/{id}/policy");
    let autostart = json!({ "enabled": true, "order": 3, "delay": 20 });
    let body = json!({ "restart_policy": "always", "max_restarts": 5, "autostart": autostart, "on_io_error": "retry" });
    let answer = daemon.put(&path, body).await.expect(200);
    assert_eq!(
        (&answer["status"], &answer["applied"], &answer["pending"]),
        (&json!("updated"), &json!("next_start"), &json!({}))
    );
    assert_eq!(answer["autostart"], autostart);
    assert_eq!(shown(&daemon).await, [json!("always"), json!(5), autostart, json!("retry")]);
    daemon.put(&path, json!({ "autostart": null })).await.expect(200);
    daemon.put(&path, json!({ "max_restarts": null })).await.expect(200);
    daemon.kill();
    daemon.run();
    assert_eq!(shown(&daemon).await, [json!("always"), Value::Null, off, json!("retry")]);

    // On a running VM all of it counts at once, but for what QEMU is told at its start.
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let answer = daemon.put(&path, json!({ "on_io_error": "pause", "restart_policy": "never" })).await.expect(200);
    assert_eq!((&answer["applied"], &answer["pending"]), (&json!("live"), &json!({})));
    let answer = daemon.put(&path, json!({ "on_io_error": "report" })).await.expect(200);
    assert_eq!(answer["applied"], "next_start");
    assert_eq!(answer["pending"], json!({ "on_io_error": { "configured": "report", "in_effect": "pause" } }));
    let answer = daemon.put(&path, json!({ "on_io_error": "pause" })).await.expect(200);
    assert_eq!((&answer["applied"], &answer["pending"]), (&json!("live"), &json!({})));
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_a_400_that_says_why() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let path = format!("/vms/{id}/policy");
    for (body, words) in [
        (json!({}), "at least one"),
        (json!({ "restart_policy": "sometimes" }), "restart_policy"),
        (json!({ "restart_policy": "on_failure" }), "restart_policy"),
        (json!({ "max_restarts": 0 }), "max_restarts must be from 1 to 1000000"),
        (json!({ "max_restarts": -1 }), "max_restarts must be"),
        (json!({ "autostart": true }), "autostart"),
        (json!({ "autostart": {} }), "enabled"),
        (json!({ "autostart": { "enabled": true, "order": -1 } }), "autostart.order must be from 0 to 65535"),
        (json!({ "autostart": { "enabled": true, "delay": 3601 } }), "autostart.delay must be from 0 to 3600"),
        (json!({ "autostart": { "enabled": true, "prio": 1 } }), "prio"),
        (json!({ "on_io_error": "ignore" }), "on_io_error"),
    ] {
        let answer = daemon.put(&path, body.clone()).await;
        assert!(answer.message().contains(words), "{body}: {answer:?}");
        answer.expect(400);
        if body != json!({}) {
            let mut wish = daemon.wish();
            wish.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            daemon.post("/vms", wish).await.expect(400);
        }
    }
    daemon.put("/vms/x/policy", json!({ "restart_policy": "never" })).await.expect(400);
    let unknown = "123e4567-e89b-42d3-a456-426614174000";
    daemon.put(&format!("/vms/{unknown}/policy"), json!({ "restart_policy": "never" })).await.expect(404);
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1);
}
