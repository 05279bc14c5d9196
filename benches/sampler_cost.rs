//! What watching 50 running VMs costs the daemon: its CPU time while nobody asks it anything, as percent of one core.
//!
//! Run with `scripts/bench`. The VMs are as small as they can be and idle (firmware that found nothing to boot), because
//! the cost of a sampling does not depend on what the guest does.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::Daemon;

const VMS: usize = 50;
const MEASURED: Duration = Duration::from_secs(30);
/// The firmware of 50 VMs needs the cores for itself for a while.
const SETTLED: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let daemon = Daemon::start_logging("qherd=info");
    let idle = cost(&daemon).await;
    let mut wish = daemon.wish();
    wish["memory"] = json!(32);
    wish["start"] = json!(true);
    let mut ids = Vec::new();
    for _ in 0..VMS {
        ids.push(daemon.create(wish.clone()).await);
    }
    for id in &ids {
        daemon.await_status(id, "running").await;
    }
    tokio::time::sleep(SETTLED).await;
    let watching = cost(&daemon).await;
    for id in &ids {
        assert_eq!(daemon.status(id).await, "running");
    }
    println!("CPU time of the daemon over {} s, percent of one core", MEASURED.as_secs());
    println!("{:<40}{idle:>8.2} %", "no VM");
    println!("{:<40}{watching:>8.2} %", format!("{VMS} running VMs"));
}

/// Percent of one core, over a stretch in which no request comes.
async fn cost(daemon: &Daemon) -> f64 {
    let (begin, before) = (Instant::now(), cpu_time(daemon.pid()));
    tokio::time::sleep(MEASURED).await;
    100.0 * (cpu_time(daemon.pid()) - before) / begin.elapsed().as_secs_f64()
}

/// Seconds, of all threads together (fields 14 and 15 of /proc/PID/stat).
fn cpu_time(pid: i32) -> f64 {
    let stat = procfs::process::Process::new(pid).unwrap().stat().unwrap();
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}
