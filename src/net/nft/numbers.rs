//! Types of keys by their numbers.

use super::Type;

/// Their number for nft, six bits each, and their length in registers.
pub fn types(types: &[Type]) -> (u32, u32) {
    match types {
        [alone] => (alone.number(), alone.bytes()),
        parts => parts
            .iter()
            .fold((0, 0), |(number, len), part| (number << 6 | part.number(), len + part.bytes().next_multiple_of(4))),
    }
}

impl Type {
    /// nft's own numbers (its enum `datatypes`); the kernel does not look at them.
    pub fn number(self) -> u32 {
        match self {
            Self::Ip4 => 7,
            Self::Ip6 => 8,
            Self::Ether => 9,
            Self::EtherType => 10,
            Self::Protocol => 12,
            Self::Service => 13,
            Self::Icmp6 => 29,
            Self::IfName => 41,
        }
    }

    pub const ALL: [Self; 8] =
        [Self::Ip4, Self::Ip6, Self::Ether, Self::EtherType, Self::Protocol, Self::Service, Self::Icmp6, Self::IfName];
}
