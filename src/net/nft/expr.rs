//! What a rule is made of: the instructions that the kernel runs for each packet. [`super::Rule`] puts them together.

/// A register of four bytes, counted from 0; longer values lie in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// One instruction. Where a test fails, or what it asks for is not in the packet, the rule ends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Bytes of the packet, from the start of one of its headers.
    Payload {
        layer: Layer,
        offset: u32,
        len: u32,
        to: Reg,
    },
    /// What the kernel knows beside the packet, such as the interface.
    Meta {
        key: u32,
        to: Reg,
    },
    /// Of the connection that the packet belongs to.
    Ct {
        key: u32,
        to: Reg,
    },
    /// What kind of address the destination is; with `here`, on the interface that the packet came by.
    AddressKind {
        here: bool,
        to: Reg,
    },
    /// Part of an IPv6 extension header.
    Extension {
        header: u8,
        offset: u32,
        len: u32,
        to: Reg,
    },
    /// Whether there is such an extension header, as a byte.
    HasExtension {
        header: u8,
        to: Reg,
    },
    /// The largest TCP segment that fits through the routes of the packet, there and back.
    RouteMss {
        to: Reg,
    },
    /// Writes the MSS option of TCP; the kernel only ever lowers it.
    ClampMss {
        from: Reg,
    },
    /// Swaps the bytes of a number, so many, into the order of the network.
    ToNetworkOrder {
        reg: Reg,
        len: u32,
    },
    Mask {
        reg: Reg,
        mask: Vec<u8>,
    },
    Compare {
        reg: Reg,
        equal: bool,
        value: Vec<u8>,
    },
    /// In the order of the network.
    Between {
        reg: Reg,
        first: [u8; 4],
        last: [u8; 4],
    },
    /// Whether a key is in a set, or in a map, whose value goes to `to`.
    Lookup {
        set: String,
        key: Reg,
        to: Option<Reg>,
        absent: bool,
    },
    /// Does what a map says for a key.
    Dispatch {
        map: String,
        key: Reg,
    },
    /// Puts a key into a set, or renews it. With a rate, the rule goes on only for keys that are above it.
    Update {
        set: String,
        key: Reg,
        above: Option<Rate>,
    },
    /// A value that is known beforehand.
    Value {
        value: Vec<u8>,
        to: Reg,
    },
    /// Leaves a mark on the packet.
    Mark {
        by: Reg,
    },
    /// Counts.
    Counter,
    /// Replaces the source with the address of the interface that the packet leaves by.
    Masquerade,
    /// Replaces the destination.
    Dnat {
        address: Reg,
        port: Reg,
    },
    /// Drops the packet, and tells its sender that nobody is there.
    Reject,
    Verdict(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Link,
    Network,
    Transport,
}

/// So many a minute, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub a_minute: u64,
    pub burst: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}
