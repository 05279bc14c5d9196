//! How long others wait while there is a crowd, and what memory the daemon has then: `GET /health` by a fresh connection each, alone,
//! beside 10,000 connections that say nothing, beside 10,000 that have asked 40 VMs to stop whose guests do not heed it (as many wait
//! for each as may, 64, and the others were told so), and beside 10,000 that have asked for a log of 8 MiB, for the list of 1,040 VMs
//! or for all events, and take 4 KiB of it now and then: nearly all that one caller may have under way. In turn, so that a busy machine
//! is busy for all of them.
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
    net::{TcpSocket, TcpStream},
};

const CROWD: usize = 10_000;
const ROUNDS: usize = 5;
/// Of each round and kind.
const ASKED: usize = 200;
const VMS: usize = 40;
/// That are there to be listed.
const FURTHER: usize = 1_000;
/// One caller may have 10,000 requests under way, and `GET /health` is one more.
const READERS: usize = CROWD - 20;
/// Between two looks at what readers have.
const SLOWLY: Duration = Duration::from_secs(2);
const LITTLE: usize = 4 * 1024;

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
    let further = |_| {
        let mut wish = daemon.wish();
        wish["clone"] = json!("linked");
        wish
    };
    for wish in (0..FURTHER).map(further) {
        daemon.create(wish).await;
    }
    let log = daemon.run_dir(&vms[0]).join("console.log");
    std::fs::write(&log, "all work and no play\n".repeat((8 << 20) / 21)).unwrap();
    let nobody = || Vec::new();
    let idle: Vec<String> = (0..CROWD).map(|_| String::new()).collect();
    let stop = |id: &String| {
        format!("POST /vms/{id}/stop?timeout=86400 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    };
    let stops: Vec<String> = (0..CROWD).map(|turn| stop(&vms[turn % vms.len()])).collect();
    let get = |path: String| -> Vec<String> {
        (0..READERS).map(|_| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect()
    };
    let kinds: [(&str, Vec<String>); 6] = [
        ("alone", nobody()),
        ("idle connections", idle),
        ("stops", stops),
        ("readers of a log", get(format!("/vms/{}/console/log?tail=9999999", vms[0]))),
        ("readers of a list", get("/vms".to_owned())),
        ("readers of events", get("/events?after=0".to_owned())),
    ];
    let mut times = [const { Vec::new() }; 6];
    let mut most = [0; 6];
    // Their firmware needs the cores for itself for a while.
    tokio::time::sleep(Duration::from_secs(20)).await;
    for round in 0..ROUNDS {
        for (((_, crowd), times), most) in kinds.iter().zip(&mut times).zip(&mut most) {
            let held = join(&daemon, crowd).await;
            let readers = tokio::spawn(take_slowly(held));
            tokio::time::sleep(Duration::from_secs(1)).await;
            for _ in 0..ASKED {
                times.push(ask(&daemon).await);
                // What is freed later is not given back, so only the first time tells what it takes.
                if round == 0 {
                    *most = memory(&daemon).max(*most);
                }
            }
            readers.abort();
            let _ = readers.await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    println!("GET /health by a fresh connection, {} times each, beside {CROWD}:", ROUNDS * ASKED);
    for (((kind, _), mut times), most) in kinds.iter().zip(times).zip(most) {
        times.sort();
        let at = |part: usize| times[times.len() * part / 100];
        println!(
            "{kind:<17} median {:>8.3?}, 90 of 100 within {:>8.3?}, 99 within {:>8.3?}; {most} MiB resident by then",
            at(50),
            at(90),
            at(99)
        );
    }
    for id in &vms {
        daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    }
}

async fn join(daemon: &Daemon, crowd: &[String]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for words in crowd {
        let socket = TcpSocket::new_v4().unwrap();
        // What waits in the kernel is not the daemon's.
        socket.set_recv_buffer_size(LITTLE as u32).unwrap();
        let mut socket = socket.connect(address(daemon).parse().unwrap()).await.unwrap();
        // One that was asked to leave meanwhile does not take it.
        let _ = socket.write_all(words.as_bytes()).await;
        held.push(socket);
    }
    held
}

/// Without end. Where there is nothing to take nothing is taken.
async fn take_slowly(held: Vec<TcpStream>) {
    let mut taken = [0; LITTLE];
    loop {
        for socket in &held {
            let _ = socket.try_read(&mut taken);
        }
        tokio::time::sleep(SLOWLY).await;
    }
}

/// Resident, in MiB.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
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
