//! Whether a request costs more where there are more VMs: create, status, start and forced stop beside ten definitions and
//! beside ten thousand, in turn, on two daemons. And what so many take: memory, and the time until they are taken over.
//!
//! Run with `scripts/bench`. `QHERD_BENCH_VMS` makes it fewer than ten thousand.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use support::Daemon;

const FEW: usize = 10;
const MANY: usize = 10_000;
const ROUNDS: usize = 40;
const RESTARTS: usize = 5;
/// By then the daemon has given back what it needed for its start.
const SETTLED: Duration = Duration::from_secs(20);
/// Creates at once, while the definitions are made.
const HANDS: usize = 8;

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let many = std::env::var("QHERD_BENCH_VMS").map_or(MANY, |text| text.parse().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (small, mut large) = (Daemon::start(), Daemon::prepare(&[]));
    large.run_as(on_port(&large, port));
    fill(&small, FEW).await;
    let begun = Instant::now();
    fill(&large, many).await;
    println!("{many} definitions made in {:.0?}; memory {:.1} MiB", begun.elapsed(), resident(large.pid()));

    let mut taken: [[Vec<Duration>; 2]; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (at, daemon) in [&small, &large].into_iter().enumerate() {
            for (step, time) in once(daemon).await.into_iter().enumerate() {
                taken[step][at].push(time);
            }
        }
    }
    println!(
        "{ROUNDS} rounds, in turn; milliseconds, medians beside {FEW} and beside {many} definitions, and their ratio"
    );
    for (name, times) in ["create", "status", "start", "forced stop"].into_iter().zip(&mut taken) {
        let [few, much] = times.each_mut().map(|times| 1e3 * median(times).as_secs_f64());
        println!("{name:<14}{few:>9.2}{much:>9.2}   {:.2}", much / few);
    }
    drop(small);

    let mut adopted: Vec<Duration> = Vec::new();
    for _ in 0..RESTARTS {
        adopted.push(restart(&mut large, port, many).await);
    }
    println!("{many} definitions: all in the list {:.0?} after the start of the daemon", median(&mut adopted));
    tokio::time::sleep(SETTLED).await;
    println!("memory {:.1} MiB a while after it", resident(large.pid()));
}

fn wish(daemon: &Daemon) -> Value {
    let mut wish = daemon.wish();
    wish["memory"] = json!(16);
    wish
}

async fn fill(daemon: &Daemon, vms: usize) {
    let made = stream::iter(0..vms).map(|_| daemon.create(wish(daemon))).buffer_unordered(HANDS);
    made.for_each(async |_| ()).await;
}

/// A VM from its create to its end; how long each took but the last.
async fn once(daemon: &Daemon) -> [Duration; 4] {
    let begun = Instant::now();
    let id = daemon.create(wish(daemon)).await;
    let created = begun.elapsed();
    let (vm, begun) = (format!("/vms/{id}"), Instant::now());
    daemon.get(&format!("{vm}/status")).await.expect(200);
    let read = begun.elapsed();
    let begun = Instant::now();
    daemon.post(&format!("{vm}/start"), json!({})).await.expect(200);
    let started = begun.elapsed();
    let begun = Instant::now();
    daemon.post(&format!("{vm}/stop?force=true"), json!({})).await.expect(200);
    let stopped = begun.elapsed();
    daemon.delete(&vm).await.expect(200);
    [created, read, started, stopped]
}

/// The same address every time: what is asked of it before it listens is refused, and asked again.
fn on_port(daemon: &Daemon, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.args(["serve", "--accel", "tcg", "--listen", &format!("127.0.0.1:{port}"), "--state-dir"]);
    command.arg(daemon.state()).arg("--image-dir").arg(daemon.bases()).current_dir(daemon.dir.path());
    command.args(["--max-defined", "vms=20000"]);
    command
}

/// How long it takes from the start of a daemon, after a kill, until it begins to tell that it has all of them: its address
/// is there before.
async fn restart(daemon: &mut Daemon, port: u16, vms: usize) -> Duration {
    daemon.kill();
    let command = on_port(daemon, port);
    let (client, url) = (daemon.http().clone(), format!("{}/vms", daemon.url));
    let begun = Instant::now();
    let answered = tokio::spawn(async move {
        loop {
            if let Ok(response) = client.get(&url).send().await {
                let answered = begun.elapsed();
                let list: Vec<Value> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
                assert_eq!(list.len(), vms);
                return answered;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    tokio::task::block_in_place(|| daemon.run_as(command));
    answered.await.unwrap()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// MiB.
fn resident(pid: i32) -> f64 {
    let pages = procfs::process::Process::new(pid).unwrap().statm().unwrap().resident;
    (pages * procfs::page_size()) as f64 / f64::from(1 << 20)
}
