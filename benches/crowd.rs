//! How long others wait while there is a crowd: `GET /health` by a fresh connection each, alone, beside 10,000 connections that
//! say nothing, and beside 10,000 that have asked 40 VMs to stop whose guests do not heed it: as many wait for each as may, 64, and
//! the others were told so. In turn, so that a busy machine is busy for all of them.
//!
//! Run with `scripts/bench`. `QHERD_BENCH_PROGRAM` names another qherd than the one that was built with it.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use support::Daemon;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CROWD: usize = 10_000;
const ROUNDS: usize = 5;
/// Of each round and kind.
const ASKED: usize = 200;
const VMS: usize = 40;

#[tokio::main]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut daemon = Daemon::prepare(&[]);
    let program = std::env::var_os("QHERD_BENCH_PROGRAM");
    let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_qherd").into()));
    command.args(["serve", "--accel", "tcg", "--listen", "127.0.0.1:0", "--state-dir"]).arg(daemon.state());
    command.arg("--image-dir").arg(daemon.bases()).current_dir(daemon.dir.path()).stdin(Stdio::null());
    daemon.run_as(command);
    let mut vms = Vec::new();
    for _ in 0..VMS {
        let mut wish = daemon.wish();
        (wish["memory"], wish["start"]) = (json!(16), json!(true));
        vms.push(daemon.create(wish).await);
    }
    let nobody = || Vec::new();
    let idle: Vec<String> = (0..CROWD).map(|_| String::new()).collect();
    let stop = |id: &String| {
        format!("POST /vms/{id}/stop?timeout=86400 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    };
    let stops: Vec<String> = (0..CROWD).map(|turn| stop(&vms[turn % vms.len()])).collect();
    let kinds: [(&str, Vec<String>); 3] = [("alone", nobody()), ("idle connections", idle), ("stops", stops)];
    let mut times = [const { Vec::new() }; 3];
    // Their firmware needs the cores for itself for a while.
    tokio::time::sleep(Duration::from_secs(20)).await;
    for _ in 0..ROUNDS {
        for ((_, crowd), times) in kinds.iter().zip(&mut times) {
            let held = join(&daemon, crowd).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            for _ in 0..ASKED {
                times.push(ask(&daemon).await);
            }
            drop(held);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    println!("GET /health by a fresh connection, {} times each, beside {CROWD}:", ROUNDS * ASKED);
    for ((kind, _), mut times) in kinds.iter().zip(times) {
        times.sort();
        let at = |part: usize| times[times.len() * part / 100];
        println!("{kind:<16} median {:>8.3?}, 90 of 100 within {:>8.3?}, 99 within {:>8.3?}", at(50), at(90), at(99));
    }
    for id in &vms {
        daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    }
}

async fn join(daemon: &Daemon, crowd: &[String]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for words in crowd {
        let mut socket = TcpStream::connect(address(daemon)).await.unwrap();
        // One that was asked to leave meanwhile does not take it.
        let _ = socket.write_all(words.as_bytes()).await;
        held.push(socket);
    }
    held
}

async fn ask(daemon: &Daemon) -> Duration {
    let begun = Instant::now();
    let mut socket = TcpStream::connect(address(daemon)).await.unwrap();
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    begun.elapsed()
}

fn address(daemon: &Daemon) -> &str {
    daemon.url.strip_prefix("http://").unwrap()
}
