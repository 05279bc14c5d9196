//! Full clones that do not fit: refused before they are begun, with the figures.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::{filesystem::Mount, support::Daemon};

#[tokio::test]
async fn full_clones_that_cannot_fit_are_refused_before_they_are_begun() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let small = Mount::tmpfs(&daemon.state().join("images"), 32);
    fs::set_permissions(small.path(), fs::Permissions::from_mode(0o700)).unwrap();
    daemon.run();
    for (name, mib) in [("large.raw", 40), ("half.raw", 20)] {
        fs::write(daemon.bases().join(name), vec![7; mib << 20]).unwrap();
    }
    let wish = |base: &str, clone: &str, disks| json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": base, "clone": clone, "disks": disks });
    let second = json!([{ "disk_size": 1, "base_image": "half.raw", "clone": "full" }]);
    for wish in [wish("large.raw", "full", json!([])), wish("half.raw", "full", second.clone())] {
        let answer = daemon.post("/vms", wish.clone()).await;
        let said = answer.message();
        assert!(answer.status == 507 && said.contains("take 41943040 bytes") && said.contains("images"), "{answer:?}");
        assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
        assert!(fs::read_dir(small.path()).unwrap().flatten().all(|entry| entry.path().is_file()), "a folder is left");
    }
    // What is only laid over it takes nothing, and what fits is made.
    let id = daemon.post("/vms", wish("large.raw", "linked", json!([]))).await.expect(201)["id"].clone();
    let disks = format!("/vms/{}/disks", id.as_str().unwrap());
    daemon.post(&disks, second[0].clone()).await.expect(201);
    let answer = daemon.post(&disks, second[0].clone()).await;
    assert!(answer.status == 507 && answer.message().contains("take 20971520 bytes"), "{answer:?}");
    assert_eq!(daemon.get(&disks).await.expect(200).as_array().unwrap().len(), 2);
}
