//! A QEMU that SIGKILL does not end, because the kernel holds it (storage that hangs): requests are answered in time, and
//! what was asked for happens as soon as the kernel lets go.

use crate::stand_in::StandIn;
use crate::support::{Answer, Daemon, Hold};
use serde_json::json;

const LONG: u64 = 3600;

async fn start(daemon: &Daemon, id: &str) -> Answer {
    daemon.post(&format!("/vms/{id}/start"), json!({})).await
}

async fn stop(daemon: &Daemon, id: &str, body: serde_json::Value) -> Answer {
    daemon.post(&format!("/vms/{id}/stop"), body).await
}

async fn delete(daemon: &Daemon, id: &str) -> Answer {
    daemon.delete(&format!("/vms/{id}")).await
}

async fn held() -> (Daemon, String, Hold) {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    start(&daemon, &id).await.expect(200);
    let hold = Hold::on(daemon.qemus()[0]);
    (daemon, id, hold)
}

#[track_caller]
fn assert_told(answer: Answer, then: &str) {
    let body = answer.expect(500);
    let detail = body["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("the kernel still holds it") && detail.contains(then), "{detail}");
}

async fn await_gone(daemon: &Daemon, id: &str) {
    while daemon.get(&format!("/vms/{id}/status")).await.status != 404 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn a_delete_is_completed_when_the_kernel_lets_go() {
    let (daemon, id, hold) = held().await;
    assert_told(delete(&daemon, &id).await, "is deleted as soon as");
    assert_eq!(daemon.status(&id).await, "stopping");
    let refused = start(&daemon, &id).await;
    assert!(refused.message().contains("being deleted"), "{refused:?}");
    refused.expect(409);
    drop(hold);
    await_gone(&daemon, &id).await;
    delete(&daemon, &id).await.expect(404);
}

#[tokio::test]
async fn a_delete_is_completed_by_the_next_daemon() {
    let (mut daemon, id, hold) = held().await;
    assert_told(delete(&daemon, &id).await, "is deleted as soon as");
    daemon.kill();
    daemon.run();
    assert_eq!(daemon.status(&id).await, "stopping");
    assert_told(delete(&daemon, &id).await, "is deleted as soon as");
    drop(hold);
    await_gone(&daemon, &id).await;
}

#[tokio::test]
async fn stops_are_told_in_time_and_the_vm_counts_as_stopped_when_the_kernel_lets_go() {
    let (daemon, id, hold) = held().await;
    let (graceful, forced) = tokio::join!(stop(&daemon, &id, json!({ "timeout": LONG })), async {
        daemon.await_status(&id, "stopping").await;
        stop(&daemon, &id, json!({ "force": true })).await
    });
    assert_told(graceful, "counts as stopped as soon as");
    assert_told(forced, "counts as stopped as soon as");
    assert_told(stop(&daemon, &id, json!({ "timeout": LONG })).await, "counts as stopped as soon as");
    assert_eq!(daemon.status(&id).await, "stopping");
    drop(hold);
    daemon.await_status(&id, "stopped").await;
    start(&daemon, &id).await.expect(200);
}

#[tokio::test]
async fn a_start_that_fails_does_not_wait_for_the_kernel() {
    let stand_in = StandIn::holding();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let id = daemon.create(daemon.wish()).await;
    let overtaking = async {
        daemon.await_status(&id, "starting").await;
        while daemon.qemus().is_empty() {
            tokio::task::yield_now().await;
        }
        let hold = Hold::on(daemon.qemus()[0]);
        (delete(&daemon, &id).await, hold)
    };
    let (started, (deleted, hold)) = tokio::join!(start(&daemon, &id), overtaking);
    started.expect(409);
    assert_told(deleted, "is deleted as soon as");
    drop(hold);
    await_gone(&daemon, &id).await;
}
