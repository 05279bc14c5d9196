//! Values to messages of nf_tables. The numbers are those of linux/netfilter/nf_tables.h.

use super::{
    Base, Batch, ChainKind, Command, Datum, Elements, Family, Form, Hook, Key, Rule, TableName, Type, Value,
    encode_expr::{counter, expressions, limit, verdict},
    numbers::types,
    wire::{ACK, APPEND, BEGIN, CREATE, END, Message, msg},
};

/// Elements in one message: an attribute is at most 64 KiB long.
const TOGETHER: usize = 256;
/// Elements that packets put into a set.
const MOST_LEARNED: u32 = 65536;
/// Before the digest of a rule, in its comment.
pub const MARK: &str = "qherd ";

const VERDICT_TYPE: u32 = 0xffff_ff00;

pub mod flag {
    /// Of a table.
    pub const DORMANT: u32 = 1;
    pub const ANONYMOUS: u32 = 1;
    pub const INTERVAL: u32 = 4;
    pub const MAP: u32 = 8;
    pub const TIMEOUT: u32 = 0x10;
    pub const DYNAMIC: u32 = 0x20;
    pub const CONCATENATED: u32 = 0x80;
    pub const END: u32 = 1;
}

/// The messages of a batch, and which command each belongs to, by its sequence number.
pub fn batch(batch: &Batch) -> (Vec<u8>, Vec<usize>) {
    let mut writer = Writer { out: Vec::new(), commands: vec![usize::MAX] };
    Message::begin(&mut writer.out, BEGIN, 0, 0, 0);
    for (at, (table, command)) in batch.0.iter().enumerate() {
        writer.command(at, table, command, at + 1 == batch.0.len());
    }
    let Writer { mut out, commands } = writer;
    Message::begin(&mut out, END, 0, commands.len() as u32, 0);
    (out, commands)
}

struct Writer {
    out: Vec<u8>,
    commands: Vec<usize>,
}

impl Writer {
    fn begin(&mut self, at: usize, table: &TableName, kind: u8, flags: u16) -> Message<'_> {
        let sequence = self.commands.len() as u32;
        self.commands.push(at);
        let kind = super::wire::kind(kind);
        let mut message = Message::begin(&mut self.out, kind, flags, sequence, table.family.number());
        message.text(1, &table.name);
        message
    }

    /// Writes a command as one or more messages; the last of all is acknowledged.
    fn command(&mut self, at: usize, table: &TableName, command: &Command, last: bool) {
        let ack = if last { ACK } else { 0 };
        match command {
            Command::AddTable => {
                self.begin(at, table, msg::NEW_TABLE, CREATE | ack).u32(2, 0);
            }
            Command::DeleteTable => drop(self.begin(at, table, msg::DELETE_TABLE, ack)),
            Command::AddChain(name, base) => {
                let mut message = self.begin(at, table, msg::NEW_CHAIN, CREATE | ack);
                message.text(3, name);
                if let Some(base) = base {
                    self::base(&mut message, table.family, base);
                }
            }
            Command::DeleteChain(name) => {
                self.begin(at, table, msg::DELETE_CHAIN, ack).text(3, name);
            }
            Command::AddRule(chain, rule) => {
                let mut message = self.begin(at, table, msg::NEW_RULE, CREATE | APPEND | ack);
                message.text(2, chain);
                self::rule(&mut message, rule);
            }
            Command::Flush(chain) => {
                self.begin(at, table, msg::DELETE_RULE, ack).text(2, chain);
            }
            Command::AddSet(name, form) => {
                // The id is for rules of the same batch that name the set by it; ours name it by its name.
                let mut message = self.begin(at, table, msg::NEW_SET, CREATE | ack);
                message.text(2, name).u32(10, at as u32 + 1);
                self::form(&mut message, form);
            }
            Command::DeleteSet(name) => {
                self.begin(at, table, msg::DELETE_SET, ack).text(2, name);
            }
            Command::AddElements(set, form, elements) => {
                self.elements(at, table, (msg::NEW_ELEMENTS, CREATE, ack), set, form, elements);
            }
            Command::DeleteElements(set, form, elements) => {
                self.elements(at, table, (msg::DELETE_ELEMENTS, 0, ack), set, form, elements);
            }
        }
    }

    fn elements(
        &mut self,
        at: usize,
        table: &TableName,
        (kind, flags, ack): (u8, u16, u16),
        set: &str,
        form: &Form,
        elements: &Elements,
    ) {
        let all: Vec<_> = elements.iter().collect();
        let mut chunks = all.chunks(TOGETHER).peekable();
        while let Some(chunk) = chunks.next() {
            let ack = if chunks.peek().is_none() { ack } else { 0 };
            list(self.begin(at, table, kind, flags | ack), set, form, chunk);
        }
    }
}

fn list(mut message: Message, set: &str, form: &Form, elements: &[(&Key, &Option<Datum>)]) {
    message.text(2, set).nest(3, |message| {
        for (key, datum) in elements {
            message.nest(1, |message| {
                message.nest(1, |message| {
                    message.bytes(1, &key.bytes);
                });
                if key.end {
                    message.u32(3, flag::END);
                }
                match datum {
                    None => {}
                    Some(Datum::Verdict(to)) => {
                        message.nest(2, |message| verdict(message, to));
                    }
                    Some(Datum::Bytes(bytes)) => {
                        message.nest(2, |message| {
                            message.bytes(1, bytes);
                        });
                    }
                    Some(Datum::Above { bytes, burst }) => {
                        message.nest(7, |message| limit(message, *bytes, 1, *burst, 1));
                    }
                }
                if form.counted {
                    message.nest(7, counter);
                }
            });
        }
    });
}

fn base(message: &mut Message, family: Family, base: &Base) {
    let hook = match (family, base.hook) {
        (Family::Arp, Hook::Input) => 0,
        (Family::Arp, _) => 1,
        (_, hook) => hook as u32,
    };
    message.nest(4, |message| {
        message.u32(1, hook).bytes(2, &base.priority.to_be_bytes());
    });
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    };
    message.u32(5, u32::from(!base.drop)).text(7, kind);
}

fn rule(message: &mut Message, rule: &Rule) {
    expressions(message, &rule.exprs);
    if let Some(digest) = &rule.digest {
        // As nft keeps a comment, so that who lists the rules sees it.
        let text = format!("{MARK}{digest}\0");
        message.bytes(7, &[&[0, text.len() as u8], text.as_bytes()].concat());
    }
}

fn form(message: &mut Message, form: &Form) {
    let mut flags = 0;
    for (set, flag) in [
        (form.interval, flag::INTERVAL),
        (form.value.is_some(), flag::MAP),
        (form.learned.is_some(), flag::DYNAMIC | flag::TIMEOUT),
        (form.key.len() > 1, flag::CONCATENATED),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let (kind, len) = types(&form.key);
    message.u32(3, flags).u32(4, kind).u32(5, len);
    match &form.value {
        None => {}
        Some(Value::Verdict) => {
            message.u32(6, VERDICT_TYPE);
        }
        Some(Value::Data(value)) => {
            let (kind, len) = types(value);
            message.u32(6, kind).u32(7, len);
        }
    }
    message.nest(9, |message| {
        if form.learned.is_some() {
            message.u32(1, MOST_LEARNED);
        }
        if form.key.len() > 1 {
            message.nest(2, |message| {
                for part in &form.key {
                    message.nest(1, |message| {
                        message.u32(1, part.bytes());
                    });
                }
            });
        }
    });
    if let Some(unused) = form.learned {
        message.u64(11, unused.as_millis() as u64);
    }
    if form.counted {
        message.nest(17, counter);
    }
    if form.key == [Type::IfName] {
        // A note for nft: the text is in the byte order of the host.
        message.bytes(13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
    }
}
