//! A guest that writes to its console without end fills nothing, waits for nobody, and is heard again by the next daemon.

use crate::support;

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use crate::support::guest;
use serde_json::json;

/// What is held for a daemon to come.
const HELD: usize = 1 << 20;

/// Bytes that a folder's files take on disk.
fn on_disk(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

const FLOOD: &str = "(while :; do echo flood-$((n+=1)); done) &";

#[tokio::test]
async fn a_flood_while_no_daemon_runs_is_bounded_and_the_next_one_hears_the_guest_again() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let before = daemon.await_boot(&id, None).await;
    daemon.type_line(&id, "", "guest#").await;
    let serial = daemon.write_line(&id, FLOOD);
    daemon.await_console(&id, "flood-9", 0).await;
    daemon.kill();
    let run = daemon.run_dir(&id);
    let at_the_kill = on_disk(&run);
    let begun = std::time::Instant::now();
    while daemon.held_console(&id).len() < HELD {
        assert!(begun.elapsed() < support::PATIENCE, "{} bytes are held", daemon.held_console(&id).len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // It is full now, and what comes is refused; nothing comes to the disk, and the guest does not wait.
    let pid = daemon.qemus()[0];
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(11).unwrap().parse::<u64>().unwrap()
    };
    let then = ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(ticks() > then, "the guest goes on");
    assert_eq!(daemon.held_console(&id).len(), HELD);
    assert_eq!(on_disk(&run), at_the_kill);

    daemon.run();
    let end = daemon.await_console(&id, "[qherd: the guest wrote more here than is held]", 0).await;
    // The flood goes on, much later in its count.
    daemon.await_console(&id, "flood-", end).await;
    drop(serial);
    let last = daemon.await_beat(&id, |beat| beat.beat > before.beat + 2).await;
    assert_eq!(last.boot, before.boot, "the same boot");
    let plain = daemon.get(&format!("/vms/{id}/console/log?tail=5&plain=true")).await.expect(200);
    let plain = plain.as_str().unwrap();
    assert!(plain.contains("flood-") && !plain.contains(['\r', '\u{1b}']), "{plain:?}");
    assert!(on_disk(&run) <= 17 << 20);
}

/// The last words of a guest that panics while nobody listens.
#[tokio::test]
async fn what_a_guest_says_while_no_daemon_runs_and_its_panic_are_in_the_log_of_the_next() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    daemon.type_line(&id, "", "guest#").await;
    let serial = daemon.write_line(&id, "sleep 2; echo last''-words; panic");
    daemon.await_console(&id, "panic", 0).await;
    daemon.kill();
    let begun = std::time::Instant::now();
    while !daemon.held_console(&id).contains("Kernel panic") {
        assert!(begun.elapsed() < support::PATIENCE, "it never panicked");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(serial);
    daemon.run();
    daemon.await_status(&id, "crashed").await;
    let log = daemon.console(&id).await;
    assert!(log.contains("last-words") && log.contains("Kernel panic"), "{log}");
}
