//! Datagrams and connections between the host, its guests and a machine of the world. That something does not arrive is known
//! from what is sent after it and does.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use crate::support::{
    PATIENCE,
    netns::{Peer, ip},
};

/// Of the switch with 10.77.0.0/24.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub fn allow(path: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
}

/// A machine on the network of the host's adapter `up0`, at 192.0.2.2; the host is 192.0.2.1 there.
pub fn world() -> Peer {
    let world = Peer::new();
    world.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
    world.ip("addr add 192.0.2.2/24 dev up1");
    world.ip("-6 addr add 2001:db8::2/64 dev up1 nodad");
    allow("ipv4/ip_forward");
    allow("ipv6/conf/all/forwarding");
    world
}

pub fn listen(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A guest sends a datagram to each of these, one after another.
pub fn say(guest: &Peer, to: &[&str]) {
    let to: Vec<SocketAddr> = to.iter().map(|to| to.parse().unwrap()).collect();
    let said = guest.within(move || {
        for to in to {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(to.to_string().as_bytes(), to).unwrap();
        }
    });
    said.join().unwrap();
}

pub fn hear(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

pub fn heard_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let reported = socket.recv_from(&mut [0; 100]).map(|(_, from)| from);
    assert_eq!(reported.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "{:?}", socket.local_addr());
    socket.set_nonblocking(false).unwrap();
}

/// What a TCP server at `at` is connected from.
pub fn serve(machine: &Peer, at: &'static str) -> std::thread::JoinHandle<SocketAddr> {
    let (ready, bound) = std::sync::mpsc::channel();
    let server = machine.within(move || {
        let listener = TcpListener::bind(at).unwrap();
        ready.send(()).unwrap();
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        from
    });
    bound.recv().unwrap();
    server
}

pub fn greeted(to: &str) {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello", "{to}");
}
