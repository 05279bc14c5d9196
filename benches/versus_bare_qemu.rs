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

use bare::{Carrier, bare_start, bare_stop, command_line, median, sandboxed_start};
use qherd::{
    host::{
        launcher::QEMU_PROBE,
        sandbox::{Programs, Sandbox},
    },
    model::{MacAddr, Uids},
    net::passt,
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
    let carried = daemon.create(wish.clone()).await;
    wish["networks"] = json!([]);
    let id = daemon.create(wish).await;
    let path = |id: &str, action: &str| format!("/vms/{id}/{action}");
    let mut lines = Vec::new();
    let mut passt = None;
    for id in [&id, &carried] {
        daemon.post(&path(id, "start"), json!({})).await.expect(200);
        let vm = daemon.get(&format!("/vms/{id}")).await.expect(200);
        lines.push(command_line(vm["pid"].as_i64().unwrap()));
        if let Some(mac) = vm["mac_address"].as_str() {
            let running = passt::running(MacAddr::parse(mac).unwrap(), None);
            passt = running.unwrap().first().map(|process| command_line(process.pid().into()));
        }
        daemon.post(&path(id, "stop?force=true"), json!({})).await.expect(200);
    }
    let (arguments, with_nic) = (&lines[0], &lines[1]);
    let passt = passt.expect("a passt that carries the default NIC");

    let said = std::process::Command::new(&arguments[0]).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(said).unwrap().split_whitespace().nth(3).unwrap().to_owned();
    let program = Path::new(&arguments[0]);
    let programs = Programs { program, version: &version, others: &[], permit: QEMU_PROBE, kvm: false };
    let sandbox = Sandbox::find(programs, Uids::default(), &format!("bench-{}", std::process::id())).await;
    assert!(sandbox.missing().is_empty(), "{:?}", sandbox.missing());

    let (mut sandboxed, mut carried_starts, mut by_hand) = (vec![], vec![], vec![]);
    let (mut starts, mut bare_starts, mut stops, mut bare_stops) = (vec![], vec![], vec![], vec![]);
    for _ in 0..PAIRS {
        let (qemu, started) = bare_start(arguments, &daemon.run_dir(&id), Carrier::None);
        bare_starts.push(started);
        bare_stops.push(bare_stop(qemu));
        let (qemu, started) = sandboxed_start(arguments, &daemon.run_dir(&id), &sandbox);
        sandboxed.push(started);
        bare_stop(qemu);
        starts.push(timed(daemon.post(&path(&id, "start"), json!({}))).await);
        stops.push(timed(daemon.post(&path(&id, "stop?force=true"), json!({}))).await);
        let (qemu, started) = bare_start(with_nic, &daemon.run_dir(&carried), Carrier::Passt(&passt));
        by_hand.push(started);
        bare_stop(qemu);
        carried_starts.push(timed(daemon.post(&path(&carried, "start"), json!({}))).await);
        daemon.post(&path(&carried, "stop?force=true"), json!({})).await.expect(200);
    }
    let after = resident(daemon.pid());
    sandbox.sweep();

    let creates = many(&daemon, 50).await;
    println!("{PAIRS} pairs, API against bare QEMU, in turn; milliseconds, median (minimum to maximum)");
    row("bare spawn to running", &bare_starts);
    row("the same in a sandbox", &sandboxed);
    row("start through the API", &starts);
    row("bare with a NIC and passt by hand", &by_hand);
    row("start with the default NIC, by passt", &carried_starts);
    row("bare kill to reaped", &bare_stops);
    row("forced stop through the API", &stops);
    row("create (linked clone) through the API", &creates);
    let ratios = |of: &[Duration], to: &[Duration]| -> Vec<f64> {
        of.iter().zip(to).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect()
    };
    let added: Vec<f64> =
        stops.iter().zip(&bare_stops).map(|(a, b)| 1e3 * (a.as_secs_f64() - b.as_secs_f64())).collect();
    println!("start, sandbox / bare, pair by pair:    {:.2}", median(&ratios(&sandboxed, &bare_starts)));
    println!("start, API / bare, pair by pair:        {:.2}", median(&ratios(&starts, &bare_starts)));
    println!("with the default NIC, API / by hand:    {:.2}", median(&ratios(&carried_starts, &by_hand)));
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
