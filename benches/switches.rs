//! What switches and ports cost, without QEMU: making fifty switches, plugging and unplugging a NIC beside three hundred
//! others, and bringing all of them about on a host where nothing of it is left.
//!
//! Run with `scripts/bench`, as root; it works in a network namespace of its own.

#[path = "../tests/support/lab.rs"]
mod lab;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use lab::{Lab, nic_on, switch};
use qherd::{
    model::{Nic, Subnet, Switch, SwitchKind},
    net::{Network, PortHealth},
};
use support::netns::{ip, nft};

const SWITCHES: u8 = 50;
const PORTS: u16 = 300;
const ROUNDS: u16 = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let lab = Lab::new().await;
    let mut switches = Vec::new();
    let begun = Instant::now();
    for n in 0..SWITCHES {
        let subnet = Subnet::parse(&format!("10.{n}.0.0/22"), true).unwrap();
        let lan = switch(SwitchKind::Internal { subnet: Some(subnet) });
        lab.net.survey(&lan, None).await.unwrap();
        lab.net.put_switch(&lan, None).await.unwrap();
        switches.push(lan);
    }
    println!("{SWITCHES} switches with NAT and DHCP: {} each", ms(begun.elapsed() / SWITCHES.into()));

    let lan = switches[0].clone();
    let nics: Vec<Nic> = (0..PORTS).map(|n| nic(&lan, n)).collect();
    let mut held = Vec::new();
    let begun = Instant::now();
    for nic in &nics {
        held.push(lab.net.plug(nic).await.unwrap());
    }
    println!("{PORTS} NICs plugged: {} each", ms(begun.elapsed() / PORTS.into()));

    let one = nic(&lan, PORTS);
    let (begun, cpu) = (Instant::now(), cpu_time());
    for _ in 0..ROUNDS {
        drop(lab.net.plug(&one).await.unwrap());
        lab.net.unplug(&one).await.unwrap();
    }
    let (elapsed, cpu) = (begun.elapsed(), cpu_time() - cpu);
    let rounds = u32::from(ROUNDS);
    println!(
        "plug and unplug beside {PORTS} others: {}, {} of CPU (with what it sets off)",
        ms(elapsed / rounds),
        ms(cpu / rounds)
    );

    // A new daemon finds the taps, and nothing else.
    let Lab { host, dir, net } = lab;
    drop(net);
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

fn nic(lan: &Switch, n: u16) -> Nic {
    let [high, low] = (n + 2).to_be_bytes();
    nic_on(lan, Some([10, 0, high, low].into()))
}

/// Of this process, in user space and in the kernel.
fn cpu_time() -> Duration {
    let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
    Duration::from_millis((stat.utime + stat.stime) * 1000 / procfs::ticks_per_second())
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
