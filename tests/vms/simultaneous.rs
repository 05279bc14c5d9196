//! Several requests on one VM at once (ruling 8): who waits, who is refused, who overtakes; and that whatever comes of
//! it is one of the states that a VM can be in, with at most one process.
//!
//! The blank guest ignores the power button, so a graceful stop takes until its deadline; a start is drawn out by a
//! stand-in for QEMU that holds it.

use std::{collections::HashSet, time::Duration};

use crate::stand_in::StandIn;
use crate::support::{Answer, Daemon};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Seconds; longer than any test takes.
const LONG: u64 = 3600;

async fn start(daemon: &Daemon, id: &str) -> Answer {
    daemon.post(&format!("/vms/{id}/start"), json!({})).await
}

async fn stop(daemon: &Daemon, id: &str, timeout: u64) -> Answer {
    daemon.post(&format!("/vms/{id}/stop"), json!({ "timeout": timeout })).await
}

async fn force_off(daemon: &Daemon, id: &str) -> Answer {
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await
}

async fn reboot(daemon: &Daemon, id: &str, timeout: u64) -> Answer {
    daemon.post(&format!("/vms/{id}/reboot"), json!({ "timeout": timeout })).await
}

async fn delete(daemon: &Daemon, id: &str) -> Answer {
    daemon.delete(&format!("/vms/{id}")).await
}

async fn running(daemon: &Daemon) -> String {
    let id = daemon.create(daemon.wish()).await;
    start(daemon, &id).await.expect(200);
    id
}

/// Runs `first`, and `then` as soon as the VM has the status that `first` brings it into.
async fn during<T>(
    daemon: &Daemon,
    id: &str,
    first: impl Future<Output = Answer>,
    status: &str,
    then: impl Future<Output = T>,
) -> (Answer, T) {
    tokio::join!(first, async {
        daemon.await_status(id, status).await;
        then.await
    })
}

fn held() -> (StandIn, Daemon) {
    let stand_in = StandIn::holding();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    (stand_in, daemon)
}

#[tokio::test]
async fn two_simultaneous_starts_both_succeed_with_one_process() {
    let (stand_in, daemon) = held();
    let id = daemon.create(daemon.wish()).await;
    let second = async {
        let release = async {
            while daemon.qemus().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // For a second one to come, if there is one.
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(daemon.qemus().len(), 1);
            stand_in.let_go();
        };
        tokio::join!(start(&daemon, &id), release).0
    };
    let (first, second) = during(&daemon, &id, start(&daemon, &id), "starting", second).await;
    assert_eq!(
        (first.expect(200)["status"].as_str(), second.expect(200)["status"].as_str()),
        (Some("running"), Some("running"))
    );
    assert_eq!(daemon.qemus().len(), 1);
}

#[tokio::test]
async fn a_start_during_a_graceful_stop_is_refused() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let meanwhile = async {
        let refused = start(&daemon, &id).await;
        let rebooted = reboot(&daemon, &id, LONG).await;
        assert_eq!(daemon.status(&id).await, "stopping");
        force_off(&daemon, &id).await.expect(200);
        (refused, rebooted)
    };
    let (_, (refused, rebooted)) = during(&daemon, &id, stop(&daemon, &id, LONG), "stopping", meanwhile).await;
    for answer in [refused, rebooted] {
        assert!(answer.message().contains("stopping"), "{answer:?}");
        answer.expect(409);
    }
}

#[tokio::test]
async fn a_start_during_a_reboot_is_refused_and_a_second_reboot_is_none() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    reboot(&daemon, &id, LONG).await.expect(200);
    assert_eq!(daemon.status(&id).await, "rebooting");
    reboot(&daemon, &id, 1).await.expect(200);
    let refused = start(&daemon, &id).await;
    assert!(refused.message().contains("rebooting"), "{refused:?}");
    refused.expect(409);
    assert_eq!(daemon.status(&id).await, "rebooting");
}

#[tokio::test]
async fn a_delete_overtakes_a_start() {
    let (_stand_in, daemon) = held();
    let id = daemon.create(daemon.wish()).await;
    let (started, deleted) = during(&daemon, &id, start(&daemon, &id), "starting", delete(&daemon, &id)).await;
    deleted.expect(200);
    assert!(started.message().contains("overtaken"), "{started:?}");
    started.expect(409);
    daemon.get(&format!("/vms/{id}/status")).await.expect(404);
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn a_forced_stop_overtakes_a_start() {
    let (stand_in, daemon) = held();
    let id = daemon.create(daemon.wish()).await;
    let (started, stopped) = during(&daemon, &id, start(&daemon, &id), "starting", force_off(&daemon, &id)).await;
    stopped.expect(200);
    started.expect(409);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
    stand_in.let_go();
    start(&daemon, &id).await.expect(200);
}

#[tokio::test]
async fn the_other_dialect_overtakes_in_the_same_way() {
    let (_stand_in, daemon) = held();
    let id = daemon.create(daemon.wish()).await;
    let (start, stop) = (format!("/hyperv/vms/{id}/start"), format!("/hyperv/vms/{id}/stop"));
    let forced = daemon.post(&stop, json!({ "force": true }));
    let (started, stopped) = during(&daemon, &id, daemon.post(&start, json!({})), "starting", forced).await;
    stopped.expect(200);
    assert!(started.body["error"].as_str().unwrap().contains("overtaken"), "{started:?}");
    started.expect(409);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}

#[tokio::test]
async fn a_forced_stop_overtakes_a_graceful_one_and_both_succeed() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let both = async { tokio::join!(stop(&daemon, &id, LONG), stop(&daemon, &id, LONG)) };
    let forced = async {
        daemon.await_status(&id, "stopping").await;
        force_off(&daemon, &id).await
    };
    let ((first, second), forced) = tokio::join!(both, forced);
    assert_eq!(first.expect(200)["forced"], true);
    assert_eq!(forced.expect(200)["forced"], true);
    // On a slow machine the second graceful stop may arrive when everything is over.
    second.expect(200);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}

#[tokio::test]
async fn a_delete_overtakes_a_graceful_stop() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let (stopped, deleted) = during(&daemon, &id, stop(&daemon, &id, LONG), "stopping", delete(&daemon, &id)).await;
    deleted.expect(200);
    // The power is off, by force, which is what a stop is told when anything overtakes it.
    assert_eq!(stopped.expect(200)["forced"], true);
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn the_shortest_timeout_of_several_graceful_stops_holds() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let (first, second) = during(&daemon, &id, stop(&daemon, &id, LONG), "stopping", stop(&daemon, &id, 1)).await;
    assert_eq!((first.expect(200)["forced"].clone(), second.expect(200)["forced"].clone()), (json!(true), json!(true)));
}

#[tokio::test]
async fn a_later_graceful_stop_does_not_put_the_deadline_off() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let (first, second) = during(&daemon, &id, stop(&daemon, &id, 10), "stopping", stop(&daemon, &id, LONG)).await;
    first.expect(200);
    second.expect(200);
}

#[tokio::test]
async fn a_stop_while_starting_waits_for_the_start() {
    let (stand_in, daemon) = held();
    let id = daemon.create(daemon.wish()).await;
    let stopping = async {
        let release = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(daemon.status(&id).await, "starting");
            stand_in.let_go();
        };
        tokio::join!(stop(&daemon, &id, 1), release).0
    };
    let (started, stopped) = during(&daemon, &id, start(&daemon, &id), "starting", stopping).await;
    started.expect(200);
    assert_eq!(stopped.expect(200)["forced"], true);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cancel_its_start() {
    let (stand_in, daemon) = held();
    let id = daemon.create(daemon.wish()).await;
    let request = daemon.http().post(daemon.at(&format!("/vms/{id}/start"))).send();
    tokio::select! {
        answer = request => panic!("{answer:?}"),
        () = daemon.await_status(&id, "starting") => {}
    }
    assert_eq!(daemon.status(&id).await, "starting");
    stand_in.let_go();
    daemon.await_status(&id, "running").await;
    assert_eq!(daemon.qemus().len(), 1);
}

#[tokio::test]
async fn thirty_mixed_requests_on_one_vm_end_in_a_consistent_state() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let requests = (0..30).map(|number| {
        let (daemon, id) = (&daemon, &id);
        async move {
            tokio::time::sleep(Duration::from_millis(number * 7 % 50)).await;
            match number % 6 {
                0 | 3 => start(daemon, id).await,
                1 => stop(daemon, id, 1).await,
                2 => force_off(daemon, id).await,
                4 => reboot(daemon, id, 1).await,
                _ => daemon.get(&format!("/vms/{id}/status")).await,
            }
        }
    });
    for answer in join_all(requests).await {
        assert!([200, 409].contains(&answer.status), "{answer:?}");
    }
    // A reboot that is the last to be begun goes on by itself.
    while daemon.status(&id).await == "rebooting" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = daemon.status(&id).await;
    assert_eq!(daemon.qemus().len(), usize::from(status == "running"), "{status}");
    assert!(["running", "stopped"].contains(&status.as_str()), "{status}");
    start(&daemon, &id).await.expect(200);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus().len()), ("running", 1));
    delete(&daemon, &id).await.expect(200);
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn twenty_simultaneous_creates_make_twenty_different_vms() {
    let daemon = Daemon::start();
    let ids = join_all((0..20).map(|_| daemon.create(daemon.wish()))).await;
    let listed = daemon.get("/vms").await.expect(200);
    let listed: HashSet<&str> = listed.as_array().unwrap().iter().map(|vm| vm["id"].as_str().unwrap()).collect();
    assert_eq!((listed.len(), listed), (20, ids.iter().map(String::as_str).collect()));
    let mut macs = HashSet::new();
    for id in &ids {
        let details = daemon.get(&format!("/vms/{id}")).await.expect(200);
        let mac = text_that_starts_with(&details, "52:54:00:").unwrap_or_else(|| panic!("no MAC in {details}"));
        assert!(macs.insert(mac), "{id}");
        assert!(daemon.state().join("images").join(id).join("root.qcow2").exists());
    }
    for answer in join_all(ids.iter().map(|id| delete(&daemon, id))).await {
        answer.expect(200);
    }
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

fn text_that_starts_with(value: &Value, prefix: &str) -> Option<String> {
    match value {
        Value::String(text) => text.starts_with(prefix).then(|| text.clone()),
        Value::Array(values) => values.iter().find_map(|value| text_that_starts_with(value, prefix)),
        Value::Object(fields) => fields.values().find_map(|value| text_that_starts_with(value, prefix)),
        _ => None,
    }
}
