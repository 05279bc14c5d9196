//! Whether rules that others have set up on the host let through what a switch needs. A packet is followed through their
//! chains as far as its way is certain; where a rule asks for something that is not known of it, the rule is taken not to
//! apply, unless it would accept: then nothing is claimed.

use std::collections::HashMap;

use super::nft::{CT_STATE, ChainKind, Datum, Family, Hook, Instruction, OtherChain, OtherTable, Verdict, ifname};

/// A chain that calls itself does not load; this is for what is merely deep.
const DEPTH: usize = 32;
/// linux/netfilter/nf_tables.h.
const META_PROTOCOL: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_KEY_STATE: u32 = 0;
const NEW: u32 = 8;
const ESTABLISHED: u32 = 2;
pub const UDP: u8 = 17;
pub const TCP: u8 = 6;
pub const ICMP6: u8 = 58;

/// What a packet is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Net {
    #[default]
    V4,
    V6,
    Arp,
}

impl Net {
    /// Tables that see it where the host itself takes, sends or routes it.
    fn routed(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::Ip, Family::Inet],
            Self::V6 => &[Family::Ip6, Family::Inet],
            Self::Arp => &[Family::Arp],
        }
    }
}

/// A packet, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    pub net: Net,
    pub from: String,
    /// None where that is not known.
    pub to: Option<String>,
    /// A first one, or an answer.
    pub answer: bool,
    pub protocol: Option<u8>,
    /// To this port.
    pub port: Option<u16>,
}

/// Where a packet is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub family: Family,
    pub table: String,
    /// The one that packets enter by themselves.
    pub base: String,
    pub chain: String,
    /// Counted from 1; none where its policy does it.
    pub rule: Option<usize>,
    /// Of iptables-legacy.
    pub legacy: bool,
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, table, chain, rule, .. } = self;
        match rule {
            Some(rule) => write!(f, "rule {rule} of the chain {chain}")?,
            None => write!(f, "the policy of the chain {chain}")?,
        }
        if self.legacy {
            write!(f, " in the table {table} of {}", legacy_tool(*family))
        } else {
            write!(f, " in the table {family} {table}")
        }
    }
}

/// What changes the tables of a family that nftables does not show.
pub fn legacy_tool(family: Family) -> &'static str {
    if family == Family::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" }
}

/// Where the host's own network drops a packet that meets this hook for certain, if anywhere.
pub fn dropped(tables: &[OtherTable], hook: Hook, packet: &Packet) -> Option<Dropped> {
    dropped_in(tables, packet.net.routed(), |chain| at(chain, hook), packet)
}

/// The same of a bridge.
pub fn dropped_by_bridge(tables: &[OtherTable], hook: Hook, packet: &Packet) -> Option<Dropped> {
    dropped_in(tables, &[Family::Bridge], |chain| at(chain, hook), packet)
}

/// The same of a single device, where it receives (`Hook::Ingress`) or sends.
pub fn dropped_at(tables: &[OtherTable], device: &str, hook: Hook, packet: &Packet) -> Option<Dropped> {
    dropped_in(tables, &[Family::Netdev, Family::Inet], |chain| at(chain, hook) && chain.is_of(device), packet)
}

fn at(chain: &OtherChain, hook: Hook) -> bool {
    chain.base.as_ref().is_some_and(|base| base.hook == hook && base.kind == ChainKind::Filter)
}

fn dropped_in(
    tables: &[OtherTable],
    families: &[Family],
    enters: impl Fn(&OtherChain) -> bool,
    packet: &Packet,
) -> Option<Dropped> {
    tables.iter().filter(|table| families.contains(&table.name.family)).find_map(|table| {
        table.chains.iter().find_map(|(name, chain)| {
            let base = chain.base.as_ref().filter(|_| enters(chain))?;
            let mut walk = Walk { table, packet, unsure: false };
            let dropped = match walk.chain(name, chain, 0) {
                Way::Dropped(chain, rule) => Some((chain, Some(rule))),
                Way::End if base.drop => Some((name.clone(), None)),
                Way::End | Way::Accepted => None,
            };
            let (chain, rule) = dropped.filter(|_| !walk.unsure)?;
            let (family, legacy, table) = (table.name.family, table.legacy, table.name.name.clone());
            Some(Dropped { family, table, base: name.clone(), chain, rule, legacy })
        })
    })
}

enum Way {
    Accepted,
    Dropped(String, usize),
    End,
}

struct Walk<'a> {
    table: &'a OtherTable,
    packet: &'a Packet,
    /// A rule may have accepted it.
    unsure: bool,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, chain: &OtherChain, depth: usize) -> Way {
        for (at, rule) in chain.rules.iter().enumerate() {
            let Some((verdict, certain)) = self.verdict(rule) else { continue };
            let (target, goes_on) = match verdict {
                Verdict::Accept if certain => return Way::Accepted,
                Verdict::Accept => {
                    self.unsure = true;
                    continue;
                }
                Verdict::Drop if certain => return Way::Dropped(name.to_owned(), at + 1),
                Verdict::Return if certain => return Way::End,
                Verdict::Drop | Verdict::Return => continue,
                Verdict::Jump(target) => (target, true),
                Verdict::Goto(target) => (target, false),
            };
            let Some(next) = self.table.chains.get(&target).filter(|_| depth < DEPTH) else { continue };
            let way = self.chain(&target, next, depth + 1);
            match way {
                Way::End if goes_on || !certain => {}
                Way::Accepted if !certain => self.unsure = true,
                Way::Dropped(..) if !certain => {}
                way => return way,
            }
        }
        Way::End
    }

    /// What a rule does with the packet, and whether it does for certain; nothing if it does not apply.
    fn verdict(&self, rule: &[Instruction]) -> Option<(Verdict, bool)> {
        let mut registers: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut certain = true;
        for instruction in rule {
            match instruction {
                Instruction::Meta { key, to } => put(&mut registers, *to, self.meta(*key)),
                Instruction::Ct { key, to } => {
                    let state = (*key == CT_KEY_STATE).then(|| self.state().to_ne_bytes().to_vec());
                    put(&mut registers, *to, state);
                }
                Instruction::Transport { offset, len, to } => {
                    let port = self.packet.port.filter(|_| (*offset, *len) == (2, 2));
                    put(&mut registers, *to, port.map(|port| port.to_be_bytes().to_vec()));
                }
                Instruction::LoadUnknown { to } => put(&mut registers, *to, None),
                Instruction::Mask { from, to, mask, xor } => {
                    let masked = registers.get(from).map(|value| {
                        value.iter().zip(mask).zip(xor).map(|((value, mask), xor)| (value & mask) ^ xor).collect()
                    });
                    put(&mut registers, *to, masked);
                }
                Instruction::Compare { from, equal, value } => match registers.get(from) {
                    // A shorter value is the beginning of a name.
                    Some(known) if known.starts_with(value) != *equal => return None,
                    Some(_) => {}
                    None => certain = false,
                },
                Instruction::Lookup { set, key, .. } if *key == CT_STATE => {
                    if set.parse::<u32>().unwrap_or(0) & self.state() == 0 {
                        return None;
                    }
                }
                Instruction::Lookup { set, key, verdict, absent } => {
                    match (registers.get(key), self.table.sets.get(set)) {
                        (Some(known), Some(set)) => match (set.get(known), verdict) {
                            (Some(Some(Datum::Verdict(verdict))), true) => return Some((verdict.clone(), certain)),
                            (found, _) if found.is_some() == *absent => return None,
                            _ => {}
                        },
                        _ => certain = false,
                    }
                }
                Instruction::Verdict(verdict) => return Some((verdict.clone(), certain)),
                Instruction::Passes => {}
                Instruction::MayPass => certain = false,
            }
        }
        None
    }

    fn meta(&self, key: u32) -> Option<Vec<u8>> {
        match key {
            META_IIFNAME => Some(ifname(&self.packet.from).to_vec()),
            META_OIFNAME => self.packet.to.as_ref().map(|to| ifname(to).to_vec()),
            META_NFPROTO => Some(vec![match (self.table.name.family, self.packet.net) {
                (Family::Bridge, _) => 7,
                (Family::Netdev, _) => 5,
                (_, Net::V4) => 2,
                (_, Net::V6) => 10,
                (_, Net::Arp) => 3,
            }]),
            META_PROTOCOL => Some(match self.packet.net {
                Net::V4 => vec![8, 0],
                Net::V6 => vec![0x86, 0xdd],
                Net::Arp => vec![8, 6],
            }),
            META_L4PROTO => self.packet.protocol.map(|protocol| vec![protocol]),
            _ => None,
        }
    }

    fn state(&self) -> u32 {
        if self.packet.answer { ESTABLISHED } else { NEW }
    }
}

fn put(registers: &mut HashMap<u32, Vec<u8>>, to: u32, value: Option<Vec<u8>>) {
    match value {
        Some(value) => registers.insert(to, value),
        None => registers.remove(&to),
    };
}
