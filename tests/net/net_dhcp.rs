//! The DHCP of a switch, with the test as the guest: what is asked and answered byte by byte, and a dnsmasq that outlives its
//! daemon and does not outlive its switch. Clients that people run are in `net_clients.rs`.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    process::Command,
    time::Duration,
};

use crate::groups;
use crate::lab::{Lab, nic_on};
use crate::support::{
    PATIENCE, dnsmasqs_below, kill_all,
    netns::{Peer, arp, ip, udp},
};
use qherd::net::Network;

/// The options of a DHCP answer.
pub fn option(frame: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = frame.get(14 + 20 + 8 + 240..)?;
    while let [code, length, tail @ ..] = rest {
        if *code == wanted {
            return tail.get(..usize::from(*length));
        }
        rest = tail.get(usize::from(*length)..)?;
    }
    None
}

pub fn dhcp(mac: [u8; 6], kind: u8, options: &[u8]) -> Vec<u8> {
    let fixed = [&[1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0][..], &[0; 16], &mac, &[0; 10 + 192]].concat();
    let data = [&fixed[..], &[99, 130, 83, 99, 53, 1, kind], options, &[255]].concat();
    udp([0xff; 6], mac, ([0; 4], [255; 4]), (68, 67), &data)
}

#[tokio::test]
async fn an_internal_switch_gives_out_reserved_addresses_and_nat_leads_outside() {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    peer.ip("addr add 192.0.2.2/24 dev up1");
    let switch = lab.internal("10.77.0.0/24", true).await;
    let address = [10, 77, 0, 50];
    let na = nic_on(&switch, Some(address.into()));
    let a = lab.guest(&na).await;
    let answer = |kind: u8| {
        move |frame: &[u8]| frame.len() > 280 && frame[12..14] == [8, 0] && option(frame, 53) == Some(&[kind])
    };
    // A client asks until somebody answers: dnsmasq is just taking note of the new NIC.
    let ask = async |frame: Vec<u8>, kind: u8| {
        for _ in 0..600 {
            a.send(&frame);
            let wait = tokio::time::timeout(Duration::from_millis(200), a.until(answer(kind))).await;
            if let Ok(mut seen) = wait {
                return seen.pop().unwrap();
            }
        }
        panic!("no answer");
    };
    let offer = ask(dhcp(a.mac, 1, &[]), 2).await;
    let given = |frame: &[u8]| <[u8; 4]>::try_from(&frame[14 + 28 + 16..14 + 28 + 20]).unwrap();
    assert_eq!(given(&offer), address);
    assert_eq!(option(&offer, 3), Some(&[10, 77, 0, 1][..]), "the way out");
    let request = [&[50, 4][..], &address, &[54, 4, 10, 77, 0, 1, 12, 3], b"web"].concat();
    let ack = ask(dhcp(a.mac, 3, &request), 5).await;
    assert_eq!(given(&ack), address);
    let leases = lab.net.leases(switch.id);
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!((leases[0].address, leases[0].mac.clone()), (Ipv4Addr::from(address), na.mac.to_string()));
    assert_eq!(leases[0].hostname, None, "what a guest calls itself counts for nothing");

    // Another machine sees the host's address.
    let (ready, bound) = std::sync::mpsc::channel();
    let server = peer.within(move || {
        let socket = std::net::UdpSocket::bind("192.0.2.2:7").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
        from.ip()
    });
    bound.recv().unwrap();
    a.send(&arp(a.mac, a.mac, address, [10, 77, 0, 1]));
    let arps = a.until(|frame| frame.starts_with(&a.mac) && frame[12..14] == [8, 6]).await;
    let gateway: [u8; 6] = arps.last().unwrap()[6..12].try_into().unwrap();
    a.send(&udp(gateway, a.mac, (address, [192, 0, 2, 2]), (5000, 7), b"hello"));
    // The way back asks for the guest's MAC address, which only a guest answers; it is known from its ARP.
    let back = a.until(|frame| frame.len() >= 47 && frame[12..14] == [8, 0] && frame[42..47] == *b"hello").await;
    assert_eq!(back.last().unwrap()[26..30], [192, 0, 2, 2]);
    assert_eq!(server.join().unwrap(), Ipv4Addr::new(192, 0, 2, 1));

    // A dnsmasq that ends is replaced; one that lives is taken over by the next daemon.
    let config =
        format!("--conf-file={}", lab.dir.path().join("net").join(switch.id.short()).join("dnsmasq.conf").display());
    let running = || qherd::host::process::find(&["--keep-in-foreground", &config]).unwrap();
    let first = running();
    assert_eq!(first.len(), 1);
    let first_group = group_of(first[0]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    let second = tokio::time::timeout(PATIENCE, async {
        loop {
            match running()[..] {
                [pid] if pid != first[0] => return pid,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let second = second.await.expect("another dnsmasq");
    let second_group = group_of(second);
    ask(dhcp(a.mac, 1, &[]), 2).await;
    let Lab { host, dir, net } = lab;
    drop(net);
    let net = Network::open(dir.path()).await;
    net.put_switch(&switch, None).await.unwrap();
    net.adopt(&na).await;
    assert_eq!(running(), [second]);
    let lab = Lab { host, dir, net };
    drop(a);
    lab.net.unplug(&na).await.unwrap();
    ip("link del up0");
    let folder = lab.dir.path().join("net").join(switch.id.short());
    lab.close(&[&switch]).await;
    assert!(running().is_empty() && !folder.exists());
    for group in [first_group, second_group] {
        assert!(groups::named(&group).is_empty(), "{group} is left");
    }
}

/// The group that a dnsmasq is in, which bounds it, by its name.
fn group_of(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.contains("-net/")).unwrap_or_else(|| panic!("no group of ours: {text}"));
    let name = line.rsplit('/').next().unwrap().to_owned();
    let folders = groups::named(&name);
    assert!(groups::holds(&folders, pid), "{folders:?}");
    assert_eq!(groups::memory_bound(&folders), 256 << 20);
    name
}

/// What a daemon leaves that is killed between the fork of a dnsmasq and its beginning: a child that is known by nothing but the
/// log that it has, and that serves by old files when it begins at last.
#[tokio::test]
async fn a_dnsmasq_that_begins_when_its_daemon_is_dead_is_found_and_ended() {
    let mut lab = Lab::new().await;
    let switch = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&switch, &[]).await;
    lab.net = Network::open(&lab.dir.path().join("elsewhere")).await;
    let folder = lab.dir.path().join("net").join(switch.id.short());
    let conf = folder.join("dnsmasq.conf");
    let own = dnsmasqs_below(lab.dir.path());
    assert_eq!(own.len(), 1);
    kill_all(&own);
    let log = File::options().append(true).open(folder.join("dnsmasq.log")).unwrap();
    while rustix::fs::flock(&log, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begins = format!("sleep 1; exec dnsmasq --keep-in-foreground --conf-file={}", conf.display());
    let mut late = Command::new("sh").args(["-c", &begins]).current_dir(&folder).stderr(log).spawn().unwrap();
    lab.net = Network::open(lab.dir.path()).await;
    lab.net.put_switch(&switch, None).await.unwrap();
    lab.net.sweep(&[switch.id], &[]).await.unwrap();
    lab.await_problem(&switch, &[]).await;
    // There is no problem before it is tried, either.
    let begin = std::time::Instant::now();
    loop {
        let now = dnsmasqs_below(lab.dir.path());
        if now.len() == 1 && !now.contains(&late.id().cast_signed()) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{now:?} {late:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever ended it has seen to that, too.
    let _ = late.wait();
    assert!(!fs::read_to_string(&conf).unwrap().contains("port=0"), "the port for names is its own again");
    fs::remove_dir_all(lab.dir.path().join("elsewhere")).unwrap();
    lab.close(&[&switch]).await;
}
