//! Network namespaces of a test's own, and frames through taps. The host's network is looked at, never touched.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use super::PATIENCE;

/// The namespace that a test came from. The thread that entered its own stays in it until it ends.
pub struct Host {
    namespace: File,
    before: Vec<Value>,
}

impl Host {
    /// Puts this thread, and what it starts from now on, into a fresh network namespace with a loopback device.
    pub fn leave() -> Self {
        let namespace = here();
        let before = state_of(&namespace);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        Self { namespace, before }
    }

    /// That the host's links, addresses, routes and rules are as they were.
    pub fn assert_untouched(&self) {
        let after = state_of(&self.namespace);
        assert_eq!(after, self.before, "the host's network has changed");
    }
}

/// Another network namespace, such as that of a machine on the network behind an adapter.
pub struct Peer(File);

impl Peer {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            here()
        });
        Self(made.join().unwrap())
    }

    /// A pair of veths, one here, the other there; both are up.
    pub fn connect(&self, mine: &str, theirs: &str) {
        ip(&format!("link add {mine} type veth peer name {theirs}"));
        ip(&format!("link set {theirs} netns /proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()));
        ip(&format!("link set {mine} up"));
        self.ip(&format!("link set {theirs} up"));
    }

    pub fn ip(&self, args: &str) -> String {
        run(Some(&self.0), "ip", args)
    }

    /// Runs something on a thread in there.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let namespace = self.0.try_clone().unwrap();
        std::thread::spawn(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn run(namespace: Option<&File>, program: &str, args: &str) -> String {
    let mut command = Command::new(program);
    command.args(args.split_whitespace());
    if let Some(namespace) = namespace {
        let fd = namespace.try_clone().unwrap();
        // SAFETY: one system call.
        unsafe { command.pre_exec(move || Ok(setns(fd.as_fd(), CloneFlags::CLONE_NEWNET)?)) };
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn ip(args: &str) -> String {
    run(None, "ip", args)
}

pub fn nft(args: &str) -> String {
    run(None, "nft", args)
}

/// `ip -j ARGS` in here.
pub fn ip_json(args: &str) -> Value {
    let text = ip(&format!("-j {args}"));
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

fn state_of(namespace: &File) -> Vec<Value> {
    let look = |program: &str, args: &str| {
        let mut value = serde_json::from_str(&run(Some(namespace), program, args)).unwrap_or(Value::Null);
        forget_users(&mut value);
        forget_times(&mut value);
        value
    };
    let ips = ["-j link", "-j addr", "-j route show table all", "-j -6 route show table all"];
    ips.iter().map(|args| look("ip", args)).chain([look("nft", "-j list ruleset")]).collect()
}

/// What daemons of other tests keep guests on the user-mode network from.
fn forget_users(ruleset: &mut Value) {
    let Some(items) = ruleset.get_mut("nftables").and_then(Value::as_array_mut) else { return };
    let is_users = |name: &Value| name.as_str().is_some_and(|name| name.ends_with("_users"));
    items.retain(|item| {
        let Some(what) = item.as_object().and_then(|item| item.values().next()) else { return true };
        !is_users(&what["table"]) && !is_users(&what["name"])
    });
}

/// Lifetimes run down by themselves, and packets are counted.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in ["valid_life_time", "preferred_life_time", "expires", "packets", "bytes"] {
                members.remove(name);
            }
            members.values_mut().for_each(forget_times);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// A guest's end of a tap: what is written here, the guest sends.
pub struct Guest {
    tap: File,
    pub mac: [u8; 6],
}

/// struct virtio_net_hdr, which every frame of our taps begins with.
const HEADER: usize = 10;

impl Guest {
    pub fn new(tap: OwnedFd, mac: &str) -> Self {
        nix::fcntl::fcntl(&tap, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        Self { tap: tap.into(), mac: bytes.try_into().unwrap() }
    }

    pub fn send(&self, frame: &[u8]) {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(frame);
        bytes.resize(bytes.len().max(HEADER + 60), 0);
        (&self.tap).write_all(&bytes).unwrap();
    }

    /// The next frame that the guest receives, if there is one now.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        match (&self.tap).read(&mut buffer) {
            Ok(length) => Some(buffer[HEADER..length].to_vec()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Frames up to the first that is wanted, which is the last of them.
    pub async fn until(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.asking_until(|_| (), wanted).await
    }

    /// As `until`, asking again every second: a question may come before the host listens.
    pub async fn asking_until(&self, ask: impl Fn(&Self), wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let (deadline, mut next) = (Instant::now() + PATIENCE, Instant::now());
        let mut seen = Vec::new();
        loop {
            if Instant::now() >= next {
                ask(self);
                next += Duration::from_secs(1);
            }
            while let Some(frame) = self.take() {
                let found = wanted(&frame);
                seen.push(frame);
                if found {
                    return seen;
                }
            }
            assert!(Instant::now() < deadline, "the frame never came; others: {seen:02x?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub const BROADCAST: [u8; 6] = [0xff; 6];

pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An ARP request from `mac`, `ip` for `target`.
pub fn arp(frame_mac: [u8; 6], mac: [u8; 6], ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &ip, &[0; 6], &target].concat();
    ethernet(BROADCAST, frame_mac, 0x0806, &payload)
}

/// An IPv4 packet with a UDP datagram.
pub fn udp(to: [u8; 6], mac: [u8; 6], ip: ([u8; 4], [u8; 4]), ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    let datagram = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &length.to_be_bytes(), &[0, 0], data].concat();
    let total = (20 + datagram.len()) as u16;
    let mut header = [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0], &ip.0, &ip.1].concat();
    let sum: u32 = header.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(to, mac, 0x0800, &[header, datagram].concat())
}

/// An IPv6 packet with an ICMPv6 message, without a checksum.
pub fn icmp6(mac: [u8; 6], from: [u8; 16], kind: u8, target: [u8; 16]) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let header = [&[0x60, 0, 0, 0][..], &(message.len() as u16).to_be_bytes(), &[58, 255], &from, &all_nodes].concat();
    ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd, &[header, message].concat())
}
