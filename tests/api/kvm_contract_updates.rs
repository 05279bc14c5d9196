//! Every JSON example of the document's three update sections, as `kvm_contract.rs` does it for the others.

use crate::contract::{
    ID, ask, check, examples, failing, file_size_limit, running_vm, started, started_with_limit, vm,
};
use crate::support::Daemon;
use serde_json::{Value, json};

const SECTIONS: [&str; 3] = ["update_cpu", "update_memory", "update_disk"];

/// The document's host has four cores; a host of fewer is asked for those that it has.
fn on_this_host(mut example: Value) -> Value {
    let here = std::thread::available_parallelism().unwrap().get() as u64;
    for part in ["body", "response"] {
        if let Some(cores) = example.pointer_mut(&format!("/{part}/cpu_pinning/cores")) {
            cores.as_array_mut().unwrap().retain(|core| core.as_u64().unwrap() < here);
        }
    }
    example
}

async fn config(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}/config")).await.expect(200)
}

async fn section(name: &str) {
    let daemon = started();
    for example in examples(name).into_iter().map(on_this_host) {
        let id = match example["situation"].as_str().unwrap() {
            "host_fails" => continue,
            "no_vm" => ID.to_owned(),
            "stopped_vm" => vm(&daemon).await,
            "running_vm" => running_vm(&daemon).await,
            other => panic!("{other}"),
        };
        let before = if id == ID { Value::Null } else { config(&daemon, &id).await };
        let answer = ask(&daemon, &example, &id).await;
        check(&example, &id, &answer);
        match answer.status {
            200 => {
                // Ruling 16: when it takes effect goes along, and it is what is configured from now on.
                let running = example["situation"] == "running_vm";
                let applied = answer.body["applied"].as_str().unwrap();
                assert!(applied == "next_start" || running && applied == "live", "{}", answer.body);
                let now = config(&daemon, &id).await;
                assert_eq!(answer.body["pending"], now["pending"]);
                for (field, value) in example["body"].as_object().unwrap() {
                    assert_eq!(&now[field], value, "{field}");
                }
                // Idempotent: the same again is the same answer.
                assert_eq!(ask(&daemon, &example, &id).await.expect(200), answer.body);
            }
            400 => assert_eq!(config(&daemon, &id).await, before),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_cpu_update_answers_as_documented() {
    section("update_cpu").await;
}

#[tokio::test]
async fn a_memory_update_answers_as_documented() {
    section("update_memory").await;
}

#[tokio::test]
async fn a_disk_update_answers_as_documented() {
    section("update_disk").await;
}

#[tokio::test]
async fn an_update_that_cannot_be_recorded_is_a_500_and_is_not_made() {
    let mut daemon = started_with_limit(nix::libc::RLIM_INFINITY);
    let ids = [running_vm(&daemon).await, vm(&daemon).await];
    let pids = daemon.qemus();
    let before = [config(&daemon, &ids[0]).await, config(&daemon, &ids[1]).await];
    file_size_limit(Some(daemon.pid()), 0).unwrap();
    for section in SECTIONS {
        for (id, before) in ids.iter().zip(&before) {
            let example = on_this_host(failing(section));
            let answer = ask(&daemon, &example, id).await;
            check(&example, id, &answer);
            assert!(answer.body["error"]["detail"].as_str().unwrap().contains("File too large"), "{}", answer.body);
            assert_eq!(&config(&daemon, id).await, before, "{section}");
        }
    }
    daemon.kill();
    daemon.run();
    daemon.await_status(&ids[0], "running").await;
    assert_eq!(daemon.qemus(), pids);
    for (id, before) in ids.iter().zip(&before) {
        assert_eq!(&config(&daemon, id).await, before);
    }
}

#[tokio::test]
async fn a_resize_without_the_disk_is_a_500_that_names_it_and_other_updates_do_not_need_it() {
    let daemon = started();
    let id = vm(&daemon).await;
    let before = config(&daemon, &id).await;
    let disk = before["disk_file"].as_str().unwrap();
    let away = format!("{disk}.away");
    std::fs::rename(disk, &away).unwrap();
    let example = failing("update_disk");
    let answer = ask(&daemon, &example, &id).await;
    check(&example, &id, &answer);
    assert!(answer.body["error"]["detail"].as_str().unwrap().contains(disk), "{}", answer.body);
    assert_eq!(config(&daemon, &id).await, before);
    daemon.put(&format!("/vms/{id}/memory"), json!({ "memory": 2048 })).await.expect(200);
    std::fs::rename(&away, disk).unwrap();
    ask(&daemon, &example, &id).await.expect(200);
    assert_eq!(config(&daemon, &id).await["disk_size"], 50);
}
