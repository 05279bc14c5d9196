//! Types of keys and families by their numbers.

use super::{Family, Type};

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

impl Family {
    const ALL: [Self; 6] = [Self::Inet, Self::Ip, Self::Arp, Self::Netdev, Self::Bridge, Self::Ip6];

    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.number() == number)
    }
}
