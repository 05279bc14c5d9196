//! What others have set up on the host: their chains with the instructions of their rules, as far as these are known here.
//! It is read to be judged (`net::foreign`), never changed.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::OwnedFd,
};

use super::{
    Base, Datum, Kernel, TableName, Verdict, decode,
    kernel::{again, elements, list},
    wire::{Attributes, Received, msg},
};

/// A table of somebody else.
#[derive(Clone, Debug)]
pub struct OtherTable {
    pub name: TableName,
    pub chains: BTreeMap<String, OtherChain>,
    /// Sets and maps that rules look things up in, by exact keys; others are not known.
    pub sets: HashMap<String, HashMap<Vec<u8>, Option<Datum>>>,
    /// Not one of nftables (`net::legacy`).
    pub legacy: bool,
}

#[derive(Clone, Debug, Default)]
pub struct OtherChain {
    pub base: Option<Base>,
    /// Whose packets enter it, where it is one of single devices.
    pub devices: Vec<String>,
    pub rules: Vec<Vec<Instruction>>,
}

/// An instruction. Registers are counted in steps of four bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    Meta {
        key: u32,
        to: u32,
    },
    Ct {
        key: u32,
        to: u32,
    },
    /// Of the transport header: ports.
    Transport {
        offset: u32,
        len: u32,
        to: u32,
    },
    /// Something else goes into the register.
    LoadUnknown {
        to: u32,
    },
    Mask {
        from: u32,
        to: u32,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Compare {
        from: u32,
        equal: bool,
        value: Vec<u8>,
    },
    Lookup {
        set: String,
        key: u32,
        verdict: bool,
        absent: bool,
    },
    Verdict(Verdict),
    /// Goes on, whatever it does beside.
    Passes,
    /// Whether the rule goes on is not known.
    MayPass,
}

impl OtherChain {
    /// Whether what goes through a device enters it.
    pub fn is_of(&self, device: &str) -> bool {
        self.devices.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => device.starts_with(beginning),
            None => name == device,
        })
    }
}

impl Kernel {
    /// The tables of others that packets enter by themselves; ours are called `own`.
    ///
    /// # Errors
    /// Of the kernel.
    pub async fn others(&self, own: &str) -> io::Result<Vec<OtherTable>> {
        let bases = self.base_chains().await?;
        let mut names: Vec<TableName> = bases.into_iter().map(|chain| chain.table).filter(|t| t.name != own).collect();
        names.sort();
        names.dedup();
        self.with(move |socket| names.iter().map(|name| again(|| read(socket, name))).collect()).await
    }
}

fn read(socket: &OwnedFd, name: &TableName) -> io::Result<OtherTable> {
    let mut found = OtherTable { name: name.clone(), chains: BTreeMap::new(), sets: HashMap::new(), legacy: false };
    let family = name.family.number();
    list(socket, msg::GET_CHAIN, family, &[(1, &name.name)], |message| {
        if let Some((table, chain)) = decode::names(&message, 3)
            && table == name.name
        {
            let chain = found.chains.entry(chain.to_owned()).or_default();
            (chain.base, chain.devices) = (decode::base(&message), decode::devices(&message));
        }
    })?;
    list(socket, msg::GET_RULE, family, &[(1, &name.name)], |message| {
        if let Some((table, chain)) = decode::names(&message, 2)
            && table == name.name
        {
            found.chains.entry(chain.to_owned()).or_default().rules.push(instructions(&message));
        }
    })?;
    let looked_up: Vec<String> =
        found.chains.values().flat_map(|chain| chain.rules.iter().flatten()).filter_map(set_of).collect();
    let mut exact = Vec::new();
    list(socket, msg::GET_SET, family, &[(1, &name.name)], |message| {
        if let Some((table, set)) = decode::names(&message, 2)
            && table == name.name
            && looked_up.iter().any(|looked_up| looked_up == set)
            && !decode::form(&message).interval
        {
            exact.push(set.to_owned());
        }
    })?;
    for set in exact {
        let all = elements(socket, name, &set)?;
        found.sets.insert(set, all.into_iter().map(|element| (element.key.bytes, element.datum)).collect());
    }
    Ok(found)
}

fn set_of(instruction: &Instruction) -> Option<String> {
    match instruction {
        Instruction::Lookup { set, .. } => Some(set.clone()),
        _ => None,
    }
}

fn instructions(message: &Received) -> Vec<Instruction> {
    let list = message.attributes().nested(4);
    list.into_iter().flat_map(Attributes::each).map(|one| instruction(one).unwrap_or(Instruction::MayPass)).collect()
}

fn instruction(one: Attributes) -> Option<Instruction> {
    const VERDICT: u32 = 0;
    let name = one.text(1)?;
    let Some(data) = one.nested(2) else { return Some(Instruction::Passes) };
    let reg = |attribute: u16| data.u32(attribute).map(register);
    Some(match name {
        "meta" if data.u32(3).is_some() => Instruction::Passes,
        "meta" => Instruction::Meta { key: data.u32(2)?, to: reg(1)? },
        "ct" if data.u32(4).is_some() => Instruction::Passes,
        "ct" => Instruction::Ct { key: data.u32(2)?, to: reg(1)? },
        "payload" if data.u32(5).is_some() => Instruction::Passes,
        "payload" if data.u32(2) == Some(2) => {
            Instruction::Transport { offset: data.u32(3)?, len: data.u32(4)?, to: reg(1)? }
        }
        "payload" | "fib" | "rt" | "socket" | "exthdr" | "hash" | "numgen" | "osf" | "xfrm" | "tunnel" => {
            Instruction::LoadUnknown { to: reg(1)? }
        }
        "bitwise" if data.u32(6).unwrap_or(0) == 0 => Instruction::Mask {
            from: reg(1)?,
            to: reg(2)?,
            mask: data.nested(4)?.get(1)?.to_vec(),
            xor: data.nested(5)?.get(1)?.to_vec(),
        },
        "bitwise" | "byteorder" => Instruction::LoadUnknown { to: reg(2)? },
        "cmp" if data.u32(2)? <= 1 => {
            Instruction::Compare { from: reg(1)?, equal: data.u32(2)? == 0, value: data.nested(3)?.get(1)?.to_vec() }
        }
        "lookup" => Instruction::Lookup {
            set: data.text(1)?.to_owned(),
            key: reg(2)?,
            verdict: data.u32(3) == Some(VERDICT),
            absent: data.u32(5).unwrap_or(0) & 1 != 0,
        },
        "immediate" if data.u32(1) == Some(VERDICT) => {
            Instruction::Verdict(decode::verdict(data.nested(2)?.nested(2)?)?)
        }
        "immediate" => Instruction::LoadUnknown { to: reg(1)? },
        "reject" => Instruction::Verdict(Verdict::Drop),
        "counter" | "log" | "objref" | "notrack" | "last" => Instruction::Passes,
        "match" => matched(data.text(1)?, data.u32(2)?, data.get(3)?)?,
        "target" => target(data.text(1)?),
        _ => Instruction::MayPass,
    })
}

/// A target of iptables.
pub fn target(name: &str) -> Instruction {
    match name {
        "REJECT" => Instruction::Verdict(Verdict::Drop),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" => Instruction::Passes,
        _ => Instruction::MayPass,
    }
}

/// A match of iptables.
pub fn matched(name: &str, revision: u32, info: &[u8]) -> Option<Instruction> {
    const STATE: u16 = 1;
    let half = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
    match name {
        "comment" => Some(Instruction::Passes),
        // struct xt_conntrack_mtinfo3: only the state is asked for, and not its opposite.
        "conntrack" if revision == 3 && half(146)? == STATE && half(148)? == 0 => {
            Some(Instruction::Lookup { set: state(half(150)?), key: CT_STATE, verdict: false, absent: false })
        }
        "state" => {
            let mask = u32::from_ne_bytes(info.get(..4)?.try_into().ok()?);
            Some(Instruction::Lookup { set: state(mask as u16), key: CT_STATE, verdict: false, absent: false })
        }
        _ => Some(Instruction::MayPass),
    }
}

/// Not a register: the state of the connection itself, looked up in a mask of states.
pub const CT_STATE: u32 = u32::MAX;

fn state(mask: u16) -> String {
    mask.to_string()
}

/// Registers of 16 bytes are numbered from 1, those of 4 bytes from 8 on.
fn register(number: u32) -> u32 {
    if number < 8 { number * 4 } else { number - 4 }
}
