//! A guest that runs does not notice what happens to the daemon, and the daemon notices what happens to the guest.

use crate::support;

use std::time::Duration;

use crate::support::guest;
use serde_json::json;

#[tokio::test]
async fn a_guest_outlives_the_daemon_and_its_own_end_is_noticed() {
    let mut daemon = guest::daemon();
    let id = daemon.create(guest::wish()).await;
    let start = format!("/vms/{id}/start");
    daemon.post(&start, json!({})).await.expect(200);
    let before = daemon.await_boot(&id, None).await;
    let details = format!("/vms/{id}");
    let pid = daemon.get(&details).await.expect(200)["pid"].clone();

    for end in ["kill -9", "SIGTERM"] {
        if end == "SIGTERM" {
            assert!(daemon.terminate().success());
        } else {
            daemon.kill();
        }
        let last = daemon_less_beats(&daemon, &id).await;
        daemon.run();
        // Taken over before the first request is answered.
        let now = daemon.get(&details).await.expect(200);
        assert_eq!(
            (&now["status"], &now["pid"], &now["guest_agent"]),
            (&json!("running"), &pid, &json!(true)),
            "{end}"
        );
        let beat = daemon.await_beat(&id, |beat| beat.beat > last + 1).await;
        assert_eq!(beat.boot, before.boot, "the same boot goes on after {end}");
        // Its console log has no gap.
        let beats: Vec<u64> = daemon.beats(&id).await.iter().map(|b| b.beat).collect();
        assert!(beats.windows(2).all(|pair| pair[1] == pair[0] + 1), "{beats:?}");
    }

    // The guest's own power-off.
    daemon.type_line(&id, "", "guest#").await;
    let _serial = daemon.write_line(&id, "poweroff -f");
    daemon.await_status(&id, "stopped").await;
    assert_eq!(daemon.qemus(), [] as [i32; 0]);

    // Its panic.
    daemon.post(&start, json!({})).await.expect(200);
    daemon.await_boot(&id, Some(&before)).await;
    let _serial = daemon.write_line(&id, "panic");
    daemon.await_status(&id, "crashed").await;
    let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    assert!(status["reason"].as_str().unwrap().contains("panicked"), "{status}");
    daemon.delete(&details).await.expect(200);
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
}

/// The last heartbeat while no daemon runs, from what its QEMU holds.
async fn daemon_less_beats(daemon: &support::Daemon, id: &str) -> u64 {
    let beats = || {
        let text = daemon.held_console(id);
        text.lines().filter_map(|l| l.split_once("beat=")?.1.split(' ').next()?.parse::<u64>().ok()).max()
    };
    let first = loop {
        match beats() {
            Some(first) => break first,
            None => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    while beats() < Some(first + 2) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    beats().unwrap()
}
