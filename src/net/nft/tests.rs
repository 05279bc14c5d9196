//! Values, differences and messages, without a kernel.

use std::time::Duration;

use super::{
    field::{ETHER_SADDR, IIFNAME, L4PROTO},
    wire::messages,
    *,
};

fn table() -> Table {
    let mut table = Table::default();
    table.set("macs", Form::of([Type::IfName, Type::Ether])).insert(Key::of([&ifname("a"), &[2; 6]]), None);
    table.learned("seen", Form::of([Type::Ip4]).learned(Duration::from_secs(60)));
    table.chain("c").rules = vec![Rule::when().outside([IIFNAME, ETHER_SADDR], "macs").drop()];
    table
}

fn with(table: Table) -> Ruleset {
    Ruleset { tables: [(TableName { family: Family::Bridge, name: "t".into() }, table)].into() }
}

fn commands(is: Table, wanted: Table) -> Vec<Command> {
    diff(&with(is), &with(wanted)).0.into_iter().map(|(_, command)| command).collect()
}

#[test]
fn a_key_of_several_parts_is_padded_and_a_range_has_two_borders() {
    let key = Key::of([&ifname("tap0"), &[1, 2, 3, 4, 5, 6]]);
    assert_eq!((key.bytes.len(), &key.bytes[16..]), (24, &[1, 2, 3, 4, 5, 6, 0, 0][..]));
    assert_eq!(Key::of([&[1, 2, 3, 4, 5, 6]]).bytes.len(), 6);
    let borders = |first: [u8; 4], last: [u8; 4]| Key::range(&first, &last).map(|key| key.bytes).collect::<Vec<_>>();
    assert_eq!(borders([10, 0, 0, 0], [10, 0, 255, 255]), [vec![10, 0, 0, 0], vec![10, 1, 0, 0]]);
    assert_eq!(borders([240, 0, 0, 0], [255; 4]), [vec![240, 0, 0, 0]], "nothing comes after it");
    assert_eq!(ifname("a-name-that-is-longer-than-it-may-be")[15], 0);
}

#[test]
fn a_rule_is_known_by_what_it_does() {
    let rule = |protocol: u8| Rule::when().is(L4PROTO, [protocol]).accept();
    assert_eq!(rule(6), rule(6));
    assert_ne!(rule(6), rule(17));
    let read = Rule { exprs: Vec::new(), digest: rule(6).digest };
    assert_eq!(read, rule(6));
    let foreign = Rule { exprs: Vec::new(), digest: None };
    assert_ne!(foreign, foreign.clone(), "nobody knows what it does");
}

#[test]
fn what_is_equal_needs_nothing_and_what_is_gone_comes_back_alone() {
    assert_eq!(commands(table(), table()), []);
    let mut is = table();
    is.set("macs", table().sets["macs"].form.clone()).clear();
    assert!(matches!(&commands(is, table())[..], [Command::AddElements(set, ..)] if set == "macs"));
    let mut is = table();
    is.chain("c").rules.insert(0, Rule { exprs: Vec::new(), digest: None });
    assert!(matches!(&commands(is, table())[..], [Command::Flush(_), Command::AddRule(..)]));
    let mut is = table();
    is.chain("more").rules.push(Rule::when().accept());
    assert!(matches!(&commands(is, table())[..], [Command::Flush(_), Command::DeleteChain(_)]));
}

#[test]
fn a_table_that_sleeps_is_woken_and_nothing_else() {
    let asleep = Table { dormant: true, ..table() };
    assert_eq!(commands(asleep, table()), [Command::AddTable]);
}

#[test]
fn an_element_with_another_value_is_replaced_and_another_form_makes_the_table_anew() {
    let map = |chain: &str| {
        let mut table = table();
        let to = Some(Datum::Verdict(Verdict::Goto(chain.into())));
        table.set("ports", Form::verdicts([Type::IfName])).insert(Key::of([&ifname("a")]), to);
        table
    };
    let changed = commands(map("c"), map("d"));
    assert!(matches!(&changed[..], [Command::DeleteElements(..), Command::AddElements(..)]), "{changed:?}");
    let mut is = table();
    is.sets.insert("seen".into(), Set { form: Form::of([Type::Ip6]), elements: Some(Elements::new()) });
    let anew = commands(is, table());
    assert!(matches!(&anew[..2], [Command::DeleteTable, Command::AddTable]), "{anew:?}");
}

#[test]
fn messages_that_are_cut_or_nonsense_are_read_as_far_as_they_go() {
    let (bytes, _) = encode::batch(&diff(&Ruleset::default(), &with(table())));
    let whole = messages(&bytes).count();
    assert_eq!(whole, 2 + 6);
    for cut in 0..bytes.len() {
        for message in messages(&bytes[..cut]) {
            let _ = (decode::names(&message, 2), decode::base(&message), decode::rule(&message));
            let _ = (decode::form(&message), decode::elements(&message).count(), message.error());
        }
    }
    for seed in 0..2000u32 {
        let mut noise = bytes.clone();
        let at = seed.wrapping_mul(2_654_435_761) as usize % noise.len();
        noise[at] ^= (seed % 255 + 1) as u8;
        for message in messages(&noise).take(100) {
            let _ = (decode::form(&message), decode::elements(&message).count(), decode::rule(&message));
        }
    }
}
