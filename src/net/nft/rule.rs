//! Writing a rule down: tests of fields one after another, and what is done when all of them hold.

use super::{
    encode_expr::digest,
    expr::{Expr, Layer, Rate, Reg, Verdict},
};

/// A rule. Two are the same if they do the same; one read from the kernel is known by the digest that it carries.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Empty for one that was read.
    pub exprs: Vec<Expr>,
    /// None for a rule that somebody else put there.
    pub digest: Option<String>,
}

impl Rule {
    /// As it is sent. What one that was read does is not known: in its place nothing passes, and nobody takes that for it.
    pub fn to_be_sent(&self) -> Self {
        if self.exprs.is_empty() { Self { digest: None, ..Self::when().drop() } } else { self.clone() }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.digest.is_some() && self.digest == other.digest
    }
}

impl Eq for Rule {}

impl Rule {
    pub fn new(exprs: Vec<Expr>) -> Self {
        let digest = Some(digest(&exprs));
        Self { exprs, digest }
    }

    /// The beginning of a rule.
    pub fn when() -> When {
        When { exprs: Vec::new(), at: 0 }
    }
}

/// Something of a packet that can be tested, and how long it is in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    load: Load,
    len: u8,
    /// The bits of it that are meant.
    mask: Option<[u8; 2]>,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Payload(Layer, u32),
    Meta(u32),
    Ct(u32),
    AddressKind { here: bool },
    Extension(u8, u32),
}

/// What rules ask for.
pub mod field {
    use super::{Field, Layer, Load};

    const fn packet(layer: Layer, offset: u32, len: u8) -> Field {
        Field { load: Load::Payload(layer, offset), len, mask: None }
    }
    const fn meta(key: u32, len: u8) -> Field {
        Field { load: Load::Meta(key), len, mask: None }
    }

    /// What rules before have left on a packet, in the byte order of the host.
    pub const MARK: Field = meta(3, 4);
    pub const IIFNAME: Field = meta(6, 16);
    pub const OIFNAME: Field = meta(7, 16);
    /// The user whose socket a packet of the host comes from, in the byte order of the host.
    pub const SKUID: Field = meta(10, 4);
    /// Of a table for both: 2 for IPv4, 10 for IPv6.
    pub const NFPROTO: Field = meta(15, 1);
    pub const L4PROTO: Field = meta(16, 1);

    pub const ETHER_DADDR: Field = packet(Layer::Link, 0, 6);
    pub const ETHER_SADDR: Field = packet(Layer::Link, 6, 6);
    pub const ETHER_TYPE: Field = packet(Layer::Link, 12, 2);
    pub const VLAN_ID: Field = Field { mask: Some([0x0f, 0xff]), ..packet(Layer::Link, 14, 2) };
    pub const VLAN_TYPE: Field = packet(Layer::Link, 16, 2);

    pub const ARP_HTYPE: Field = packet(Layer::Network, 0, 2);
    pub const ARP_PTYPE: Field = packet(Layer::Network, 2, 2);
    pub const ARP_OPERATION: Field = packet(Layer::Network, 6, 2);
    pub const ARP_SADDR_ETHER: Field = packet(Layer::Network, 8, 6);
    pub const ARP_SADDR: Field = packet(Layer::Network, 14, 4);
    pub const ARP_DADDR: Field = packet(Layer::Network, 24, 4);

    /// Flags and place of a fragment.
    pub const IP_FRAGMENT: Field = packet(Layer::Network, 6, 2);
    pub const IP_SADDR: Field = packet(Layer::Network, 12, 4);
    pub const IP_DADDR: Field = packet(Layer::Network, 16, 4);

    pub const IP6_SADDR: Field = packet(Layer::Network, 8, 16);
    pub const IP6_DADDR: Field = packet(Layer::Network, 24, 16);
    pub const IP6_DADDR_START: Field = packet(Layer::Network, 24, 2);
    /// 255 for all that go to many.
    pub const IP6_DADDR_FIRST: Field = packet(Layer::Network, 24, 1);

    pub const SPORT: Field = packet(Layer::Transport, 0, 2);
    pub const DPORT: Field = packet(Layer::Transport, 2, 2);
    pub const ICMP6_TYPE: Field = packet(Layer::Transport, 0, 1);
    /// The address that neighbour discovery is about.
    pub const ND_TARGET: Field = packet(Layer::Transport, 8, 16);
    pub const TCP_FLAGS: Field = packet(Layer::Transport, 13, 1);

    /// Of DHCP, behind the header of UDP: request or answer, kind and length of the hardware address.
    pub const DHCP_HEAD: Field = packet(Layer::Transport, 8, 3);
    /// The relay that it came by.
    pub const DHCP_RELAY: Field = packet(Layer::Transport, 8 + 24, 4);
    /// Whom it is for.
    pub const DHCP_CHADDR: Field = packet(Layer::Transport, 8 + 28, 6);

    /// In the byte order of the host, as [`super::When::any`] takes them.
    pub const CT_STATE: Field = Field { load: Load::Ct(0), len: 4, mask: None };
    pub const CT_STATUS: Field = Field { load: Load::Ct(2), len: 4, mask: None };

    /// What kind of address the destination is for the host, and for the interface that the packet came by.
    pub const DADDR_KIND: Field = Field { load: Load::AddressKind { here: false }, len: 4, mask: None };
    pub const DADDR_KIND_HERE: Field = Field { load: Load::AddressKind { here: true }, len: 4, mask: None };

    /// What is behind the fragment header of IPv6.
    pub const FRAGMENT_NEXT: Field = Field { load: Load::Extension(44, 0), len: 1, mask: None };
}

/// A rule in the making. Each test narrows what it applies to.
#[derive(Clone, Debug)]
pub struct When {
    exprs: Vec<Expr>,
    /// The first free register.
    at: u8,
}

impl When {
    /// Loads the fields side by side.
    fn load(&mut self, fields: &[Field]) -> Reg {
        let key = Reg(self.at);
        let mut at = self.at;
        for field in fields {
            let (to, len) = (Reg(at), u32::from(field.len));
            at += field.len.div_ceil(4);
            self.exprs.push(match field.load {
                Load::Payload(layer, offset) => Expr::Payload { layer, offset, len, to },
                Load::Meta(key) => Expr::Meta { key, to },
                Load::Ct(key) => Expr::Ct { key, to },
                Load::AddressKind { here } => Expr::AddressKind { here, to },
                Load::Extension(header, offset) => Expr::Extension { header, offset, len, to },
            });
            self.exprs.extend(field.mask.map(|mask| Expr::Mask { reg: to, mask: mask.to_vec() }));
        }
        key
    }

    fn compare(mut self, field: Field, mask: Option<&[u8]>, equal: bool, value: &[u8]) -> Self {
        let reg = self.load(&[field]);
        self.exprs.extend(mask.map(|mask| Expr::Mask { reg, mask: mask.to_vec() }));
        self.exprs.push(Expr::Compare { reg, equal, value: value.to_vec() });
        self
    }

    /// The field has this value, in network order.
    pub fn is(self, field: Field, value: impl AsRef<[u8]>) -> Self {
        self.compare(field, None, true, value.as_ref())
    }

    pub fn isnt(self, field: Field, value: impl AsRef<[u8]>) -> Self {
        self.compare(field, None, false, value.as_ref())
    }

    /// Under a mask.
    pub fn masked(self, field: Field, mask: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.compare(field, Some(mask.as_ref()), true, value.as_ref())
    }

    pub fn masked_isnt(self, field: Field, mask: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.compare(field, Some(mask.as_ref()), false, value.as_ref())
    }

    /// One of these bits is set.
    pub fn any(self, field: Field, bits: u32) -> Self {
        self.compare(field, Some(&bits.to_ne_bytes()), false, &[0; 4])
    }

    /// A number of four bytes, in the byte order of the host, is in a range.
    pub fn between(mut self, field: Field, first: u32, last: u32) -> Self {
        let reg = self.load(&[field]);
        self.exprs.push(Expr::ToNetworkOrder { reg, len: 4 });
        self.exprs.push(Expr::Between { reg, first: first.to_be_bytes(), last: last.to_be_bytes() });
        self
    }

    /// The fields, side by side, are in a set.
    pub fn within<const N: usize>(self, fields: [Field; N], set: impl Into<String>) -> Self {
        self.lookup(&fields, set.into(), false)
    }

    pub fn outside<const N: usize>(self, fields: [Field; N], set: impl Into<String>) -> Self {
        self.lookup(&fields, set.into(), true)
    }

    fn lookup(mut self, fields: &[Field], set: String, absent: bool) -> Self {
        let key = self.load(fields);
        self.exprs.push(Expr::Lookup { set, key, to: None, absent });
        self
    }

    /// There is such a header of IPv6.
    pub fn has_extension(mut self, header: u8) -> Self {
        let reg = Reg(self.at);
        self.exprs.push(Expr::HasExtension { header, to: reg });
        self.exprs.push(Expr::Compare { reg, equal: true, value: vec![1] });
        self
    }

    /// Puts the fields into a set, or renews them there.
    pub fn update<const N: usize>(mut self, set: impl Into<String>, fields: [Field; N]) -> Self {
        let key = self.load(&fields);
        self.exprs.push(Expr::Update { set: set.into(), key, above: None });
        self
    }

    /// The fields come more often than that; a set keeps count.
    pub fn above<const N: usize>(mut self, set: impl Into<String>, fields: [Field; N], rate: Rate) -> Self {
        let key = self.load(&fields);
        self.exprs.push(Expr::Update { set: set.into(), key, above: Some(rate) });
        self
    }

    fn ends(mut self, last: impl IntoIterator<Item = Expr>) -> Rule {
        self.exprs.extend(last);
        Rule::new(self.exprs)
    }

    pub fn accept(self) -> Rule {
        self.ends([Expr::Verdict(Verdict::Accept)])
    }

    pub fn reject(self) -> Rule {
        self.ends([Expr::Reject])
    }

    pub fn drop(self) -> Rule {
        self.ends([Expr::Verdict(Verdict::Drop)])
    }

    /// Goes on behind the rule that jumped here.
    pub fn leave(self) -> Rule {
        self.ends([Expr::Verdict(Verdict::Return)])
    }

    pub fn jump(self, chain: impl Into<String>) -> Rule {
        self.ends([Expr::Verdict(Verdict::Jump(chain.into()))])
    }

    pub fn goto(self, chain: impl Into<String>) -> Rule {
        self.ends([Expr::Verdict(Verdict::Goto(chain.into()))])
    }

    /// Does what a map says for the fields.
    pub fn dispatch<const N: usize>(mut self, fields: [Field; N], map: impl Into<String>) -> Rule {
        let key = self.load(&fields);
        self.ends([Expr::Dispatch { map: map.into(), key }])
    }

    /// Nothing but what the tests themselves do.
    pub fn go_on(self) -> Rule {
        self.ends([])
    }

    /// Leaves a mark on the packet in place of the one that it had, and goes on.
    pub fn mark(self, mark: u32) -> Rule {
        let by = Reg(self.at);
        self.ends([Expr::Value { value: mark.to_ne_bytes().to_vec(), to: by }, Expr::Mark { by }])
    }

    pub fn masquerade(self) -> Rule {
        self.ends([Expr::Masquerade])
    }

    /// To the IPv4 address and port that a map has for the fields.
    pub fn dnat<const N: usize>(mut self, fields: [Field; N], map: impl Into<String>) -> Rule {
        let key = self.load(&fields);
        let (address, port) = (Reg(0), Reg(1));
        self.ends([
            Expr::Lookup { set: map.into(), key, to: Some(address), absent: false },
            Expr::Dnat { address, port },
        ])
    }

    /// Lowers the MSS of TCP to what fits through both routes.
    pub fn clamp_mss(self) -> Rule {
        let reg = Reg(self.at);
        self.ends([Expr::RouteMss { to: reg }, Expr::ToNetworkOrder { reg, len: 2 }, Expr::ClampMss { from: reg }])
    }
}
