//! passt, which carries one NIC on the user-mode network beside QEMU: what it is told, whether it works here, and which of those
//! that run is a NIC's. Who starts it, and looks after it, is the VM's matter.

#![allow(clippy::disallowed_methods, reason = "a small file of /etc, on threads that may wait")]

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::IpAddr,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    host::{
        launcher::{Cell, Child, PASST},
        process::{self, Process},
    },
    model::{Forward, MacAddr, Protocol},
};

const PROGRAM: &str = "passt";
const FOREGROUND: &str = "--foreground";
/// What a guest finds is what QEMU's own user-mode network has, whatever the host's addresses are.
const GUEST: [u8; 4] = [10, 0, 2, 15];
const ROUTER: [u8; 4] = [10, 0, 2, 2];
const RESOLVERS: &str = "/etc/resolv.conf";
/// It answers within some 20 ms; this is for a host under heavy load.
const TRIAL: Duration = Duration::from_secs(30);

/// What a passt is to do.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// Of its NIC.
    pub mac: MacAddr,
    pub forwards: &'a [Forward],
    /// The router's address leads to the host's loopback.
    pub maps_router: bool,
}

impl Task<'_> {
    /// Whether the router's address has to lead to the host's loopback: answers by UDP to the host's own programs go there, and so do
    /// questions for names where the host's resolver listens there. New connections are refused by rules (`net::user_rules`), so nothing
    /// else comes of it. Blocks.
    pub fn needs_router_mapped(forwards: &[Forward]) -> bool {
        let udp = forwards.iter().any(|forward| forward.protocol == Protocol::Udp);
        udp || has_loopback_resolver(&fs::read_to_string(RESOLVERS).unwrap_or_default())
    }

    /// `descriptor` is its end of the connection to QEMU.
    fn arguments(&self, descriptor: RawFd) -> Vec<String> {
        let dotted = |address: [u8; 4]| IpAddr::from(address).to_string();
        // Addresses and routes are none of the host's, so it needs none: loopback, which is always there, is looked at for
        // nothing. By the router's hardware address it is found again.
        let mut arguments: Vec<String> =
            [FOREGROUND, "--quiet", "--ipv4-only", "--interface", "lo", "--netmask", "24"].map(str::to_owned).into();
        let mut say = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        say("--address", dotted(GUEST));
        say("--gateway", dotted(ROUTER));
        say("--mac-addr", router(self.mac));
        for forward in self.forwards {
            let Forward { protocol, host_address, host_port, guest_port } = forward;
            let name = match protocol {
                Protocol::Tcp => "--tcp-ports",
                Protocol::Udp => "--udp-ports",
            };
            say(name, format!("{host_address}/{host_port}:{guest_port}"));
        }
        say("--fd", descriptor.to_string());
        if !self.maps_router {
            arguments.push("--no-map-gw".to_owned());
        }
        arguments
    }
}

/// The hardware address of the router that a NIC sees: no other's, and not its own.
fn router(mac: MacAddr) -> String {
    let [a, b, rest @ ..] = mac.octets();
    let octets = [a, b ^ 1].into_iter().chain(rest);
    octets.map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

fn has_loopback_resolver(text: &str) -> bool {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let mut addresses = servers.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    addresses.any(|address| address.is_loopback())
}

/// What it complains of is held in a pipe that it has both ends of: it never waits for a reader, and never lacks one.
pub struct Words(File);

impl Words {
    /// For people; of one that has ended.
    pub fn read(mut self) -> String {
        let mut words = vec![0; 4096];
        let read = self.0.read(&mut words).unwrap_or_default();
        let words = String::from_utf8_lossy(words.get(..read).unwrap_or_default()).into_owned();
        // It has no system log where it is.
        let said = words.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("to syslog"));
        said.collect::<Vec<_>>().join("; ")
    }
}

/// Starts one, with its end of the connection to QEMU. Blocks.
///
/// # Errors
/// When it is not installed, cannot be kept in its cell, or the kernel has no process left.
pub fn spawn(task: &Task, qemu: UnixStream, cell: Cell) -> io::Result<(Process, Words)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let descriptor = qemu.as_raw_fd();
    let child = Child::new(PASST, Path::new(PROGRAM)).args(task.arguments(descriptor)).stderr(writer.into());
    let process = Process::spawn(child.inherit([descriptor, reader.as_raw_fd()]).within(cell))?;
    Ok((process, Words(reader.into())))
}

/// Of processes, or of all that there are, those that carry the NIC with this address. Blocks.
///
/// # Errors
/// When they cannot be looked at.
pub fn running(mac: MacAddr, among: Option<&[i32]>) -> io::Result<Vec<Process>> {
    let router = router(mac);
    let words = [FOREGROUND, "--mac-addr", &router];
    let all = among.map_or_else(|| process::find(&words), |all| Ok(all.to_vec()))?;
    Ok(process::among(&all, &words))
}

/// Starts one as a VM would, and asks it who the router is.
///
/// # Errors
/// In words, why it is of no use here: it is not there, is too old, or the host does not let it do what it has to.
pub async fn attempt(cell: Cell) -> Result<(), String> {
    let mac = MacAddr::random();
    let started = spawn_blocking(move || {
        let (ours, theirs) = UnixStream::pair()?;
        let task = Task { mac, forwards: &[], maps_router: false };
        let (process, words) = spawn(&task, theirs, cell)?;
        Ok::<_, io::Error>((process, words, ours))
    });
    let (process, words, ours) =
        started.await.map_err(|error| error.to_string())?.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "passt is not installed (apt-get install passt)".to_owned(),
            _ => format!("passt cannot be run: {error}"),
        })?;
    let answer = spawn_blocking(move || ask(ours, mac));
    let answered = timeout(TRIAL, answer).await;
    process.kill();
    process.exited().await;
    match answered {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(format!("passt does not work here ({error}): {}", words.read())),
        Ok(Err(_)) | Err(_) => Err("passt does not answer".to_owned()),
    }
}

/// Who the router is, by ARP. Frames have their length before them. Blocks, no longer than one has to answer.
fn ask(mut passt: UnixStream, mac: MacAddr) -> io::Result<()> {
    passt.set_read_timeout(Some(TRIAL))?;
    let mac = mac.octets();
    let mut frame = Vec::with_capacity(4 + 42);
    frame.extend(42_u32.to_be_bytes());
    frame.extend([0xff; 6]);
    frame.extend(mac);
    // ARP, of Ethernet and IPv4: a request.
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(GUEST);
    frame.extend([0; 6]);
    frame.extend(ROUTER);
    // In one piece: the passt of Debian 12 forgets a length that comes alone.
    passt.write_all(&frame)?;
    let mut answer = [0; 4 + 22];
    passt.read_exact(&mut answer)?;
    // An answer of ARP.
    match answer[16..18] == [8, 6] && answer[24..26] == [0, 2] {
        true => Ok(()),
        false => Err(io::Error::other("it answers something else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passt_is_told_addresses_forwards_and_its_connection() {
        let forward = |protocol, host_address: [u8; 4], host_port, guest_port| Forward {
            protocol,
            host_address: host_address.into(),
            host_port,
            guest_port,
        };
        let forwards =
            [forward(Protocol::Tcp, [127, 0, 0, 1], 2222, 22), forward(Protocol::Udp, [0, 0, 0, 0], 5353, 53)];
        let mac = serde_json::from_value(serde_json::json!("52:54:00:0a:0b:0c")).unwrap();
        let task = Task { mac, forwards: &forwards, maps_router: false };
        let words = task.arguments(7).join(" ");
        let wanted = "--foreground --quiet --ipv4-only --interface lo --netmask 24 --address 10.0.2.15 --gateway 10.0.2.2 \
                      --mac-addr 52:55:00:0a:0b:0c --tcp-ports 127.0.0.1/2222:22 --udp-ports 0.0.0.0/5353:53 --fd 7 --no-map-gw";
        assert_eq!(words, wanted);
        assert!(!Task { maps_router: true, ..task }.arguments(7).contains(&"--no-map-gw".to_owned()));
        assert!(Task::needs_router_mapped(&forwards));
    }

    #[test]
    fn a_resolver_on_loopback_is_seen() {
        assert!(has_loopback_resolver("# by hand\nnameserver 127.0.0.53\noptions edns0\n"));
        assert!(has_loopback_resolver("nameserver 192.0.2.1\nnameserver\t::1\n"));
        assert!(!has_loopback_resolver("nameserver 192.0.2.1\n#nameserver 127.0.0.1\nsearch a\n"));
    }
}
