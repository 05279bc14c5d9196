//! Network namespaces of a test's own: nothing that a test does reaches the network of the machine, and all of it is gone
//! with the test.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// The network of the machine, as it was when the test left it.
pub struct Outside {
    namespace: File,
    before: Vec<Value>,
}

impl Outside {
    /// Puts this thread, and all that it starts from now on, into a new network namespace with a loopback of its own.
    pub fn leave() -> Self {
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let before = look(&namespace);
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        ip(&["link", "set", "lo", "up"]);
        Self { namespace, before }
    }

    /// The machine's links, addresses, routes and rules are what they were.
    #[track_caller]
    pub fn is_untouched(&self) {
        for (now, before) in look(&self.namespace).iter().zip(&self.before) {
            assert_eq!(now, before, "the network of the machine has changed");
        }
    }
}

fn look(namespace: &File) -> Vec<Value> {
    let commands: [&[&str]; 4] =
        [&["ip", "-j", "link"], &["ip", "-j", "addr"], &["ip", "-j", "route"], &["nft", "-j", "list", "ruleset"]];
    let look = commands.map(|words| {
        let fd = namespace.try_clone().unwrap();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        // SAFETY: one system call.
        unsafe { command.pre_exec(move || setns(&fd, CloneFlags::CLONE_NEWNET).map_err(Into::into)) };
        let told = command.output().unwrap();
        assert!(told.status.success(), "{words:?}: {told:?}");
        let mut told: Value = serde_json::from_slice(&told.stdout).unwrap_or(Value::Null);
        steady(&mut told);
        told
    });
    look.into()
}

/// Without what changes by itself: the time that a lease still has.
fn steady(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("life_time"));
            fields.values_mut().for_each(steady);
        }
        Value::Array(items) => items.iter_mut().for_each(steady),
        _ => {}
    }
}

/// `ip` in this thread's namespace.
#[track_caller]
pub fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().unwrap();
    assert!(done.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The links of this thread's namespace.
pub fn links() -> Vec<Value> {
    let told = Command::new("ip").args(["-j", "link"]).output().unwrap();
    serde_json::from_slice(&told.stdout).unwrap()
}

/// The taps among them that are ours, by name, in order.
pub fn taps() -> Vec<String> {
    let names = links().into_iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    let mut taps: Vec<String> = names.filter(|name| name.starts_with("qht")).collect();
    taps.sort();
    taps
}

/// Name of the tap of a card, by the card's id.
pub fn tap_of(card: &Value) -> String {
    format!("qht{}", &card["id"].as_str().unwrap().replace('-', "")[..12])
}

/// All rules of this thread's namespace, as text.
pub fn rules() -> String {
    String::from_utf8(Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout).unwrap()
}

/// Another namespace: the network behind an adapter.
pub struct Peer(Child);

impl Peer {
    /// With a veth pair between it and this thread's namespace: `near` here, `far` there.
    pub fn behind(near: &str, far: &str) -> Self {
        let mut command = Command::new("sleep");
        command.arg("3600").stdin(Stdio::null());
        // SAFETY: one system call.
        unsafe { command.pre_exec(|| unshare(CloneFlags::CLONE_NEWNET).map_err(Into::into)) };
        let peer = Self(command.spawn().unwrap());
        let pid = peer.0.id().to_string();
        ip(&["link", "add", near, "type", "veth", "peer", "name", far, "netns", &pid]);
        ip(&["link", "set", near, "up"]);
        peer.ip(&["link", "set", far, "up"]);
        peer
    }

    #[track_caller]
    pub fn ip(&self, words: &[&str]) {
        let fd = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let mut command = Command::new("ip");
        command.args(words);
        // SAFETY: one system call.
        unsafe { command.pre_exec(move || setns(&fd, CloneFlags::CLONE_NEWNET).map_err(Into::into)) };
        let done = command.output().unwrap();
        assert!(done.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
