//! Paths with the characters that programs have words of their own for: a VM with all it can have, and a switch with DHCP,
//! in a state directory with such a name, and images in a folder with a colon.

use std::{fs, path::Path, process::Command, time::Instant};

use crate::support::{
    Daemon, PATIENCE,
    netns::{self, Host},
};
use serde_json::json;

const ODD: &str = r#"a "b" #c \d, e=f %g%s 'h' ü;$(i):j"#;

/// Those whose command line names something in a folder.
fn dnsmasqs(folder: &Path) -> Vec<i32> {
    let folder = folder.display().to_string();
    let processes = procfs::process::all_processes().unwrap().flatten();
    let ours = processes.filter(|process| {
        let line = process.cmdline().unwrap_or_default();
        line.first().is_some_and(|program| program.ends_with("dnsmasq")) && line.iter().any(|w| w.contains(&folder))
    });
    ours.map(|process| process.pid).collect()
}

#[tokio::test]
async fn a_state_directory_may_have_any_name() {
    let host = Host::leave();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let state = daemon.dir.path().join(ODD).join("state");
    let images = daemon.dir.path().join("img:2026");
    fs::create_dir(&images).unwrap();
    fs::copy(daemon.bases().join("blank.raw"), images.join("blank, \"2\".raw")).unwrap();
    let serving = |daemon: &Daemon| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--accel", "tcg", "--state-dir"]).arg(&state);
        command.arg("--image-dir").arg(&images).current_dir(daemon.dir.path()).env("QHERD_LOG", "qherd=debug");
        command
    };
    daemon.run_as(serving(&daemon));
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let wish = json!({
        "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "blank, \"2\".raw", "start": true,
        "disks": [{ "disk_size": 1, "base_image": images.join("blank, \"2\".raw"), "clone": "full" }],
        "networks": [{ "switch": lan }], "iso": "blank, \"2\".raw"
    });
    let id = daemon.create(wish).await;
    assert_eq!(daemon.status(&id).await, "running");
    daemon
        .post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1, "base_image": "blank, \"2\".raw" }))
        .await
        .expect(201);
    let short = |id: &str| id.replace('-', "")[..12].to_owned();
    assert!(state.join("run").join(short(&id)).join("console.log").exists());
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].clone();
    // dnsmasq keeps its leases where they are looked for, and goes on.
    let kept = state.join("net").join(short(&lan));
    let begun = Instant::now();
    while !kept.join("leases").exists() {
        let said = fs::read_to_string(kept.join("dnsmasq.log")).unwrap_or_default();
        assert!(begun.elapsed() < PATIENCE, "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let names: Vec<_> = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // Its configuration, two lists, leases, a log.
    assert_eq!(names.len(), 5, "{names:?}");
    // Renamed while all of it runs: what runs is found again, and nothing a second time.
    daemon.kill();
    fs::rename(daemon.dir.path().join(ODD), daemon.dir.path().join("other")).unwrap();
    std::os::unix::fs::symlink(daemon.dir.path().join("other"), daemon.dir.path().join(ODD)).unwrap();
    let before = dnsmasqs(daemon.dir.path());
    assert_eq!(before.len(), 1);
    daemon.run_as(serving(&daemon));
    daemon.await_status(&id, "running").await;
    assert_eq!(daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"], pid);
    assert_eq!(dnsmasqs(daemon.dir.path()), before);
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    daemon.put(&format!("/vms/{id}/disk"), json!({ "disk_size": 2 })).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    assert!(!kept.exists());
    assert_eq!(netns::ip_json("link show type bridge"), json!([]));
    host.assert_untouched();
}
