//! How soon a daemon that was killed answers again, and answers for all of its running VMs: with one VM and with a hundred.
//!
//! Run with `scripts/bench`. The VMs are as small as they can be and idle; a hundred of them need some 5 GiB.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::Daemon;

const VMS: usize = 100;
const ROUNDS: usize = 5;
/// The firmware of a hundred VMs needs the cores for itself for a while.
const SETTLED: Duration = Duration::from_secs(40);

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let mut daemon = Daemon::prepare(&[]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    daemon.run_as(on_port(&daemon, port));
    println!("from the start of the daemon, median of {ROUNDS}");
    for vms in [0, 1, VMS] {
        let mut wish = daemon.wish();
        wish["memory"] = json!(16);
        wish["start"] = json!(true);
        while daemon.qemus().len() < vms {
            daemon.create(wish.clone()).await;
        }
        if vms > 1 {
            tokio::time::sleep(SETTLED).await;
        }
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(round(&mut daemon, port, vms).await);
        }
        let median = |pick: fn(&(Duration, Duration)) -> Duration| {
            let mut times: Vec<Duration> = times.iter().map(pick).collect();
            times.sort();
            times[ROUNDS / 2]
        };
        println!("{vms:>4} VMs: first answer {:>7.1?}, all of them running {:>7.1?}", median(|t| t.0), median(|t| t.1));
    }
}

/// The same address every time: what is asked of it before it listens is refused, and asked again.
fn on_port(daemon: &Daemon, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.args(["serve", "--accel", "tcg", "--listen", &format!("127.0.0.1:{port}"), "--state-dir"]);
    command.arg(daemon.state()).arg("--image-dir").arg(daemon.bases()).current_dir(daemon.dir.path());
    command
}

/// When the list is answered, and when it says that all are running.
async fn round(daemon: &mut Daemon, port: u16, vms: usize) -> (Duration, Duration) {
    daemon.kill();
    let url = format!("{}/vms", daemon.url);
    let begun = Instant::now();
    let client = daemon.http().clone();
    let asking = tokio::spawn(async move {
        let mut first = None;
        loop {
            if let Ok(response) = client.get(&url).send().await {
                first.get_or_insert(begun.elapsed());
                let list: Vec<Value> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
                if list.len() == vms && list.iter().all(|vm| vm["status"] == "running") {
                    return (first.unwrap(), begun.elapsed());
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let command = on_port(daemon, port);
    tokio::task::block_in_place(|| daemon.run_as(command));
    asking.await.unwrap()
}
