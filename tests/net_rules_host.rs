//! What guests reach of the host, of other switches and of the world, with real sockets in namespaces of their own. That
//! something does not arrive is known from what is sent after it and does.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use qherd::model::{Subnet, SwitchKind, SwitchPort};
use support::{
    PATIENCE,
    netns::{Guest, Peer, arp, ethernet, ip, nft, udp},
    yard::{STATE, Yard},
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

fn allow(path: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
}

/// A machine on the network of the host's adapter `up0`, at 192.0.2.2; the host is 192.0.2.1 there.
fn world() -> Peer {
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

fn listen(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A guest sends a datagram to each of these, one after another.
fn say(guest: &Peer, to: &[&str]) {
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

fn hear(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

fn heard_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let reported = socket.recv_from(&mut [0; 100]).map(|(_, from)| from);
    assert_eq!(reported.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "{:?}", socket.local_addr());
    socket.set_nonblocking(false).unwrap();
}

/// What a TCP server at `at` is connected from.
fn serve(machine: &Peer, at: &'static str) -> std::thread::JoinHandle<SocketAddr> {
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

fn greeted(to: &str) {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello", "{to}");
}

#[tokio::test]
async fn a_guest_reaches_the_services_of_its_switch_and_nothing_else_of_the_host() {
    let mut yard = Yard::new();
    let world = world();
    let lan = yard.natted("10.77.0.0/24");
    yard.natted("10.78.0.0/24");
    let port = SwitchPort { address: Some([10, 77, 0, 5].into()), ..SwitchPort::on(lan.id) };
    let (nic, guest) = yard.machine(port, "10.77.0.5/24", Some(GATEWAY)).await;
    // Somebody else lets everything in, and leads the host's port 80 elsewhere.
    nft("add table inet others");
    for chain in ["i { type filter hook input priority -400 ; }", "f { type filter hook forward priority -400 ; }"] {
        nft(&format!("add chain inet others {chain}"));
    }
    nft("add chain inet others d { type nat hook prerouting priority -100 ; }");
    nft("add rule inet others i accept");
    nft("add rule inet others f accept");
    nft("add rule inet others d ip daddr 192.0.2.1 udp dport 80 dnat ip to 192.0.2.2:80");

    let (dns, everywhere, other) = (listen("10.77.0.1:53"), listen("[::]:9"), listen("10.78.0.1:53"));
    let elsewhere = world.within(|| listen("192.0.2.2:80")).join().unwrap();
    // Services of the host on its link-local address, which a bridge has by itself.
    ip(&format!("-6 addr add fe80::1/64 dev {} nodad", lan.bridge()));
    guest.ip("-6 addr add fe80::5/64 dev eth0 nodad");
    // Nobody answers for it, so the guest is told.
    let bridge = support::netns::ip_json(&format!("link show {}", lan.bridge()));
    guest.ip(&format!("-6 neigh add fe80::1 lladdr {} dev eth0", bridge[0]["address"].as_str().unwrap()));
    let links: serde_json::Value = serde_json::from_str(&guest.ip("-j link show eth0")).unwrap();
    let own6 = format!("[fe80::1%{}]:9", links[0]["ifindex"]);
    let before = yard.refused(&nic).await;
    let refused = ["192.0.2.1:9", "10.78.0.1:53", "10.78.0.1:9", "10.77.0.1:9", "192.0.2.1:80", &own6];
    say(&guest, &refused);
    say(&guest, &["10.77.0.255:9", "255.255.255.255:9", "10.77.0.1:53"]);
    assert_eq!(hear(&dns).0, "10.77.0.1:53");
    for socket in [&everywhere, &other, &elsewhere] {
        heard_nothing(socket);
    }
    assert_eq!(yard.refused(&nic).await, before + refused.len() as u64);

    // What the host began goes on.
    let server = serve(&guest, "10.77.0.5:80");
    greeted("10.77.0.5:80");
    assert_eq!(server.join().unwrap().ip(), GATEWAY);

    // The switch's own address can be opened; the others stay shut.
    if let SwitchKind::Internal { subnet: Some(subnet) } = &mut yard.switches[0].kind {
        subnet.host_access = true;
    }
    yard.put().await;
    say(&guest, &["192.0.2.1:9", "10.78.0.1:9", "10.77.0.1:9"]);
    assert_eq!(hear(&everywhere).0, "10.77.0.1:9");
    nft("delete table inet others");
    drop(guest);
    yard.host.assert_untouched();
}

#[tokio::test]
async fn the_host_answers_for_its_address_on_the_switch_alone_and_to_icmp() {
    let mut yard = Yard::new();
    ip("addr add 192.0.2.1/24 dev lo");
    let lan = yard.natted("10.77.0.0/24");
    let (_, a) = yard.guest(SwitchPort { address: Some([10, 77, 0, 5].into()), ..SwitchPort::on(lan.id) }).await;
    let own = [10, 77, 0, 5];
    let answers = |frame: &[u8]| frame.starts_with(&a.mac) && frame[12..14] == [8, 6];
    let ask = |guest: &Guest| {
        guest.send(&arp(guest.mac, guest.mac, own, [192, 0, 2, 1]));
        guest.send(&arp(guest.mac, guest.mac, own, [10, 77, 0, 1]));
    };
    let mut seen = a.asking_until(ask, answers).await;
    let answer = seen.pop().unwrap();
    assert_eq!(answer[28..32], [10, 77, 0, 1], "the first answer is for the second question");
    let gateway: [u8; 6] = answer[6..12].try_into().unwrap();
    let mut echo = udp(gateway, a.mac, (own, [10, 77, 0, 1]), (0x0800, 0), &[]);
    echo[23] = 1;
    // Checksums of IPv4 (another protocol by 16) and of ICMP (type 8, nothing else but a length of 8).
    let sum = u16::from_be_bytes([echo[24], echo[25]]) + 16;
    echo[24..26].copy_from_slice(&sum.to_be_bytes());
    echo[34..42].copy_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let back = a.asking_until(|guest| guest.send(&echo), |frame| frame.starts_with(&a.mac) && frame[23] == 1).await;
    assert_eq!(back.last().unwrap()[34], 0, "an echo reply");
    drop(a);
    yard.host.assert_untouched();
}

#[tokio::test]
async fn frames_that_a_bridge_does_not_look_at_do_not_reach_the_host() {
    let mut yard = Yard::new();
    ip("addr add 10.9.9.9/32 dev lo");
    let private = yard.switch(SwitchKind::Private);
    let (nic, a) = yard.guest(SwitchPort { allow_spoofing: true, ..SwitchPort::on(private.id) }).await;
    let socket = listen("0.0.0.0:9");
    let to = [10, 9, 9, 9];
    let from = [10, 9, 9, 8];
    for last in 0..16 {
        let group = [1, 0x80, 0xc2, 0, 0, last];
        let before = yard.refused(&nic).await;
        a.send(&udp(group, a.mac, (from, to), (1, 9), b"x"));
        let request = arp(a.mac, a.mac, from, to);
        a.send(&ethernet(group, a.mac, 0x0806, &request[14..]));
        // Flow control is for the adapter itself: the bridge drops it.
        let refused = if last == 1 { 0 } else { 2 };
        assert_eq!(yard.refused(&nic).await, before + refused, "{group:02x?}");
    }
    heard_nothing(&socket);
    while let Some(frame) = a.take() {
        assert_eq!(frame[6..12], a.mac, "the host spoke: {frame:02x?}");
    }
    drop(a);
    yard.host.assert_untouched();
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
async fn a_switch_that_the_host_shares_with_a_network_gives_its_guests_no_more_of_the_host() {
    let mut yard = Yard::new();
    let lan = Peer::new();
    lan.connect("up0", "up1");
    lan.ip("addr add 192.0.2.2/24 dev up1");
    let external = SwitchKind::External { adapter: "up0".into(), allow_management_os: true, dhcp: false };
    yard.more = vec![[192, 0, 2, 1].into()];
    let switch = yard.switch(external);
    ip(&format!("link set up0 master {}", switch.bridge()));
    ip(&format!("addr add 192.0.2.1/24 dev {}", switch.bridge()));
    let (nic, guest) = yard.machine(SwitchPort::on(switch.id), "192.0.2.3/24", None).await;
    let host = listen("0.0.0.0:9");
    let outside = lan.within(|| listen("192.0.2.2:9")).join().unwrap();
    let before = yard.refused(&nic).await;
    say(&guest, &["192.0.2.1:9", "192.0.2.2:9"]);
    assert_eq!(hear(&outside).1.ip().to_string(), "192.0.2.3", "as itself");
    heard_nothing(&host);
    assert_eq!(yard.refused(&nic).await, before + 1);
    say(&lan, &["192.0.2.1:9"]);
    assert_eq!(hear(&host).1.ip().to_string(), "192.0.2.2", "others on the network reach the host as ever");
    let server = serve(&guest, "192.0.2.3:80");
    greeted("192.0.2.3:80");
    server.join().unwrap();
    // The host's address, and one of the network behind the adapter, are not a guest's to take.
    for taken in ["192.0.2.1", "192.0.2.2"] {
        guest.ip("addr flush dev eth0");
        guest.ip(&format!("addr add {taken}/24 dev eth0"));
        let before = yard.refused(&nic).await;
        say(&guest, &["192.0.2.9:9"]);
        let refused = async {
            while yard.refused(&nic).await == before {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.unwrap_or_else(|_| panic!("{taken} was claimed"));
    }
    drop(guest);
    yard.host.assert_untouched();
}
