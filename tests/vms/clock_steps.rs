//! The host's clock is set an hour, or a day, forward and back while the daemon runs: nothing ends early, nothing takes
//! longer, over a restart of the daemon neither. The daemon is the real one under libfaketime, whose clock on the wall the
//! test sets; the clock of timers is left alone, as the kernel does.

use std::time::Duration;

use crate::stand_in::StandIn;
use crate::support::{Answer, Daemon, PATIENCE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qherd::{
    model::{Due, Ending, Upkeep, monotonic_ms, now_ms},
    store::{Batch, Store},
    vm::{core::Run, records},
};
use serde_json::{Value, json};

const HOUR: i64 = 3600;

struct Clock {
    daemon: Daemon,
    _qemu: StandIn,
}

impl Clock {
    fn start() -> Self {
        // Guests have the clock of the host.
        let qemu = StandIn::new("unset LD_PRELOAD");
        let mut clock = Self { daemon: Daemon::prepare(&["--accel", "tcg", "--qemu", &qemu.as_arg()]), _qemu: qemu };
        clock.set(0);
        clock.run();
        clock
    }

    fn run(&mut self) {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        assert!(std::path::Path::new(&library).exists(), "{library} is missing: scripts/test installs it");
        let mut command = self.daemon.command();
        command.env("LD_PRELOAD", library).env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_TIMESTAMP_FILE", self.daemon.dir.path().join("clock"));
        self.daemon.run_as(command);
    }

    /// Sets the clock so many seconds off.
    fn set(&self, offset: i64) {
        let (file, new) = (self.daemon.dir.path().join("clock"), self.daemon.dir.path().join("clock.new"));
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn running(&self, policy: Value) -> String {
        let mut wish = self.daemon.wish();
        wish.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
        wish["start"] = json!(true);
        self.daemon.create(wish).await
    }

    /// The guest hears of no power button: it is the deadline that ends this.
    async fn stop(&self, id: &str, timeout: u64) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
        let path = self.daemon.at(&format!("/vms/{id}/stop?timeout={timeout}"));
        let stop = tokio::spawn(self.daemon.http().post(path).send());
        self.daemon.await_status(id, "stopping").await;
        stop
    }

    /// By the daemon's clock.
    async fn now(&self) -> u64 {
        let id = self.daemon.create(self.daemon.wish()).await;
        let vm = self.daemon.get(&format!("/vms/{id}")).await.expect(200);
        let created = humantime::parse_rfc3339(vm["created_at"].as_str().unwrap()).unwrap();
        self.daemon.delete(&format!("/vms/{id}")).await.expect(200);
        created.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    }
}

#[tokio::test]
async fn a_deadline_is_neither_stretched_nor_ended_by_a_clock_that_is_set() {
    let mut clock = Clock::start();
    let before = clock.now().await;
    let (long, short, later) =
        (clock.running(json!({})).await, clock.running(json!({})).await, clock.running(json!({})).await);
    let rebooted = clock.running(json!({})).await;
    let _waiting = clock.stop(&long, 3000).await;
    let short_stop = clock.stop(&short, 3).await;
    let reboot = format!("/vms/{rebooted}/reboot");
    clock.daemon.post(&reboot, json!({ "timeout": 3 })).await.expect(200);
    clock.set(-HOUR);
    assert!(clock.now().await < before, "the daemon sees the clock that was set");
    // Each would take an hour.
    assert_eq!(short_stop.await.unwrap().unwrap().json::<Value>().await.unwrap()["forced"], true);
    clock.daemon.await_status(&rebooted, "running").await;

    clock.set(HOUR);
    assert!(clock.now().await > before + 3000);
    // The next thing that happens to this VM would be its end.
    clock.daemon.put(&format!("/vms/{long}/policy"), json!({ "max_restarts": 2 })).await.expect(200);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(clock.daemon.status(&long).await, "stopping");

    // Also when the clock is set while no daemon runs.
    let _cut_off = clock.stop(&later, 5).await;
    clock.daemon.kill();
    clock.set(-HOUR);
    clock.run();
    assert_eq!(clock.daemon.status(&long).await, "stopping");
    clock.daemon.await_status(&later, "stopped").await;
    clock.daemon.kill();
    clock.set(2 * HOUR);
    clock.run();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(clock.daemon.status(&long).await, "stopping");
    clock.daemon.post(&format!("/vms/{long}/stop?force=true"), json!({})).await.expect(200);
}

#[tokio::test]
async fn restarts_uptimes_and_keys_do_not_follow_a_clock_that_is_set() {
    let clock = Clock::start();
    let id = clock.running(json!({ "restart_policy": "on-failure", "max_restarts": 1 })).await;
    let key = "a-key-for-a-day";
    let made = keyed(&clock.daemon, key).await.expect(201);

    clock.set(-HOUR);
    let pid = clock.daemon.qemus()[0];
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let begun = std::time::Instant::now();
    // One look each time: between two, the old one may have gone.
    while clock.daemon.qemus().iter().all(|qemu| *qemu == pid) {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    clock.daemon.await_status(&id, "running").await;
    clock.set(25 * HOUR);
    let details = clock.daemon.get(&format!("/vms/{id}")).await.expect(200);
    assert!(details["uptime"].as_u64().unwrap() < 600, "{details}");
    // It has not run for ten minutes, so this is the second in a row, and one too many.
    kill(Pid::from_raw(clock.daemon.qemus()[0]), Signal::SIGKILL).unwrap();
    clock.daemon.await_status(&id, "crashed").await;
    let status = clock.daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    assert_eq!((&status["restarts"], &status["next_restart"]), (&json!(1), &Value::Null), "{status}");
    // A day has not passed.
    assert_eq!(keyed(&clock.daemon, key).await.expect(201)["id"], made["id"]);
}

/// A restart that is a minute ahead, as the daemon before this one has stored it.
async fn owe_a_restart(daemon: &Daemon, id: &str) {
    let dir = daemon.state().join("db");
    let store = tokio::task::spawn_blocking(move || Store::open(&dir).unwrap()).await.unwrap();
    let mut vm = records::get(&store, id).unwrap().unwrap();
    let (run, at, monotonic) = (&mut vm.record.run, now_ms() + 60_000, Some(monotonic_ms() + 60_000));
    run.state = Run::Down { last: Ending::Crashed { reason: "a test".into() } };
    run.upkeep = Upkeep { attempts: 7, due: Some(Due::Restart { at, monotonic }) };
    records::commit_all(&store, Batch::new(), &mut [&mut vm]).await.unwrap();
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
}

/// Seconds since 1970.
fn seconds(time: &Value) -> i64 {
    let time = humantime::parse_rfc3339(time.as_str().unwrap_or_else(|| panic!("no time: {time}"))).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

#[tokio::test]
async fn moments_are_told_by_the_clock_as_it_stands() {
    let mut clock = Clock::start();
    let owed = clock.running(json!({ "restart_policy": "on-failure" })).await;
    let runs = clock.running(json!({})).await;
    clock.daemon.post(&format!("/vms/{owed}/stop?force=true"), json!({})).await.expect(200);
    clock.daemon.kill();
    owe_a_restart(&clock.daemon, &owed).await;
    clock.run();
    let reported = async |clock: &Clock| {
        let (owed, runs) = (format!("/vms/{owed}/status"), format!("/vms/{runs}"));
        let (owed, runs) = (clock.daemon.get(&owed).await.expect(200), clock.daemon.get(&runs).await.expect(200));
        let in_words = owed["reason"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
        [seconds(&owed["next_restart"]), seconds(&json!(in_words)), seconds(&runs["started_at"])]
    };
    let before = reported(&clock).await;
    assert_eq!(before, reported(&clock).await, "nobody has set it");
    for offset in [-HOUR, 25 * HOUR] {
        clock.set(offset);
        for (reported, before) in reported(&clock).await.into_iter().zip(before) {
            let late = reported - before - offset;
            assert!((-1..=1).contains(&late), "{reported}, {before} before the clock was set by {offset}");
        }
    }
}

async fn keyed(daemon: &Daemon, key: &str) -> Answer {
    daemon.send(daemon.http().post(daemon.at("/vms")).header("Idempotency-Key", key).json(&daemon.wish())).await
}
