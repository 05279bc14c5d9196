//! What the tests of updates ask for and look at.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::support::{Daemon, affinity, vcpu_threads};

/// A PUT that succeeds.
pub async fn put(daemon: &Daemon, id: &str, what: &str, body: Value) -> Value {
    daemon.put(&format!("/vms/{id}/{what}"), body).await.expect(200)
}

pub async fn config(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}/config")).await.expect(200)
}

pub async fn start(daemon: &Daemon, id: &str) {
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}

pub async fn force_off(daemon: &Daemon, id: &str) {
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
}

/// A running VM on the blank disk: no agent, no drivers.
pub async fn running(daemon: &Daemon) -> String {
    let id = daemon.create(daemon.wish()).await;
    start(daemon, &id).await;
    id
}

/// Of the VM's only disk, as qemu-img sees it.
pub async fn disk_gib(daemon: &Daemon, id: &str) -> u64 {
    let file = config(daemon, id).await["disk_file"].as_str().unwrap().to_owned();
    // -U: also while QEMU holds the image.
    let shown = std::process::Command::new("qemu-img").args(["info", "-U", "--output=json", &file]).output().unwrap();
    let info: Value = serde_json::from_slice(&shown.stdout).unwrap();
    info["virtual-size"].as_u64().unwrap() >> 30
}

/// What follows `name` on a QEMU's command line.
pub fn argument(pid: i32, name: &str) -> String {
    let line = procfs::process::Process::new(pid).unwrap().cmdline().unwrap();
    line.iter().skip_while(|arg| *arg != name).nth(1).unwrap().clone()
}

/// Where the vCPUs of the one QEMU that runs are bound to.
pub fn affinities(daemon: &Daemon) -> Vec<Vec<u32>> {
    vcpu_threads(daemon.qemus()[0]).into_iter().map(affinity).collect()
}

/// Where every other thread of it is bound to, without repetitions.
pub fn other_affinities(daemon: &Daemon) -> Vec<Vec<u32>> {
    let pid = daemon.qemus()[0];
    let vcpus = vcpu_threads(pid);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let tasks = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<_> = tasks.filter(|task| !vcpus.contains(task)).map(affinity).collect();
    found.sort();
    found.dedup();
    found
}

/// Where a thread may run that nobody bound.
pub fn everywhere() -> Vec<u32> {
    affinity(std::process::id() as i32)
}

/// `iops` of the one disk, as QEMU itself says. No daemon may be running: QEMU serves one client at a time.
pub fn throttle(daemon: &Daemon, id: &str) -> u64 {
    let socket = UnixStream::connect(daemon.run_dir(id).join("qmp.sock")).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
    let mut answer = |ask: &str| {
        writeln!(&socket, "{ask}").unwrap();
        loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if let Some(value) = line.get("return") {
                return value.clone();
            }
            assert!(line.get("error").is_none(), "{line}");
        }
    };
    answer(r#"{"execute":"qmp_capabilities"}"#);
    let blocks = answer(r#"{"execute":"query-block"}"#);
    let disk = blocks.as_array().unwrap().iter().find(|block| !block["inserted"].is_null()).unwrap();
    disk["inserted"]["iops"].as_u64().unwrap()
}
