//! QEMUs that are alive and do not answer; SIGSTOP stands for every way to get there.
#![allow(dead_code)] // Every test file uses its own part.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::support::Daemon;

/// Stops the QEMU of a VM in its tracks.
pub fn silence(daemon: &Daemon, id: &str) -> Pid {
    let pid = daemon.qemus().into_iter().find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(id))
    });
    let pid = Pid::from_raw(pid.unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    pid
}

/// Does something while a request on `other`, a running VM that is silenced for it, waits until the daemon gives the
/// monitor up: what is done first has itself not waited for one. However busy the host is, both are in the same daemon.
pub async fn sooner_than_a_monitor_is_given_up<T>(daemon: &Daemon, other: &str, work: impl Future<Output = T>) -> T {
    silence(daemon, other);
    let path = format!("/vms/{other}/cpu");
    let waiting = daemon.put(&path, json!({ "cpu_pinning": { "cores": [0] } }));
    tokio::select! {
        biased;
        answer = waiting => panic!("it has waited for a monitor, as this has: {}\n{}", answer.body, daemon.log_text()),
        done = work => done,
    }
}
