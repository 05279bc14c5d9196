//! SIGTERM under load: every request is finished or refused with 503, none is left without an answer, and what was
//! acknowledged is there after the restart.

use crate::support;

use std::collections::BTreeSet;

use crate::support::Daemon;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

struct Reported {
    what: &'static str,
    status: u16,
    body: Value,
}

/// One request on a connection of its own; an answer there has to be.
async fn reported(what: &'static str, request: reqwest::RequestBuilder) -> Reported {
    let response = request.send().await.unwrap_or_else(|e| panic!("{what}: no answer: {e:?}"));
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body: Value = response.json().await.unwrap_or_else(|e| panic!("{what}: half an answer: {e:?}"));
    if status == 503 {
        assert!(headers.contains_key("retry-after") && headers["connection"] == "close", "{what}: {headers:?}");
        assert!(body["error"]["message"].as_str().unwrap().contains("shutting down"), "{what}: {body}");
    }
    Reported { what, status, body }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(support::PATIENCE).build().unwrap()
}

#[tokio::test]
async fn of_fifty_requests_at_a_sigterm_each_has_its_answer() {
    let mut daemon = Daemon::start();
    let mut before = Vec::new();
    for _ in 0..20 {
        before.push(daemon.create(daemon.wish()).await);
    }
    // These run, and their firmware does not hear of the power button: a stop takes longer than the daemon waits.
    let (running, stopped) = before.split_at(8);
    for id in running {
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    }
    let mut requests = Vec::new();
    for id in running {
        requests.push(reported("stop", client().post(daemon.at(&format!("/vms/{id}/stop?timeout=3600")))));
    }
    for id in stopped {
        requests.push(reported("start", client().post(daemon.at(&format!("/vms/{id}/start")))));
    }
    for n in 0..15 {
        let mut wish = daemon.wish();
        wish["start"] = json!(n % 2 == 0);
        requests.push(reported("create", client().post(daemon.at("/vms")).json(&wish)));
    }
    for id in before.iter().chain(&before).take(15) {
        requests.push(reported("read", client().get(daemon.at(&format!("/vms/{id}")))));
    }
    assert_eq!(requests.len(), 50);
    let requests: Vec<_> = requests.into_iter().map(tokio::spawn).collect();
    // The long ones are under way, the others are in every stage.
    for id in running {
        daemon.await_status(id, "stopping").await;
    }
    daemon.signal(Signal::SIGTERM);
    daemon.await_log("SIGTERM").await;
    // The daemon waits for the stops, and says so to whoever comes meanwhile.
    for _ in 0..5 {
        let late = reported("late", client().get(daemon.at("/vms"))).await;
        assert_eq!(late.status, 503, "{}", late.body);
    }
    let mut acknowledged: BTreeSet<String> = before.iter().cloned().collect();
    let mut unfinished = 0;
    for request in requests {
        let Reported { what, status, body } = request.await.unwrap();
        match (what, status) {
            ("create", 201) => {
                acknowledged.insert(body["id"].as_str().unwrap().to_owned());
            }
            ("start" | "read", 200) | ("create" | "start" | "read", 503) => {}
            ("stop", 503) => {
                assert!(body["error"]["message"].as_str().unwrap().contains("goes on after the restart"), "{body}");
                unfinished += 1;
            }
            other => panic!("{other:?}: {body}"),
        }
    }
    assert_eq!(unfinished, running.len());
    assert!(daemon.wait().success());

    daemon.run();
    let list = daemon.get("/vms").await.expect(200);
    let there: BTreeSet<String> =
        list.as_array().unwrap().iter().map(|vm| vm["id"].as_str().unwrap().to_owned()).collect();
    assert!(there.is_superset(&acknowledged));
    for id in running {
        assert_eq!(daemon.status(id).await, "stopping", "the guest still has its time");
        daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    }
}

/// A daemon with a VM that is asked to stop and has an hour for it: the VM, and what the client is told.
async fn stopping() -> (Daemon, String, tokio::task::JoinHandle<Reported>) {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let stop = client().post(daemon.at(&format!("/vms/{id}/stop?timeout=3600")));
    let stop = tokio::spawn(reported("stop", stop));
    daemon.await_status(&id, "stopping").await;
    (daemon, id, stop)
}

#[tokio::test]
async fn a_second_sigterm_ends_the_waiting() {
    let (mut daemon, id, stop) = stopping().await;
    // Another one, which is asked once, and sooner.
    let (once, _, waiting) = stopping().await;
    for daemon in [&once, &daemon] {
        daemon.signal(Signal::SIGTERM);
        daemon.await_log("SIGTERM").await;
    }
    daemon.signal(Signal::SIGTERM);
    tokio::select! {
        reported = stop => assert_eq!(reported.unwrap().status, 503),
        reported = waiting => panic!("no sooner than without it: {}", reported.unwrap().body),
    }
    assert!(daemon.wait().success());
    daemon.run();
    assert_eq!(daemon.status(&id).await, "stopping", "the guest still has its time");
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
}
