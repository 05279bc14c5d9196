//! Autostart: VMs that are to, and only those, start after a boot of the host, in their order and with their delays; a
//! daemon that starts again on the same boot starts nothing. The host is not rebooted for it: the boot that the store
//! remembers is made another one, which is all that a reboot changes for a VM that was stopped.

use std::time::{Duration, Instant};

use crate::support::{Daemon, PATIENCE};
use qherd::{
    model::Boot,
    store::{Batch, Store},
};
use serde_json::{Value, json};

/// A state directory as a host finds it that was restarted since.
fn reboot(daemon: &Daemon) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&daemon.state().join("db")).unwrap();
        assert!(store.get::<Boot>("boot").unwrap().is_some(), "a daemon remembers the boot");
        let boot = Boot { boot_id: "another boot".into(), init: None };
        store.commit(Batch::new().put("boot", &boot).unwrap()).await.unwrap();
    });
}

async fn rebooted(daemon: &mut Daemon) {
    daemon.kill();
    let daemon = &*daemon;
    std::thread::scope(|scope| scope.spawn(|| reboot(daemon)).join().unwrap());
}

async fn vm(daemon: &Daemon, autostart: Value) -> String {
    let mut wish = daemon.wish();
    wish["autostart"] = autostart;
    daemon.create(wish).await
}

async fn started_at(daemon: &Daemon, id: &str) -> String {
    daemon.await_status(id, "running").await;
    daemon.get(&format!("/vms/{id}")).await.expect(200)["started_at"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn after_a_boot_vms_start_in_their_order_and_a_restart_of_the_daemon_starts_none() {
    let mut daemon = Daemon::start();
    let last = vm(&daemon, json!({ "enabled": true, "order": 2 })).await;
    let other = vm(&daemon, json!({ "enabled": false, "order": 1 })).await;
    let without = vm(&daemon, Value::Null).await;
    let first = vm(&daemon, json!({ "enabled": true, "order": 1 })).await;
    let second = vm(&daemon, json!({ "enabled": true, "order": 1 })).await;
    daemon.kill();
    daemon.run();
    assert_eq!(daemon.qemus(), [] as [i32; 0], "the same boot");

    rebooted(&mut daemon).await;
    daemon.run();
    let mut starts = Vec::new();
    for id in [&first, &second, &last] {
        starts.push(started_at(&daemon, id).await);
    }
    assert!(starts.is_sorted(), "{starts:?}");
    for id in [&other, &without] {
        assert_eq!(daemon.status(id).await, "stopped");
    }
    // What was started is a client's from then on.
    daemon.post(&format!("/vms/{first}/stop"), json!({ "force": true })).await.expect(200);
    daemon.kill();
    daemon.run();
    assert_eq!((daemon.status(&first).await.as_str(), daemon.qemus().len()), ("stopped", 2));
}

#[tokio::test]
async fn the_next_one_waits_for_the_delay_nobody_else_does_and_the_death_of_the_daemon_skips_none() {
    let mut daemon = Daemon::start();
    let first = vm(&daemon, json!({ "enabled": true, "order": 1, "delay": 3600 })).await;
    let second = vm(&daemon, json!({ "enabled": true, "order": 2, "delay": 3600 })).await;
    let third = vm(&daemon, json!({ "enabled": true, "order": 3 })).await;
    rebooted(&mut daemon).await;
    daemon.run();
    started_at(&daemon, &first).await;
    let waiting = daemon.get(&format!("/vms/{second}/status")).await.expect(200);
    assert_eq!(waiting["status"], "stopped");
    assert!(waiting["reason"].as_str().unwrap().contains("after the boot of the host"), "{waiting}");
    // The API is there meanwhile; who is started or stopped by a client is no longer waited for.
    daemon.post(&format!("/vms/{third}/start"), json!({})).await.expect(200);
    daemon.post(&format!("/vms/{first}/stop"), json!({ "force": true })).await.expect(200);

    // The next daemon goes on with the one that is left: its turn is now.
    daemon.kill();
    daemon.run();
    started_at(&daemon, &second).await;
    assert_eq!((daemon.status(&first).await.as_str(), daemon.qemus().len()), ("stopped", 2));
}

#[tokio::test]
async fn a_stop_or_a_delete_ends_the_waiting_for_the_turn() {
    let mut daemon = Daemon::start();
    let first = vm(&daemon, json!({ "enabled": true, "delay": 3600 })).await;
    let stopped = vm(&daemon, json!({ "enabled": true })).await;
    let changed = vm(&daemon, json!({ "enabled": true })).await;
    let deleted = vm(&daemon, json!({ "enabled": true })).await;
    rebooted(&mut daemon).await;
    daemon.run();
    started_at(&daemon, &first).await;
    daemon.post(&format!("/vms/{stopped}/stop"), json!({ "force": true })).await.expect(200);
    daemon.put(&format!("/vms/{changed}/policy"), json!({ "autostart": null })).await.expect(200);
    daemon.delete(&format!("/vms/{deleted}")).await.expect(200);
    for id in [&stopped, &changed] {
        assert_eq!(daemon.get(&format!("/vms/{id}/status")).await.expect(200)["reason"], Value::Null);
    }
    daemon.kill();
    daemon.run();
    daemon.await_status(&first, "running").await;
    assert_eq!(daemon.qemus().len(), 1);
}

#[tokio::test]
async fn one_that_does_not_start_says_so_and_holds_up_none() {
    let mut daemon = Daemon::start();
    let broken = vm(&daemon, json!({ "enabled": true, "order": 1 })).await;
    let next = vm(&daemon, json!({ "enabled": true, "order": 2 })).await;
    let disk = daemon.state().join("images").join(&broken).join("root.qcow2");
    std::fs::write(&disk, "no image").unwrap();
    rebooted(&mut daemon).await;
    daemon.run();
    started_at(&daemon, &next).await;
    let status = daemon.get(&format!("/vms/{broken}/status")).await.expect(200);
    assert_eq!(status["status"], "crashed", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("did not start after the boot of the host") && reason.contains("qcow2"), "{reason}");
    let begun = Instant::now();
    while daemon.get(&format!("/vms/{broken}/status")).await.expect(200)["next_restart"] != Value::Null {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_whose_disk_is_not_there_yet_starts_when_it_is_and_holds_up_none() {
    let mut daemon = Daemon::start();
    let late = vm(&daemon, json!({ "enabled": true, "order": 1 })).await;
    let never = vm(&daemon, json!({ "enabled": true, "order": 1 })).await;
    let next = vm(&daemon, json!({ "enabled": true, "order": 2 })).await;
    let disk = |id: &str| daemon.state().join("images").join(id).join("root.qcow2");
    let disks = [disk(&late), disk(&never)];
    let away = |disk: &std::path::Path| disk.with_extension("away");
    for disk in &disks {
        std::fs::rename(disk, away(disk)).unwrap();
    }
    rebooted(&mut daemon).await;
    daemon.run();
    started_at(&daemon, &next).await;
    for id in [&late, &never] {
        let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
        assert_eq!(status["status"], "stopped", "{status}");
        let reason = status["reason"].as_str().unwrap();
        assert!(reason.contains("root.qcow2 cannot be used") && reason.contains("after the boot"), "{reason}");
    }
    // Also for the daemon after this one; and not for what a client wants otherwise meanwhile.
    daemon.kill();
    daemon.run();
    daemon.post(&format!("/vms/{never}/stop"), json!({ "force": true })).await.expect(200);
    for disk in &disks {
        std::fs::rename(away(disk), disk).unwrap();
    }
    started_at(&daemon, &late).await;
    let status = daemon.get(&format!("/vms/{never}/status")).await.expect(200);
    assert_eq!(status["status"], "stopped", "{status}");
}

/// The daemon as the first process of a container, with processes of its own that end with it.
fn in_container(daemon: &Daemon) -> std::process::Command {
    let plain = daemon.command();
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(plain.get_program());
    command.args(plain.get_args()).current_dir(daemon.dir.path()).env("QHERD_LOG", "qherd=debug");
    command.stdin(std::process::Stdio::null());
    command
}

#[tokio::test]
async fn a_restart_of_the_container_is_a_boot_as_well() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    daemon.run_as(in_container(&daemon));
    let id = vm(&daemon, json!({ "enabled": true })).await;
    let other = vm(&daemon, json!({ "enabled": false })).await;
    daemon.kill();
    daemon.run_as(in_container(&daemon));
    started_at(&daemon, &id).await;
    assert_eq!(daemon.status(&other).await, "stopped");
}
