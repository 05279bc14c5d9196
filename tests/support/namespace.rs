//! A network namespace of a test's own, in which everything may be done: the host's network stays as it is.
#![allow(dead_code)] // Every test file uses its own part.

use std::process::Command;

/// Puts this thread, and whatever it spawns from now on, into a new network namespace that has a loopback interface. It
/// goes with the last process in it. A `#[tokio::test]` has its runtime on its own thread, so its client is in there too.
pub fn enter() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    ip(&["link", "set", "lo", "up"]);
}

/// A pair of virtual Ethernet adapters, both up.
pub fn veth(name: &str, peer: &str) {
    ip(&["link", "add", name, "type", "veth", "peer", "name", peer]);
    ip(&["link", "set", name, "up"]);
    ip(&["link", "set", peer, "up"]);
}

#[track_caller]
pub fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).status().unwrap();
    assert!(status.success(), "ip {args:?}");
}
