//! A dnsmasq that is there and does nothing, though nobody has stopped it: what waits for it is seen, it is told, and another
//! takes its place.

use std::{fs, os::unix::fs::FileExt};

use crate::lab::{Lab, await_that, nic_on};
use crate::net_dhcp::{dhcp, option};
use crate::support::dnsmasqs_below;

/// poll(NULL, 0, -1), over and over.
const SLEEP: [u8; 18] =
    [0xb8, 7, 0, 0, 0, 0x31, 0xff, 0x31, 0xf6, 0xba, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x05, 0xeb, 0xee];

/// What a process of this number does next is to sleep for ever, as soon as it wakes from what it waits for.
async fn hang(pid: i32) {
    let call = || fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    await_that("it waits in poll", || call().starts_with("7 ")).await;
    let next = u64::from_str_radix(call().trim().rsplit_once(" 0x").unwrap().1, 16).unwrap();
    let memory = fs::File::options().write(true).open(format!("/proc/{pid}/mem")).unwrap();
    memory.write_all_at(&SLEEP, next).unwrap();
}

#[tokio::test]
async fn a_dnsmasq_that_answers_nobody_is_told_and_another_takes_its_place() {
    let lab = Lab::new().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    let nic = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let guest = lab.guest(&nic).await;
    let discover = dhcp(guest.mac, 1, &[]);
    let is_offer = |frame: &[u8]| frame.len() > 280 && frame[12..14] == [8, 0] && option(frame, 53) == Some(&[2]);
    guest.asking_until(|guest| guest.send(&discover), is_offer).await;
    lab.await_problem(&lan, &[]).await;
    let [hung] = dnsmasqs_below(lab.dir.path())[..] else { panic!("one dnsmasq") };
    hang(hung).await;
    while guest.take().is_some() {}
    // As a guest's client does: again and again.
    let offered = guest.asking_until(|guest| guest.send(&discover), is_offer);
    let (_, reported) = tokio::join!(offered, lab.await_problem(&lan, &["dnsmasq hangs", "another takes its place"]));
    assert!(!reported.is_empty());
    assert!(matches!(dnsmasqs_below(lab.dir.path())[..], [other] if other != hung));
    lab.await_problem(&lan, &[]).await;
    lab.net.unplug(&nic).await.unwrap();
    drop(guest);
    lab.close(&[&lan]).await;
}
