//! A bare QEMU with the very same arguments as one of the daemon's, for a comparison in one run: what a script would do
//! that starts it by hand.
#![allow(unsafe_code)]
#![allow(dead_code)] // Every bench uses its own part.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::libc;
use qherd::{
    host::{
        launcher,
        sandbox::{Made, Needs, Sandbox},
    },
    model::VmId,
    qmp::socket,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;

pub fn command_line(pid: i64) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    bytes.split(|&b| b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8(a.to_vec()).unwrap()).collect()
}

/// A tap on a bridge, for a bare QEMU.
pub struct ByHand {
    pub tap: String,
    pub bridge: String,
}

/// What carries the NIC of a bare QEMU.
#[derive(Clone, Copy)]
pub enum Carrier<'a> {
    None,
    Tap(&'a ByHand),
    /// A passt of its own, by the arguments of one that the daemon has started.
    Passt(&'a [String]),
}

/// The same arguments with listening sockets of our own, and our own carrier of its NIC, up to a guest that runs.
pub fn bare_start(arguments: &[String], dir: &Path, carrier: Carrier) -> (Pid, Duration) {
    started(arguments, dir, carrier, &|program, arguments, descriptors| {
        let (mut command, descriptors) = (Command::new(program), descriptors.to_vec());
        // SAFETY: one async-signal-safe system call per descriptor.
        unsafe {
            command.pre_exec(move || {
                for &descriptor in &descriptors {
                    let descriptor = std::os::fd::BorrowedFd::borrow_raw(descriptor);
                    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
                }
                Ok(())
            });
        }
        #[allow(clippy::zombie_processes)] // bare_stop waits for it.
        let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Pid::from_child(&child)
    })
}

/// The same in all that the daemon keeps a VM in.
pub fn sandboxed_start(arguments: &[String], dir: &Path, sandbox: &Sandbox) -> (Pid, Duration) {
    started(arguments, dir, Carrier::None, &|program, arguments, descriptors| {
        let needs = Needs { vm: Some(VmId::from(uuid::Uuid::new_v4())), network: false, memory: 4 << 30 };
        let Made { cell, .. } = sandbox.cell(needs).unwrap();
        let child = launcher::Child::new(launcher::QEMU, Path::new(program)).args(arguments);
        child.inherit(descriptors.iter().copied()).within(cell).spawn().unwrap().pid()
    })
}

/// Starts a program with arguments, and with descriptors that it has.
type Spawn<'a> = &'a dyn Fn(&str, &[String], &[RawFd]) -> Pid;

fn started(arguments: &[String], dir: &Path, carrier: Carrier, spawn: Spawn) -> (Pid, Duration) {
    let begin = Instant::now();
    let nic = match carrier {
        Carrier::None => None,
        Carrier::Tap(by_hand) => Some(("tap", by_hand.make())),
        Carrier::Passt(_) => Some(("stream", socket::listen(&dir.join("user.bare")).unwrap().into())),
    };
    let sockets =
        ["monitor", "serial0", "agent0"].map(|id| (id, socket::listen(&dir.join(format!("{id}.bare"))).unwrap()));
    let mut files = Vec::new();
    let mut own_arguments = Vec::new();
    for argument in &arguments[1..] {
        if let Some((kind, descriptor)) = &nic
            && let Ok(mut backend) = serde_json::from_str::<Value>(argument)
            && backend["type"] == **kind
        {
            let number = if *kind == "tap" { &mut backend["fd"] } else { &mut backend["addr"]["str"] };
            *number = descriptor.as_raw_fd().to_string().into();
            own_arguments.push(backend.to_string());
            continue;
        }
        if let Some((set, path)) = argument.strip_prefix("fd=").and_then(|rest| rest.split_once(",opaque=")) {
            let set = set.split_once(",set=").unwrap().1;
            // A console, a disk, or what is only read (qemu::devices::HostFile).
            let (is_log, is_disk) = (path.ends_with(".log"), path.ends_with("/root.qcow2"));
            let mut access = OpenOptions::new();
            access.append(is_log).read(!is_log).write(is_disk);
            let file = access.open(path.replace(",,", ",")).unwrap();
            own_arguments.push(format!("fd={},set={set}", file.as_raw_fd()));
            files.push(file);
            continue;
        }
        let own = sockets.iter().find(|(id, _)| argument.starts_with(&format!("socket,id={id},fd=")));
        own_arguments.push(match own {
            None => argument.clone(),
            Some((id, listener)) => {
                let rest = argument.splitn(4, ',').nth(3).unwrap();
                format!("socket,id={id},fd={},{rest}", listener.as_raw_fd())
            }
        });
    }
    let mut fds: Vec<i32> = sockets.iter().map(|(_, listener)| listener.as_raw_fd()).collect();
    fds.extend(nic.iter().map(|(_, descriptor)| descriptor.as_raw_fd()));
    fds.extend(files.iter().map(AsRawFd::as_raw_fd));
    let child = spawn(&arguments[0], &own_arguments, &fds);
    drop((sockets, nic, files));
    if let Carrier::Passt(arguments) = carrier {
        begin_passt(arguments, &dir.join("user.bare"));
    }
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
    for id in ["monitor", "serial0", "agent0", "user"] {
        let _ = std::fs::remove_file(dir.join(format!("{id}.bare")));
    }
    (child, taken)
}

/// It ends by itself when QEMU does.
fn begin_passt(arguments: &[String], listener: &Path) {
    let stream = UnixStream::connect(listener).unwrap();
    rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::empty()).unwrap();
    let place = arguments.iter().position(|argument| argument == "--fd").unwrap() + 1;
    let mut arguments = arguments.to_vec();
    arguments[place] = stream.as_raw_fd().to_string();
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut passt = command.spawn().unwrap();
    std::thread::spawn(move || passt.wait());
}

impl ByHand {
    /// By the fewest system calls that do it.
    fn make(&self) -> OwnedFd {
        const BRIDGE_ADD: libc::Ioctl = 0x89a2;
        const GET_FLAGS: libc::Ioctl = 0x8913;
        const SET_FLAGS: libc::Ioctl = 0x8914;
        const INDEX: libc::Ioctl = 0x8933;
        const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
        let request = |name: &str| {
            let mut request = [0u8; 40];
            request[..name.len()].copy_from_slice(name.as_bytes());
            request
        };
        let call = |fd: i32, number: libc::Ioctl, request: &mut [u8; 40]| {
            // SAFETY: the request is a struct ifreq.
            assert_eq!(unsafe { libc::ioctl(fd, number, request.as_mut_ptr()) }, 0, "{number:x}");
        };
        let file: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        let mut tap = request(&self.tap);
        // IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
        tap[16..18].copy_from_slice(&(0x0002u16 | 0x1000 | 0x4000).to_ne_bytes());
        call(file.as_raw_fd(), TUNSETIFF, &mut tap);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut tap = request(&self.tap);
        call(socket.as_raw_fd(), INDEX, &mut tap);
        let mut bridge = request(&self.bridge);
        bridge[16..20].copy_from_slice(&tap[16..20]);
        call(socket.as_raw_fd(), BRIDGE_ADD, &mut bridge);
        let mut tap = request(&self.tap);
        call(socket.as_raw_fd(), GET_FLAGS, &mut tap);
        tap[16] |= libc::IFF_UP as u8;
        call(socket.as_raw_fd(), SET_FLAGS, &mut tap);
        file.into()
    }
}

pub fn bare_stop(qemu: Pid) -> Duration {
    let begin = Instant::now();
    kill_process(qemu, Signal::KILL).unwrap();
    waitpid(Some(qemu), WaitOptions::empty()).unwrap();
    begin.elapsed()
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
