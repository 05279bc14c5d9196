//! Updates in every state of a VM, at once, and over the daemon's death. The VM is blank: no agent, no drivers, so what
//! a guest would have to follow waits for the next start, and the rest is in effect at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::mutes::{silence, sooner_than_a_monitor_is_given_up};
use crate::stand_in::StandIn;
use crate::support::Daemon;
use crate::support_updates::{
    affinities, argument, config, disk_gib, everywhere, force_off, other_affinities, put, running, start, throttle,
};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const LONG: u64 = 3600;

fn pair(configured: impl Into<Value>, in_effect: impl Into<Value>) -> Value {
    json!({ "configured": configured.into(), "in_effect": in_effect.into() })
}

#[tokio::test]
async fn updates_at_once_are_made_one_after_the_other_and_each_is_told_its_own() {
    let daemon = Daemon::start();
    let stopped = daemon.create(daemon.wish()).await;
    for id in [running(&daemon).await, stopped] {
        let answers = join_all((0..30).map(|number| {
            let (daemon, id) = (&daemon, &id);
            async move {
                match number % 3 {
                    0 => ("vcpus", number % 4 + 1, put(daemon, id, "cpu", json!({ "vcpus": number % 4 + 1 })).await),
                    1 => {
                        let limits = json!({ "io_limits": { "iops": number } });
                        let mut answer = put(daemon, id, "disk", limits).await;
                        ("iops", number, answer["io_limits"].take())
                    }
                    _ => ("disk_size", 2, put(daemon, id, "disk", json!({ "disk_size": 2 })).await),
                }
            }
        }))
        .await;
        for (field, requested, answer) in &answers {
            assert_eq!(&answer[*field], requested, "{answer}");
        }
        let now = config(&daemon, &id).await;
        let requested =
            |name: &str, value: &Value| answers.iter().any(|(n, requested, _)| *n == name && value == requested);
        assert!(requested("vcpus", &now["vcpus"]) && requested("iops", &now["io_limits"]["iops"]), "{now}");
        assert_eq!(now["disk_size"], 2);
        assert_eq!(disk_gib(&daemon, &id).await, 2);
    }
}

#[tokio::test]
async fn an_update_while_starting_waits_for_the_start() {
    let stand_in = StandIn::holding();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let id = daemon.create(daemon.wish()).await;
    let update = async {
        daemon.await_status(&id, "starting").await;
        let release = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stand_in.let_go();
        };
        tokio::join!(put(&daemon, &id, "disk", json!({ "disk_size": 2 })), release).0
    };
    let ((), answer) = tokio::join!(start(&daemon, &id), update);
    assert_eq!((&answer["applied"], &answer["pending"]), (&json!("live"), &json!({})), "{answer}");
    assert_eq!((daemon.status(&id).await.as_str(), disk_gib(&daemon, &id).await), ("running", 2));
}

#[tokio::test]
async fn an_update_while_stopping_is_for_the_next_start() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let stop = daemon.http().post(daemon.at(&format!("/vms/{id}/stop"))).json(&json!({ "timeout": LONG }));
    let stop = tokio::spawn(stop.send());
    daemon.await_status(&id, "stopping").await;
    for (what, body) in [
        ("disk", json!({ "disk_size": 2, "io_limits": { "iops": 77 } })),
        ("memory", json!({ "memory": 96 })),
        ("cpu", json!({ "vcpus": 2, "cpu_pinning": { "cores": [0] } })),
    ] {
        assert_eq!(put(&daemon, &id, what, body).await["applied"], "next_start", "{what}");
    }
    let pending = config(&daemon, &id).await["pending"].take();
    assert_eq!((&pending["memory"], &pending["disk_size"]), (&pair(96, 64), &pair(2, 1)), "{pending}");
    assert_eq!(daemon.status(&id).await, "stopping");
    force_off(&daemon, &id).await;
    assert_eq!(stop.await.unwrap().unwrap().status(), 200);
    assert_eq!(config(&daemon, &id).await["pending"], json!({}));
    start(&daemon, &id).await;
    assert_eq!(argument(daemon.qemus()[0], "-m"), "size=96M");
    assert_eq!((disk_gib(&daemon, &id).await, affinities(&daemon)), (2, vec![vec![0]; 2]));
}

#[tokio::test]
async fn an_update_while_rebooting_is_made() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    daemon.post(&format!("/vms/{id}/reboot"), json!({ "timeout": LONG })).await.expect(200);
    let answer = put(&daemon, &id, "disk", json!({ "disk_size": 2 })).await;
    assert_eq!(answer["applied"], "live", "{answer}");
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 2, "cpu_pinning": { "cores": [1] } })).await;
    assert_eq!(answer["pending"], json!({}), "{answer}");
    assert_eq!(affinities(&daemon), vec![vec![1]; 2]);
    assert_eq!((daemon.status(&id).await.as_str(), disk_gib(&daemon, &id).await), ("rebooting", 2));
}

/// Ruling 8; and what is possible is made up for as soon as the monitor answers again.
#[tokio::test]
async fn updates_of_a_mute_vm_are_stored() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let pid = silence(&daemon, &id);
    // The first one meets a VM of which nobody knows yet that it is mute.
    let pinning = json!({ "cores": [0] });
    let answer = put(&daemon, &id, "cpu", json!({ "cpu_pinning": pinning })).await;
    assert_eq!(answer["applied"], "next_start", "{answer}");
    assert_eq!(answer["pending"]["cpu_pinning"], pair(pinning, Value::Null));
    daemon.await_status(&id, "unresponsive").await;
    let other = running(&daemon).await;
    sooner_than_a_monitor_is_given_up(&daemon, &other, async {
        for (what, body) in [
            ("disk", json!({ "disk_size": 2, "io_limits": { "iops": 50 } })),
            ("cpu", json!({ "vcpus": 3, "cpu_pinning": { "cores": [1] } })),
            ("memory", json!({ "memory": 64 })),
        ] {
            assert_eq!(put(&daemon, &id, what, body).await["applied"], "next_start", "{what}");
        }
    })
    .await;
    force_off(&daemon, &other).await;
    let pending = config(&daemon, &id).await["pending"].take();
    assert_eq!((&pending["vcpus"], &pending["disk_size"]), (&pair(3, 1), &pair(2, 1)), "{pending}");
    kill(pid, Signal::SIGCONT).unwrap();
    daemon.await_status(&id, "running").await;
    daemon.await_in_effect(&id).await;
    assert_eq!((disk_gib(&daemon, &id).await, affinities(&daemon)), (2, vec![vec![1]; 3]));
}

#[tokio::test]
async fn what_a_guest_must_follow_waits_for_the_next_start_and_delays_nothing_else() {
    let daemon = Daemon::start();
    // It may grow, and so QEMU has asked the guest to, in vain.
    let mut wish = daemon.wish();
    wish["max_memory"] = json!(1024);
    let id = daemon.create(wish).await;
    start(&daemon, &id).await;
    let answer = put(&daemon, &id, "memory", json!({ "memory": 96 })).await;
    assert_eq!((&answer["applied"], &answer["memory"]), (&json!("next_start"), &json!(96)), "{answer}");
    assert_eq!(answer["pending"], json!({ "memory": pair(96, 64) }));
    // Added vCPUs are there, and bound.
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 3, "cpu_pinning": { "cores": [1] } })).await;
    assert_eq!((&answer["applied"], &answer["pending"]), (&json!("live"), &json!({ "memory": pair(96, 64) })));
    assert_eq!(affinities(&daemon), vec![vec![1]; 3]);
    // They cannot be removed without an agent.
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 2 })).await;
    assert_eq!(answer["applied"], "next_start", "{answer}");
    assert_eq!(answer["pending"], json!({ "memory": pair(96, 64), "vcpus": pair(2, 3) }));
    // What is in effect says so, whatever else waits.
    let other = running(&daemon).await;
    sooner_than_a_monitor_is_given_up(&daemon, &other, async {
        for (what, body) in [
            ("disk", json!({ "disk_size": 2, "io_limits": { "iops": 9 } })),
            ("cpu", json!({ "cpu_pinning": { "cores": [0] } })),
        ] {
            let answer = put(&daemon, &id, what, body).await;
            assert_eq!(answer["applied"], "live", "{answer}");
        }
    })
    .await;
    force_off(&daemon, &other).await;
    assert_eq!(affinities(&daemon), vec![vec![0]; 3]);
    // Back to what is there: nothing is pending.
    assert_eq!(put(&daemon, &id, "memory", json!({ "memory": 64 })).await["applied"], "live");
    assert_eq!(put(&daemon, &id, "cpu", json!({ "vcpus": 3 })).await["applied"], "live");
    assert_eq!(config(&daemon, &id).await["pending"], json!({}));
    put(&daemon, &id, "cpu", json!({ "vcpus": 2 })).await;
    put(&daemon, &id, "memory", json!({ "memory": 96 })).await;
    force_off(&daemon, &id).await;
    start(&daemon, &id).await;
    assert_eq!(config(&daemon, &id).await["pending"], json!({}));
    let pid = daemon.qemus()[0];
    assert!(argument(pid, "-smp").starts_with("cpus=2,") && argument(pid, "-m").starts_with("size=96M,slots=1,"));
}

#[tokio::test]
async fn every_thread_of_a_running_vm_is_bound_as_pinned() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let pinning = json!({ "vcpus": [[1], [0]], "emulator": [1] });
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 2, "cpu_pinning": pinning })).await;
    assert_eq!((&answer["applied"], &answer["cpu_pinning"]), (&json!("live"), &pinning), "{answer}");
    assert_eq!((affinities(&daemon), other_affinities(&daemon)), (vec![vec![1], vec![0]], vec![vec![1]]));
    // Beyond the list: anywhere.
    put(&daemon, &id, "cpu", json!({ "vcpus": 3 })).await;
    assert_eq!(affinities(&daemon), [vec![1], vec![0], everywhere()]);
    // As many cores as vCPUs mean one each; with one more vCPU they are a set.
    put(&daemon, &id, "cpu", json!({ "vcpus": 3, "cpu_pinning": { "cores": [1, 0] } })).await;
    assert_eq!((affinities(&daemon), other_affinities(&daemon)), (vec![vec![0, 1]; 3], vec![everywhere()]));
    put(&daemon, &id, "cpu", json!({ "cpu_pinning": { "emulator": [0] } })).await;
    assert_eq!((affinities(&daemon), other_affinities(&daemon)), (vec![everywhere(); 3], vec![vec![0]]));
    put(&daemon, &id, "cpu", json!({ "cpu_pinning": null })).await;
    assert_eq!((affinities(&daemon), other_affinities(&daemon)), (vec![everywhere(); 3], vec![everywhere()]));
}

#[tokio::test]
async fn limits_pinning_and_size_outlive_the_daemon_and_the_run() {
    let mut daemon = Daemon::start();
    let id = running(&daemon).await;
    put(&daemon, &id, "cpu", json!({ "vcpus": 2, "cpu_pinning": { "vcpus": [[1], [0]], "emulator": [0] } })).await;
    put(&daemon, &id, "disk", json!({ "disk_size": 2, "io_limits": { "iops": 123 } })).await;
    let before = config(&daemon, &id).await;
    for next_run in [false, true] {
        if next_run {
            force_off(&daemon, &id).await;
            start(&daemon, &id).await;
        }
        assert_eq!(config(&daemon, &id).await, before);
        daemon.kill();
        assert_eq!(throttle(&daemon, &id), 123);
        daemon.run();
        daemon.await_status(&id, "running").await;
        assert_eq!(config(&daemon, &id).await, before);
        assert_eq!(affinities(&daemon), [vec![1], vec![0]]);
        assert_eq!((other_affinities(&daemon), disk_gib(&daemon, &id).await), (vec![vec![0]], 2));
    }
    // What was removed does not come back.
    put(&daemon, &id, "disk", json!({ "io_limits": null })).await;
    daemon.kill();
    assert_eq!(throttle(&daemon, &id), 0);
}

/// PUTs 2, 3, 4… one after the other until the daemon dies; returns the last one that was acknowledged.
fn counting(daemon: &Daemon, id: &str, from: u64, body: fn(u64) -> Value) -> Arc<AtomicU64> {
    let acknowledged = Arc::new(AtomicU64::new(from));
    let (url, http, last) = (daemon.at(&format!("/vms/{id}/disk")), daemon.http().clone(), acknowledged.clone());
    tokio::spawn(async move {
        for number in from + 1.. {
            match http.put(&url).json(&body(number)).send().await {
                Ok(answer) if answer.status() == 200 => last.store(number, Ordering::SeqCst),
                _ => return,
            }
        }
    });
    acknowledged
}

#[tokio::test]
async fn a_killed_daemon_forgets_nothing_that_it_acknowledged() {
    let mut daemon = Daemon::start();
    let (runs, stopped) = (running(&daemon).await, daemon.create(daemon.wish()).await);
    let (mut limit, mut size) = (1, 1);
    for round in 0..5_u64 {
        let limits = counting(&daemon, &runs, limit, |n| json!({ "io_limits": { "iops": n } }));
        let sizes = counting(&daemon, &stopped, size, |n| json!({ "disk_size": n }));
        let random = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
        tokio::time::sleep(Duration::from_millis(30 * round + random)).await;
        daemon.kill();
        let acknowledged = (limits.load(Ordering::SeqCst), sizes.load(Ordering::SeqCst));
        daemon.run();
        daemon.await_status(&runs, "running").await;
        limit = config(&daemon, &runs).await["io_limits"]["iops"].as_u64().unwrap_or(1);
        size = config(&daemon, &stopped).await["disk_size"].as_u64().unwrap();
        assert!((acknowledged.0..=acknowledged.0 + 1).contains(&limit), "{limit} after {acknowledged:?}");
        assert!((acknowledged.1..=acknowledged.1 + 1).contains(&size), "{size} after {acknowledged:?}");
        daemon.await_in_effect(&runs).await;
    }
    // QEMU and the image have what the definition says.
    start(&daemon, &stopped).await;
    assert_eq!(disk_gib(&daemon, &stopped).await, size);
    daemon.kill();
    assert_eq!(throttle(&daemon, &runs), if limit == 1 { 0 } else { limit });
}
