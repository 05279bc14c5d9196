//! What the daemon adds to QEMU: a start and a forced stop through the API against a bare spawn and kill of the very
//! same command line, in turn, in one run. Absolute times of a shared machine mean little; the ratios are the result.
//!
//! Run with `scripts/bench`. Not a criterion bench: pairs have to alternate for their ratio to hold when the machine's
//! speed drifts.

#![allow(unsafe_code)]

mod bare;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bare::{bare_start, bare_stop, command_line, median, sandboxed_start};
use qherd::{
    host::sandbox::{Programs, Sandbox},
    model::Uids,
};
use serde_json::json;
use support::Daemon;

const PAIRS: usize = 30;

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let daemon = Daemon::start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = resident(daemon.pid());
    let mut wish = daemon.wish();
    wish["cpu_pinning"] = json!({ "cores": [0] });
    wish["io_limits"] = json!({ "iops": 1000 });
    let id = daemon.create(wish).await;
    let path = |action: &str| format!("/vms/{id}/{action}");
    daemon.post(&path("start"), json!({})).await.expect(200);
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap();
    let arguments = command_line(pid);
    daemon.post(&path("stop?force=true"), json!({})).await.expect(200);

    let said = std::process::Command::new(&arguments[0]).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(said).unwrap().split_whitespace().nth(3).unwrap().to_owned();
    let programs = Programs { program: Path::new(&arguments[0]), version: &version, others: &[], kvm: false };
    let sandbox = Sandbox::find(programs, Uids::default(), &format!("bench-{}", std::process::id())).await;
    assert!(sandbox.missing().is_empty(), "{:?}", sandbox.missing());

    let mut sandboxed = vec![];
    let (mut starts, mut bare_starts, mut stops, mut bare_stops) = (vec![], vec![], vec![], vec![]);
    for _ in 0..PAIRS {
        let (qemu, started) = bare_start(&arguments, &daemon.run_dir(&id), None);
        bare_starts.push(started);
        bare_stops.push(bare_stop(qemu));
        let (qemu, started) = sandboxed_start(&arguments, &daemon.run_dir(&id), &sandbox);
        sandboxed.push(started);
        bare_stop(qemu);
        starts.push(timed(daemon.post(&path("start"), json!({}))).await);
        stops.push(timed(daemon.post(&path("stop?force=true"), json!({}))).await);
    }
    let after = resident(daemon.pid());
    sandbox.sweep();

    let creates = many(&daemon, 50).await;
    println!("{PAIRS} pairs, API against bare QEMU, in turn; milliseconds, median (minimum to maximum)");
    row("bare spawn to running", &bare_starts);
    row("the same in a sandbox", &sandboxed);
    row("start through the API", &starts);
    row("bare kill to reaped", &bare_stops);
    row("forced stop through the API", &stops);
    row("create (linked clone) through the API", &creates);
    let ratios = |of: &[Duration]| -> Vec<f64> {
        of.iter().zip(&bare_starts).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect()
    };
    let added: Vec<f64> =
        stops.iter().zip(&bare_stops).map(|(a, b)| 1e3 * (a.as_secs_f64() - b.as_secs_f64())).collect();
    println!("start, sandbox / bare, pair by pair:    {:.2}", median(&ratios(&sandboxed)));
    println!("start, API / bare, pair by pair:        {:.2}", median(&ratios(&starts)));
    println!("forced stop, API - bare, pair by pair:  {:.1} ms", median(&added));
    println!("resident memory of the daemon:          {idle:.1} MiB idle, {after:.1} MiB after {PAIRS} starts");
}

async fn timed(request: impl Future<Output = support::Answer>) -> Duration {
    let begin = Instant::now();
    let answer = request.await;
    let taken = begin.elapsed();
    answer.expect(200);
    taken
}

async fn many(daemon: &Daemon, count: usize) -> Vec<Duration> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let id = daemon.create(daemon.wish()).await;
        taken.push(begin.elapsed());
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    taken
}

/// MiB.
fn resident(pid: i32) -> f64 {
    let pages = procfs::process::Process::new(pid).unwrap().statm().unwrap().resident;
    (pages * procfs::page_size()) as f64 / f64::from(1 << 20)
}

fn row(name: &str, taken: &[Duration]) {
    let mut ms: Vec<f64> = taken.iter().map(|d| d.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    println!("{name:<40}{:>8.1}  ({:.1} to {:.1})", median(&ms), ms[0], ms[ms.len() - 1]);
}
