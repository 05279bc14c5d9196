//! Messages of nf_tables to values. Of a rule only its digest is read, of a set its form and its elements.

use std::time::Duration;

use super::{
    Base, ChainKind, Datum, Family, Form, Hook, Key, Rule, Type, Value, Verdict,
    encode::{MARK, flag},
    numbers::types,
    wire::{Attributes, Received},
};

/// The name of a table, chain or set, and of the table that it is in.
pub fn names<'a>(message: &Received<'a>, attribute: u16) -> Option<(&'a str, &'a str)> {
    let attributes = message.attributes();
    Some((attributes.text(1)?, attributes.text(attribute)?))
}

/// Whether a table sleeps.
pub fn is_dormant(message: &Received) -> bool {
    message.attributes().u32(2).unwrap_or(0) & flag::DORMANT != 0
}

pub fn base(message: &Received) -> Option<Base> {
    let attributes = message.attributes();
    let hook = attributes.nested(4)?;
    let kind = match attributes.text(7)? {
        "nat" => ChainKind::Nat,
        "route" => ChainKind::Route,
        _ => ChainKind::Filter,
    };
    let number = hook.u32(1)?;
    let hook_of = |number: u32| {
        let all = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting, Hook::Ingress];
        all.into_iter().find(|hook| *hook as u32 == number)
    };
    let at = match message.family()? {
        Family::Arp if number == 0 => Hook::Input,
        Family::Arp => Hook::Output,
        Family::Netdev if number == 0 => Hook::Ingress,
        Family::Netdev => Hook::Egress,
        _ => hook_of(number)?,
    };
    Some(Base { kind, hook: at, priority: hook.u32(2)? as i32, drop: attributes.u32(5) == Some(0) })
}

/// The devices that a base chain is of; those that begin with a text end with a star.
pub fn devices(message: &Received) -> Vec<String> {
    const NAME: u16 = 1;
    let Some(hook) = message.attributes().nested(4) else { return Vec::new() };
    // One alone is told in both ways.
    let Some(list) = hook.nested(4) else { return hook.text(3).map(str::to_owned).into_iter().collect() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned();
    list.map(|(kind, name)| if kind == NAME { text(name) } else { text(name) + "*" }).collect()
}

pub fn rule(message: &Received) -> Rule {
    let digest = message.attributes().get(7).and_then(|data| {
        let [0, _, text @ ..] = data else { return None };
        let text = std::str::from_utf8(text.strip_suffix(&[0])?).ok()?;
        Some(text.strip_prefix(MARK)?.to_owned())
    });
    Rule { exprs: Vec::new(), digest }
}

/// Whether a set is one that a single rule holds within itself.
pub fn is_anonymous(message: &Received) -> bool {
    message.attributes().u32(3).unwrap_or(0) & flag::ANONYMOUS != 0
}

/// The form of a set; one with keys of a type that we never use has none.
pub fn form(message: &Received) -> Form {
    let attributes = message.attributes();
    let flags = attributes.u32(3).unwrap_or(0);
    let is = |flag: u32| flags & flag != 0;
    let value = is(flag::MAP).then(|| match attributes.u32(7) {
        Some(_) => Value::Data(parts(attributes.u32(6), attributes.u32(7))),
        None => Value::Verdict,
    });
    // A map of verdicts tells a length, too: that of a verdict.
    let value = value.map(|value| if attributes.u32(6) == Some(0xffff_ff00) { Value::Verdict } else { value });
    Form {
        key: parts(attributes.u32(4), attributes.u32(5)),
        value,
        interval: is(flag::INTERVAL),
        learned: is(flag::DYNAMIC).then(|| Duration::from_millis(attributes.u64(11).unwrap_or(0))),
        counted: attributes.nested(17).and_then(|expr| expr.text(1)) == Some("counter"),
    }
}

fn parts(number: Option<u32>, len: Option<u32>) -> Vec<Type> {
    let Some(mut number) = number else { return Vec::new() };
    let mut parts = Vec::new();
    while number != 0 {
        let Some(part) = Type::ALL.into_iter().find(|part| part.number() == number & 0x3f) else { return Vec::new() };
        parts.insert(0, part);
        number >>= 6;
    }
    if Some(types(&parts).1) == len { parts } else { Vec::new() }
}

/// What one element of a set says.
pub struct Element {
    pub key: Key,
    pub datum: Option<Datum>,
    pub packets: Option<u64>,
    /// Until it goes by itself.
    pub left: Option<Duration>,
}

pub fn elements<'a>(message: &Received<'a>) -> impl Iterator<Item = Element> + use<'a> {
    let list = message.attributes().nested(3);
    list.into_iter().flat_map(|list| list.each().filter_map(element))
}

fn element(attributes: Attributes) -> Option<Element> {
    let bytes = attributes.nested(1)?.get(1)?.to_vec();
    let end = attributes.u32(3).is_some_and(|flags| flags & flag::END != 0);
    let datum = attributes.nested(2).and_then(|data| match data.nested(2) {
        Some(encoded) => verdict(encoded).map(Datum::Verdict),
        None => data.get(1).map(|bytes| Datum::Bytes(bytes.to_vec())),
    });
    let expr = |name: &str| attributes.nested(7).filter(|expr| expr.text(1) == Some(name))?.nested(2);
    let packets = expr("counter").and_then(|counter| counter.u64(2));
    let above = expr("limit").and_then(|limit| Some(Datum::Above { bytes: limit.u64(1)?, burst: limit.u32(3)? }));
    let datum = datum.or(above);
    let left = attributes.u64(5).map(Duration::from_millis);
    Some(Element { key: Key { bytes, end }, datum, packets, left })
}

pub fn verdict(attributes: Attributes) -> Option<Verdict> {
    let chain = || attributes.text(2).map(str::to_owned);
    match attributes.u32(1)? as i32 {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => chain().map(Verdict::Jump),
        -4 => chain().map(Verdict::Goto),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}
