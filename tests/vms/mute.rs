//! A QEMU that is alive and does not answer (SIGSTOP stands for every way to get there): it delays nobody else, it can
//! be got rid of, and when it answers again it is taken up again. And deadlines, which hold over the daemon's own death.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::mutes::{silence, sooner_than_a_monitor_is_given_up};
use crate::support::{Answer, Daemon, crash::Side};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

const LONG: u64 = 3600;

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

#[tokio::test]
async fn a_mute_vm_is_noticed_by_itself_and_taken_up_again_when_it_answers() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let pid = silence(&daemon, &id);
    daemon.await_status(&id, "unresponsive").await;
    for request in ["start", "reboot", "suspend"] {
        daemon.post(&format!("/vms/{id}/{request}"), json!({})).await.expect(503);
        // That is known at once, and no operation.
        let patient = daemon.http().post(daemon.at(&format!("/vms/{id}/{request}"))).header("prefer", "respond-async");
        daemon.send(patient).await.expect(503);
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
    // A request on the mute VM waits until its monitor is given up.
    let cpu = format!("/vms/{mute}/cpu");
    let given_up = Cell::new(false);
    let waiting = async {
        daemon.put(&cpu, json!({ "cpu_pinning": { "cores": [0] } })).await.expect(200);
        given_up.set(true);
    };
    let meanwhile = async {
        let mut rounds = Vec::new();
        while rounds.len() < 2 || !given_up.get() {
            force_off(&daemon, &other).await.expect(200);
            rounds.push(given_up.get());
            daemon.post(&format!("/vms/{other}/start"), json!({})).await.expect(200);
            assert_eq!(daemon.status(&other).await, "running");
            daemon.get("/vms").await.expect(200);
        }
        assert!(!rounds[0], "the other one waited for the mute one's monitor");
    };
    tokio::join!(waiting, meanwhile);
}

#[tokio::test]
async fn a_mute_vm_is_forced_off_without_waiting_for_its_monitor() {
    let daemon = Daemon::start();
    let (id, other) = (running(&daemon).await, running(&daemon).await);
    silence(&daemon, &id);
    let forced = sooner_than_a_monitor_is_given_up(&daemon, &other, force_off(&daemon, &id)).await;
    assert_eq!(forced.expect(200)["forced"], true);
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus().len()), ("stopped", 1));
}

#[tokio::test]
async fn a_mute_vm_is_deleted_without_waiting_for_its_monitor() {
    let daemon = Daemon::start();
    let (id, other) = (running(&daemon).await, running(&daemon).await);
    silence(&daemon, &id);
    let path = format!("/vms/{id}");
    sooner_than_a_monitor_is_given_up(&daemon, &other, daemon.delete(&path)).await.expect(200);
    force_off(&daemon, &other).await.expect(200);
    daemon.delete(&format!("/vms/{other}")).await.expect(200);
    assert_eq!((daemon.leftovers(), daemon.qemus()), (vec![], vec![]));
}

#[tokio::test]
async fn a_reboot_of_a_vm_that_turns_mute_is_under_way_until_a_forced_stop() {
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
            // That it is to be rebooted was stored, and is over with this.
            rebooted.expect(200);
            assert_eq!(daemon.status(&id).await, "stopped");
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
    let begun = Instant::now();
    assert_eq!(stop(&daemon, &id, 2).await.expect(200)["forced"], true);
    assert!(begun.elapsed() >= Duration::from_secs(2), "it waits");
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("stopped", vec![]));
}

#[tokio::test]
async fn the_deadline_of_a_stop_holds_whatever_is_asked_later_and_though_the_vm_turns_mute() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let (first, second) = tokio::join!(stop(&daemon, &id, 10), async {
        daemon.await_status(&id, "stopping").await;
        silence(&daemon, &id);
        stop(&daemon, &id, LONG).await
    });
    assert_eq!((first.expect(200)["forced"].clone(), second.expect(200)["forced"].clone()), (json!(true), json!(true)));
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

/// Has the daemon die once the request is on stable storage, before anything comes of it.
async fn dies_over(daemon: &mut Daemon, path: &str, timeout: u64) {
    daemon.kill();
    daemon.run_as(daemon.dying_at(1, Side::After));
    let request = daemon.http().post(daemon.at(path)).json(&json!({ "timeout": timeout }));
    assert!(daemon.try_send(request).await.is_none(), "it lives");
    daemon.wait();
    assert_eq!(daemon.qemus().len(), 1);
}

#[tokio::test]
async fn the_deadline_of_a_stop_holds_over_the_death_of_the_daemon() {
    let mut daemon = Daemon::start();
    let id = running(&daemon).await;
    dies_over(&mut daemon, &format!("/vms/{id}/stop"), 4).await;
    daemon.run();
    daemon.await_status(&id, "stopped").await;
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

#[tokio::test]
async fn a_deadline_that_passes_while_no_daemon_runs_is_kept_by_the_next_one() {
    let mut daemon = Daemon::start();
    let id = running(&daemon).await;
    dies_over(&mut daemon, &format!("/vms/{id}/stop"), 1).await;
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
    dies_over(&mut daemon, &format!("/vms/{id}/reboot"), 1).await;
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
    daemon.post(&format!("/vms/{id}/reboot"), json!({ "timeout": 3 })).await.expect(200);
    let pid = silence(&daemon, &id);
    daemon.await_status(&id, "unresponsive").await;
    kill(pid, Signal::SIGCONT).unwrap();
    daemon.await_status(&id, "running").await;
    daemon.await_log("event=Reset").await;
}

/// Also of one that is known to be mute.
#[tokio::test]
async fn an_unresponsive_vm_is_forced_off_without_waiting_for_its_monitor() {
    let daemon = Daemon::start();
    let (id, other) = (running(&daemon).await, running(&daemon).await);
    silence(&daemon, &id);
    daemon.await_status(&id, "unresponsive").await;
    sooner_than_a_monitor_is_given_up(&daemon, &other, force_off(&daemon, &id)).await.expect(200);
}

/// In the middle of a sampling, which waits for the monitor, a stop is taken at once: it is under way before the monitor
/// is given up.
#[tokio::test]
async fn a_graceful_stop_of_a_vm_that_has_just_turned_mute_is_taken_at_once() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    // Nothing else is asked of a monitor by now.
    while daemon.get(&format!("/vms/{id}/performance")).await.expect(200)["interval"].is_null() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pid = silence(&daemon, &id);
    // The sampling's command is on its way to a QEMU that does not read.
    let run_dir = daemon.run_dir(&id);
    let socket = format!("{}/qmp.sock", run_dir.file_name().unwrap().display());
    while unread(&socket) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let first_shown = async {
        loop {
            match daemon.status(&id).await.as_str() {
                "running" => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other.to_owned(),
            }
        }
    };
    let (stopped, shown) = tokio::join!(stop(&daemon, &id, 1), first_shown);
    assert_eq!(shown, "stopping");
    assert_eq!(stopped.expect(200)["forced"], true);
    assert!(!daemon.qemus().contains(&pid.as_raw()));
}

/// Bytes that wait in a Unix socket for whoever accepted the connection.
fn unread(socket: &str) -> u64 {
    let shown = std::process::Command::new("ss").args(["--unix", "--no-header"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let lines = shown.lines().filter(|line| line.contains(socket));
    // Netid State Recv-Q …
    lines.map(|line| line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn one_mute_vm_among_eleven_changes_nothing_for_the_other_ten() {
    let daemon = Daemon::start();
    let mut ids = Vec::new();
    for _ in 0..11 {
        ids.push(running(&daemon).await);
    }
    let mute = ids.pop().unwrap();
    let pid = silence(&daemon, &mute);
    // Reads, and changes that go through each one's monitor; also when the mute one has turned out to be it. What waited
    // behind it would wait as long as its stop, an hour.
    let rounds = async {
        for round in 0.. {
            let unresponsive = daemon.status(&mute).await == "unresponsive";
            for id in &ids {
                daemon.get(&format!("/vms/{id}")).await.expect(200);
                let limits = json!({ "io_limits": { "iops": 1000 + round } });
                let answer = daemon.put(&format!("/vms/{id}/disk"), limits).await.expect(200);
                assert_eq!(answer["applied"], "live");
            }
            if unresponsive {
                break;
            }
        }
        kill(pid, Signal::SIGCONT).unwrap();
        daemon.await_status(&mute, "stopping").await;
        force_off(&daemon, &mute).await.expect(200);
    };
    let (stopped, ()) = tokio::join!(stop(&daemon, &mute, LONG), rounds);
    stopped.expect(200);
}
