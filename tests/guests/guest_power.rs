//! A guest that really boots, through its whole life: limits, every kind of stop and reboot, and delete. One VM per
//! test, because booting under emulation takes seconds.

use crate::support::{affinity, guest, vcpu_threads};
use serde_json::json;

#[tokio::test]
async fn a_guest_boots_pinned_and_throttled_and_stops_in_every_way() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["vcpus"] = json!(2);
    wish["cpu_pinning"] = json!({ "cores": [1, 0] });
    wish["io_limits"] = json!({ "iops_read": 50 });
    let id = daemon.create(wish).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);

    let details = daemon.get(&format!("/vms/{id}")).await.expect(200);
    let threads = vcpu_threads(details["pid"].as_i64().unwrap() as i32);
    assert_eq!(threads.iter().map(|&t| affinity(t)).collect::<Vec<_>>(), [[1], [0]]);

    let first = daemon.await_boot(&id, None).await;
    assert_eq!((first.cpus, first.disk_mib, first.nics), (2, 1024, 1));
    assert!((180..=256).contains(&first.mem_mib), "{first:?}");

    // The limit as the guest itself measures it; a busy host may leave less.
    let line = daemon.type_line(&id, "io-test read 4", "qherd-io: op=read").await;
    let iops: f64 = line.split("iops=").nth(1).unwrap().trim().parse().unwrap();
    assert!(iops <= 57.5, "{line}");

    // By the agent.
    let stop = format!("/vms/{id}/stop");
    let stopped = daemon.post(&stop, json!({})).await.expect(200);
    assert_eq!((&stopped["status"], &stopped["forced"]), (&json!("stopped"), &json!(false)));
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
    let agent_stop = daemon.log_text();
    assert!(!agent_stop.contains("pressing the power button"), "{agent_stop}");

    // By the power button alone. The console goes on where it was.
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let second = daemon.await_boot(&id, Some(&first)).await;
    let console = daemon.console(&id).await;
    assert!(console.contains(&format!("boot={}", first.boot)), "the first boot is still in the log");
    daemon.type_line(&id, "stop-agent", "done stop-agent").await;
    let stopped = daemon.post(&stop, json!({ "timeout": 60 })).await.expect(200);
    assert_eq!(stopped["forced"], false);

    // A guest that ignores both.
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.await_boot(&id, Some(&second)).await;
    daemon.type_line(&id, "ignore-power", "done ignore-power").await;
    let stopped = daemon.post(&format!("{stop}?timeout=3"), json!({})).await.expect(200);
    assert_eq!(stopped["forced"], true);
    assert_eq!(daemon.status(&id).await, "stopped");

    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
    assert!(guest::image().exists(), "the base image is the user's");
}

#[tokio::test]
async fn a_guest_reboots_by_its_agent_by_the_power_button_and_by_reset() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["profile"] = json!("pc");
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let reboot = format!("/vms/{id}/reboot");
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].clone();
    let first = daemon.await_boot(&id, None).await;

    let answer = daemon.post(&reboot, json!({})).await.expect(200);
    assert_eq!(answer["status"], "rebooting");
    let second = daemon.await_boot(&id, Some(&first)).await;
    daemon.await_status(&id, "running").await;

    // This guest powers off at the button: it is reset and goes on, it does not stop.
    daemon.type_line(&id, "stop-agent", "done stop-agent").await;
    daemon.post(&reboot, json!({})).await.expect(200);
    assert_eq!(daemon.status(&id).await, "rebooting");
    daemon.post(&reboot, json!({})).await.expect(200);
    let third = daemon.await_boot(&id, Some(&second)).await;
    daemon.await_status(&id, "running").await;

    daemon.type_line(&id, "ignore-power", "done ignore-power").await;
    daemon.post(&format!("{reboot}?timeout=2"), json!({})).await.expect(200);
    daemon.await_boot(&id, Some(&third)).await;
    daemon.await_status(&id, "running").await;
    let details = daemon.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(details["pid"], pid, "one process over all reboots");
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    let refused = daemon.post(&reboot, json!({})).await;
    assert_eq!((refused.status, refused.message()), (409, "VM is not running, cannot reboot."));
}
