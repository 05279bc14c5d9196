//! Signals, and the end of the host, which tells the daemon and every QEMU at once to end: nothing starts any more, a daemon
//! that is to end its VMs does so within its limit, and what is recorded is right for the next one.

use crate::support;

use crate::stand_in::StandIn;
use crate::support::Daemon;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qherd::{
    model::Boot,
    store::{Batch, Store},
};
use serde_json::{Value, json};

async fn running(daemon: &Daemon, policy: Value) -> (String, i32) {
    let mut wish = daemon.wish();
    wish.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap();
    (id, pid as i32)
}

/// A stop that the guest does not hear of, until the daemon no longer waits for it.
async fn stopping(daemon: &Daemon, id: &str) {
    let stop = daemon.http().post(daemon.at(&format!("/vms/{id}/stop?timeout=3600"))).send();
    tokio::spawn(stop);
    daemon.await_status(id, "stopping").await;
}

fn terminate(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }
}

/// A state directory as a host finds it that was restarted since.
fn after_a_boot(daemon: &Daemon) {
    let change = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(&daemon.state().join("db")).unwrap();
            store
                .commit(Batch::new().put("boot", &Boot { boot_id: "before".into(), init: None }).unwrap())
                .await
                .unwrap();
        });
    };
    std::thread::scope(|scope| scope.spawn(change).join().unwrap());
}

#[tokio::test]
async fn a_signal_ends_the_daemon_in_order_or_not_at_all() {
    let mut daemon = Daemon::start();
    let unheeded = [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGPWR,
        Signal::SIGSTKFLT,
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
    ];
    for signal in unheeded {
        daemon.signal(signal);
        daemon.await_log(&format!("{signal} means nothing")).await;
    }
    daemon.signal(Signal::SIGPIPE);
    let id = daemon.create(daemon.wish()).await;
    assert_eq!(daemon.status(&id).await, "stopped");
    daemon.signal(Signal::SIGQUIT);
    assert!(daemon.wait().success());
    let log = daemon.log_text();
    assert!(log.contains("SIGQUIT") && log.contains("exported the definitions"), "{log}");
}

#[tokio::test]
async fn at_the_end_of_the_host_nothing_starts_and_no_vm_outlives_a_daemon_that_ends_them() {
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--stop-vms-on-exit", "--stop-timeout", "2"]);
    let always = json!({ "restart_policy": "always" });
    let (kept, first) = running(&daemon, always.clone()).await;
    let (failed, second) = running(&daemon, json!({ "restart_policy": "on-failure" })).await;
    let autostart = json!({ "restart_policy": "always", "autostart": { "enabled": true } });
    let (wanted, third) = running(&daemon, autostart).await;
    let (leaving, fourth) = running(&daemon, always.clone()).await;
    // This one is not told to end, so that the daemon waits for its stop as long as it waits for anything.
    let (held, _) = running(&daemon, always).await;
    stopping(&daemon, &leaving).await;
    stopping(&daemon, &held).await;
    terminate([daemon.pid(), first, second, third, fourth]);
    assert!(daemon.wait().success());
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
    let log = daemon.log_text();
    assert!(!log.contains(" restarting"), "{log}");

    // It was ended on purpose: only a boot of the host starts what is to start then.
    daemon.run();
    for id in [&kept, &failed, &wanted, &leaving, &held] {
        let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
        assert_eq!((&status["status"], &status["next_restart"]), (&json!("stopped"), &Value::Null), "{status}");
    }
    daemon.kill();
    after_a_boot(&daemon);
    daemon.run();
    daemon.await_status(&wanted, "running").await;
    assert_eq!(daemon.qemus().len(), 1);
}

#[tokio::test]
async fn a_vm_that_ends_while_the_daemon_does_is_the_next_ones_to_start() {
    let mut daemon = Daemon::start();
    let once = json!({ "restart_policy": "always", "max_restarts": 1 });
    let (id, pid) = running(&daemon, once).await;
    // Its one restart is used up; that the host goes down is no second one.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    daemon.await_log("restarting").await;
    daemon.await_status(&id, "running").await;
    let (held, _) = running(&daemon, json!({})).await;
    stopping(&daemon, &held).await;
    let [again] = daemon
        .qemus()
        .into_iter()
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&id)))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", daemon.qemus())
    };
    terminate([daemon.pid()]);
    daemon.await_log("SIGTERM").await;
    terminate([again]);
    assert!(daemon.wait().success());
    assert_eq!(daemon.log_text().matches(" restarting").count(), 1);
    assert_eq!(daemon.qemus().len(), 1, "the guest that was asked to stop has its time");
    daemon.run();
    daemon.await_status(&id, "running").await;
    daemon.post(&format!("/vms/{held}/stop?force=true"), json!({})).await.expect(200);
}

#[tokio::test]
async fn a_vm_that_is_being_made_does_not_outlive_a_daemon_that_ends_its_vms() {
    let stand_in = StandIn::holding();
    let qemu = stand_in.as_arg();
    let ends = ["--accel", "tcg", "--stop-vms-on-exit", "--stop-timeout", "1", "--qemu", &qemu];
    let mut daemon = Daemon::start_with(&ends);
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let create = tokio::spawn(daemon.http().post(daemon.at("/vms")).json(&wish).send());
    let begun = std::time::Instant::now();
    while daemon.qemus().is_empty() {
        assert!(begun.elapsed() < support::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    terminate([daemon.pid()]);
    assert_eq!(create.await.unwrap().unwrap().status().as_u16(), 503);
    assert!(daemon.wait().success());
    assert_eq!((daemon.qemus(), daemon.leftovers()), (vec![], vec![]));
}
