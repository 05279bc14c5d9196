//! What events cost: commits of a record, each with an event and without, on a real disk; then what the store takes, how long it
//! takes to open, and the memory that it needs (docs/adr/0035).
//!
//! Run with `scripts/bench`. `QHERD_BENCH_COMMITS` makes it fewer than a million.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use qherd::{
    model::{About, Asker, Event, Status, VmId, What},
    store::{Batch, Record, Store},
};
use serde::{Deserialize, Serialize};

const COMMITS: u64 = 1_000_000;
const WITHOUT: &str = "without";
const WITH: &str = "with";
/// Commits at once, as of so many VMs.
const AT_ONCE: u64 = 64;

/// As large as that of a VM with a disk and a NIC.
#[derive(Serialize, Deserialize)]
struct Run(String);

impl Record for Run {
    const KIND: &'static str = "run";
    const VERSION: u32 = 1;
}

fn event(number: u64) -> Event {
    let by = Asker { caller: "uid 1000".to_owned(), request: "8e03978e-40d5-43e8-bc93-6894a57f9324".to_owned() };
    let about = About::Vm {
        id: VmId::from(uuid::Uuid::from_u128(number.into())),
        name: format!("vm-{number:08x}"),
        labels: Vec::new(),
    };
    let what = What::Status { status: Status::Running, reason: None };
    Event { at: qherd::model::now_ms(), about, what, by: vec![by] }
}

fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

fn on_disk(dir: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.map(|file| file.blocks() * 512).sum::<u64>() as f64 / f64::from(1 << 20)
}

async fn commits(store: &Store, count: u64, tells: bool) -> Duration {
    let begun = Instant::now();
    let commits = stream::iter(0..count).map(|number| {
        let batch = Batch::new().put(&(number % AT_ONCE).to_string(), &Run("x".repeat(1_200))).unwrap();
        store.commit(if tells { batch.tell(&event(number)).unwrap() } else { batch })
    });
    commits.buffer_unordered(AT_ONCE as usize).for_each(|done| async { done.unwrap() }).await;
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let count = std::env::var("QHERD_BENCH_COMMITS").map_or(COMMITS, |text| text.parse().unwrap());
    if std::env::args().any(|a| a == WITHOUT || a == WITH) {
        return measure(count, std::env::args().any(|a| a == WITH)).await;
    }
    // Each in a process of its own: what one has freed is not given back.
    for kind in [WITHOUT, WITH] {
        let done = Command::new(std::env::current_exe().unwrap()).args(["--bench", kind]).status().unwrap();
        assert!(done.success());
    }
}

async fn measure(count: u64, tells: bool) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path).unwrap();
    let before = resident();
    let taken = commits(&store, count, tells).await;
    let memory = resident();
    drop(store);
    let begun = Instant::now();
    let store = Store::open(&path).unwrap();
    let opened = begun.elapsed();
    let kept = store.kept_events();
    let read = store.events_after(kept.oldest - 1, 20_000).unwrap().len();
    println!(
        "{count} commits {} events: {:.1} s, {:.0} µs each; {:.1} MiB on disk with the reserve, opened in {opened:.0?}, \
         {memory:.1} MiB resident (+ {:.1}); {read} events kept, the newest {}",
        if tells { "with" } else { "without" },
        taken.as_secs_f64(),
        1e6 * taken.as_secs_f64() / count as f64,
        on_disk(&path),
        memory - before,
        kept.newest,
    );
    assert_eq!(read as u64, if tells { count.min(10_000) } else { 0 });
}
