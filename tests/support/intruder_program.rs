//! A program in QEMU's place that tries what an escaped QEMU would, and says what came of it: `NAME ok`, or `NAME` and the
//! number of the error, or less than nothing and that of the signal that ended it. With no library but std: the tests compile it by itself (tests/support/intruder.rs).
//!
//! ARGUMENTS: names of attempts, each with `=VALUE` where it takes one.

use std::ffi::{CString, c_char, c_int, c_long};
use std::io::Write;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
    fn getpid() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// What came of a system call.
fn call(number: c_long, arguments: &[c_long]) -> Result<c_long, i32> {
    let [a, b, c, d, e, f] = std::array::from_fn(|index| arguments.get(index).copied().unwrap_or(0));
    // SAFETY: whatever the kernel does with these, this program is there to find out.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    // SAFETY: the thread's own.
    if result < 0 { Err(unsafe { *__errno_location() }) } else { Ok(result) }
}

macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        call($number, &[$($argument as c_long),*])
    };
}

/// For as long as the program lives.
fn path(value: &str) -> *const c_char {
    CString::new(value).unwrap().into_raw()
}

fn open(value: &str, flags: c_int) -> Result<c_long, i32> {
    call!(2, path(value), flags, 0o600)
}

fn tcp(address: &str, connect: bool) -> Result<c_long, i32> {
    let done = if connect {
        std::net::TcpStream::connect(address).map(drop)
    } else {
        std::net::TcpListener::bind(address).map(drop)
    };
    done.map(|()| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// Connects to a Unix socket, by a path or, after `@`, by an abstract name.
fn unix(value: &str) -> Result<c_long, i32> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let address = match value.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(value),
    };
    UnixStream::connect_addr(&address.unwrap()).map(|_| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// Processes until the kernel gives no more, or there are as many as nobody should have.
fn forks(most: usize) -> Result<c_long, i32> {
    let mut pids = Vec::new();
    let mut end = Ok(most as c_long);
    while pids.len() < most {
        match call!(57) {
            // SAFETY: ends the child; it waits to be killed.
            Ok(0) => unsafe {
                call!(34).ok();
                _exit(0)
            },
            Ok(pid) => pids.push(pid),
            Err(error) => {
                end = Err(error);
                break;
            }
        }
    }
    for pid in pids {
        call!(62, pid, 9).ok();
        // SAFETY: its status is not wanted.
        unsafe { waitpid(pid as c_int, std::ptr::null_mut(), 0) };
    }
    end
}

/// A datagram to somebody.
fn udp(address: &str) -> Result<c_long, i32> {
    let done = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", address));
    done.map(|_| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// Uses so many MiB of memory.
fn eat(mib: usize) -> Result<c_long, i32> {
    let at = memory(mib)? as *mut u8;
    for page in 0..mib << 8 {
        // SAFETY: within what was just mapped.
        unsafe { at.add(page << 12).write_volatile(1) };
    }
    Ok(0)
}

/// Has so many MiB of memory, which it does not touch.
fn memory(mib: usize) -> Result<c_long, i32> {
    // PROT_READ | PROT_WRITE; MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE.
    call!(9, 0, mib << 20, 3, 0x4022, -1, 0)
}

fn attempt(name: &str, value: &str) -> Result<c_long, i32> {
    const NEWUSER: c_long = 0x1000_0000;
    const NEWNET: c_long = 0x4000_0000;
    let number = || value.parse::<usize>().unwrap();
    // SAFETY: a number.
    let here = unsafe { getpid() };
    let zero = [0u64; 32];
    match name {
        "unshare-user" => call!(272, NEWUSER),
        "unshare-net" => call!(272, NEWNET),
        "clone-user" => match call!(56, NEWUSER | 17, 0) {
            // SAFETY: ends the child.
            Ok(0) => unsafe { _exit(0) },
            done => done,
        },
        "clone3" => call!(435, zero.as_ptr(), 0),
        "setns" => call!(308, open("/proc/self/ns/net", 0)?, 0),
        "mount" => {
            let (none, tmpfs, at) = (path("none"), path("tmpfs"), path("/mnt"));
            let done = call!(165, none, at, tmpfs, 0, 0);
            call!(166, at, 2).ok();
            done
        }
        "fsopen" => call!(430, path("tmpfs"), 0),
        "chroot" => call!(161, path("/")),
        // A map of one integer.
        "bpf" => call!(321, 0, [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_ptr(), 64),
        "perf" => call!(298, [1u64 | 112 << 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_ptr(), 0, -1, -1, 0),
        "io-uring" => call!(425, 4, zero.as_ptr()),
        "userfaultfd" => call!(323, 1),
        "add-key" => call!(248, path("user"), path("intruder"), path("x"), 1, -2),
        "keyctl" => call!(250, 0, -2, 0),
        "ptrace" => call!(101, 0x4206, number(), 0, 0),
        "process-vm" => {
            let mut byte = 0u8;
            let local = [&raw mut byte as usize, 1];
            let remote = [0x1000usize, 1];
            call!(310, number(), local.as_ptr(), 1, remote.as_ptr(), 1, 0)
        }
        "kcmp" => call!(312, here, here, 0, 0, 0),
        "kexec" => call!(246, 0, 0, 0, 0),
        "module" => call!(313, -1, path(""), 0),
        "reboot" => call!(169, 0, 0, 0, 0),
        "sethostname" => call!(170, path("intruder"), -1),
        "settime" => call!(227, 0, [0u64, 2_000_000_000].as_ptr()),
        "x32" => call!(0x4000_0000 + 39),
        "tiocsti" => call!(16, 0, 0x5412, path("x")),
        "netlink" => call!(41, 16, 3, 0),
        "packet" => call!(41, 17, 3, 0),
        "raw" => call!(41, 2, 3, 1),
        "vsock" => call!(41, 40, 1, 0),
        "setuid" => call!(105, number()),
        "setgroups" => call!(116, 1, [0u32].as_ptr()),
        "chown" => call!(92, path(value), 12_345, 12_345),
        "core" => call!(160, 4, [1u64, 1].as_ptr()),
        "descriptors" => call!(160, 7, [1u64 << 20, 1 << 20].as_ptr()),
        "lock-memory" => call!(149, &raw const zero, 64),
        "read" => open(value, 0),
        "write" => open(value, 1),
        "create" => open(value, 0o101),
        "list" => open(value, 0o200_000),
        // As the C library opens: what was lent may be had so.
        "open-to-read" => call!(257, -100, path(value), 0, 0),
        "open-to-write" => call!(257, -100, path(value), 2, 0),
        "extend" => call!(77, call!(257, -100, path(value), 2, 0)?, 1u64 << 40),
        "run" => {
            std::process::Command::new(value).status().map(|_| 0).map_err(|error| error.raw_os_error().unwrap_or(0))
        }
        "tcp-connect" => tcp(value, true),
        "tcp-bind" => tcp(value, false),
        "udp" => udp(value),
        "unix" => unix(value),
        "shm" => call!(30, number(), 0, 0),
        "signal" => call!(62, number(), 0),
        "forks" => forks(number()),
        "memory" => memory(number()),
        "eat" => eat(number()),
        "descriptor" => call!(72, number(), 1),
        _ => panic!("no attempt is called {name}"),
    }
}

fn main() {
    let mut out = std::io::stderr();
    for argument in std::env::args().skip(1) {
        // Each in a process of its own: what one has changed is not the next one's.
        if let Ok(child @ 1..) = call!(57) {
            let mut status = 0;
            // SAFETY: one number is written.
            unsafe { waitpid(child as c_int, &raw mut status, 0) };
            if status & 0x7f != 0 {
                out.write_all(format!("{argument} -{}\n", status & 0x7f).as_bytes()).unwrap();
            }
            continue;
        }
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        // In one write each: the output may be a file that is looked at meanwhile.
        let line = match attempt(name, value) {
            Ok(_) => format!("{argument} ok\n"),
            Err(error) => format!("{argument} {error}\n"),
        };
        out.write_all(line.as_bytes()).unwrap();
        // SAFETY: ends this attempt.
        unsafe { _exit(0) };
    }
}
