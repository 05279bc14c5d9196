//! Virtual switches, as stored. How one becomes a bridge of the host is `net`'s work.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Error, Result, SwitchId};

/// Bridges whose name begins so are ours.
pub const BRIDGE_PREFIX: &str = "qhb";

/// A switch's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub id: SwitchId,
    /// Need not be unique.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
    pub kind: SwitchKind,
    pub notes: String,
}

/// What a switch connects its ports with, beside one another (ruling 33).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum SwitchKind {
    /// Nothing.
    Private,
    /// The host, where there is a subnet.
    Internal { subnet: Option<Subnet> },
    /// The network behind a physical adapter of the host.
    External {
        adapter: String,
        /// The host's own addresses and routes on that adapter move to the bridge while the switch is there.
        allow_management_os: bool,
    },
}

/// The host's side of an Internal switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Address of the network.
    pub network: Ipv4Addr,
    /// Its length in bits, 8 to 30.
    pub prefix: u8,
    /// Guests reach what the host reaches, under the host's address.
    pub nat: bool,
}

/// A switch on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    pub switch: Switch,
    pub state: SwitchState,
    /// What of the host's is on the bridge instead of the adapter; written before it moves.
    pub moved: Option<Moved>,
}

/// Addresses and routes of the host that an External switch took from its adapter. Each is a netlink message as the
/// kernel gave it, so that nothing of it is lost on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Of this boot of the host: after another the adapter has its own again.
    pub boot_id: String,
    /// Hexadecimal payloads of RTM_NEWADDR, in the kernel's order.
    pub addresses: Vec<String>,
    /// Hexadecimal payloads of RTM_NEWROUTE.
    pub routes: Vec<String>,
}

/// How a client names a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchRef {
    Id(SwitchId),
    /// The whole name, without regard to case.
    Name(String),
}

/// What a new switch is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSwitch {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<SwitchId>,
    pub name: String,
    pub kind: SwitchKind,
    pub notes: String,
}

/// How far its making or removing had come when this was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchState {
    /// Nobody was told that it exists.
    Creating,
    Ready,
    Deleting,
}

impl Switch {
    /// Name of its bridge: recognisable as ours, and 15 characters.
    pub fn bridge(&self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.id.short())
    }

    pub fn subnet(&self) -> Option<&Subnet> {
        match &self.kind {
            SwitchKind::Internal { subnet } => subnet.as_ref(),
            SwitchKind::Private | SwitchKind::External { .. } => None,
        }
    }
}

impl Subnet {
    /// Reads `10.77.0.0/24`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is not the address of a network of 8 to 30 bits.
    pub fn parse(text: &str, nat: bool) -> Result<Self> {
        let must = || Error::invalid("subnet", "be the address of a network and its length, such as 10.77.0.0/24");
        let (network, prefix) = text.split_once('/').ok_or_else(must)?;
        let network: Ipv4Addr = network.parse().map_err(|_| must())?;
        let prefix: u8 = prefix.parse().map_err(|_| must())?;
        if !(8..=30).contains(&prefix) {
            return Err(Error::invalid("subnet", "have a length of 8 to 30 bits"));
        }
        let subnet = Self { network, prefix, nat };
        if u32::from(network) & !subnet.mask() != 0 {
            let first = Ipv4Addr::from(u32::from(network) & subnet.mask());
            return Err(Error::invalid(
                "subnet",
                format!("be the address of a network; did you mean {first}/{prefix}?"),
            ));
        }
        // 224.0.0.0/4 is for multicast, 240.0.0.0/4 reserved.
        if network.is_loopback() || network.is_unspecified() || network.octets()[0] >= 224 {
            return Err(Error::invalid("subnet", "be a network that hosts can have"));
        }
        Ok(subnet)
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask())
    }

    /// The host's own address: the first one.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// The addresses for guests: all but the network's, the host's and the broadcast one.
    pub fn guests(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, last) = (u32::from(self.network) + 2, u32::from(self.network) | !self.mask());
        (first..last).map(Ipv4Addr::from)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_the_address_of_a_network() {
        let subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
        assert_eq!((subnet.to_string().as_str(), subnet.gateway()), ("10.77.0.0/24", Ipv4Addr::new(10, 77, 0, 1)));
        let guests: Vec<_> = subnet.guests().collect();
        assert_eq!((guests[0], guests.len()), (Ipv4Addr::new(10, 77, 0, 2), 253));
        assert_eq!(Subnet::parse("10.0.0.0/30", true).unwrap().guests().count(), 1);
        assert!(subnet.overlaps(&Subnet::parse("10.77.0.128/25", true).unwrap()));
        assert!(!subnet.overlaps(&Subnet::parse("10.78.0.0/16", true).unwrap()));
        let must = |text| Subnet::parse(text, true).unwrap_err().to_string();
        assert!(must("10.77.0.5/24").contains("10.77.0.0/24"), "{}", must("10.77.0.5/24"));
        for bad in
            ["", "10.77.0.0", "10.77.0.0/33", "10.77.0.0/31", "127.0.0.0/8", "224.0.0.0/8", "240.0.0.0/24", "fd00::/64"]
        {
            assert!(Subnet::parse(bad, true).is_err(), "{bad}");
        }
    }
}
