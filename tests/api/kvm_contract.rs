//! Every JSON example of the KVM document (tests/fixtures/README.md) but those of the updates
//! (`kvm_contract_updates.rs`), against a real daemon on a real QEMU: status, documented fields with their JSON types,
//! fixed texts literally. Its paths are used as they are, by `--path-map`.

use crate::contract::{
    EXAMPLES, ID, ask, base_image, check, examples, failing, file_size_limit, running_vm, section, started,
    started_with_limit, vm,
};
use crate::support::PATIENCE;
use serde_json::{Value, json};

#[tokio::test]
async fn create_answers_as_documented() {
    let daemon = started();
    let by = |situation: &str| examples("create").into_iter().find(|e| e["situation"] == situation).unwrap();
    let missing = by("no_base_image");
    check(&missing, ID, &ask(&daemon, &missing, ID).await);
    base_image(&daemon, "ubuntu-base.qcow2");
    let invalid = by("invalid");
    check(&invalid, ID, &ask(&daemon, &invalid, ID).await);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);

    let done = by("done");
    let answer = ask(&daemon, &done, ID).await;
    check(&done, ID, &answer);
    let vm = answer.body;
    let id = uuid::Uuid::parse_str(vm["id"].as_str().unwrap()).unwrap();
    assert_eq!((id.get_version_num(), id.hyphenated().to_string().as_str()), (4, vm["id"].as_str().unwrap()));
    assert!(std::path::Path::new(vm["disk_file"].as_str().unwrap()).is_file(), "{vm}");
    let mac = vm["mac_address"].as_str().unwrap();
    assert!(mac.starts_with("52:54:00:") && mac.len() == 17 && mac.to_lowercase() == mac, "{mac}");
    assert_eq!(daemon.status(vm["id"].as_str().unwrap()).await, "stopped");
}

#[tokio::test]
async fn start_answers_as_documented() {
    section("start").await;
}

#[tokio::test]
async fn stop_answers_as_documented() {
    section("stop").await;
}

#[tokio::test]
async fn reboot_answers_as_documented() {
    section("reboot").await;
}

#[tokio::test]
async fn delete_answers_as_documented() {
    section("delete").await;
}

#[tokio::test]
async fn config_answers_as_documented() {
    section("config").await;
}

#[tokio::test]
async fn status_answers_as_documented() {
    section("status").await;
}

#[tokio::test]
async fn the_list_of_vms_is_as_documented() {
    let daemon = started();
    let example = &examples("list")[0];
    assert_eq!(ask(&daemon, example, ID).await.expect(200), json!([]));
    let (running, stopped) = (running_vm(&daemon).await, vm(&daemon).await);
    let answer = ask(&daemon, example, ID).await;
    check(example, ID, &answer);
    let rows = answer.body.as_array().unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for (row, id, status) in [(&rows[0], &running, "running"), (&rows[1], &stopped, "stopped")] {
        let documented = (&row["id"], &row["vm_id"], &row["name"], &row["status"]);
        assert_eq!(documented, (&json!(id), &json!(id), &json!("vm1"), &json!(status)));
    }
}

#[tokio::test]
async fn performance_answers_as_documented() {
    let daemon = started();
    let id = running_vm(&daemon).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    // The first sampling has totals, the second one rates.
    while daemon.get(&format!("/vms/{id}/performance")).await.expect(200)["cpu_usage"].is_null() {
        assert!(std::time::Instant::now() < deadline, "no second sampling");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    for example in examples("performance") {
        match example["situation"].as_str().unwrap() {
            "running_vm" => check(&example, &id, &ask(&daemon, &example, &id).await),
            "no_vm" | "bad_id" => check(&example, ID, &ask(&daemon, &example, ID).await),
            _ => {}
        }
    }
    let body = daemon.get(&format!("/vms/{id}/performance")).await.expect(200);
    let usage = body["cpu_usage"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&usage), "{body}");
    assert_eq!(body["memory_source"], "process", "no guest that could report: {body}");
    assert!(body["memory_usage"].as_u64().unwrap() > 0, "{body}");
}

/// Comment 7 of the section, and ruling 23.
#[tokio::test]
async fn a_vm_that_does_not_run_has_no_performance() {
    let daemon = started();
    let id = vm(&daemon).await;
    let answer = daemon.get(&format!("/vms/{id}/performance")).await;
    assert_eq!((answer.status, answer.message()), (404, "VM is not running"));
}

/// Rulings 14, 16, 19 and 21: fields of our own that belong to the documented answers.
#[tokio::test]
async fn our_own_fields_go_along() {
    let daemon = started();
    let id = running_vm(&daemon).await;
    let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!(config["pending"], json!({}));
    assert_eq!((&config["name"], &config["max_vcpus"]), (&json!("vm1"), &json!(16)));
    let stopped = daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(stopped["forced"], true);
    let again = daemon.post(&format!("/vms/{id}/stop"), json!({"force": true})).await.expect(200);
    assert_eq!(again["forced"], false, "nothing was left to force");
    let deleted = daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!((&deleted["id"], &deleted["vm_id"]), (&json!(id), &json!(id)));
    let mut plain = daemon.wish();
    plain["start"] = json!(true);
    let created = daemon.post("/vms", plain).await.expect(201);
    assert_eq!(created["status"], "created");
    let id = created["id"].as_str().unwrap();
    let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!((&config["cpu_pinning"], &config["io_limits"]), (&Value::Null, &Value::Null));
    assert_eq!(config["name"], format!("vm-{}", &id[..8]));
    assert_eq!(daemon.status(id).await, "running");
}

#[tokio::test]
async fn a_clone_that_does_not_fit_is_a_500_and_leaves_nothing() {
    let daemon = started_with_limit(32 << 20);
    let base = daemon.bases().join("base-image.qcow2");
    let noise = daemon.bases().join("noise.raw");
    std::io::copy(
        &mut std::io::Read::take(std::fs::File::open("/dev/urandom").unwrap(), 48 << 20),
        &mut std::fs::File::create(&noise).unwrap(),
    )
    .unwrap();
    let made = std::process::Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&noise).arg(&base).status();
    assert!(made.unwrap().success());
    let mut example = failing("create");
    example["body"]["clone"] = json!("full");
    let answer = ask(&daemon, &example, ID).await;
    check(&example, ID, &answer);
    let detail = answer.body["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("File too large"), "{detail}");
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn a_start_without_its_disk_is_a_500_that_names_it() {
    let daemon = started();
    let id = vm(&daemon).await;
    let disk = daemon.get(&format!("/vms/{id}/config")).await.expect(200)["disk_file"].as_str().unwrap().to_owned();
    std::fs::rename(&disk, format!("{disk}.away")).unwrap();
    let example = failing("start");
    let answer = ask(&daemon, &example, &id).await;
    check(&example, &id, &answer);
    assert!(answer.body["error"]["detail"].as_str().unwrap().contains(&disk), "{}", answer.body);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
    std::fs::rename(format!("{disk}.away"), &disk).unwrap();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_a_500_and_is_not_done() {
    let mut daemon = started_with_limit(nix::libc::RLIM_INFINITY);
    let (running, stopped) = (running_vm(&daemon).await, vm(&daemon).await);
    let pid = daemon.qemus();
    let files = daemon.leftovers().len();
    file_size_limit(Some(daemon.pid()), 0).unwrap();
    for (section, id, status) in [
        ("stop", &running, "running"),
        ("reboot", &running, "running"),
        ("delete", &running, "running"),
        ("delete", &stopped, "stopped"),
    ] {
        let example = failing(section);
        let answer = ask(&daemon, &example, id).await;
        check(&example, id, &answer);
        assert!(answer.body["error"]["detail"].as_str().unwrap().contains("File too large"), "{}", answer.body);
        assert_eq!((daemon.status(id).await.as_str(), daemon.qemus()), (status, pid.clone()), "{section}");
    }
    assert_eq!(daemon.leftovers().len(), files);
    // As the detail says: once the cause is corrected, qherd is restarted; VMs keep running.
    daemon.kill();
    daemon.run();
    daemon.await_status(&running, "running").await;
    assert_eq!(daemon.qemus(), pid);
    for id in [running, stopped] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

/// So that an example added to the fixture is not passed over. The updates have their own file.
#[test]
fn every_example_belongs_to_a_test() {
    let all: Vec<Value> = serde_json::from_str(EXAMPLES).unwrap();
    let sections = [
        "create",
        "update_cpu",
        "update_memory",
        "update_disk",
        "start",
        "stop",
        "reboot",
        "delete",
        "list",
        "config",
        "status",
        "performance",
    ];
    assert_eq!(sections.iter().map(|s| examples(s).len()).sum::<usize>(), all.len());
    let cannot_fail: Vec<_> = all.iter().filter(|e| e["situation"] == "cannot_fail").map(|e| &e["section"]).collect();
    assert_eq!(cannot_fail, ["list", "config", "status", "performance"]);
}
