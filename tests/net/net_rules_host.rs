//! What guests reach of the host itself, with real sockets in namespaces of their own. What is routed is in
//! `net_rules_routed.rs`.

use crate::support;

use crate::sockets::{GATEWAY, allow, greeted, hear, heard_nothing, listen, say, serve, world};
use crate::support::{
    PATIENCE,
    netns::{Guest, Peer, arp, ethernet, ip, nft, udp},
    yard::Yard,
};
use qherd::model::{SwitchKind, SwitchPort};

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

/// Waits until a frame of a port is refused.
async fn more_refused(yard: &Yard, nic: &qherd::model::Nic, before: u64) {
    let refused = async {
        while yard.refused(nic).await == before {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("nothing was refused");
}

#[tokio::test]
async fn a_guest_beside_the_host_is_led_nowhere_by_it_and_opens_nothing_under_another_name() {
    let mut yard = Yard::new();
    let (lan, behind) = (Peer::new(), Peer::new());
    lan.connect("up0", "up1");
    lan.ip("addr add 192.0.2.2/24 dev up1");
    behind.connect("in0", "in1");
    ip("addr add 198.51.100.1/24 dev in0");
    behind.ip("addr add 198.51.100.2/24 dev in1");
    behind.ip("route add default via 198.51.100.1");
    allow("ipv4/ip_forward");
    yard.more = vec![[192, 0, 2, 1].into()];
    let switch = yard.switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: true, dhcp: false });
    ip(&format!("link set up0 master {}", switch.bridge()));
    ip(&format!("addr add 192.0.2.1/24 dev {}", switch.bridge()));
    let inside = behind.within(|| listen("198.51.100.2:9")).join().unwrap();
    let host = Some(std::net::Ipv4Addr::new(192, 0, 2, 1));
    for allow_spoofing in [false, true] {
        let port = SwitchPort { allow_spoofing, ..SwitchPort::on(switch.id) };
        let (nic, guest) = yard.machine(port, if allow_spoofing { "192.0.2.4/24" } else { "192.0.2.3/24" }, host).await;
        let before = yard.refused(&nic).await;
        say(&guest, &["198.51.100.2:9"]);
        more_refused(&yard, &nic, before).await;
        heard_nothing(&inside);
        if allow_spoofing {
            guest.ip("link set eth0 down");
            guest.ip("link set eth0 address 02:00:00:00:00:99 up");
        }
        let listener = std::net::TcpListener::bind("192.0.2.1:80").unwrap();
        let shut = guest.within(|| {
            let to = "192.0.2.1:80".parse().unwrap();
            std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(1)).is_err()
        });
        assert!(shut.join().unwrap(), "the host is open to a guest");
        drop(listener);
        let server = serve(&lan, "192.0.2.2:80");
        guest.within(|| greeted("192.0.2.2:80")).join().unwrap();
        server.join().unwrap();
        // What the host itself begins goes on.
        let at = if allow_spoofing { "192.0.2.4:80" } else { "192.0.2.3:80" };
        let server = serve(&guest, at);
        greeted(at);
        server.join().unwrap();
    }
    // Others on the network are led as ever.
    lan.ip("route add 198.51.100.0/24 via 192.0.2.1");
    say(&lan, &["198.51.100.2:9"]);
    hear(&inside);
    drop((lan, behind));
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
