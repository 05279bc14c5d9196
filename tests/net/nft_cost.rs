//! What rules cost, in CPU of this process (the kernel's work for it included): `cargo nextest run --release --run-ignored
//! only --test net nft_cost:: --no-capture`.

#![allow(unsafe_code)]

use std::{net::Ipv4Addr, time::Instant};

use crate::support::{
    parts,
    yard::{STATE, Yard},
};
use qherd::{
    model::SwitchPort,
    net::{
        nft::{Batch, Ruleset, diff},
        rules::{self, OnHost},
    },
};

fn cpu() -> f64 {
    let mut usage = unsafe { std::mem::zeroed::<nix::libc::rusage>() };
    // SAFETY: it fills the struct.
    unsafe { nix::libc::getrusage(nix::libc::RUSAGE_SELF, &raw mut usage) };
    let seconds = |time: nix::libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[tokio::test]
#[ignore = "measures"]
async fn ports_and_switches_cost_little() {
    let mut yard = Yard::new();
    let switches: Vec<_> = (0..50).map(|n| yard.natted(&format!("10.{n}.0.0/24"))).collect();
    for n in 0..300usize {
        let address = Some(Ipv4Addr::new(10, (n % 50) as u8, 0, 5 + (n / 50) as u8));
        let port = SwitchPort { address, ..SwitchPort::on(switches[n % 50].id) };
        yard.nics.push(parts::nic(port));
    }
    let report = |what: &str, times: u32, start: Instant, before: f64| {
        let each = 1e3 / f64::from(times);
        println!("{what}: {:.2} ms, {:.2} ms of CPU", start.elapsed().as_secs_f64() * each, (cpu() - before) * each);
    };
    let (start, before) = (Instant::now(), cpu());
    let whole = yard.wanted();
    report("the description of 50 switches and 300 ports", 1, start, before);
    let (start, before) = (Instant::now(), cpu());
    yard.kernel.apply(diff(&Ruleset::default(), &whole)).await.unwrap();
    report("50 switches and 300 ports from nothing", 1, start, before);
    let (start, before) = (Instant::now(), cpu());
    let is = yard.kernel.read(&rules::tables(STATE)).await.unwrap();
    report("reading all of it", 1, start, before);
    let (start, before) = (Instant::now(), cpu());
    assert!(diff(&is, &whole).is_empty());
    report("comparing all of it", 1, start, before);
    let last = yard.nics.pop().unwrap();
    let (start, before) = (Instant::now(), cpu());
    const TIMES: u32 = 20;
    for _ in 0..TIMES {
        let without = yard.wanted();
        yard.kernel.apply(diff(&whole, &without)).await.unwrap();
        yard.nics.push(last.clone());
        let with = yard.wanted();
        yard.kernel.apply(diff(&without, &with)).await.unwrap();
        yard.nics.pop();
    }
    report("unplug and plug, with the whole description both times", TIMES, start, before);
    let mut there = yard.wanted();
    let (start, before) = (Instant::now(), cpu());
    for _ in 0..TIMES {
        let on = OnHost { switch: &yard.switches[49], host: &[] };
        let part = rules::part(&there, STATE, &on, &last).unwrap();
        let (mut plug, mut unplug) = (Batch::default(), Batch::default());
        plug.add_elements(&part);
        yard.kernel.apply(plug).await.unwrap();
        there.add_elements(&part);
        unplug.delete_elements(&part);
        yard.kernel.apply(unplug).await.unwrap();
        there.delete_elements(&part);
    }
    report("unplug and plug of one port alone", TIMES, start, before);
    let (start, before) = (Instant::now(), cpu());
    for _ in 0..TIMES {
        rules::refused(&yard.kernel, STATE).await.unwrap().unwrap();
    }
    report("what was refused, of all ports", TIMES, start, before);
    yard.host.assert_untouched();
}
