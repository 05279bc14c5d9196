//! nftables by netlink against the real kernel, in a namespace: what is written is what `nft` lists, what is read back is
//! equal, each thing that somebody removes is seen and mended, and foreign tables stay as they are.

use crate::support;

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    netns::{Host, nft},
    yard::{STATE, Yard},
};
use qherd::{
    model::{Subnet, SwitchKind, SwitchPort},
    net::{
        nft::{Change, Command, Events, Family, Kernel, Ruleset, TableName, diff},
        rules,
    },
};

/// A bit of everything.
async fn full() -> Yard {
    let mut yard = Yard::new();
    support::netns::ip("link add up0 type veth peer name up1");
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(qherd::model::Subnet6::parse("fd77::/64", true).unwrap());
    let lan = yard.switch(SwitchKind::Internal { subnet: Some(subnet) });
    let external = SwitchKind::External { adapter: "up0".into(), allow_management_os: false, dhcp: false };
    let external = yard.switch(external);
    for port in [
        SwitchPort { address: Some([10, 77, 0, 5].into()), isolated: true, ..SwitchPort::on(lan.id) },
        SwitchPort { allow_spoofing: true, ..SwitchPort::on(lan.id) },
        SwitchPort { vlan: Some(10), trunk: vec![20, 30], max_addresses: Some(90), ..SwitchPort::on(external.id) },
    ] {
        yard.guest(port).await;
    }
    yard
}

async fn read(kernel: &Kernel) -> Ruleset {
    kernel.read(&rules::tables(STATE)).await.unwrap()
}

#[tokio::test]
async fn what_is_written_is_listed_as_meant_and_read_back_as_it_was() {
    let yard = full().await;
    let wanted = yard.wanted();
    assert_eq!(read(&yard.kernel).await, wanted);
    assert!(diff(&read(&yard.kernel).await, &wanted).is_empty());
    let listed = nft("list ruleset");
    let (lan, external) = (yard.switches[0].bridge(), yard.switches[1].bridge());
    let tap = yard.nics[0].tap();
    let plain = [
        "iifname . ether saddr != @macs goto refuse comment \"qherd ",
        "@nh,112,32 0x0 iifname . @nh,192,32 @given4 accept",
        "iifname vmap @ports",
        "update @claiming4_20 { iifname limit rate over 10/minute burst 20 packets } goto refuse",
        "fd77::/64",
        "elements = { 10.77.0.0/24 }",
        "update @claiming4_90 { iifname limit rate over 10/minute burst 90 packets } goto refuse",
        "tcp flags syn / syn,rst iifname @inside tcp option maxseg size set rt mtu",
        "fib daddr . iif type != local goto refuse",
        "fib daddr type local dnat ip to meta l4proto . th dport map @forwards",
        "ct status dnat ip saddr @nets4 oifname @inside masquerade",
        "type filter hook prerouting priority dstnat",
    ];
    let named = [
        format!("\"{tap}\" : goto {lan}"),
        format!("update @{lan}_first4 {{ @nh,96,32 limit rate over 1/minute burst 1 packets }} goto refuse"),
        format!("\"{tap}\" . {}", yard.nics[0].mac),
        format!("\"{tap}\" . 10.77.0.5"),
        format!("\"up0\" : goto {external}_lan"),
        format!("\"{tap}\" counter packets 0 bytes 0"),
        format!("\"{lan}\" . udp . 67"),
    ];
    for line in plain.map(str::to_owned).into_iter().chain(named) {
        assert!(listed.contains(&line), "{line}\n{listed}");
    }
    // As programs read it, which nft writes by other code.
    let listed: serde_json::Value = serde_json::from_str(&nft("-j list ruleset")).unwrap();
    let objects = listed["nftables"].as_array().unwrap();
    let rules = objects.iter().filter(|object| object["rule"].is_object()).count();
    assert_eq!(rules, wanted.tables.values().flat_map(|t| t.chains.values()).map(|c| c.rules.len()).sum::<usize>());
    yard.host.assert_untouched();
}

/// Every element, rule, chain and set, enumerated from what is wanted.
#[tokio::test]
async fn whatever_somebody_takes_away_is_seen_and_put_back_in_one_batch() {
    let yard = full().await;
    let wanted = yard.wanted();
    let mut tried = 0;
    for (name, table) in &wanted.tables {
        let target = format!("{} {}", name.family, name.name);
        let mut harm = vec![format!("delete table {target}")];
        for (chain, made) in table.chains.iter().filter(|(_, chain)| !chain.rules.is_empty()) {
            harm.push(format!("flush chain {target} {chain}"));
            harm.push(format!("insert rule {target} {chain} accept"));
            harm.push(format!("add rule {target} {chain} counter"));
            let _ = made;
        }
        for (set, made) in table.sets.iter().filter(|(_, set)| set.elements.as_ref().is_some_and(|all| !all.is_empty()))
        {
            let kind = if made.form.value.is_some() { "map" } else { "set" };
            harm.push(format!("flush {kind} {target} {set}"));
        }
        harm.push(format!("add chain {target} more"));
        harm.push(format!("add set {target} more {{ type ipv4_addr ; }}"));
        for harm in harm {
            nft(&harm);
            let is = read(&yard.kernel).await;
            let batch = diff(&is, &wanted);
            assert!(!batch.is_empty(), "{harm} is not seen");
            yard.kernel.apply(batch).await.unwrap_or_else(|error| panic!("{harm}: {error}"));
            assert_eq!(read(&yard.kernel).await, wanted, "{harm}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
    // One rule of many.
    for (name, table) in &wanted.tables {
        for (chain, made) in &table.chains {
            let target = format!("{} {} {chain}", name.family, name.name);
            let listed: serde_json::Value = serde_json::from_str(&nft(&format!("-j list chain {target}"))).unwrap();
            let rules =
                listed["nftables"].as_array().unwrap().iter().filter_map(|item| item["rule"]["handle"].as_u64());
            let Some(handle) = rules.max() else { continue };
            assert!(!made.rules.is_empty());
            nft(&format!("delete rule {target} handle {handle}"));
            yard.kernel.apply(diff(&read(&yard.kernel).await, &wanted)).await.unwrap();
            assert_eq!(read(&yard.kernel).await, wanted, "{target}");
        }
    }
    yard.host.assert_untouched();
}

#[tokio::test]
async fn a_batch_is_made_whole_or_not_at_all_and_tells_what_was_refused() {
    let yard = full().await;
    let before = read(&yard.kernel).await;
    let name = TableName { family: Family::Bridge, name: rules::table(STATE) };
    let mut batch = diff(&before, &Ruleset::default());
    batch.push(&name, Command::DeleteChain("no_such_chain".into()));
    let refused = yard.kernel.apply(batch).await.unwrap_err();
    assert_eq!(refused.error.kind(), std::io::ErrorKind::NotFound);
    assert!(refused.to_string().contains("delete chain no_such_chain"), "{refused}");
    assert_eq!(read(&yard.kernel).await, before);
    yard.host.assert_untouched();
}

#[tokio::test]
async fn tables_of_an_earlier_form_are_replaced_at_once_and_foreign_ones_stay() {
    let mut yard = Yard::new();
    let lan = yard.natted("10.77.0.0/24");
    let port = SwitchPort { address: Some([10, 77, 0, 5].into()), ..SwitchPort::on(lan.id) };
    for table in [format!("qherd_{STATE}"), "qherd_ffffffff".into(), "docker".into()] {
        for family in ["bridge", "inet"] {
            nft(&format!("add table {family} {table}"));
            nft(&format!("add set {family} {table} macs {{ type ifname ; }}"));
            nft(&format!("add chain {family} {table} prerouting {{ type filter hook prerouting priority 0 ; }}"));
            nft(&format!("add rule {family} {table} prerouting iifname @macs drop"));
        }
    }
    let foreign = || ["qherd_ffffffff", "docker"].map(|table| nft(&format!("list table bridge {table}")));
    let before = foreign();
    let is = read(&yard.kernel).await;
    let batch = diff(&is, &yard.wanted());
    assert!(matches!(batch.0[0].1, Command::AddTable | Command::DeleteTable));
    yard.kernel.apply(batch).await.unwrap();
    yard.guest(port).await;
    assert_eq!(read(&yard.kernel).await, yard.wanted());
    assert_eq!(foreign(), before);
    // With the last switch all of it goes.
    (yard.switches, yard.nics) = Default::default();
    yard.put().await;
    assert_eq!(read(&yard.kernel).await, Ruleset::default());
    assert!(!nft("list ruleset").contains(STATE));
    assert_eq!(foreign(), before);
    yard.host.assert_untouched();
}

#[tokio::test]
async fn changes_are_told_with_their_table_and_ours_are_known_for_ours() {
    let host = Host::leave();
    let (kernel, events) = (Kernel::open().unwrap(), Events::open().unwrap());
    let mut wanted = Ruleset::default();
    wanted.table(Family::Inet, "ours").chain("c");
    kernel.apply(diff(&Ruleset::default(), &wanted)).await.unwrap();
    let name = TableName { family: Family::Inet, name: "ours".into() };
    let reported = events.next().await.unwrap();
    assert_eq!(reported, [Change::Table { name: name.clone(), by: kernel.port_id() }]);
    nft("add rule inet ours c accept");
    let reported = events.next().await.unwrap();
    assert!(
        matches!(&reported[..], [Change::Table { name: reported, by }] if *reported == name && *by != kernel.port_id()),
        "{reported:?}"
    );
    // More than the kernel keeps for somebody who does not listen.
    let mut long = wanted.clone();
    for number in 0..20_000 {
        long.table(Family::Inet, "ours").chain(format!("c{number}"));
    }
    kernel.apply(diff(&wanted, &long)).await.unwrap();
    let mut reported = BTreeSet::new();
    while !reported.contains("anything") {
        for change in tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap() {
            reported.insert(if change == Change::Anything { "anything" } else { "table" });
        }
    }
    let chains = kernel.base_chains().await.unwrap();
    assert_eq!(chains, []);
    host.assert_untouched();
}
