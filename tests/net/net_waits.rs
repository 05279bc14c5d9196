//! What keeps one switch waiting keeps no other waiting: a kernel that does not answer a request, a dnsmasq that hangs.

use crate::lab::{Lab, await_that, nic_on};
use crate::support::netns::{ip, ip_json, nft};
use crate::warden::{NETFILTER, ROUTE, Warden};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qherd::model::{Nic, Switch};

/// Everything that is asked for of other switches is done.
async fn others_go_on(lab: &Lab, switch: &Switch, nic: &Nic) {
    let guest = lab.guest(nic).await;
    lab.net.put_port(nic).await.unwrap();
    let new = lab.internal("10.99.0.0/24", true).await;
    lab.net.remove_switch(&new, None).await.unwrap();
    ip(&format!("link set {} down", switch.bridge()));
    let is_up = || ip_json(&format!("link show {}", switch.bridge()))[0]["flags"].to_string().contains("\"UP\"");
    await_that("it is up again", is_up).await;
    nft(&format!("flush chain bridge {} {}_ip", table(), switch.bridge()));
    let chain = format!("list chain bridge {} {}_ip", table(), switch.bridge());
    await_that("the rules are back", || nft(&chain).contains("accept")).await;
    lab.net.unplug(nic).await.unwrap();
    drop(guest);
}

fn table() -> String {
    let tables = nft("list tables");
    tables.lines().find_map(|line| line.strip_prefix("table bridge ")).unwrap().to_owned()
}

#[tokio::test]
async fn what_the_kernel_does_not_answer_of_one_switch_keeps_no_other_waiting() {
    let warden = Warden::new();
    let lab = Lab::new().await;
    let (one, other) = (lab.internal("10.77.0.0/24", true).await, lab.internal("10.78.0.0/24", true).await);
    let nic = nic_on(&other, None);
    warden.hold(ROUTE, &one.bridge());
    let (net, switch) = (lab.net.clone(), one.clone());
    let removal = tokio::spawn(async move { net.remove_switch(&switch, None).await });
    // The test's own thread must not wait for itself.
    await_that("it is kept waiting", || warden.held() > 0).await;
    others_go_on(&lab, &other, &nic).await;
    assert!(warden.held() > 0);
    assert!(ip("link").contains(&one.bridge()));
    warden.release();
    // It may have been given up meanwhile, and is done all the same.
    let _ = removal.await.unwrap();
    await_that("it is gone", || !ip("link").contains(&one.bridge())).await;
    lab.close(&[&one, &other]).await;
}

#[tokio::test]
async fn rules_that_nobody_answers_about_keep_no_link_waiting_and_are_told() {
    let warden = Warden::new();
    let lab = Lab::new().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    let nic = nic_on(&lan, None);
    let guest = lab.guest(&nic).await;
    lab.await_problem(&lan, &[]).await;
    warden.hold(NETFILTER, "");
    nft("add table inet others");
    nft(&format!("flush chain bridge {} {}_ip", table(), lan.bridge()));
    await_that("the rules are looked at", || warden.held() > 0).await;
    ip(&format!("link set {} nomaster", nic.tap()));
    ip(&format!("addr flush dev {}", lan.bridge()));
    let shown = || ip_json(&format!("link show {}", nic.tap()))[0]["master"] == lan.bridge().as_str();
    await_that("the tap is in again", shown).await;
    await_that("the address is back", || ip(&format!("addr show {}", lan.bridge())).contains("10.77.0.1/24")).await;
    lab.await_problem(&lan, &["rules", "not answered"]).await;
    warden.release();
    let chain = format!("list chain bridge {} {}_ip", table(), lan.bridge());
    await_that("the rules are back", || nft(&chain).contains("accept")).await;
    lab.await_problem(&lan, &[]).await;
    lab.net.unplug(&nic).await.unwrap();
    nft("delete table inet others");
    drop(guest);
    lab.close(&[&lan]).await;
}

/// The process of dnsmasq beside a switch.
fn dnsmasq(lab: &Lab, switch: &Switch) -> Option<i32> {
    let folder = lab.dir.path().join("net").join(switch.id.short());
    let config = format!("--conf-file={}", folder.join("dnsmasq.conf").display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == config.as_bytes())
    })
}

#[tokio::test]
async fn a_dnsmasq_that_hangs_is_replaced_and_keeps_no_other_switch_waiting() {
    let lab = Lab::new().await;
    let (one, other) = (lab.internal("10.77.0.0/24", true).await, lab.internal("10.78.0.0/24", true).await);
    let nic = nic_on(&other, None);
    // What has just been forked is not known for one yet.
    await_that("one is there", || dnsmasq(&lab, &one).is_some()).await;
    lab.await_problem(&one, &[]).await;
    let hung = dnsmasq(&lab, &one).unwrap();
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    // It is to give out another address now, which it cannot.
    let late = nic_on(&one, Some([10, 77, 0, 9].into()));
    let guest = lab.guest(&late).await;
    let lives = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(lives(hung));
    await_that("it has ended", || !lives(hung)).await;
    others_go_on(&lab, &other, &nic).await;
    await_that("another is there", || dnsmasq(&lab, &one).is_some_and(|pid| pid != hung)).await;
    lab.await_problem(&one, &[]).await;

    // Another configuration: it ends before that is written.
    let hung = dnsmasq(&lab, &one).unwrap();
    let config = lab.dir.path().join("net").join(one.id.short()).join("dnsmasq.conf");
    let tells = || std::fs::read_to_string(&config).unwrap().contains("option:mtu,1400");
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    lab.net.put_switch(&Switch { mtu: Some(1400), ..one.clone() }, None).await.unwrap();
    await_that("it has ended", || {
        // One that a next daemon finds beside its configuration works by it.
        assert!(!(tells() && lives(hung)), "its configuration changes while it lives");
        !lives(hung)
    })
    .await;
    await_that("another is there", || dnsmasq(&lab, &one).is_some_and(|pid| pid != hung)).await;
    assert!(tells());
    lab.net.unplug(&late).await.unwrap();
    drop(guest);

    await_that("one is there", || dnsmasq(&lab, &one).is_some()).await;
    let hung = dnsmasq(&lab, &one).unwrap();
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    let (net, switch) = (lab.net.clone(), one.clone());
    let removal = tokio::spawn(async move { net.remove_switch(&switch, None).await });
    others_go_on(&lab, &other, &nic).await;
    removal.await.unwrap().unwrap();
    assert_eq!(dnsmasq(&lab, &one), None);
    lab.close(&[&other]).await;
}
