//! What an earlier daemon, an earlier version or an earlier boot of the host has left is taken over for what it is.

use std::time::{Duration, Instant};

use crate::lab::{self, Lab, await_that, nic_on};
use crate::support::{
    PATIENCE,
    netns::{Peer, ip, ip_json, nft},
};
use qherd::{
    model::{Subnet, SwitchKind},
    net::Network,
};

fn sh(command: &str) {
    let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}

/// The table of ours for what is routed.
fn table() -> String {
    let tables = nft("list tables");
    tables.lines().find_map(|line| line.strip_prefix("table inet ")).unwrap().to_owned()
}

#[tokio::test]
async fn an_address_that_the_kernel_keeps_no_mark_of_goes_with_its_subnet() {
    let mut lab = Lab::new().await;
    let mut lan = lab.internal("10.77.0.0/24", false).await;
    let bridge = lan.bridge();
    // The daemon dies; nothing of it is under way any more that would mend what is done behind its back.
    lab.net = Network::open(&lab.dir.path().join("elsewhere")).await;
    let unmarked = |address: &serde_json::Value| address["local"] == "10.77.0.1" && address["protocol"].is_null();
    let begun = Instant::now();
    loop {
        // As a kernel before 5.18 has it.
        sh(&format!("ip addr del 10.77.0.1/24 dev {bridge} && ip addr add 10.77.0.1/24 dev {bridge}"));
        // What was under way in it, in this process, comes to its end.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let shown = ip_json(&format!("addr show {bridge}"));
        if shown[0]["addr_info"].as_array().unwrap().iter().any(unmarked) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{shown}");
    }
    ip(&format!("addr add 198.51.100.1/24 dev {bridge}"));

    // It had died between the record and the host.
    lab.net = Network::open(lab.dir.path()).await;
    lan.kind = SwitchKind::Internal { subnet: Some(Subnet::parse("10.78.0.0/24", false).unwrap()) };
    lab.net.put_switch(&lan, None).await.unwrap();
    let addresses = ip(&format!("addr show {bridge}"));
    assert!(addresses.contains("10.78.0.1/24") && !addresses.contains("10.77.0.1"), "{addresses}");
    assert!(addresses.contains("198.51.100.1/24"), "somebody else's: {addresses}");
    lab.net.sweep(&[lan.id], &[]).await.unwrap();
    std::fs::remove_dir_all(lab.dir.path().join("elsewhere")).unwrap();
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn a_table_of_another_form_is_made_anew_with_nothing_of_the_old_one() {
    let mut lab = Lab::new().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    let nic = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let guest = lab.guest(&nic).await;
    let table = table();
    let whole = nft(&format!("-s list table inet {table}"));
    lab.net = Network::open(&lab.dir.path().join("elsewhere")).await;
    // A set that is there today has another form, and a chain that is not there any more works by it.
    let old = format!(
        "table inet {table} {{ 
            set services {{ type ipv4_addr; elements = {{ 192.0.2.1 }}; }}
            chain old {{ type filter hook forward priority 0; ip saddr @services drop; }}
        }}"
    );
    sh(&format!("nft delete table inet {table} && nft '{old}'"));
    lab.net = Network::open(lab.dir.path()).await;
    lab.net.put_switch(&lan, None).await.unwrap();
    lab.net.adopt(&nic).await;
    assert_eq!(nft(&format!("-s list table inet {table}")), whole);
    lab.net.unplug(&nic).await.unwrap();
    drop(guest);
    std::fs::remove_dir_all(lab.dir.path().join("elsewhere")).unwrap();
    lab.close(&[&lan]).await;
}

#[tokio::test]
async fn rules_of_a_nic_that_nobody_has_looked_at_yet_stay_closed_when_somebody_takes_them_away() {
    let mut lab = Lab::new().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    let nic = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let guest = lab.guest(&nic).await;
    let table = table();
    // Of a switch whose record cannot be read, as far as this daemon knows: its chains are only known as the kernel has them.
    let other = lab.internal("10.78.0.0/24", true).await;
    let chain = format!("{}_ip", lan.bridge());
    lab.net = Network::open(lab.dir.path()).await;
    lab.net.put_switch(&other, None).await.unwrap();
    let listed = || nft(&format!("list table bridge {table}"));
    assert!(listed().contains(&chain) && listed().contains(&nic.tap()), "{}", listed());
    nft(&format!("delete table bridge {table}"));
    await_that("all is there again", || nft("list tables").contains(&format!("bridge {table}"))).await;
    let rules = nft(&format!("list chain bridge {table} {chain}"));
    assert!(rules.contains("drop") && !rules.contains("accept"), "what they said is not known: {rules}");
    assert!(listed().contains(&nic.tap()));
    // When it is known, they say it again.
    lab.net.put_switch(&lan, None).await.unwrap();
    lab.net.adopt(&nic).await;
    assert!(nft(&format!("list chain bridge {table} {chain}")).contains("accept"));
    lab.net.unplug(&nic).await.unwrap();
    drop(guest);
    lab.close(&[&lan, &other]).await;
}

#[tokio::test]
async fn what_an_adapter_carried_before_the_host_was_started_anew_does_not_come_back() {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    let wan = lab::switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: true, dhcp: false });
    let mut moved = lab.net.survey(&wan, None).await.unwrap().unwrap();
    moved.boot_id = "00000000-0000-4000-8000-000000000000".into();
    ip("addr del 192.0.2.1/24 dev up0");
    ip("addr add 192.0.2.9/24 dev up0");
    // As it is made at the start, before anybody has looked at the adapter.
    lab.net.put_switch(&wan, Some(&moved)).await.unwrap();
    assert!(!ip("addr").contains("192.0.2.1/24"), "{}", ip("addr"));
    let known = lab.net.survey(&wan, Some(&moved)).await.unwrap();
    lab.net.put_switch(&wan, known.as_ref()).await.unwrap();
    assert!(ip(&format!("addr show {}", wan.bridge())).contains("192.0.2.9/24"), "{}", ip("addr"));
    // A removal by the old record gives back what is there.
    lab.net.remove_switch(&wan, Some(&moved)).await.unwrap();
    assert!(ip("addr show up0").contains("192.0.2.9/24") && !ip("addr").contains("192.0.2.1/24"), "{}", ip("addr"));
    // One that was being removed when the host went down has no bridge any more.
    lab.net.remove_switch(&wan, Some(&moved)).await.unwrap();
    assert!(ip("addr show up0").contains("192.0.2.9/24") && !ip("addr").contains("192.0.2.1/24"), "{}", ip("addr"));
    ip("link del up0");
    lab.close(&[]).await;
}

#[tokio::test]
async fn what_the_host_has_on_the_bridge_of_an_external_switch_is_its_administrators_to_change() {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("route add default via 192.0.2.2");
    let wan = lab::switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: true, dhcp: false });
    let moved = lab.net.survey(&wan, None).await.unwrap();
    lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
    assert!(ip("route").contains(&format!("default via 192.0.2.2 dev {}", wan.bridge())));
    ip("route del default");
    ip(&format!("addr add 198.51.100.1/24 dev {}", wan.bridge()));
    ip(&format!("addr del 192.0.2.1/24 dev {}", wan.bridge()));
    for _ in 0..2 {
        // Also when something else of it is put right.
        ip("link set up0 down");
        lab.net.put_switch(&wan, moved.as_ref()).await.unwrap();
        assert!(!ip("route").contains("default"), "{}", ip("route"));
        let addresses = ip("addr");
        assert!(addresses.contains("198.51.100.1/24") && !addresses.contains("192.0.2.1/24"), "{addresses}");
    }
    let moved = lab.net.survey(&wan, moved.as_ref()).await.unwrap();
    lab.net.remove_switch(&wan, moved.as_ref()).await.unwrap();
    assert!(ip("addr show up0").contains("198.51.100.1/24") && !ip("addr").contains("192.0.2.1/24"));
    ip("link del up0");
    lab.close(&[]).await;
}
