//! What guests reach of other switches and of the world, and the world of them, with real sockets in namespaces of their own.

#![allow(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use crate::sockets::{GATEWAY, greeted, hear, heard_nothing, listen, say, serve, world};
use crate::support::{
    PATIENCE,
    netns::{ip, nft},
    yard::{STATE, Yard},
};
use qherd::model::{Subnet, SwitchKind, SwitchPort};

fn receive(mut stream: &TcpStream, bytes: usize) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut vec![0; bytes]).unwrap();
}

#[tokio::test]
async fn a_network_with_nat_leads_outside_but_not_to_other_switches_or_metadata() {
    let mut yard = Yard::new();
    let world = world();
    world.ip("addr add 169.254.169.254/32 dev up1");
    ip("route add 169.254.0.0/16 dev up0");
    let lan = yard.natted("10.77.0.0/24");
    let other = yard.natted("10.78.0.0/24");
    let (nic, guest) = yard.machine(SwitchPort::on(lan.id), "10.77.0.5/24", Some(GATEWAY)).await;
    let gateway = Ipv4Addr::new(10, 78, 0, 1);
    let (_, neighbour) = yard.machine(SwitchPort::on(other.id), "10.78.0.5/24", Some(gateway)).await;
    let outside = world.within(|| listen("0.0.0.0:9")).join().unwrap();
    let beside = neighbour.within(|| listen("10.78.0.5:9")).join().unwrap();
    let before = yard.refused(&nic).await;
    say(&guest, &["10.78.0.5:9", "169.254.169.254:9", "192.0.2.2:9"]);
    let (what, from) = hear(&outside);
    assert_eq!((what.as_str(), from.ip().to_string().as_str()), ("192.0.2.2:9", "192.0.2.1"), "the host's address");
    heard_nothing(&outside);
    heard_nothing(&beside);
    assert_eq!(yard.refused(&nic).await, before + 2);
    // An address that is not of the network leaves under no name.
    guest.ip("addr add 10.99.0.5/32 dev eth0");
    guest.ip("route replace default via 10.77.0.1 src 10.99.0.5");
    say(&guest, &["192.0.2.2:9"]);
    assert_eq!(yard.refused(&nic).await, before + 3);
    // Nobody outside reaches a guest.
    world.ip("route add 10.77.0.0/24 via 192.0.2.1");
    let inside = guest.within(|| listen("10.77.0.5:9")).join().unwrap();
    say(&world, &["10.77.0.5:9"]);
    let own = listen("192.0.2.1:9");
    say(&world, &["192.0.2.1:9"]);
    hear(&own);
    heard_nothing(&inside);
    drop((guest, neighbour));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn tcp_fits_through_a_smaller_uplink_both_ways() {
    let mut yard = Yard::new();
    let world = world();
    ip("link set up0 mtu 1400");
    let lan = yard.natted("10.77.0.0/24");
    let (_, guest) = yard.machine(SwitchPort::on(lan.id), "10.77.0.5/24", Some(GATEWAY)).await;
    let server = serve(&world, "192.0.2.2:80");
    let segment = guest.within(|| {
        use std::os::fd::AsRawFd;
        let stream = TcpStream::connect("192.0.2.2:80").unwrap();
        let (mut size, mut length) = (0i32, 4u32);
        // SAFETY: both are of the size that the call expects.
        let reported = unsafe {
            nix::libc::getsockopt(
                stream.as_raw_fd(),
                nix::libc::IPPROTO_TCP,
                nix::libc::TCP_MAXSEG,
                (&raw mut size).cast(),
                &raw mut length,
            )
        };
        assert_eq!(reported, 0);
        size
    });
    let segment = segment.join().unwrap();
    assert!((1000..=1360).contains(&segment), "{segment}");
    server.join().unwrap();

    // Also where nobody hears that a packet was too large, whoever sends more.
    nft("add table inet deaf");
    nft("add chain inet deaf out { type filter hook output priority 0 ; }");
    nft("add rule inet deaf out icmp type destination-unreachable drop");
    const MUCH: usize = 300_000;
    let (ready, bound) = std::sync::mpsc::channel();
    let server = world.within(move || {
        let listener = TcpListener::bind("192.0.2.2:81").unwrap();
        ready.send(()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        receive(&stream, MUCH);
        stream.write_all(&[1; MUCH]).unwrap();
    });
    bound.recv().unwrap();
    let client = guest.within(|| {
        let mut stream = TcpStream::connect("192.0.2.2:81").unwrap();
        stream.write_all(&[1; MUCH]).unwrap();
        receive(&stream, MUCH);
    });
    client.join().unwrap();
    server.join().unwrap();
    nft("delete table inet deaf");
    drop(guest);
    yard.host.assert_untouched();
}

#[tokio::test]
async fn a_forward_leads_to_its_guest_from_outside_the_host_and_the_same_switch() {
    use qherd::model::{ForwardId, Protocol, SwitchForward};
    let mut yard = Yard::new();
    let world = world();
    let lan = yard.natted("10.77.0.0/24");
    let other = yard.natted("10.78.0.0/24");
    let port = |address: [u8; 4]| SwitchPort { address: Some(address.into()), ..SwitchPort::on(lan.id) };
    let (nic, guest) = yard.machine(port([10, 77, 0, 5]), "10.77.0.5/24", Some(GATEWAY)).await;
    let (_, near) = yard.machine(port([10, 77, 0, 6]), "10.77.0.6/24", Some(GATEWAY)).await;
    let gateway = Ipv4Addr::new(10, 78, 0, 1);
    let (far_nic, far) = yard.machine(SwitchPort::on(other.id), "10.78.0.5/24", Some(gateway)).await;
    for (host_port, host_address) in [(8080, None), (8081, Some(Ipv4Addr::new(192, 0, 2, 1)))] {
        yard.switches[0].forwards.push(SwitchForward {
            id: ForwardId::random(),
            protocol: Protocol::Tcp,
            host_address,
            host_port,
            nic: nic.id,
            guest_port: 80,
        });
    }
    yard.put().await;
    for to in ["192.0.2.1:8080", "192.0.2.1:8081"] {
        let server = serve(&guest, "10.77.0.5:80");
        world.within(move || greeted(to)).join().unwrap();
        assert_eq!(server.join().unwrap().ip().to_string(), "192.0.2.2", "the guest sees who it was");
        let server = serve(&guest, "10.77.0.5:80");
        greeted(to);
        server.join().unwrap();
        let server = serve(&guest, "10.77.0.5:80");
        near.within(move || greeted(to)).join().unwrap();
        assert_eq!(server.join().unwrap().ip(), GATEWAY);
    }
    let before = yard.refused(&far_nic).await;
    let connect = far.within(|| {
        let socket = TcpStream::connect_timeout(&"192.0.2.1:8080".parse().unwrap(), std::time::Duration::from_secs(1));
        socket.is_err()
    });
    assert!(connect.join().unwrap(), "another switch is outside of nothing");
    assert!(yard.refused(&far_nic).await > before);
    drop((guest, near, far));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn ipv6_leads_outside_under_the_hosts_address_or_its_own() {
    let mut yard = Yard::new();
    let world = world();
    for (nat, net) in [(true, "fd77::/64"), (false, "2001:db8:77::/64")] {
        let mut subnet = Subnet::parse(if nat { "10.77.0.0/24" } else { "10.78.0.0/24" }, true).unwrap();
        subnet.ipv6 = Some(qherd::model::Subnet6::parse(net, nat).unwrap());
        let own = subnet.ipv6.as_ref().unwrap().gateway();
        let lan = yard.switch(SwitchKind::Internal { subnet: Some(subnet) });
        ip(&format!("-6 addr add {own}/64 dev {} nodad", lan.bridge()));
        let (nic, guest) = yard.machine(SwitchPort::on(lan.id), "10.99.0.1/32", None).await;
        let address = net.replace("::/64", "::5");
        guest.ip(&format!("-6 addr add {address}/64 dev eth0 nodad"));
        guest.ip(&format!("-6 route add default via {own}"));
        world.ip("-6 route replace 2001:db8:77::/64 via 2001:db8::1");
        let outside = world.within(|| listen("[2001:db8::2]:9")).join().unwrap();
        let host = listen("[::]:9");
        let before = yard.refused(&nic).await;
        say(&guest, &["[2001:db8::1]:9", &format!("[{own}]:9"), "[2001:db8::2]:9"]);
        let from = hear(&outside).1.ip().to_string();
        assert_eq!(from, if nat { "2001:db8::1" } else { &address });
        heard_nothing(&host);
        assert_eq!(yard.refused(&nic).await, before + 2);
        drop((guest, outside, host));
    }
    assert!(nft(&format!("list table inet qherd_{STATE}")).contains("fd77::/64"));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn guests_that_are_kept_apart_do_not_meet_by_way_of_the_host() {
    let mut yard = Yard::new();
    let _world = world();
    let lan = yard.natted("10.77.0.0/24");
    let apart =
        |last: u8| SwitchPort { address: Some([10, 77, 0, last].into()), isolated: true, ..SwitchPort::on(lan.id) };
    let (nic, a) = yard.machine(apart(5), "10.77.0.5/32", None).await;
    let (_, b) = yard.machine(apart(6), "10.77.0.6/32", None).await;
    for guest in [&a, &b] {
        guest.ip("route add 10.77.0.1 dev eth0");
        guest.ip("route add default via 10.77.0.1");
    }
    let beside = b.within(|| listen("10.77.0.6:9")).join().unwrap();
    let before = yard.refused(&nic).await;
    say(&a, &["10.77.0.6:9"]);
    heard_nothing(&beside);
    let dns = listen("10.77.0.1:53");
    say(&a, &["10.77.0.1:53"]);
    hear(&dns);
    heard_nothing(&beside);
    assert_eq!(yard.refused(&nic).await, before + 1);
    drop((a, b));
    yard.host.assert_untouched();
}

#[tokio::test]
async fn guests_that_are_kept_apart_do_not_meet_by_way_of_the_hosts_ipv6_either() {
    let mut yard = Yard::new();
    let _world = world();
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(qherd::model::Subnet6::parse("fd77::/64", true).unwrap());
    let lan = yard.switch(SwitchKind::Internal { subnet: Some(subnet) });
    yard.more = vec!["fd77::1".parse().unwrap()];
    ip(&format!("-6 addr add fd77::1/64 dev {} nodad", lan.bridge()));
    let mut machines = Vec::new();
    for (last, isolated) in [(5, true), (6, true), (7, false)] {
        let port = SwitchPort { isolated, ..SwitchPort::on(lan.id) };
        let (nic, guest) = yard.machine(port, &format!("10.77.0.{last}/32"), None).await;
        guest.ip(&format!("-6 addr add fd77::{last}/128 dev eth0 nodad"));
        guest.ip("-6 route add fd77::1 dev eth0");
        guest.ip("-6 route add default via fd77::1");
        machines.push((nic, guest));
    }
    let [(nic, a), (_, b), (_, c)] = &machines[..] else { unreachable!() };
    let beside = b.within(|| listen("[fd77::6]:9")).join().unwrap();
    // By the host, which knows the way.
    say(c, &["[fd77::6]:9"]);
    hear(&beside);
    let before = yard.refused(nic).await;
    say(a, &["[fd77::6]:9"]);
    let dns = listen("[fd77::1]:53");
    say(a, &["[fd77::1]:53"]);
    hear(&dns);
    let refused = async {
        while yard.refused(nic).await == before {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("nothing was refused");
    heard_nothing(&beside);
    drop(machines);
    yard.host.assert_untouched();
}
