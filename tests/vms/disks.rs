//! Disks beside the root disk, on VMs whose guest never boots: definitions, images, odd input, and a guest that does not
//! let go. What a real guest sees of it is in `guest_disks.rs`.

use std::time::{Duration, Instant};

use crate::support::{Daemon, PATIENCE};
use serde_json::{Value, json};

fn images(daemon: &Daemon, id: &str) -> Vec<String> {
    let folder = std::fs::read_dir(daemon.state().join("images").join(id)).unwrap();
    let mut names: Vec<String> = folder.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn names(daemon: &Daemon, id: &str) -> Vec<String> {
    let disks = daemon.get(&format!("/vms/{id}/disks")).await.expect(200);
    disks.as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn disks_come_and_go_while_the_vm_is_stopped() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["disks"] = json!([{ "disk_size": 2 }, { "disk_size": 1, "base_image": "blank.raw", "clone": "full" }]);
    let id = daemon.create(wish).await;
    let disks = format!("/vms/{id}/disks");
    let listed = daemon.get(&disks).await.expect(200);
    assert_eq!(
        (&listed[1]["name"], &listed[1]["disk_size"], &listed[1]["base_image"]),
        (&json!("disk1"), &json!(2), &Value::Null)
    );
    assert_eq!((&listed[2]["clone"], &listed[2]["io_limits"]), (&json!("full"), &Value::Null));
    let added = daemon.post(&disks, json!({ "disk_size": 3, "io_limits": { "bps": 1000000 } })).await.expect(201);
    assert_eq!((&added["name"], &added["applied"]), (&json!("disk3"), &json!("next_start")), "{added}");
    let grown = daemon.put(&format!("{disks}/disk1"), json!({ "disk_size": 4 })).await.expect(200);
    assert_eq!((&grown["disk_size"], &grown["applied"]), (&json!(4), &json!("next_start")));
    let removed = daemon.delete(&format!("{disks}/disk2")).await.expect(200);
    assert_eq!((&removed["name"], &removed["status"]), (&json!("disk2"), &json!("deleted")));
    assert_eq!(images(&daemon, &id), ["disk1.qcow2", "disk3.qcow2", "root.qcow2"]);

    daemon.kill();
    daemon.run();
    assert_eq!(names(&daemon, &id).await, ["root", "disk1", "disk3"]);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    // A name is never used again.
    assert_eq!(daemon.post(&disks, json!({ "disk_size": 1 })).await.expect(201)["name"], "disk4");
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_disk_that_its_guest_does_not_let_go_of_goes_at_the_next_start() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["disks"] = json!([{ "disk_size": 1 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let disk = format!("/vms/{id}/disks/disk1");
    let removed = daemon.delete(&disk).await.expect(200);
    assert_eq!(removed["applied"], "next_start");
    assert_eq!(names(&daemon, &id).await, ["root"]);
    // QEMU has it, and its image open.
    assert_eq!(images(&daemon, &id), ["disk1.qcow2", "root.qcow2"]);
    assert_ne!(daemon.get(&format!("/vms/{id}/config")).await.expect(200)["pending"], json!({}));
    // Hot-plug itself needs nothing of the guest; the eighth further disk finds no port: the NIC has one.
    for number in 2..=7 {
        let added = daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
        assert_eq!((&added["name"], &added["applied"]), (&json!(format!("disk{number}")), &json!("live")));
    }
    let full = daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await;
    assert_eq!(full.status, 409, "{full:?}");
    assert!(full.message().contains("no free slot"), "{full:?}");
    assert_eq!(images(&daemon, &id).len(), 8);
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    daemon.delete(&disk).await.expect(404);
    assert_eq!(names(&daemon, &id).await.len(), 7);
    while images(&daemon, &id).len() > 7 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_guest_that_does_not_run_is_asked_for_no_device() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["disks"] = json!([{ "disk_size": 1 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let (disk, nic) = (format!("/vms/{id}/disks/disk1"), format!("/vms/{id}/networks/net0"));
    daemon.post(&format!("/vms/{id}/suspend"), json!({})).await.expect(200);
    for device in [&disk, &nic] {
        let refused = daemon.delete(device).await;
        assert!(refused.message().contains("paused") && refused.message().contains("resume"), "{refused:?}");
        refused.expect(409);
    }
    // The Hyper-V dialect's word for the same.
    let adapters = daemon.get(&format!("/hyperv/vms/{id}/network-adapters")).await.expect(200);
    let adapter = adapters[0]["Id"].as_str().unwrap_or_else(|| panic!("{adapters}"));
    let refused = daemon.delete(&format!("/hyperv/vms/{id}/network-adapters/{adapter}")).await;
    assert_eq!((refused.status, &refused.body["State"]), (409, &json!("Paused")), "{refused:?}");
    let unchanged = async || {
        assert_eq!(names(&daemon, &id).await, ["root", "disk1"]);
        assert_eq!(images(&daemon, &id), ["disk1.qcow2", "root.qcow2"]);
        assert_eq!(daemon.get(&format!("/vms/{id}/config")).await.expect(200)["pending"], json!({}));
    };
    unchanged().await;
    daemon.post(&format!("/vms/{id}/resume"), json!({})).await.expect(200);
    unchanged().await;
    assert!(!daemon.log_text().contains("has let go of"));
    // What QEMU does not have yet comes out at once.
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    daemon.delete(&disk).await.expect(200);
    daemon.delete(&nic).await.expect(200);
    assert_eq!(names(&daemon, &id).await, ["root"]);
}

#[tokio::test]
async fn odd_disks_are_refused_and_leave_nothing() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let disks = format!("/vms/{id}/disks");
    for (body, status, words) in [
        (json!({}), 400, "disk_size must be given"),
        (json!({ "disk_size": 0 }), 400, "disk_size must be greater than 0"),
        (json!({ "disk_size": 70000 }), 400, "at most 65536"),
        (json!({ "disk_size": "1" }), 400, "disk_size must be a whole number"),
        (json!({ "disk_size": 1, "size": 1 }), 400, "size is not known"),
        (json!({ "disk_size": 1, "base_image": "/etc/passwd" }), 400, "image directory"),
        (json!({ "disk_size": 1, "base_image": "missing.raw" }), 404, "Base image not found"),
        (json!({ "disk_size": 1, "io_limits": { "iops": -1 } }), 400, "io_limits.iops must be greater than 0"),
    ] {
        let answer = daemon.post(&disks, body.clone()).await;
        assert!(answer.status == status && answer.message().contains(words), "{body}: {answer:?}");
        // The same among the disks of a create names its place.
        let mut wish = daemon.wish();
        wish["disks"] = json!([{ "disk_size": 1 }, body]);
        let answer = daemon.post("/vms", wish).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(status == 404 || answer.message().contains("disks[1]"), "{answer:?}");
    }
    for (method, path, status, words) in [
        ("PUT", "/vms/ID/disks/disk9", 404, "Disk not found: disk9."),
        ("PUT", "/vms/ID/disks/root", 400, "at least one"),
        ("DELETE", "/vms/ID/disks/disk9", 404, "Disk not found: disk9."),
        ("DELETE", "/vms/ID/disks/root", 400, "root disk"),
        ("GET", "/vms/nonsense/disks", 400, "Invalid UUID format."),
        ("DELETE", "/vms/123e4567-e89b-12d3-a456-426614174000/disks/root", 404, "VM not found"),
    ] {
        let path = path.replace("ID", &id);
        let answer = match method {
            "PUT" => daemon.put(&path, json!({})).await,
            "DELETE" => daemon.delete(&path).await,
            _ => daemon.get(&path).await,
        };
        assert!(answer.status == status && answer.message().contains(words), "{method} {path}: {answer:?}");
    }
    assert_eq!(names(&daemon, &id).await, ["root"]);
    assert_eq!(images(&daemon, &id), ["root.qcow2"]);
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_daemon_that_dies_while_it_plugs_a_disk_leaves_nothing_in_the_way() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let disks = format!("/vms/{id}/disks");
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].clone();
    // Around the moment between QEMU's plug and its record, some 15 to 30 ms after the request.
    for delay in [12, 17, 22, 27, 32] {
        let request = daemon.http().post(daemon.at(&disks)).json(&json!({ "disk_size": 1 })).send();
        let cut_short = tokio::spawn(request);
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        daemon.kill();
        let _ = cut_short.await;
        daemon.run();
        daemon.await_in_effect(&id).await;
        // An image that was being made for nobody goes beside everything else.
        let deadline = Instant::now() + PATIENCE;
        while images(&daemon, &id).len() != names(&daemon, &id).await.len() {
            assert!(Instant::now() < deadline, "{delay} ms: {:?}", images(&daemon, &id));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let added = daemon.post(&disks, json!({ "disk_size": 1 })).await.expect(201);
    assert_eq!(added["applied"], "live", "{added}");
    assert_eq!(daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"], pid);
}
