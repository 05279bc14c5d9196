//! Images of VMs: what a guest that is off would see of its disk, whatever that lies on; and what is refused.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::Daemon;

fn same_content(one: &Path, other: &Path) {
    let compared = Command::new("qemu-img").args(["compare"]).arg(one).arg(other).output().unwrap();
    assert!(compared.status.success(), "{}: {}", other.display(), String::from_utf8_lossy(&compared.stdout));
}

fn write(disk: &Path, at: u64, count: u64) {
    let io = format!("write -P 42 {at} {count}");
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", &io]).arg(disk).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_disk_becomes_an_image_with_what_it_lies_on() {
    let daemon = Daemon::start();
    fs::write(daemon.bases().join("base.raw"), vec![7; 3 << 20]).unwrap();
    daemon.post("/images", json!({ "name": "base:1", "path": "base.raw" })).await.expect(201);
    for (number, base) in ["base.raw", "base:1"].into_iter().enumerate() {
        let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": base });
        let id = daemon.post("/vms", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
        let disk = json!({ "disk_size": 2 });
        daemon.post(&format!("/vms/{id}/disks"), disk).await.expect(201);
        let disks: Value = daemon.get(&format!("/vms/{id}/disks")).await.expect(200);
        let file = |number: usize| Path::new(disks[number]["disk_file"].as_str().unwrap()).to_owned();
        write(&file(0), 1 << 20, 65536);
        write(&file(1), 5 << 20, 4096);
        let name = format!("golden:{number}");
        let image = daemon.post("/images", json!({ "name": name, "from_vm": id })).await.expect(201);
        assert_eq!((&image["source"]["vm_id"], &image["source"]["disk"]), (&json!(id), &json!("root")));
        assert_eq!((&image["virtual_size"], &image["sha256"]), (&json!(1_u64 << 30), &image["layer"]["sha256"]));
        let made = Path::new(image["layer"]["file"].as_str().unwrap()).to_owned();
        same_content(&file(0), &made);
        let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&made).output().unwrap();
        assert!(!String::from_utf8_lossy(&info.stdout).contains("backing"), "it stands alone");
        let second = json!({ "name": format!("data:{number}"), "from_vm": id, "disk": "disk1" });
        let second = daemon.post("/images", second).await.expect(201);
        same_content(&file(1), Path::new(second["layer"]["file"].as_str().unwrap()));
        // What it was made of may go.
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
        let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": name });
        daemon.post("/vms", wish).await.expect(201);
    }
    daemon.delete("/images/base:1").await.expect(200);
}

#[tokio::test]
async fn a_vm_that_is_not_off_and_what_is_not_there_are_refused() {
    let daemon = Daemon::start();
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "blank.raw", "start": true });
    let id = daemon.post("/vms", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
    let body = |more: Value| {
        let mut body = json!({ "name": "golden:1", "from_vm": id });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, status, said) in [
        (body(json!({})), 409, "is not off"),
        (body(json!({ "sha256": "a".repeat(64) })), 400, "sha256 must not be given with from_vm"),
        (body(json!({ "path": "blank.raw" })), 400, "one of them alone"),
        (
            json!({ "name": "golden:1", "path": "blank.raw", "disk": "root" }),
            400,
            "disk must only be given with from_vm",
        ),
        (json!({ "name": "golden:1", "from_vm": "x" }), 400, "UUID"),
        (json!({ "name": "golden:1", "from_vm": "123e4567-e89b-42d3-a456-426614174000" }), 404, "not found"),
    ] {
        let answer = daemon.post("/images", body.clone()).await;
        assert!(answer.status == status && answer.message().contains(said), "{body}: {answer:?}");
    }
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    let answer = daemon.post("/images", body(json!({ "disk": "disk7" }))).await;
    assert!(answer.status == 404 && answer.message().contains("disk7"), "{answer:?}");
    daemon.post("/images", body(json!({}))).await.expect(201);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}
