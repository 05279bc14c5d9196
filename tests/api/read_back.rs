//! What several clients change of one VM at once, and what a client sends back that it has read.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::Daemon;

#[tokio::test]
async fn labels_that_many_add_and_remove_at_once_are_all_there() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["labels"] = json!({ "old": "1", "kept": "2" });
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}");
    let bodies = (0..20).map(|n| json!({ "add_labels": { format!("k{n}"): n.to_string() } }));
    let bodies: Vec<Value> = bodies.chain([json!({ "remove_labels": ["old", "none"] })]).collect();
    for answer in join_all(bodies.into_iter().map(|body| daemon.put(&path, body))).await {
        answer.expect(200);
    }
    let labels = daemon.get(&path).await.expect(200)["labels"].clone();
    let labels = labels.as_object().unwrap();
    assert_eq!(labels.len(), 21, "{labels:?}");
    assert!((0..20).all(|n| labels[&format!("k{n}")] == json!(n.to_string())) && labels["kept"] == "2");
    for (body, words) in [
        (json!({ "labels": {}, "add_labels": { "a": "b" } }), "labels must not be combined"),
        (json!({ "add_labels": { "a": "b" }, "remove_labels": ["a"] }), "remove_labels must not name"),
        (json!({ "add_labels": { "a b": "c" } }), "labels must have keys"),
    ] {
        let answer = daemon.put(&path, body).await;
        assert!(answer.status == 400 && answer.message().contains(words), "{answer:?}");
    }
    // The same in the other dialect, also while it runs.
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    let body = json!({ "addLabels": { "hv": "x" }, "removeLabels": ["kept"] });
    daemon.put(&format!("/hyperv{path}"), body).await.expect(200);
    let labels = daemon.get(&path).await.expect(200)["labels"].clone();
    assert_eq!((&labels["hv"], labels.get("kept")), (&json!("x"), None));
}

#[tokio::test]
async fn what_was_read_can_be_sent_back_whole_and_nothing_of_it_is_changed_in_passing() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["cpu"] = json!({ "model": "Nehalem" });
    wish["disks"] = json!([{ "disk_size": 1 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}");
    let read = daemon.get(&path).await.expect(200);
    let same = daemon.put(&path, read.clone()).await.expect(200);
    assert_eq!((&same["applied"], &same["pending"]), (&json!("live"), &json!({})), "{same}");
    for (field, value) in [
        ("status", json!("stopped")),
        ("id", json!("8b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4")),
        ("machine_type", json!("pc-q35-2.0")),
        ("pid", json!(1)),
        ("mac_address", json!("52:54:00:00:00:01")),
        ("created_at", json!("2020-01-01T00:00:00Z")),
        ("disk_file", json!("/etc/passwd")),
    ] {
        let mut sent = read.clone();
        sent[field] = value;
        let answer = daemon.put(&path, sent).await;
        assert!(
            answer.status == 409 && answer.message().starts_with(&format!("{field} cannot be changed")),
            "{answer:?}"
        );
    }
    // It is what it is also without a process, where much is null.
    daemon.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    let read = daemon.get(&path).await.expect(200);
    daemon.put(&path, read).await.expect(200);
}

#[tokio::test]
async fn a_key_that_is_there_twice_is_refused_by_its_name() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for (body, words) in [
        (r#"{"labels":{"env":"a","env":"b"}}"#, "labels.env must be given only once"),
        (r#"{"add_labels":{"env":"a","tier":"x","env":"a"}}"#, "add_labels.env must be given only once"),
        (r#"{"cpu":{"features":{"aes":true,"aes":false}}}"#, "cpu.features.aes must be given only once"),
        (r#"{"status":"stopped","status":"stopped"}"#, "status must be given only once"),
    ] {
        let url = daemon.at(&format!("/vms/{id}"));
        let request = daemon.http().put(url).header("Content-Type", "application/json").body(body);
        let answer = daemon.send(request).await;
        assert!(answer.status == 400 && answer.message().contains(words), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn nobody_listens_at_the_address_of_a_group() {
    let daemon = Daemon::start();
    for address in ["224.0.0.1", "239.1.2.3", "255.255.255.255"] {
        let mut wish = daemon.wish();
        let forward = json!({ "host_address": address, "host_port": 20022, "guest_port": 22 });
        wish["networks"] = json!([{ "user": { "forwards": [forward] } }]);
        let answer = daemon.post("/vms", wish).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(
            answer.message().contains("networks[0].user.forwards[0].host_address must be an address"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_vm_that_is_suspended_is_updated_without_waiting_for_its_guest() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["max_memory"] = json!(512);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}");
    daemon.post(&format!("{path}/suspend"), json!({})).await.expect(200);
    let mut sent = daemon.get(&path).await.expect(200);
    sent["memory"] = json!(256);
    let changed = daemon.put(&path, sent).await.expect(200);
    assert_eq!((&changed["applied"], &changed["pending"]["memory"]["configured"]), (&json!("next_start"), &json!(256)));
}
