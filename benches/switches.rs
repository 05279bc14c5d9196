//! What switches and ports cost, without QEMU: a port's rules, making fifty switches, plugging and unplugging a NIC beside three
//! hundred others, what somebody takes away until it is back, and bringing all of them about on a host where nothing of it is left. CPU is that of this process, of the
//! dnsmasqs beside it, and of what the kernel does for either.
//!
//! Run with `scripts/bench`, as root; it works in a network namespace of its own.

#![allow(unsafe_code)]

#[path = "../tests/support/lab.rs"]
mod lab;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use lab::{Lab, nic_on, switch};
use nix::libc::{self, RUSAGE_CHILDREN, RUSAGE_SELF, getrusage};
use qherd::{
    model::{Nic, Subnet, Switch, SwitchKind},
    net::{
        Host, Network, PortHealth,
        nft::{Batch, Family, Kernel, Ruleset, diff},
        rules::{self, OnHost},
    },
};
use support::{
    netns::{ip, nft},
    network_mark,
};

const SWITCHES: u8 = 50;
const PORTS: u16 = 300;
const ROUNDS: u32 = 100;
const REPAIRS: usize = 15;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let lab = Lab::new().await;
    println!("a port's rules, in and out beside {PORTS} others: {} of CPU", rules_alone().await);
    let mut switches = Vec::new();
    let mut each = Vec::new();
    for n in 0..SWITCHES {
        let lan = internal(n);
        let begun = Instant::now();
        lab.net.survey(&lan, None).await.unwrap();
        lab.net.put_switch(&lan, None).await.unwrap();
        each.push(begun.elapsed());
        switches.push(lan);
    }
    let mean = |times: &[Duration]| ms(times.iter().sum::<Duration>() / times.len() as u32);
    println!(
        "{SWITCHES} switches with NAT and DHCP: {} each; the first ten {}, the last ten {}",
        mean(&each),
        mean(&each[..10]),
        mean(&each[each.len() - 10..])
    );

    let lan = switches[0].clone();
    let nics: Vec<Nic> = (0..PORTS).map(|n| nic(&lan, n)).collect();
    let one = nic(&lan, PORTS);
    let hosts: Vec<Host> = nics.iter().filter_map(Host::of).collect();
    let with_one: Vec<Host> = hosts.iter().cloned().chain(Host::of(&one)).collect();
    lab.net.put_hosts(lan.id, hosts.clone());
    let mut held = Vec::new();
    let begun = Instant::now();
    for nic in &nics {
        held.push(lab.net.plug(nic).await.unwrap());
    }
    println!("{PORTS} NICs plugged: {} each", ms(begun.elapsed() / PORTS.into()));

    await_rest().await;
    let idle = {
        let (begun, before) = (Instant::now(), cpu_time());
        tokio::time::sleep(Duration::from_secs(5)).await;
        (cpu_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64()
    };
    println!("watching all of it: {:.1} % of a core, which is left out of what follows", idle * 100.0);

    println!("what somebody takes away is right again beside {PORTS} NICs: {}", repairs(&lab, &lan, &nics[0]).await);

    lab.net.put_hosts(lan.id, with_one.clone());
    await_rest().await;
    let (plugged, taken) = rounds(&lab.net, &one, idle, || {}, || {}).await;
    println!("plug and unplug of a NIC beside {PORTS} others: {plugged}, {taken} of CPU");
    let come = || lab.net.put_hosts(lan.id, with_one.clone());
    let go = || lab.net.put_hosts(lan.id, hosts.clone());
    let (plugged, taken) = rounds(&lab.net, &one, idle, come, go).await;
    println!("the same of a NIC that nobody knew before or after: {plugged}, {taken} of CPU");

    // A new daemon finds the taps, and nothing else.
    let Lab { host, dir, net } = lab;
    drop(net);
    // Whatever it was about is over.
    await_rest().await;
    nft("flush ruleset");
    ip(&format!("link del {}", lan.bridge()));
    let net = Network::open(dir.path()).await;
    let begun = Instant::now();
    net.put_switch(&lan, None).await.unwrap();
    let ids: Vec<_> = switches.iter().map(|switch| switch.id).collect();
    net.sweep(&ids, &nics).await.unwrap();
    net.put_switch(&lan, None).await.unwrap();
    println!("{PORTS} ports from nothing: {}", ms(begun.elapsed()));
    net.adopt(&nics[0]).await;
    assert!(nics.iter().all(|nic| net.port(nic.id) == PortHealth::Ok));
    for nic in &nics {
        net.unplug(nic).await.unwrap();
    }
    Lab { host, dir, net }.close(&switches.iter().collect::<Vec<_>>()).await;
}

/// How long after somebody took it away each of a few things is there again, with what it takes to see that.
async fn repairs(lab: &Lab, lan: &Switch, nic: &Nic) -> String {
    let kernel = Kernel::open().unwrap();
    let table = rules::tables(&network_mark(lab.dir.path())).into_iter().find(|table| table.family == Family::Bridge);
    let table = table.unwrap();
    let macs = async || kernel.elements(&table, "macs").await.unwrap().map_or(0, |all| all.len());
    let all = macs().await;
    assert!(all >= PORTS.into());
    let (bridge, tap) = (lan.bridge(), nic.tap());
    let gateway = lan.subnet().unwrap().gateway().to_string();
    let mut rows = Vec::new();
    for what in ["the elements of a set", "an address", "a NIC's place in its bridge", "a setting"] {
        let mut times = Vec::new();
        for _ in 0..REPAIRS {
            let setting = format!("/proc/sys/net/ipv4/conf/{bridge}/rp_filter");
            match what {
                "the elements of a set" => _ = nft(&format!("flush set bridge {} macs", table.name)),
                "an address" => _ = ip(&format!("addr flush dev {bridge}")),
                "a setting" => fs::write(&setting, "0").unwrap(),
                _ => _ = ip(&format!("link set {tap} nomaster")),
            }
            let begun = Instant::now();
            loop {
                let is_right = match what {
                    "the elements of a set" => macs().await == all,
                    "an address" => ip(&format!("addr show dev {bridge}")).contains(&gateway),
                    "a setting" => fs::read_to_string(&setting).unwrap().trim() == "1",
                    _ => ip(&format!("link show dev {tap}")).contains(" master "),
                };
                if is_right {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times.push(begun.elapsed());
            // Whatever followed from it is over.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        times.sort();
        rows.push(format!("{what} after {} ({} at most)", ms(times[times.len() / 2]), ms(times[times.len() - 1])));
    }
    rows.join(", ")
}

/// What a port's rules take in and out, among those of all switches and ports, and nothing else.
async fn rules_alone() -> String {
    const STATE: &str = "measured";
    let kernel = Kernel::open().unwrap();
    let switches: Vec<_> = (0..SWITCHES).map(internal).collect();
    let on: Vec<_> = switches.iter().map(|switch| OnHost { switch, host: &[] }).collect();
    let nics: Vec<Nic> = (0..PORTS).map(|n| nic(&switches[0], n)).collect();
    let one = nic(&switches[0], PORTS);
    let mut there = rules::ruleset(STATE, &on, &nics);
    kernel.apply(diff(&Ruleset::default(), &there)).await.unwrap();
    let before = cpu_time();
    for _ in 0..ROUNDS {
        let part = rules::part(&there, STATE, &on[0], &one).unwrap();
        let (mut plug, mut unplug) = (Batch::default(), Batch::default());
        plug.add_elements(&part);
        kernel.apply(plug).await.unwrap();
        there.add_elements(&part);
        unplug.delete_elements(&part);
        kernel.apply(unplug).await.unwrap();
        there.delete_elements(&part);
    }
    let taken = ms((cpu_time() - before) / ROUNDS);
    kernel.apply(diff(&there, &Ruleset::default())).await.unwrap();
    taken
}

fn internal(n: u8) -> Switch {
    let subnet = Subnet::parse(&format!("10.{n}.0.0/22"), true).unwrap();
    switch(SwitchKind::Internal { subnet: Some(subnet) })
}

/// How long a round takes, and how much CPU, with all that it sets off a while later, and without the part of a core that
/// is taken while nothing happens.
async fn rounds(net: &Network, one: &Nic, idle: f64, come: impl Fn(), go: impl Fn()) -> (String, String) {
    let (mut elapsed, all, before) = (Duration::ZERO, Instant::now(), cpu_time());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        come();
        drop(net.plug(one).await.unwrap());
        net.unplug(one).await.unwrap();
        go();
        elapsed += begun.elapsed();
        // Each is seen to by itself, not together with the next.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let taken = (cpu_time() - before).saturating_sub(all.elapsed().mul_f64(idle));
    (ms(elapsed / ROUNDS), ms(taken / ROUNDS))
}

/// What was set off has happened.
async fn await_rest() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

fn nic(lan: &Switch, n: u16) -> Nic {
    let [high, low] = (n + 2).to_be_bytes();
    nic_on(lan, Some([10, 0, high, low].into()))
}

/// Of this process, of its children that have ended, and of those that live.
fn cpu_time() -> Duration {
    let of = |who| {
        // SAFETY: it fills the struct, for which all zeroes are a value.
        let usage: libc::rusage = unsafe {
            let mut usage = std::mem::zeroed();
            assert_eq!(getrusage(who, &raw mut usage), 0);
            usage
        };
        [usage.ru_utime, usage.ru_stime].map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
    };
    let ended = [RUSAGE_SELF, RUSAGE_CHILDREN].into_iter().flat_map(of).sum::<Duration>();
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    let living = children.split_whitespace().map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        Duration::from_nanos(stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
    });
    ended + living.sum::<Duration>()
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
