//! A guest that runs does not notice what happens to the daemon, and the daemon notices what happens to the guest.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{guest, vcpu_threads};

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

    metrics_tell_what_the_kernel_tells(&daemon, &id).await;

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

/// The last heartbeat while no daemon runs, from the log file itself.
async fn daemon_less_beats(daemon: &support::Daemon, id: &str) -> u64 {
    let log = daemon.run_dir(id).join("console.log");
    let beats = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().filter_map(|l| l.split_once("beat=")?.1.split(' ').next()?.parse::<u64>().ok()).max().unwrap()
    };
    let first = beats();
    while beats() < first + 2 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    beats()
}

async fn metrics_tell_what_the_kernel_tells(daemon: &support::Daemon, id: &str) {
    let performance = format!("/vms/{id}/performance");
    let before = daemon.get(&performance).await.expect(200);
    // 8 MiB past the host's and the guest's caches' say: O_DIRECT, then two samplings for a rate.
    daemon
        .type_line(id, "dd if=/dev/zero of=/dev/vda bs=64k count=128 seek=10000 oflag=direct; echo wrote-$?", "wrote-0")
        .await;
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let after = daemon.get(&performance).await.expect(200);
    let written = after["disk_write_bytes"].as_u64().unwrap() - before["disk_write_bytes"].as_u64().unwrap();
    assert_eq!(written, 8 << 20);
    assert_eq!(after["memory_source"], "guest", "{after}");
    assert!((10..256).contains(&after["memory_usage"].as_u64().unwrap()), "{after}");
    assert!(after["network_in_packets"].is_null(), "user-mode networking counts nothing");

    // A guest that computes: its vCPU's share as the kernel accounts it.
    let serial = daemon.write_line(id, "while :; do :; done");
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap() as i32;
    let threads = vcpu_threads(pid);
    let ticks = || -> u64 {
        let process = procfs::process::Process::new(pid).unwrap();
        threads.iter().map(|&t| process.task_from_tid(t).unwrap().stat().map(|s| s.utime + s.stime).unwrap()).sum()
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (begin, used) = (std::time::Instant::now(), ticks());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let share = 100.0 * (ticks() - used) as f64 / procfs::ticks_per_second() as f64 / begin.elapsed().as_secs_f64();
    let usage = daemon.get(&performance).await.expect(200)["cpu_usage"].as_f64().unwrap();
    // Two windows of a noisy machine; an invented figure would miss by more.
    assert!((usage - share).abs() < 30.0 && usage > 30.0, "said {usage}, the kernel {share:.1}");
    drop(serial);
    // Ctrl-C.
    daemon.type_line(id, "\u{3}", "guest#").await;
}
