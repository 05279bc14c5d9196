//! A QEMU that is alive and does not answer (SIGSTOP stands for every way to get there): it delays nobody else, it can
//! be got rid of, and when it answers again it is taken up again. And deadlines, which hold over the daemon's own death.

mod support;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use support::{Answer, Daemon};

const LONG: u64 = 3600;
/// The daemon gives a monitor 5 s for a command before it counts as mute.
const MONITOR: Duration = Duration::from_secs(5);

async fn running(daemon: &Daemon) -> String {
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    id
}

async fn stop(daemon: &Daemon, id: &str, timeout: u64) -> Answer {
    daemon.post(&format!("/vms/{id}/stop"), json!({ "timeout": timeout })).await
}

async fn force_off(daemon: &Daemon, id: &str) -> Answer {
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await
}

/// Stops the QEMU of a VM in its tracks.
fn silence(daemon: &Daemon, id: &str) -> Pid {
    let pid = daemon.qemus().into_iter().find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(id))
    });
    let pid = Pid::from_raw(pid.unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    pid
}

#[tokio::test]
async fn a_mute_vm_is_noticed_by_itself_and_taken_up_again_when_it_answers() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let pid = silence(&daemon, &id);
    daemon.await_status(&id, "unresponsive").await;
    for request in ["start", "reboot"] {
        daemon.post(&format!("/vms/{id}/{request}"), json!({})).await.expect(503);
    }
    daemon.get(&format!("/vms/{id}")).await.expect(200);
    kill(pid, Signal::SIGCONT).unwrap();
    daemon.await_status(&id, "running").await;
    assert_eq!(daemon.qemus(), [pid.as_raw()]);
    force_off(&daemon, &id).await.expect(200);
}

#[tokio::test]
async fn a_mute_vm_delays_no_other_vm() {
    let daemon = Daemon::start();
    let (mute, other) = (running(&daemon).await, running(&daemon).await);
    silence(&daemon, &mute);
    // Requests on the mute VM, each of which waits for its monitor.
    let reboot = format!("/vms/{mute}/reboot");
    let waiting = async { tokio::join!(daemon.post(&reboot, json!({})), stop(&daemon, &mute, 3)) };
    let rounds = Cell::new(0);
    let meanwhile = async {
        for round in 1.. {
            force_off(&daemon, &other).await.expect(200);
            daemon.post(&format!("/vms/{other}/start"), json!({})).await.expect(200);
            assert_eq!(daemon.status(&other).await, "running");
            daemon.get("/vms").await.expect(200);
            rounds.set(round);
        }
    };
    // Whole rounds of the other one fit into the wait of the mute one.
    tokio::select! {
        _ = waiting => assert!(rounds.get() >= 2),
        () = meanwhile => unreachable!("it goes round for ever"),
    }
    // The last round may have been cut off between its two requests.
    daemon.post(&format!("/vms/{other}/start"), json!({})).await.expect(200);
    assert_eq!((daemon.status(&mute).await.as_str(), daemon.qemus().len()), ("stopped", 1));
}

#[tokio::test]
async fn a_mute_vm_is_forced_off_without_waiting_for_its_monitor() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    silence(&daemon, &id);
    let begun = Instant::now();
    assert_eq!(force_off(&daemon, &id).await.expect(200)["forced"], true);
    assert!(begun.elapsed() < MONITOR, "{:?}", begun.elapsed());
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}

#[tokio::test]
async fn a_mute_vm_is_deleted_without_waiting_for_its_monitor() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    silence(&daemon, &id);
    let begun = Instant::now();
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert!(begun.elapsed() < MONITOR, "{:?}", begun.elapsed());
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn a_reboot_that_waits_for_a_mute_monitor_is_overtaken_by_a_forced_stop() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let path = format!("/vms/{id}/reboot");
    loop {
        // Between two readings of the counters: behind one that is not answered the reboot would not be begun.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pid = silence(&daemon, &id);
        let overtaking = async {
            while !["rebooting", "unresponsive"].contains(&daemon.status(&id).await.as_str()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if daemon.status(&id).await == "rebooting" { Some(force_off(&daemon, &id).await) } else { None }
        };
        let (rebooted, forced) = tokio::join!(daemon.post(&path, json!({})), overtaking);
        if let Some(forced) = forced {
            assert_eq!(forced.expect(200)["forced"], true);
            assert!(rebooted.message().contains("overtaken"), "{rebooted:?}");
            rebooted.expect(409);
            return;
        }
        rebooted.expect(503);
        kill(pid, Signal::SIGCONT).unwrap();
        daemon.await_status(&id, "running").await;
    }
}

#[tokio::test]
async fn a_graceful_stop_of_a_mute_vm_waits_and_then_forces() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    silence(&daemon, &id);
    daemon.await_status(&id, "unresponsive").await;
    let (first, ()) = tokio::join!(stop(&daemon, &id, 2), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(daemon.status(&id).await, "unresponsive");
        // Asked once more, with more time: the first one's deadline still holds.
        stop(&daemon, &id, LONG).await.expect(200);
    });
    assert_eq!(first.expect(200)["forced"], true);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}

#[tokio::test]
async fn a_vm_that_turns_mute_during_a_graceful_stop_shows_it_and_can_be_forced() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    silence(&daemon, &id);
    let (graceful, forced) = tokio::join!(stop(&daemon, &id, LONG), async {
        daemon.await_status(&id, "unresponsive").await;
        force_off(&daemon, &id).await
    });
    assert_eq!(
        (graceful.expect(200)["forced"].clone(), forced.expect(200)["forced"].clone()),
        (json!(true), json!(true))
    );
}

#[tokio::test]
async fn a_graceful_stop_goes_on_when_the_monitor_answers_again() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let pid = silence(&daemon, &id);
    let (stopped, ()) = tokio::join!(stop(&daemon, &id, LONG), async {
        daemon.await_status(&id, "unresponsive").await;
        kill(pid, Signal::SIGCONT).unwrap();
        daemon.await_status(&id, "stopping").await;
        force_off(&daemon, &id).await.expect(200);
    });
    stopped.expect(200);
}

#[tokio::test]
async fn the_deadline_of_a_stop_holds_over_the_death_of_the_daemon() {
    let mut daemon = Daemon::start();
    let id = running(&daemon).await;
    let asked = daemon.http().post(daemon.at(&format!("/vms/{id}/stop"))).json(&json!({ "timeout": 4 }));
    let asked = tokio::spawn(asked.send());
    daemon.await_status(&id, "stopping").await;
    daemon.kill();
    let _ = asked.await;
    assert_eq!(daemon.qemus().len(), 1);
    daemon.run();
    daemon.await_status(&id, "stopped").await;
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

#[tokio::test]
async fn a_deadline_that_passes_while_no_daemon_runs_is_kept_by_the_next_one() {
    let mut daemon = Daemon::start();
    let id = running(&daemon).await;
    let asked = daemon.http().post(daemon.at(&format!("/vms/{id}/stop"))).json(&json!({ "timeout": 1 }));
    let asked = tokio::spawn(asked.send());
    daemon.await_status(&id, "stopping").await;
    daemon.kill();
    let _ = asked.await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(daemon.qemus().len(), 1);
    daemon.run();
    daemon.await_status(&id, "stopped").await;
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

#[tokio::test]
async fn a_reboot_whose_deadline_passes_while_no_daemon_runs_is_made_by_the_next_one() {
    let mut daemon = Daemon::start();
    let id = running(&daemon).await;
    daemon.post(&format!("/vms/{id}/reboot"), json!({ "timeout": 1 })).await.expect(200);
    daemon.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!daemon.log_text().contains("event=Reset"));
    daemon.run();
    daemon.await_log("event=Reset").await;
    daemon.await_status(&id, "running").await;
}

#[tokio::test]
async fn a_reboot_whose_deadline_passes_while_the_monitor_is_mute_is_made_when_it_answers() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    daemon.post(&format!("/vms/{id}/reboot"), json!({ "timeout": 2 })).await.expect(200);
    let pid = silence(&daemon, &id);
    daemon.await_status(&id, "unresponsive").await;
    assert!(!daemon.log_text().contains("event=Reset"));
    kill(pid, Signal::SIGCONT).unwrap();
    daemon.await_status(&id, "running").await;
    daemon.await_log("event=Reset").await;
}

/// Ruling: within 10 s, by a probe that does not depend on anybody asking; the rest is for a busy machine.
#[tokio::test]
async fn a_mute_vm_shows_within_seconds_and_is_forced_off_within_one() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    silence(&daemon, &id);
    let begun = Instant::now();
    daemon.await_status(&id, "unresponsive").await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let begun = Instant::now();
    force_off(&daemon, &id).await.expect(200);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// Between two samplings and in the middle of one, requests are taken at once; what needs the monitor says so in time.
#[tokio::test]
async fn a_graceful_stop_of_a_vm_that_has_just_turned_mute_is_taken_at_once() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let pid = silence(&daemon, &id);
    // By now a sampling waits for an answer.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let shown = async {
        let begun = Instant::now();
        while !["stopping", "unresponsive"].contains(&daemon.status(&id).await.as_str()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    };
    let (stopped, shown) = tokio::join!(stop(&daemon, &id, 1), shown);
    assert!(shown < MONITOR / 2, "{shown:?}");
    assert_eq!(stopped.expect(200)["forced"], true);
    assert!(!daemon.qemus().contains(&pid.as_raw()));
}

#[tokio::test]
async fn one_mute_vm_among_eleven_changes_nothing_for_the_other_ten() {
    let daemon = Daemon::start();
    let mut ids = Vec::new();
    for _ in 0..11 {
        ids.push(running(&daemon).await);
    }
    let mute = ids.pop().unwrap();
    // The median of what a round over all ten takes: reads, and changes that go through each one's monitor.
    let rounds = async || {
        let mut times = Vec::new();
        for round in 0..9 {
            let begun = Instant::now();
            for id in &ids {
                daemon.get(&format!("/vms/{id}")).await.expect(200);
                let limits = json!({ "io_limits": { "iops": 1000 + round } });
                let answer = daemon.put(&format!("/vms/{id}/disk"), limits).await.expect(200);
                assert_eq!(answer["applied"], "live");
            }
            times.push(begun.elapsed());
        }
        times.sort();
        times[4]
    };
    let before = rounds().await;
    let pid = silence(&daemon, &mute);
    let during = rounds().await;
    daemon.await_status(&mute, "unresponsive").await;
    let after = rounds().await;
    kill(pid, Signal::SIGCONT).unwrap();
    daemon.await_status(&mute, "running").await;
    for (what, time) in [("while it turns mute", during), ("while it is", after)] {
        assert!(time < before * 5 + Duration::from_millis(500), "{what}: {time:?} against {before:?}");
    }
}
