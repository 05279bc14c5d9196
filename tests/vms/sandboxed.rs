//! Which sandbox a VM is in: shown, kept over the daemon's life, told where a layer is missing, and required where that is
//! wished. What each layer holds is in `sandbox`.

use std::os::unix::fs::PermissionsExt;

use crate::stand_in::StandIn;
use crate::support::Daemon;
use serde_json::{Value, json};

async fn sandbox_of(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}")).await.expect(200)["sandbox"].take()
}

fn uid_of(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_vm_runs_as_a_user_of_its_own_and_says_so_also_after_a_restart_of_the_daemon() {
    let mut daemon = Daemon::start();
    let host = daemon.get("/host").await.expect(200);
    let all = json!([
        "environment",
        "descriptors",
        "limits",
        "capabilities",
        "user",
        "no-new-privileges",
        "landlock",
        "filter"
    ]);
    assert_eq!(host["sandbox"], json!({ "layers": all, "missing": [] }));
    assert_eq!(daemon.get("/health").await.expect(200)["warnings"], json!([]));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut wish = daemon.wish();
        wish["start"] = json!(true);
        let id = daemon.create(wish).await;
        let vm = daemon.get(&format!("/vms/{id}")).await.expect(200);
        let uid = vm["sandbox"]["uid"].as_u64().unwrap() as u32;
        assert_eq!(vm["sandbox"]["layers"], all);
        assert!((2_100_000_000..=2_100_065_535).contains(&uid) && uid_of(vm["pid"].as_i64().unwrap() as i32) == uid);
        assert!(!seen.iter().any(|(_, other)| *other == uid), "{uid} twice");
        seen.push((id, uid));
    }
    daemon.kill();
    daemon.run();
    for (id, uid) in &seen {
        daemon.await_status(id, "running").await;
        assert_eq!(sandbox_of(&daemon, id).await["uid"], *uid);
    }
    let (id, _) = &seen[0];
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    assert_eq!(sandbox_of(&daemon, id).await, Value::Null);
}

/// A QEMU in a folder that others may not look into.
#[tokio::test]
async fn a_layer_that_cannot_be_put_on_is_told_and_refused_where_all_are_required() {
    let stand_in = StandIn::new("");
    let folder = stand_in.path().parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let host = daemon.get("/host").await.expect(200);
    let missing = host["sandbox"]["missing"].as_array().unwrap();
    let why = missing[0]["why"].as_str().unwrap();
    assert_eq!((missing.len(), &missing[0]["layer"]), (1, &json!("user")), "{host}");
    assert!(why.contains(&stand_in.as_arg()) && why.contains("Permission denied"), "{why}");
    for health in ["/health", "/hyperv/health"] {
        let health = daemon.get(health).await.expect(200);
        assert!(health["warnings"][0].as_str().unwrap().contains("without the layer user"), "{health}");
    }
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let sandbox = sandbox_of(&daemon, &id).await;
    assert_eq!((&sandbox["uid"], sandbox["layers"].as_array().unwrap().len()), (&Value::Null, 7));
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.terminate();
    let output = daemon.command().args(["--sandbox", "require"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--sandbox require") && said.contains("user ("), "{said}");
}

#[tokio::test]
async fn a_vm_that_no_user_is_left_for_does_not_start_and_says_so() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--vm-uids", "1999970000-1999970000"]);
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let first = daemon.create(wish).await;
    let second = daemon.create(daemon.wish()).await;
    let refused = daemon.post(&format!("/vms/{second}/start"), json!({})).await;
    let said = refused.body.to_string();
    assert!(refused.status == 500 && said.contains("--vm-uids 1999970000-1999970000"), "{} {said}", refused.status);
    daemon.post(&format!("/vms/{first}/stop"), json!({ "force": true })).await.expect(200);
    daemon.post(&format!("/vms/{second}/start"), json!({})).await.expect(200);
}

/// A script that, as a VM's user, finds another QEMU than the daemon does: the one that was asked what it can do is wanted.
#[tokio::test]
async fn a_program_that_is_another_for_a_user_of_its_own_is_run_without() {
    let stand_in = StandIn::new("");
    let script = "#!/bin/sh\n[ \"$(id -u)\" = 0 ] || { echo QEMU emulator version 1.2.3; exit 0; }\nexec qemu-system-x86_64 \"$@\"\n";
    std::fs::write(stand_in.path(), script).unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let host = daemon.get("/host").await.expect(200);
    let missing = &host["sandbox"]["missing"][0];
    let why = missing["why"].as_str().unwrap();
    assert!(missing["layer"] == "user" && why.contains("another program there than version"), "{host}");
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    assert_eq!(sandbox_of(&daemon, &id).await["uid"], Value::Null);
}
