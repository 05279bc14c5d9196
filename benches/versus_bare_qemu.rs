//! What the daemon adds to QEMU: a start and a forced stop through the API against a bare spawn and kill of the very
//! same command line, in turn, in one run. Absolute times of a shared machine mean little; the ratios are the result.
//!
//! Run with `scripts/bench`. Not a criterion bench: pairs have to alternate for their ratio to hold when the machine's
//! speed drifts.

#![allow(unsafe_code)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixStream, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use qherd::qmp::socket;
use serde_json::{Value, json};
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

    let (mut starts, mut bare_starts, mut stops, mut bare_stops) = (vec![], vec![], vec![], vec![]);
    for _ in 0..PAIRS {
        let (qemu, started) = bare_start(&arguments, &daemon.run_dir(&id));
        bare_starts.push(started);
        bare_stops.push(bare_stop(qemu));
        starts.push(timed(daemon.post(&path("start"), json!({}))).await);
        stops.push(timed(daemon.post(&path("stop?force=true"), json!({}))).await);
    }
    let after = resident(daemon.pid());

    let creates = many(&daemon, 50).await;
    println!("{PAIRS} pairs, API against bare QEMU, in turn; milliseconds, median (minimum to maximum)");
    row("bare spawn to running", &bare_starts);
    row("start through the API", &starts);
    row("bare kill to reaped", &bare_stops);
    row("forced stop through the API", &stops);
    row("create (linked clone) through the API", &creates);
    let ratios: Vec<f64> = starts.iter().zip(&bare_starts).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    let added: Vec<f64> =
        stops.iter().zip(&bare_stops).map(|(a, b)| 1e3 * (a.as_secs_f64() - b.as_secs_f64())).collect();
    println!("start, API / bare, pair by pair:        {:.2}", median(&ratios));
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

fn command_line(pid: i64) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    bytes.split(|&b| b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8(a.to_vec()).unwrap()).collect()
}

/// The same arguments with listening sockets of our own, up to a guest that runs.
fn bare_start(arguments: &[String], dir: &Path) -> (Child, Duration) {
    let begin = Instant::now();
    let sockets =
        ["monitor", "serial0", "agent0"].map(|id| (id, socket::listen(&dir.join(format!("{id}.bare"))).unwrap()));
    let mut command = Command::new(&arguments[0]);
    for argument in &arguments[1..] {
        let own = sockets.iter().find(|(id, _)| argument.starts_with(&format!("socket,id={id},fd=")));
        command.arg(match own {
            None => argument.clone(),
            Some((id, listener)) => {
                let rest = argument.splitn(4, ',').nth(3).unwrap();
                format!("socket,id={id},fd={},{rest}", listener.as_raw_fd())
            }
        });
    }
    let fds = sockets.each_ref().map(|(_, listener)| listener.as_raw_fd());
    // SAFETY: one async-signal-safe system call per descriptor.
    unsafe {
        command.pre_exec(move || {
            for fd in fds {
                let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    drop(sockets);
    let mut stream = UnixStream::connect(dir.join("monitor.bare")).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map(|l| serde_json::from_str::<Value>(&l.unwrap()).unwrap());
    lines.next().unwrap();
    for command in ["qmp_capabilities", "cont", "query-status"] {
        writeln!(stream, "{{\"execute\":\"{command}\"}}").unwrap();
        let reply = lines.find(|line| line.get("return").is_some()).unwrap();
        assert!(command != "query-status" || reply["return"]["running"] == true);
    }
    let taken = begin.elapsed();
    for id in ["monitor", "serial0", "agent0"] {
        let _ = std::fs::remove_file(dir.join(format!("{id}.bare")));
    }
    (child, taken)
}

fn bare_stop(mut qemu: Child) -> Duration {
    let begin = Instant::now();
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    begin.elapsed()
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

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
