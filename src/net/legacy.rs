//! The rules of iptables-legacy and ip6tables-legacy, which nf_tables does not show: read into the same form, to be judged
//! and never changed. What the kernel gives is a list of entries, in which chains follow one another
//! (linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h).

#![expect(unsafe_code, reason = "the options of iptables are in neither nix nor rustix")]
#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::nft::{
    Base, ChainKind, Family, Hook, Instruction, OtherChain, OtherTable, TableName, Verdict, matched, target,
};

/// What differs between the two.
struct Form {
    family: Family,
    /// Names of the tables that are there.
    names: &'static str,
    domain: AddressFamily,
    /// Of the options, as the kernel has them.
    level: i32,
    /// Source and destination with their masks come first.
    addressed: usize,
    /// `ipt_entry` and `ip6t_entry`: interfaces, in and out, with their masks behind both.
    from: usize,
    protocol: usize,
    flags: usize,
    inverted: usize,
    target_at: usize,
    next_at: usize,
    matches: usize,
    /// Flags, of which others ask for what is not known of a packet.
    goes_to: u8,
    known: u8,
}

const FORMS: [Form; 2] = [
    Form {
        family: Family::Ip,
        names: "/proc/thread-self/net/ip_tables_names",
        domain: AddressFamily::INET,
        level: libc::IPPROTO_IP,
        addressed: 16,
        from: 16,
        protocol: 80,
        flags: 82,
        inverted: 83,
        target_at: 88,
        next_at: 90,
        matches: 112,
        goes_to: 2,
        known: 2,
    },
    Form {
        family: Family::Ip6,
        names: "/proc/thread-self/net/ip6_tables_names",
        domain: AddressFamily::INET6,
        level: libc::IPPROTO_IPV6,
        addressed: 64,
        from: 64,
        protocol: 128,
        flags: 131,
        inverted: 132,
        target_at: 140,
        next_at: 142,
        matches: 168,
        goes_to: 4,
        // That there is a protocol is said beside it.
        known: 4 | 1,
    },
];

const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const NAME: usize = 32;
const INFO: usize = 84;
/// Before the entries.
const HEAD: usize = 40;
/// Hooks by their numbers, in which `ipt_getinfo` has them too.
const HOOKS: [(Hook, &str); 5] = [
    (Hook::Prerouting, "PREROUTING"),
    (Hook::Input, "INPUT"),
    (Hook::Forward, "FORWARD"),
    (Hook::Output, "OUTPUT"),
    (Hook::Postrouting, "POSTROUTING"),
];
const VALID_HOOKS: usize = 32;
const FIRST_OF_HOOK: usize = 36;
const LAST_OF_HOOK: usize = 56;
const SIZE: usize = 80;

/// All tables that are there. Without any the kernel does not even load them.
pub fn tables() -> io::Result<Vec<OtherTable>> {
    let mut all = Vec::new();
    for form in &FORMS {
        let names = match fs::read_to_string(form.names) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            names => names?,
        };
        if names.is_empty() {
            continue;
        }
        let socket = socket_with(form.domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?;
        for name in names.lines() {
            all.push(table(form, &socket, name)?);
        }
    }
    Ok(all)
}

fn table(form: &Form, socket: &OwnedFd, name: &str) -> io::Result<OtherTable> {
    let mut info = vec![0; INFO];
    ask(form, socket, GET_INFO, name, &mut info)?;
    let number = |at: usize| word(&info, at).unwrap_or(0) as usize;
    let mut answer = vec![0; HEAD + number(SIZE)];
    answer[NAME..NAME + 4].copy_from_slice(&(number(SIZE) as u32).to_ne_bytes());
    // Others may have changed it in between: the kernel refuses another size.
    ask(form, socket, GET_ENTRIES, name, &mut answer)?;
    let hooks = HOOKS.into_iter().enumerate().filter(|(at, _)| number(VALID_HOOKS) & 1 << at != 0);
    let hooks = hooks.map(|(at, hook)| (hook, number(FIRST_OF_HOOK + 4 * at), number(LAST_OF_HOOK + 4 * at)));
    Ok(OtherTable {
        name: TableName { family: form.family, name: name.to_owned() },
        chains: chains(form, &answer[HEAD..], &hooks.collect::<Vec<_>>()).unwrap_or_default(),
        sets: HashMap::new(),
        legacy: true,
    })
}

fn ask(form: &Form, socket: &OwnedFd, what: i32, name: &str, answer: &mut [u8]) -> io::Result<()> {
    let name = name.as_bytes().get(..NAME - 1).unwrap_or(name.as_bytes());
    answer[..name.len()].copy_from_slice(name);
    let mut length = answer.len() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes.
    let reported =
        unsafe { libc::getsockopt(socket.as_raw_fd(), form.level, what, answer.as_mut_ptr().cast(), &raw mut length) };
    if reported == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A text that ends with a zero.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// `hooks` are where packets enter, with the first entry and the policy. None for what is not as expected.
fn chains(form: &Form, entries: &[u8], hooks: &[((Hook, &str), usize, usize)]) -> Option<BTreeMap<String, OtherChain>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < entries.len() {
        let entry = Entry::new(form, entries, at)?;
        at = entry.next();
        all.push(entry);
    }
    // A chain of somebody's begins behind an entry that bears its name; the last of these is the end.
    let begins = |entry: &Entry| Some((entry.next(), entry.chain_name()?.to_owned()));
    let names: HashMap<usize, String> = all.iter().filter_map(begins).collect();
    let mut chains = BTreeMap::new();
    let mut put = |name: &str, base: Option<Base>, from: usize, last: Option<usize>| {
        let rules = all.iter().filter(|entry| entry.at >= from);
        let rules = rules.take_while(|entry| Some(entry.at) != last && entry.chain_name().is_none());
        let rules = rules.map(|entry| entry.instructions(&names)).collect();
        chains.insert(name.to_owned(), OtherChain { base, rules, devices: Vec::new() });
    };
    for ((hook, name), first, policy) in hooks {
        let drop = all.iter().any(|entry| entry.at == *policy && entry.verdict() == Some(DROP));
        let base = Base { kind: ChainKind::Filter, hook: *hook, priority: 0, drop };
        put(name, Some(base), *first, Some(*policy));
    }
    for (from, name) in &names {
        put(name, None, *from, None);
    }
    Some(chains)
}

/// Verdicts as they are written: others are places in the list.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;
/// The name of an interface, and how far its mask is behind it.
const INTERFACE: usize = 16;
const MASKS: usize = 32;
const NOT_FROM: u8 = 1;
const NOT_TO: u8 = 2;
const NOT_PROTOCOL: u8 = 0x40;
/// `xt_entry_match` and `xt_entry_target`.
const EXTENSION: usize = 32;
/// Registers for what is compared, in steps of four bytes.
const REGISTER: u32 = 4;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;

struct Entry<'a> {
    form: &'a Form,
    at: usize,
    bytes: &'a [u8],
    target: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(form: &'a Form, entries: &'a [u8], at: usize) -> Option<Self> {
        let rest = entries.get(at..)?;
        let length = usize::from(half(rest, form.next_at)?);
        let bytes = rest.get(..length).filter(|_| length >= form.matches + EXTENSION)?;
        let target =
            bytes.get(usize::from(half(bytes, form.target_at)?)..).filter(|target| target.len() >= EXTENSION + 4)?;
        Some(Self { form, at, bytes, target })
    }

    fn next(&self) -> usize {
        self.at + self.bytes.len()
    }

    fn target_name(&self) -> &str {
        text(&self.target[2..31])
    }

    /// Of the chain that begins behind it.
    fn chain_name(&self) -> Option<&str> {
        (self.target_name() == "ERROR").then(|| text(&self.target[EXTENSION..]))
    }

    fn verdict(&self) -> Option<i32> {
        self.target_name().is_empty().then(|| word(self.target, EXTENSION).unwrap_or(0).cast_signed())
    }

    fn instructions(&self, names: &HashMap<usize, String>) -> Vec<Instruction> {
        let mut all = Vec::new();
        let form = self.form;
        let (inverted, flags) = (self.bytes[form.inverted], self.bytes[form.flags]);
        let to = form.from + INTERFACE;
        for (at, key, not) in [(form.from, META_IIFNAME, NOT_FROM), (to, META_OIFNAME, NOT_TO)] {
            let mask = &self.bytes[at + MASKS..at + MASKS + INTERFACE];
            let length = mask.iter().take_while(|byte| **byte == 0xff).count();
            self.compare(&mut all, key, &self.bytes[at..at + length], inverted & not == 0);
        }
        let protocol = half(self.bytes, form.protocol).filter(|protocol| *protocol != 0);
        let protocol = protocol.map(|protocol| [protocol as u8]);
        self.compare(&mut all, META_L4PROTO, protocol.as_ref().map_or(&[], |one| one), inverted & NOT_PROTOCOL == 0);
        // Source and destination with their masks, fragments: not known of a packet.
        let addressed = self.bytes[..form.addressed].iter().any(|byte| *byte != 0);
        if addressed || flags & !form.known != 0 {
            all.push(Instruction::MayPass);
        }
        let mut rest = &self.bytes[form.matches..self.bytes.len() - self.target.len()];
        while rest.len() >= EXTENSION {
            let length = usize::from(half(rest, 0).unwrap_or(0)).clamp(EXTENSION, rest.len());
            let (one, others) = rest.split_at(length);
            let known = matched(text(&one[2..31]), one[31].into(), &one[EXTENSION..]);
            all.push(known.unwrap_or(Instruction::MayPass));
            rest = others;
        }
        all.push(match self.verdict() {
            None => target(self.target_name()),
            Some(DROP) => Instruction::Verdict(Verdict::Drop),
            Some(ACCEPT) => Instruction::Verdict(Verdict::Accept),
            Some(RETURN) => Instruction::Verdict(Verdict::Return),
            // To the next entry: it only counts.
            Some(to) if usize::try_from(to) == Ok(self.next()) => Instruction::Passes,
            Some(to) => match usize::try_from(to).ok().and_then(|to| names.get(&to)) {
                Some(name) if flags & form.goes_to != 0 => Instruction::Verdict(Verdict::Goto(name.clone())),
                Some(name) => Instruction::Verdict(Verdict::Jump(name.clone())),
                None => Instruction::MayPass,
            },
        });
        all
    }

    fn compare(&self, all: &mut Vec<Instruction>, key: u32, value: &[u8], equal: bool) {
        if !value.is_empty() {
            all.push(Instruction::Meta { key, to: REGISTER });
            all.push(Instruction::Compare { from: REGISTER, equal, value: value.to_vec() });
        }
    }
}
