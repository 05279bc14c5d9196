//! The rules as a value.

use std::net::Ipv4Addr;

use super::*;
use crate::model::{Subnet, SwitchForward};
use crate::net::nft::diff;

fn switch(kind: SwitchKind) -> Switch {
    Switch::new("lan", kind)
}

fn nic(port: SwitchPort) -> Nic {
    Nic::on(port)
}

fn natted() -> Switch {
    switch(SwitchKind::Internal { subnet: Some(Subnet::parse("10.77.0.0/24", true).unwrap()) })
}

#[test]
fn without_switches_there_are_no_tables_and_with_them_all_have_one_name() {
    assert_eq!(ruleset("abc", &[], &[]), Ruleset::default());
    let lan = natted();
    let made = ruleset("abc", &[OnHost { switch: &lan, host: &[] }], &[]);
    assert_eq!(made.tables.keys().cloned().collect::<BTreeSet<_>>(), tables("abc").into_iter().collect());
}

/// Chains and sets that rules and elements name are there, as the kernel would refuse the whole otherwise.
#[test]
fn every_set_and_chain_that_is_named_is_made() {
    use crate::net::nft::{Datum, Expr};
    let external = switch(SwitchKind::External { adapter: "eth0".into(), allow_management_os: true, dhcp: false });
    let (lan, private) = (natted(), switch(SwitchKind::Private));
    let on = [&external, &lan, &private].map(|switch| OnHost { switch, host: &[] });
    let mut ports = Vec::new();
    for switch in [&external, &lan, &private] {
        ports.push(nic(SwitchPort::on(switch.id)));
        ports.push(nic(SwitchPort { allow_spoofing: true, ..SwitchPort::on(switch.id) }));
        ports.push(nic(SwitchPort { max_addresses: Some(300), ..SwitchPort::on(switch.id) }));
    }
    ports.push(nic(SwitchPort { vlan: Some(10), trunk: vec![20, 30], ..SwitchPort::on(external.id) }));
    ports.push(nic(SwitchPort::on(SwitchId::random())));
    for (name, table) in &ruleset("abc", &on, &ports).tables {
        let chain = |to: &Verdict| match to {
            Verdict::Jump(chain) | Verdict::Goto(chain) => {
                assert!(table.chains.contains_key(chain), "{name:?} {chain}")
            }
            _ => {}
        };
        for expr in table.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.exprs) {
            match expr {
                Expr::Lookup { set, .. } | Expr::Dispatch { map: set, .. } | Expr::Update { set, .. } => {
                    assert!(table.sets.contains_key(set), "{name:?} {set}");
                }
                Expr::Verdict(to) => chain(to),
                _ => {}
            }
        }
        for set in table.sets.values() {
            for value in set.elements.iter().flatten().filter_map(|(_, value)| value.as_ref()) {
                if let Datum::Verdict(to) = value {
                    chain(to);
                }
            }
        }
    }
}

#[test]
fn a_port_more_is_some_elements_more_and_nothing_else() {
    let lan = natted();
    let on = [OnHost { switch: &lan, host: &[] }];
    let address = Some(Ipv4Addr::new(10, 77, 0, 5));
    let one = nic(SwitchPort { address, ..SwitchPort::on(lan.id) });
    let nics = [one];
    let (without, with) = (ruleset("abc", &on, &[]), ruleset("abc", &on, &nics));
    let batch = diff(&without, &with);
    let adds = |command: &crate::net::nft::Command| matches!(command, crate::net::nft::Command::AddElements(..));
    assert!(!batch.is_empty() && batch.0.iter().all(|(_, command)| adds(command)), "{batch:?}");
    assert!(diff(&with, &with).is_empty());
    // The same without the description of everything.
    let part = part(&without, "abc", &on[0], &nics[0]).unwrap();
    let mut there = without.clone();
    there.add_elements(&part);
    assert_eq!(there, with);
    there.delete_elements(&part);
    assert_eq!(there, without);
    let more = nic(SwitchPort { max_addresses: Some(300), ..SwitchPort::on(lan.id) });
    assert_eq!(super::part(&without, "abc", &on[0], &more), None, "it needs a set of its own");
}

#[test]
fn a_forward_leads_to_the_address_of_its_nic_and_nowhere_without() {
    let mut lan = natted();
    let target = nic(SwitchPort { address: Some(Ipv4Addr::new(10, 77, 0, 5)), ..SwitchPort::on(lan.id) });
    let gone = nic(SwitchPort::on(lan.id));
    let forward = |nic: &Nic, host_port| SwitchForward {
        id: crate::model::ForwardId::random(),
        protocol: crate::model::Protocol::Tcp,
        host_address: None,
        host_port,
        nic: nic.id,
        guest_port: 80,
    };
    lan.forwards = vec![forward(&target, 8080), forward(&gone, 8081)];
    let made = ruleset("abc", &[OnHost { switch: &lan, host: &[] }], &[target]);
    let inet = &made.tables[&TableName { family: Family::Inet, name: "qherd_abc".into() }];
    let forwards = inet.sets["forwards"].elements.as_ref().unwrap();
    let to = crate::net::nft::Datum::Bytes(vec![10, 77, 0, 5, 0, 80, 0, 0]);
    let expected = [(crate::net::nft::Key::of([&[6], &8080u16.to_be_bytes()]), Some(to))];
    assert_eq!(forwards.clone().into_iter().collect::<Vec<_>>(), expected);
}

/// A switch that comes, changes or gets ports beside others leads to what the whole description says, by a change that
/// tells of nothing else.
#[test]
fn what_is_changed_of_one_switch_alone_is_what_the_whole_says() {
    let subnet = |text: &str| switch(SwitchKind::Internal { subnet: Some(Subnet::parse(text, true).unwrap()) });
    let external = switch(SwitchKind::External { adapter: "eth0".into(), allow_management_os: true, dhcp: false });
    // Neighbours in every sense: one's network ends where the other's begins.
    let (left, mut lan) = (subnet("10.76.0.0/24"), subnet("10.76.1.0/24"));
    let others = [external.clone(), left.clone()];
    let at =
        |switch: &Switch, last| SwitchPort { address: Some([10, 76, 0, last].into()), ..SwitchPort::on(switch.id) };
    let theirs = [nic(at(&left, 2)), nic(SwitchPort { vlan: Some(10), ..SwitchPort::on(external.id) })];
    let whole = |switches: &[Switch], nics: &[Nic]| {
        let on: Vec<_> = switches.iter().map(|switch| OnHost { switch, host: &[] }).collect();
        ruleset("abc", &on, nics)
    };
    let mut there = whole(&others, &theirs);
    let mut before = Ruleset::default();
    assert!(!is_in(&there, "abc", &lan));
    let forward = |nic: &Nic| SwitchForward {
        id: crate::model::ForwardId::random(),
        protocol: crate::model::Protocol::Tcp,
        host_address: None,
        host_port: 80,
        nic: nic.id,
        guest_port: 80,
    };
    let (mine, more) = (nic(at(&lan, 9)), nic(SwitchPort { isolated: true, ..at(&lan, 10) }));
    for (nics, forwards, net) in [
        (vec![], vec![], "10.76.1.0/24"),
        (vec![mine.clone()], vec![forward(&mine)], "10.76.1.0/24"),
        (vec![mine.clone(), more.clone()], vec![], "10.76.1.0/24"),
        (vec![more], vec![], "10.80.0.0/16"),
        (vec![], vec![], "10.76.1.0/25"),
    ] {
        lan.kind = SwitchKind::Internal { subnet: Some(Subnet::parse(net, true).unwrap()) };
        lan.forwards = forwards;
        let alone = whole(std::slice::from_ref(&lan), &nics);
        assert!(is_framed(&there, &alone, &lan));
        let is = there.about(&[&before, &alone]);
        for (_, command) in diff(&is, &alone).0 {
            let reported = format!("{command:?}");
            assert!(!reported.contains(&left.bridge()) && !reported.contains(&external.bridge()), "{reported}");
        }
        there.replace(&is, &alone);
        let all: Vec<Switch> = others.iter().cloned().chain([lan.clone()]).collect();
        let nics: Vec<Nic> = theirs.iter().cloned().chain(nics).collect();
        assert_eq!(there, whole(&all, &nics), "{net}");
        before = alone;
    }
    // It goes, and the others stay.
    let left = frame("abc");
    assert!(is_framed(&there, &left, &lan));
    let is = there.about(&[&before, &left]);
    for (_, command) in diff(&is, &left).0 {
        let reported = format!("{command:?}");
        assert!(!reported.contains(&others[1].bridge()) && !reported.contains(&external.bridge()), "{reported}");
    }
    let mut without = there.clone();
    without.replace(&is, &left);
    assert_eq!(without, whole(&others, &theirs));
    // A port that needs what all have in common.
    let hungry = nic(SwitchPort { max_addresses: Some(300), ..SwitchPort::on(lan.id) });
    assert!(!is_framed(&there, &whole(&[lan.clone()], &[hungry]), &lan));
}
