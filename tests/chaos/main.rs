//! Chaos: some ten VMs are asked for this and that while the daemon is killed, at random instants, at its commits and
//! while it starts, and QEMUs are killed and stopped; after each recovery everything is looked at from outside.
//!
//! `scripts/chaos` runs it for long. A failure prints the seed, with which the same plan runs again; how far the clock
//! of the machine follows it is another matter.

mod aside;
mod check;
mod client;
mod model;
mod network;
mod operation;
mod plan;
mod subscriber;
#[path = "../support/mod.rs"]
mod support;
mod switch;

use std::{
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use client::{Client, Place};
use network::Wanted;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use plan::{Cycle, Death, PLACES};
use qherd::store::Store;
use serde_json::json;
use subscriber::Subscriber;
use support::{Daemon, guest};

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    cycles: u64,
    /// With requests under way.
    killed_at_work: u64,
    /// Of these, right before or after a commit.
    killed_at_a_commit: u64,
    killed_starting: u64,
    killed_idle: u64,
    qemus_killed: u64,
    qemus_stopped: u64,
    operations: u64,
    /// Those that nobody waited for on the line.
    aside: u64,
    /// Requests that were given an id.
    named: u64,
    acknowledged: u64,
    refused: u64,
    unanswered: u64,
    reads: u64,
    /// Running VMs that a recovery was looked at with, added up.
    running: u64,
    /// Switches and NICs on them that a recovery was looked at with, added up.
    switches: u64,
    nics: u64,
    forwards: u64,
    discs: u64,
    /// Volumes that were left.
    kept: u64,
    /// Disks that were there before and were to be attached.
    attached: u64,
    /// Of the running VMs, guests that had told of their heartbeat.
    beating: u64,
    /// Guests whose heart beat at the end.
    beat_at_the_end: u64,
    events: u64,
}

impl Tally {
    fn kills(&self) -> u64 {
        self.killed_at_work + self.killed_starting + self.killed_idle
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_left_behind_for_a_while() {
    chaos(variable("QHERD_CHAOS_SEED").unwrap_or(5), Duration::from_secs(25));
}

#[test]
#[ignore = "as long as one likes: scripts/chaos"]
fn nothing_is_lost_and_nothing_is_left_behind() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seconds = variable("QHERD_CHAOS_SECONDS").unwrap_or(600);
    chaos(variable("QHERD_CHAOS_SEED").unwrap_or(now), Duration::from_secs(seconds));
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn chaos(seed: u64, time: Duration) {
    println!("chaos: seed {seed}, {} s", time.as_secs());
    network::enter();
    // Made in the namespace, and so are its threads and all processes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tally = runtime.block_on(run(seed, time));
    println!("chaos: {} kills of the daemon, no complaint; {tally:#?}", tally.kills());
}

async fn run(seed: u64, time: Duration) -> Tally {
    let images = guest::image().parent().unwrap().display().to_string();
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--image-dir", &images]);
    for number in operation::DISCS {
        std::fs::write(daemon.bases().join(operation::disc(number)), vec![0; 1 << 20]).unwrap();
    }
    let theirs = daemon.dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    daemon.add_args(&["--storage-dir", theirs.to_str().unwrap()]);
    let mut places: Vec<Place> = (0..PLACES).map(|_| Place::default()).collect();
    let mut tally = Tally::default();
    let mut subscriber = Subscriber::default();
    let begin = Instant::now();
    while begin.elapsed() < time {
        let number = tally.cycles;
        let cycle = Cycle::of(seed, number);
        let wrong = one_cycle(&mut daemon, &cycle, &mut places, &mut subscriber, &mut tally).await;
        if !wrong.is_empty() {
            panic!(
                "seed {seed}, cycle {number} of {} kills; again with: scripts/chaos --seed {seed}\n  {}\n{cycle:#?}",
                tally.kills(),
                wrong.join("\n  ")
            );
        }
        tally.cycles += 1;
        if tally.cycles.is_multiple_of(20) {
            println!("chaos: {} s, {} cycles, {} kills", begin.elapsed().as_secs(), tally.cycles, tally.kills());
        }
    }
    finish(daemon, &mut places, &mut tally).await;
    tally
}

/// A daemon works and dies, dies while it starts again, and recovers. Returns what is wrong then.
async fn one_cycle(
    daemon: &mut Daemon,
    cycle: &Cycle,
    places: &mut [Place],
    subscriber: &mut Subscriber,
    tally: &mut Tally,
) -> Vec<String> {
    daemon.forget_log();
    match cycle.death {
        Death::At(_) | Death::WhenDone => daemon.run(),
        Death::Commit(commit, side) => {
            let command = daemon.dying_at(commit, side);
            // Its start may have something to commit, and die over it.
            if !daemon.try_run_as(command) {
                daemon.wait();
                tally.killed_at_a_commit += 1;
                tally.killed_at_work += 1;
                daemon.run();
            }
        }
    }
    let client = Client {
        daemon: &*daemon,
        wrong: Default::default(),
        acknowledged: Default::default(),
        tally: std::cell::RefCell::new(tally),
    };
    let hanging = client.carry_out(cycle, places).await;
    let (mut wrong, mut acknowledged) = (client.wrong.take(), client.acknowledged.take());
    daemon.wait();
    tally.killed_at_work += 1;
    tally.killed_at_a_commit += u64::from(daemon.log_text().contains("dying at the fail point"));
    for after in &cycle.starts {
        let mut command = daemon.command();
        let mut starting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(*after)).await;
        starting.kill().unwrap();
        starting.wait().unwrap();
        tally.killed_starting += 1;
    }
    daemon.run();
    for pid in hanging {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    assert!(daemon.comes_to_rest().await, "it died by itself");
    wrong.extend(check::complaints(daemon, places).await);
    wrong.extend(subscriber.complaints(daemon, &mut acknowledged).await);
    tally.events = subscriber.seen;
    let running = places.iter().filter_map(|place| place.vm.as_ref()).filter(|vm| vm.statuses == ["running"]);
    for vm in running {
        tally.running += 1;
        tally.beating += u64::from(vm.boot.is_some());
        tally.nics += vm.definition().nics.len() as u64;
        tally.discs += u64::from(vm.definition().iso.is_some());
    }
    for switch in places.iter().filter_map(|place| place.switch.as_ref()) {
        tally.switches += 1;
        tally.forwards += switch.definition().forwards.len() as u64;
    }
    if wrong.is_empty() {
        daemon.kill();
        tally.killed_idle += 1;
    }
    wrong
}

/// Everything still works: the guests' hearts beat, every VM starts, and after the last delete there is nothing.
async fn finish(mut daemon: Daemon, places: &mut [Place], tally: &mut Tally) {
    daemon.run();
    assert!(daemon.comes_to_rest().await);
    for vm in places.iter().filter_map(|place| place.vm.as_ref()) {
        let id = vm.id.as_ref().unwrap();
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
        if vm.definition().memory == plan::GUEST_MEMORY {
            let before = daemon.beats(id).await.last().cloned();
            daemon.await_beat(id, |beat| before.as_ref() != Some(beat)).await;
            tally.beat_at_the_end += 1;
        }
    }
    daemon.assert_in_order().await;
    for vm in places.iter().filter_map(|place| place.vm.as_ref()) {
        daemon.delete(&format!("/vms/{}", vm.id.as_ref().unwrap())).await.expect(200);
    }
    for image in daemon.get("/images").await.expect(200).as_array().unwrap() {
        daemon.delete(&format!("/images/{}", image["id"].as_str().unwrap())).await.expect(200);
    }
    for volume in daemon.get("/volumes").await.expect(200).as_array().unwrap() {
        assert!(std::path::Path::new(volume["disk_file"].as_str().unwrap()).exists(), "{volume}");
        daemon.delete(&format!("/volumes/{}", volume["id"].as_str().unwrap())).await.expect(200);
        tally.kept += 1;
    }
    assert_eq!(network::lasting_complaints(&daemon).await, [] as [&str; 0]);
    for switch in places.iter().filter_map(|place| place.switch.as_ref()) {
        daemon.delete(&format!("/switches/{}", switch.id.as_ref().unwrap())).await.expect(200);
    }
    daemon.assert_in_order().await;
    assert_eq!(network::lasting_complaints(&daemon).await, [] as [&str; 0]);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    let theirs = daemon.dir.path().join("theirs");
    assert_eq!(operation::spoilt(&theirs), [] as [std::path::PathBuf; 0]);
    tally.attached = std::fs::read_dir(theirs).unwrap().count() as u64;
    assert!(daemon.terminate().success());
    let left = Store::open(&daemon.state().join("db")).unwrap().names().unwrap();
    let of_vms = |name: &&String| ["vm/", "run/", "layer/", "image/"].iter().any(|kind| name.starts_with(kind));
    let left: Vec<_> = left.iter().filter(of_vms).collect();
    assert!(left.is_empty(), "records without an owner: {left:?}");
    assert_eq!(network::complaints(&Wanted::default()), [] as [&str; 0]);
}
