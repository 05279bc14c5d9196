//! Crowds at a real daemon: thousands of clients that say nothing, that dawdle, that wait for a stop, and that ask for a large log
//! and read nothing. Others are served, and its memory is bounded.

use std::time::{Duration, Instant};

use crate::support::Daemon;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// More than there are places. By hand `QHERD_TEST_CROWD=10000`.
fn crowd() -> usize {
    std::env::var("QHERD_TEST_CROWD").map_or(2_500, |count| count.parse().unwrap())
}

/// Generous, for a loaded machine: what is shown is that nobody is shut out.
const SERVED: Duration = Duration::from_secs(30);

/// Resident memory in MiB.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn connected(daemon: &Daemon, count: usize, text: &str) -> Vec<TcpStream> {
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // One that was asked to leave meanwhile does not take it.
        let _ = socket.write_all(text.as_bytes()).await;
        sockets.push(socket);
        if sockets.len() % 1000 == 0 {
            eprintln!("{} {:?}", sockets.len(), std::time::SystemTime::now());
        }
    }
    sockets
}

/// By clients of their own, as a person's curl is.
async fn others_are_served(daemon: &Daemon, id: &str) {
    for path in ["/health".to_owned(), format!("/vms/{id}/status")] {
        let begun = Instant::now();
        let answer = reqwest::Client::new().get(daemon.at(&path)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(begun.elapsed() < SERVED, "{path}: {:?}", begun.elapsed());
    }
}

fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}

/// More than one caller may have under way: were each of them to wait on, the last ones would be refused.
const HANG_UPS: usize = 10_500;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_who_hang_up_while_a_stop_waits_leave_nothing_behind() {
    raise_descriptor_limit();
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    // Its firmware finds nothing to boot, and heeds no button.
    let stop = format!("POST /vms/{id}/stop?timeout=3600 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    let mut after_some = 0;
    for batch in 0..HANG_UPS / 500 {
        let sockets = connected(&daemon, 500, &stop).await;
        others_are_served(&daemon, &id).await;
        drop(sockets);
        if batch == 4 {
            after_some = memory(&daemon);
        }
    }
    others_are_served(&daemon, &id).await;
    let after_all = memory(&daemon);
    println!("{after_some} MiB after 2,500 of them, {after_all} MiB after {HANG_UPS}");
    assert!(after_all <= after_some + 12, "{after_some} MiB after 2,500 of them, {after_all} MiB after {HANG_UPS}");
    assert_eq!(daemon.status(&id).await, "stopping", "what they asked for goes on");
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
}

#[tokio::test]
async fn thousands_of_idle_clients_and_of_those_that_wait_shut_nobody_out() {
    raise_descriptor_limit();
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let before = memory(&daemon);
    let idle = connected(&daemon, crowd(), "").await;
    others_are_served(&daemon, &id).await;
    let grown = memory(&daemon) - before;
    assert!(grown < 100, "{grown} MiB for idle clients");
    drop(idle);

    // Its firmware takes no notice of the power button.
    let stop = format!("POST /vms/{id}/stop?timeout=86400 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    let mut waiting = connected(&daemon, crowd(), &stop).await;
    others_are_served(&daemon, &id).await;
    let grown = memory(&daemon) - before;
    assert!(grown < 600, "{grown} MiB for requests that wait");
    // A forced stop gets through, and ends them all.
    let stopped = daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(stopped["forced"], true);
    for socket in &mut waiting {
        let mut start = [0; 600];
        let answer = tokio::time::timeout(SERVED, socket.read(&mut start)).await.expect("who waited is answered");
        let answer = String::from_utf8_lossy(&start[..answer.unwrap()]).into_owned();
        // A VM has only so many requests wait for it.
        let crowded = answer.starts_with("HTTP/1.1 503") && answer.contains("too many requests waiting");
        assert!(answer.starts_with("HTTP/1.1 200") || crowded, "{answer}");
    }
}

/// Heads that never end, and bodies that come byte by byte.
#[tokio::test]
async fn thousands_that_dawdle_shut_nobody_out() {
    raise_descriptor_limit();
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let before = memory(&daemon);
    let head = "GET /vms HTTP/1.1\r\nHost: localh";
    let body =
        "POST /vms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let mut dawdlers = connected(&daemon, crowd() / 2, head).await;
    dawdlers.extend(connected(&daemon, crowd() / 2, body).await);
    others_are_served(&daemon, &id).await;
    for socket in &mut dawdlers {
        // Those that had to make room do not take it.
        let _ = socket.write_all(b" ").await;
    }
    others_are_served(&daemon, &id).await;
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 250, "{grown} MiB");
}

/// By hand with `QHERD_TEST_CROWD=10000`: as many as one caller may have.
#[tokio::test]
async fn thousands_that_do_not_read_a_large_log_cost_no_memory_and_shut_nobody_out() {
    raise_descriptor_limit();
    let mut daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let folder = daemon.run_dir(&id);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("console.log"), "all work and no play\n".repeat((8 << 20) / 21)).unwrap();
    let path = format!("/vms/{id}/console/log?tail=9999999");
    let length = daemon.get(&path).await.expect(200).as_str().unwrap().len();
    assert!(length > 7 << 20, "{length}");
    let before = memory(&daemon);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut readers = connected(&daemon, crowd() - 20, &request).await;
    // Each has the beginning of its answer, unless it had to make room for others, and takes no more of it.
    let mut begun = 0;
    for reader in &mut readers {
        let mut status = [0; 12];
        let read = tokio::time::timeout(SERVED, reader.read_exact(&mut status)).await.expect("an answer");
        if read.is_ok() {
            assert_eq!(&status, b"HTTP/1.1 200");
            begun += 1;
        }
    }
    assert!(begun > crowd() / 2, "{begun}");
    let grown = memory(&daemon).saturating_sub(before);
    println!("{grown} MiB for {begun} that do not read");
    // What their connections take; the logs would be 20 GiB.
    assert!(grown < 120 + begun as u64 / 20, "{grown} MiB for {begun}");
    others_are_served(&daemon, &id).await;
    assert_eq!(daemon.get(&path).await.expect(200).as_str().unwrap().len(), length, "who reads has all of it");
    // The daemon ends all the same.
    let ending = Instant::now();
    assert!(daemon.terminate().success());
    assert!(ending.elapsed() < SERVED, "{:?}", ending.elapsed());
}
