//! Operations over deaths of the daemon: what was acknowledged with 202 tells its true end afterwards, whenever the daemon died.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    operations_of::{begin, end, in_phase, post},
    slow_clone::SlowClone,
    support::{Daemon, crash::Side},
};

async fn made(daemon: &Daemon, start: bool) -> String {
    let mut wish = daemon.wish();
    wish["start"] = json!(start);
    daemon.create(wish).await
}

#[tokio::test]
async fn a_stop_that_was_acknowledged_goes_on_and_ends_with_the_answer_of_the_next_daemon() {
    let mut daemon = Daemon::start();
    let id = made(&daemon, true).await;
    let place = post(&daemon, &format!("/vms/{id}/stop"), json!({ "timeout": 5 })).await;
    daemon.await_status(&id, "stopping").await;
    daemon.kill();
    daemon.run();
    let operation = daemon.get(&place).await.expect(200);
    assert!(operation["ended_at"].is_null(), "{operation:#}");
    let operation = end(&daemon, &place).await;
    assert_eq!((&operation["status"], &operation["interrupted"]), (&json!("done"), &Value::Null), "{operation:#}");
    assert_eq!(operation["result"]["body"]["forced"], json!(true), "{operation:#}");
    assert_eq!(daemon.status(&id).await, "stopped");
    // It stays so over all ends of the daemon.
    assert!(daemon.terminate().success());
    daemon.run();
    assert_eq!(daemon.get(&place).await.expect(200), operation);
}

#[tokio::test]
async fn a_graceful_deletion_goes_on_to_its_end() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--stop-timeout", "5"]);
    daemon.run();
    let id = made(&daemon, true).await;
    let request = daemon.http().delete(daemon.at(&format!("/vms/{id}?graceful=true")));
    let place = begin(&daemon, request).await.1.unwrap();
    daemon.await_status(&id, "stopping").await;
    daemon.kill();
    daemon.run();
    assert_eq!(end(&daemon, &place).await["status"], "done");
    daemon.get(&format!("/vms/{id}")).await.expect(404);
}

#[tokio::test]
async fn a_full_clone_that_a_daemon_died_over_is_unmade_and_its_operation_says_so() {
    let slow = SlowClone::new();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    slow.run(&mut daemon);
    let place = post(&daemon, "/vms", SlowClone::wish(&daemon)).await;
    in_phase(&daemon, &place, "make_image").await;
    daemon.kill();
    daemon.run();
    let operation = end(&daemon, &place).await;
    assert_eq!(operation["status"], "failed", "{operation:#}");
    assert!(operation["interrupted"].as_str().unwrap().contains("ask again"), "{operation:#}");
    assert!(daemon.comes_to_rest().await);
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    daemon.delete(&place).await.expect(409);
}

/// A request for an operation, and what is so when it is done.
struct Ask {
    start: bool,
    method: Method,
    path: &'static str,
    body: Value,
    leads_to: &'static str,
}

impl Ask {
    fn request(&self, daemon: &Daemon, id: &str) -> RequestBuilder {
        let request = daemon.http().request(self.method.clone(), daemon.at(&self.path.replace("{}", id)));
        if self.body.is_null() { request } else { request.json(&self.body) }
    }
}

/// What has come of it when the daemon died at any of its commits, or any of those of the next daemons.
async fn dies_at_every_commit_of(ask: Ask) {
    let mut daemon = Daemon::start();
    let mut ends = BTreeSet::new();
    for commit in 1..30 {
        for side in Side::BOTH {
            let id = if ask.path == "/vms" { String::new() } else { made(&daemon, ask.start).await };
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let request = ask.request(&daemon, &id).header("prefer", "respond-async");
            let place = match request.send().await {
                Ok(response) if response.status() == 202 => {
                    Some(response.headers()["location"].to_str().unwrap().to_owned())
                }
                Ok(response) => panic!("{response:?}"),
                Err(_) => None,
            };
            let ended = match &place {
                Some(place) => daemon.try_get(&format!("{place}?wait=120")).await,
                None => None,
            };
            let lives = ended.is_some() && daemon.comes_to_rest().await;
            if lives {
                // What the test itself does makes commits too.
                daemon.kill();
                daemon.run();
            } else {
                daemon.wait();
                daemon.recover_dying().await;
            }
            if let Some(place) = &place {
                let operation = end(&daemon, place).await;
                let vm = operation["vm_id"].as_str().unwrap().to_owned();
                assert!(daemon.comes_to_rest().await);
                let answer = daemon.get(&format!("/vms/{vm}")).await;
                let status = if answer.status == 404 { "gone" } else { answer.body["status"].as_str().unwrap() };
                let what = format!("{side:?} commit {commit}: {status}, {operation:#}\n{}", daemon.log_text());
                match operation["status"].as_str().unwrap() {
                    "done" => assert_eq!(status, ask.leads_to, "{what}"),
                    "failed" => assert!(operation["interrupted"].is_string(), "{what}"),
                    other => panic!("{other}: {what}"),
                }
                ends.insert((operation["status"].to_string(), operation["interrupted"].is_null()));
            }
            for vm in daemon.known().await {
                daemon.delete(&format!("/vms/{}", vm.id)).await.expect(200);
            }
            daemon.assert_in_order().await;
            assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
            if lives && side == Side::Before {
                assert!(ends.len() > 1, "no death made a difference: {ends:?}");
                return;
            }
        }
    }
    panic!("it makes ever more commits");
}

#[tokio::test]
async fn a_create_tells_its_true_end() {
    let wish = |bases: &str| json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": bases });
    let body = wish("blank.raw");
    dies_at_every_commit_of(Ask { start: false, method: Method::POST, path: "/vms", body, leads_to: "stopped" }).await;
}

#[tokio::test]
async fn a_start_tells_its_true_end() {
    let (path, body) = ("/vms/{}/start", json!({}));
    dies_at_every_commit_of(Ask { start: false, method: Method::POST, path, body, leads_to: "running" }).await;
}

#[tokio::test]
async fn a_stop_tells_its_true_end() {
    let (path, body) = ("/vms/{}/stop", json!({ "timeout": 1 }));
    dies_at_every_commit_of(Ask { start: true, method: Method::POST, path, body, leads_to: "stopped" }).await;
}

#[tokio::test]
async fn a_deletion_tells_its_true_end() {
    let (path, body) = ("/vms/{}", Value::Null);
    dies_at_every_commit_of(Ask { start: true, method: Method::DELETE, path, body, leads_to: "gone" }).await;
}
