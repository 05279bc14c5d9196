//! Netlink messages as bytes: headers and attributes (linux/netlink.h, linux/netfilter/nfnetlink.h). What they mean is
//! for `encode` and `decode`.

use super::Family;

/// Message types of nf_tables (linux/netfilter/nf_tables.h).
pub mod msg {
    pub const NEW_TABLE: u8 = 0;
    pub const DELETE_TABLE: u8 = 2;
    pub const NEW_CHAIN: u8 = 3;
    pub const GET_CHAIN: u8 = 4;
    pub const DELETE_CHAIN: u8 = 5;
    pub const NEW_RULE: u8 = 6;
    pub const GET_RULE: u8 = 7;
    pub const DELETE_RULE: u8 = 8;
    pub const NEW_SET: u8 = 9;
    pub const GET_SET: u8 = 10;
    pub const DELETE_SET: u8 = 11;
    pub const NEW_ELEMENTS: u8 = 12;
    pub const GET_ELEMENTS: u8 = 13;
    pub const DELETE_ELEMENTS: u8 = 14;
    pub const GET_TABLE: u8 = 1;
}

const SUBSYSTEM: u16 = 10;
/// Around a batch.
pub const BEGIN: u16 = 0x10;
pub const END: u16 = 0x11;

pub const REQUEST: u16 = 1;
pub const ACK: u16 = 4;
pub const DUMP: u16 = 0x300;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;
/// Of an answer: what was listed changed meanwhile.
pub const INTERRUPTED: u16 = 0x10;

pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;

const NESTED: u16 = 0x8000;

/// Type of a message of nf_tables.
pub fn kind(message: u8) -> u16 {
    SUBSYSTEM << 8 | u16::from(message)
}

/// A message that is being written behind others.
pub struct Message<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Message<'a> {
    pub fn begin(out: &'a mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&[0; 4]);
        // Which subsystem a batch is for; ignored elsewhere.
        let [high, low] = SUBSYSTEM.to_be_bytes();
        out.extend_from_slice(&[family, 0, high, low]);
        Self { out, start }
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (4 + value.len()) as u16;
        self.out.extend_from_slice(&length.to_ne_bytes());
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }

    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 2]);
        self.out.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inner(self);
        let length = (self.out.len() - start) as u16;
        self.out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// A message is whole when its writer goes.
impl Drop for Message<'_> {
    fn drop(&mut self) {
        let length = (self.out.len() - self.start) as u32;
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A message that was received.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Who asked for what it tells of.
    pub port: u32,
    pub body: &'a [u8],
}

impl<'a> Received<'a> {
    /// Which of the messages of nf_tables it is.
    pub fn is(&self, message: u8) -> bool {
        self.kind == kind(message)
    }

    pub fn is_nftables(&self) -> bool {
        self.kind >> 8 == SUBSYSTEM
    }

    pub fn family(&self) -> Option<Family> {
        Family::from_number(*self.body.first()?)
    }

    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(4..).unwrap_or_default())
    }

    /// The code of an error message, 0 for an acknowledgement.
    pub fn error(&self) -> Option<i32> {
        let code = self.body.get(..4)?.try_into().ok()?;
        (self.kind == ERROR).then(|| -i32::from_ne_bytes(code))
    }
}

/// The messages in what was received at once.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let message = rest.get(..length)?;
        let body = message.get(16..)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        let (sequence, port) = (u32_at(message, 8)?, u32_at(message, 12)?);
        Some(Received { kind: half(4), flags: half(6), sequence, port, body })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Attributes one after another.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub fn get(self, wanted: u16) -> Option<&'a [u8]> {
        { self }.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }

    pub fn nested(self, wanted: u16) -> Option<Self> {
        self.get(wanted).map(Self)
    }

    /// What is inside of each.
    pub fn each(self) -> impl Iterator<Item = Self> {
        self.map(|(_, value)| Self(value))
    }

    pub fn u32(self, wanted: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(wanted)?.try_into().ok()?))
    }

    pub fn u64(self, wanted: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(wanted)?.try_into().ok()?))
    }

    pub fn text(self, wanted: u16) -> Option<&'a str> {
        let bytes = self.get(wanted)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let half = |at: usize| Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    }
}
