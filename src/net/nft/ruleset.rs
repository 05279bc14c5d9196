//! Tables with their chains, sets and elements, as values: the same types say what is wanted and what the kernel has.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use super::{Family, Rule};

/// Tables by their names. Those that are not in it are nobody's business here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub tables: BTreeMap<TableName, Table>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub family: Family,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Somebody has put it to sleep: it is there, and no packet meets it. Nobody wants that of ours.
    pub dormant: bool,
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it by themselves; none for one that is only jumped to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    /// Lower comes first.
    pub priority: i32,
    /// What no rule decides is dropped, instead of accepted.
    pub drop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

/// As numbered for all families but `netdev`, whose ingress is 0 and egress 1, and `arp`, whose input is 0 and output 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// Of single devices: before anything else sees what they receive.
    Ingress,
    /// After everything else has seen what they are to send.
    Egress,
}

/// A set or, with values, a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub form: Form,
    /// None for a set that packets fill: what is in it is not compared.
    pub elements: Option<Elements>,
}

/// What cannot change while a set lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Parts of a key, each padded to four bytes.
    pub key: Vec<Type>,
    pub value: Option<Value>,
    /// Elements are the borders of ranges ([`Key::range`]).
    pub interval: bool,
    /// Packets add elements, which go again after this time without use.
    pub learned: Option<Duration>,
    /// An element counts the packets that it is found for.
    pub counted: bool,
}

/// What a map leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Verdict,
    Data(Vec<Type>),
}

/// Part of a key. The number is nft's, for people who list the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    IfName,
    Ether,
    EtherType,
    Ip4,
    Ip6,
    Protocol,
    /// A port, or another number of two bytes.
    Service,
    Icmp6,
}

/// In the order of their keys.
pub type Elements = BTreeMap<Key, Option<Datum>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub bytes: Vec<u8>,
    /// The first key after a range, of a set with intervals.
    pub end: bool,
}

/// Where two ranges meet, the end of one comes before the start of the other: in this order the kernel wants them, and in
/// another it takes them for ranges that overlap, or does not find them.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes).then(other.end.cmp(&self.end))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    Verdict(super::Verdict),
    Bytes(Vec<u8>),
    /// Of a set: the element is only found for what is above so many bytes a second, and so many at once.
    Above {
        bytes: u64,
        burst: u32,
    },
}

impl Ruleset {
    /// The table of this name, made if need be.
    pub fn table(&mut self, family: Family, name: &str) -> &mut Table {
        self.tables.entry(TableName { family, name: name.to_owned() }).or_default()
    }

    /// Adds the elements that are in `part` to the sets that are here.
    pub fn add_elements(&mut self, part: &Self) {
        self.each_of(part, |all, part| all.extend(part.iter().map(|(key, value)| (key.clone(), value.clone()))));
    }

    /// Takes the elements that are in `part` out of the sets that are here.
    pub fn delete_elements(&mut self, part: &Self) {
        self.each_of(part, |all, part| part.keys().for_each(|key| _ = all.remove(key)));
    }

    fn each_of(&mut self, part: &Self, change: impl Fn(&mut Elements, &Elements)) {
        for (name, table) in &part.tables {
            let Some(own) = self.tables.get_mut(name) else { continue };
            for (name, set) in &table.sets {
                if let (Some(Set { elements: Some(own), .. }), Some(part)) = (own.sets.get_mut(name), &set.elements) {
                    change(own, part);
                }
            }
        }
    }
}

impl Table {
    /// The chain of this name, made if need be.
    pub fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }

    /// The elements of the set of this name, made if need be.
    pub fn set(&mut self, name: impl Into<String>, form: Form) -> &mut Elements {
        let set = self.sets.entry(name.into()).or_insert(Set { form, elements: None });
        set.elements.get_or_insert_default()
    }

    /// Makes a set that packets fill.
    pub fn learned(&mut self, name: impl Into<String>, form: Form) {
        self.sets.insert(name.into(), Set { form, elements: None });
    }
}

impl Form {
    /// A set of these keys.
    pub fn of(key: impl Into<Vec<Type>>) -> Self {
        Self { key: key.into(), value: None, interval: false, learned: None, counted: false }
    }

    /// A map from these keys to verdicts.
    pub fn verdicts(key: impl Into<Vec<Type>>) -> Self {
        Self { value: Some(Value::Verdict), ..Self::of(key) }
    }

    /// A map from these keys to data.
    pub fn map(key: impl Into<Vec<Type>>, value: impl Into<Vec<Type>>) -> Self {
        Self { value: Some(Value::Data(value.into())), ..Self::of(key) }
    }

    pub fn intervals(self) -> Self {
        Self { interval: true, ..self }
    }

    pub fn counted(self) -> Self {
        Self { counted: true, ..self }
    }

    pub fn learned(self, unused: Duration) -> Self {
        Self { learned: Some(unused), ..self }
    }
}

impl Type {
    pub(super) fn bytes(self) -> u32 {
        match self {
            Self::IfName | Self::Ip6 => 16,
            Self::Ether => 6,
            Self::Ip4 => 4,
            Self::Service | Self::EtherType => 2,
            Self::Protocol | Self::Icmp6 => 1,
        }
    }
}

impl Key {
    /// The parts one after another, each padded to four bytes; one alone stands as it is.
    pub fn of<const N: usize>(parts: [&[u8]; N]) -> Self {
        if let [alone] = parts[..] {
            return Self { bytes: alone.to_vec(), end: false };
        }
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        Self { bytes, end: false }
    }

    /// The borders of a range of addresses: its first, and the one after its last, where there is one.
    pub fn range(first: &[u8], last: &[u8]) -> impl Iterator<Item = Self> + use<> {
        let mut after = last.to_vec();
        let mut over = true;
        for byte in after.iter_mut().rev() {
            (*byte, over) = byte.overflowing_add(u8::from(over));
            if !over {
                break;
            }
        }
        let first = Self { bytes: first.to_vec(), end: false };
        std::iter::once(first).chain((!over).then_some(Self { bytes: after, end: true }))
    }
}

/// The name of an interface as the kernel compares it.
pub fn ifname(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    let length = name.len().min(15);
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    padded
}
