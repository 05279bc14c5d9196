//! Restarts by policy of guests that end by themselves: one that powers off and one that panics.

use crate::support::guest;
use serde_json::{Value, json};

#[tokio::test]
async fn a_guest_that_powers_off_comes_back_with_always_and_one_that_panics_with_on_failure_too() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["restart_policy"] = json!("always");
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let policy = format!("/vms/{id}/policy");
    let first = daemon.await_boot(&id, None).await;

    let _serial = daemon.write_line(&id, "poweroff");
    let second = daemon.await_boot(&id, Some(&first)).await;
    assert_eq!(daemon.get(&format!("/vms/{id}/status")).await.expect(200)["restarts"], 1);

    daemon.put(&policy, json!({ "restart_policy": "on-failure" })).await.expect(200);
    let _serial = daemon.write_line(&id, "panic");
    let third = daemon.await_boot(&id, Some(&second)).await;
    assert_eq!(daemon.get(&format!("/vms/{id}/status")).await.expect(200)["restarts"], 2);
    assert!(daemon.log_text().contains("the guest panicked"));

    // With on-failure a power-off is final, also one that no daemon was there to see.
    let _serial = daemon.write_line(&id, "poweroff");
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "stopped").await;
    let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    assert_eq!((&status["restarts"], &status["next_restart"]), (&json!(0), &Value::Null), "after {third:?}");
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}
