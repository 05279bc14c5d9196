//! Storage that is not mounted: no new state is made where there was one, a disk that is away is not taken for a disk that
//! is gone, and what waits for it goes on when it is back.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::mounts::{ext4, in_private_mounts, mount, run};
use crate::support::{Daemon, PATIENCE};
use qherd::{
    model::Boot,
    store::{Batch, Store},
};
use serde_json::{Value, json};

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// Whoever has just ended lets go of its files in its own time.
async fn unmount(at: &Path) {
    while !Command::new("umount").arg(at).output().unwrap().status.success() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Of its status.
async fn await_reason(daemon: &Daemon, id: &str, wanted: impl Fn(&Value) -> bool) {
    let begun = std::time::Instant::now();
    loop {
        let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
        if wanted(&status["reason"]) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_state_directory_that_is_not_mounted_is_refused_and_not_made_anew() {
    in_private_mounts(module_path!(), "a_state_directory_that_is_not_mounted_is_refused_and_not_made_anew", || async {
        let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
        let image = ext4(&daemon.state(), 96);
        daemon.run();
        let id = daemon.create(daemon.wish()).await;
        daemon.terminate();
        unmount(&daemon.state()).await;
        for _ in 0..2 {
            let output = daemon.command().output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("its storage is not mounted, it seems"), "{said}");
            assert!(is_empty(&daemon.state()));
        }
        mount(&image, &daemon.state(), "loop");
        daemon.run();
        assert_eq!(daemon.status(&id).await, "stopped");
        daemon.terminate();

        // One within a file system is missed as well, and one that was moved there is not.
        unmount(&daemon.state()).await;
        fs::create_dir(daemon.dir.path().join("disk")).unwrap();
        let disk = daemon.dir.path().join("disk");
        mount(&image, &disk, "loop");
        fs::create_dir(disk.join("state")).unwrap();
        let at = |state: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
            command.args(["serve", "--listen", "127.0.0.1:0", "--accel", "tcg", "--state-dir"]).arg(state);
            command
        };
        daemon.run_as(at(&disk.join("state")));
        daemon.terminate();
        fs::rename(disk.join("state"), disk.join("other")).unwrap();
        daemon.run_as(at(&disk.join("other")));
        daemon.terminate();
        unmount(&disk).await;
        let output = at(&disk.join("other")).output().unwrap();
        assert!(!output.status.success() && is_empty(&disk), "{output:?}");
        // What nobody misses is made.
        daemon.run_as(at(&disk.join("state")));
        assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    });
}

#[test]
fn a_disk_on_storage_that_is_away_is_waited_for_and_not_forgotten() {
    in_private_mounts(module_path!(), "a_disk_on_storage_that_is_away_is_waited_for_and_not_forgotten", || async {
        let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
        let vms = daemon.dir.path().join("vms");
        let image = ext4(&vms, 96);
        daemon.add_args(&["--storage-dir", vms.to_str().unwrap()]);
        daemon.run();
        let wish = |name: &str| json!({ "name": name, "memoryMB": 64, "vcpu": 1, "diskPath": vms, "diskGB": 1 });
        let mut ids = Vec::new();
        for name in ["a", "b"] {
            let made = daemon.post("/hyperv/vms", wish(name)).await.expect(201);
            ids.push(made["id"].as_str().unwrap().to_owned());
        }
        let [id, other] = &ids[..] else { panic!() };
        let autostart = json!({ "autostart": { "enabled": true } });
        daemon.put(&format!("/vms/{id}/policy"), autostart.clone()).await.expect(200);
        let inside = daemon.create(daemon.wish()).await;
        daemon.put(&format!("/vms/{inside}/policy"), autostart).await.expect(200);
        daemon.terminate();
        unmount(&vms).await;
        {
            let store = Store::open(&daemon.state().join("db")).unwrap();
            let boot = Boot { boot_id: "another boot".into(), init: None };
            store.commit(Batch::new().put("boot", &boot).unwrap()).await.unwrap();
        }
        daemon.run();
        daemon.await_status(&inside, "running").await;
        let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
        assert!(status["reason"].as_str().unwrap().contains(&format!("{id}.qcow2 cannot be used")), "{status}");
        for id in &ids {
            let refused = daemon.delete(&format!("/vms/{id}")).await;
            assert!(refused.message().contains("its storage is not mounted, it seems"), "{refused:?}");
            refused.expect(409);
        }
        daemon.post(&format!("/vms/{other}/start"), json!({})).await.expect(500);
        // Nor is a disk made where the others would hide it.
        let refused = daemon.post("/hyperv/vms", wish("c")).await.expect(409);
        assert!(refused["error"].as_str().unwrap().contains("not mounted"), "{refused}");
        assert!(is_empty(&vms));
        mount(&image, &vms, "loop");
        daemon.await_status(id, "running").await;
        assert_eq!(daemon.status(other).await, "stopped");
        // What is said of it becomes true again by itself.
        await_reason(&daemon, other, |reason| reason.is_null()).await;
        for id in &ids {
            daemon.delete(&format!("/vms/{id}")).await.expect(200);
        }
        let left: Vec<_> = fs::read_dir(&vms).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "lost+found" || name == ".qherd-storage"), "{left:?}");
        // One that is lost for good can be deleted, once that has been said.
        let lost = daemon.post("/hyperv/vms", wish("c")).await.expect(201)["id"].as_str().unwrap().to_owned();
        let (disk, away) = (vms.join(format!("{lost}.qcow2")), vms.join("away"));
        fs::rename(&disk, &away).unwrap();
        daemon.post(&format!("/vms/{lost}/start"), json!({})).await.expect(500);
        await_reason(&daemon, &lost, |reason| reason.to_string().contains("cannot be used")).await;
        fs::rename(&away, &disk).unwrap();
        await_reason(&daemon, &lost, |reason| reason.is_null()).await;
        fs::remove_file(disk).unwrap();
        daemon.delete(&format!("/vms/{lost}")).await.expect(200);
        assert_eq!(daemon.get(&format!("/vms/{inside}")).await.expect(200)["reason"], Value::Null);
        run("sync", &[]);
    });
}
