//! How much a port carries, measured: TCP between the host and a machine behind the port, with a limit and without, both ways.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::lab::{Lab, nic};
use crate::net_clients::machine;
use crate::support::netns::Peer;
use qherd::model::{Bandwidth, NicBackend, SwitchPort};

/// Bits per second.
const LIMIT: u64 = 40_000_000;
/// Bytes: three seconds' worth.
const MUCH: usize = 15_000_000;
/// What passes at once, and what may wait, whatever the limit is.
const AT_ONCE: f64 = 600_000.0;

/// How long it takes to receive so many bytes, or to send them and hear that they were received.
fn pass(mut stream: &TcpStream, sends: bool) -> Duration {
    let begun = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    let mut left = MUCH;
    while left > 0 {
        let part = left.min(buffer.len());
        let passed = if sends { stream.write(&buffer[..part]) } else { stream.read(&mut buffer) }.unwrap();
        assert!(passed > 0, "{left} bytes are missing");
        left -= passed;
    }
    let taken = begun.elapsed();
    if sends {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    }
    taken
}

/// How long the receiver of so many bytes needs.
fn takes(machine: &Peer, to_guest: bool) -> f64 {
    let (ready, bound) = std::sync::mpsc::channel();
    let guest = machine.within(move || {
        let listener = TcpListener::bind("10.77.0.2:0").unwrap();
        ready.send(listener.local_addr().unwrap()).unwrap();
        pass(&listener.accept().unwrap().0, !to_guest)
    });
    let stream = TcpStream::connect(bound.recv().unwrap()).unwrap();
    let host = pass(&stream, to_guest);
    drop(stream);
    let guest = guest.join().unwrap();
    if to_guest { guest } else { host }.as_secs_f64()
}

#[tokio::test]
async fn a_port_carries_what_its_bandwidth_allows_and_more_without() {
    let lab = Lab::new().await;
    let lan = lab.internal("10.77.0.0/24", false).await;
    let mut port = nic(SwitchPort { address: Some([10, 77, 0, 2].into()), ..SwitchPort::on(lan.id) });
    let machine = machine(&lab, &port).await;
    machine.ip("addr add 10.77.0.2/24 dev eth0");
    let settings = port.port().unwrap().clone();
    for to_guest in [true, false] {
        let free = takes(&machine, to_guest);
        let limit = Some(LIMIT);
        let bandwidth = match to_guest {
            true => Bandwidth { inbound: limit, outbound: None },
            false => Bandwidth { inbound: None, outbound: limit },
        };
        port.backend = NicBackend::Switch(SwitchPort { bandwidth, ..settings.clone() });
        lab.net.put_port(&port).await.unwrap();
        let limited = takes(&machine, to_guest);
        let second = LIMIT as f64 / 8.0;
        let share = |bytes: f64| bytes / limited / second;
        // From the guest a second's worth passes at once, too: so the kernel's limit has it.
        let at_once = if to_guest { AT_ONCE } else { AT_ONCE + second };
        let (least, most) = (share(MUCH as f64 - at_once), share(MUCH as f64));
        println!("to the guest: {to_guest}; free {free:.3} s, limited {limited:.3} s: {most:.2} of the limit");
        assert!(least < 1.2, "{least} times what is allowed, to the guest: {to_guest}");
        assert!(most > 0.25, "{most} of what is allowed, to the guest: {to_guest}");
        assert!(limited > 2.0 * free, "{limited} s with a limit, {free} s without, to the guest: {to_guest}");
        // The other way is free, and so is this one afterwards.
        assert!(takes(&machine, !to_guest) < limited);
        port.backend = NicBackend::Switch(settings.clone());
        lab.net.put_port(&port).await.unwrap();
        assert!(takes(&machine, to_guest) < limited);
    }
    lab.net.unplug(&port).await.unwrap();
    lab.close(&[&lan]).await;
}
