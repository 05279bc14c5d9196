//! The networks of an Internal switch: IPv4, IPv6 beside it, and what their guests are told of names.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// The domain of guests whose switch names none.
const DOMAIN: &str = "lan";
/// Resolvers that a switch can name: more than a guest's libc asks.
const SERVERS: usize = 8;

/// The host's side of an Internal switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Address of the network.
    pub network: Ipv4Addr,
    /// Its length in bits, 8 to 30.
    pub prefix: u8,
    /// Guests reach what the host reaches, under the host's address.
    pub nat: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dns: Dns,
    /// What the names of VMs end with; see [`Subnet::domain`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Guests reach what listens on the host's address on the switch; without it DHCP, DNS and ICMP alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_access: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Subnet6>,
}

/// Who answers the guests' questions for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dns {
    /// The switch, which asks the host's own resolvers, where there is NAT; nobody where there is none.
    #[default]
    Default,
    /// Nobody.
    None,
    /// With NAT the switch, which asks these; without, these themselves.
    Servers(Vec<Ipv4Addr>),
}

/// A network of IPv6 on the same switch. Guests make their addresses themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet6 {
    /// Address of the network, of 64 bits.
    pub network: Ipv6Addr,
    /// Guests reach what the host reaches, under the host's address; without it the network is routed.
    pub nat: bool,
}

/// Some addresses next to one another: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    pub network: Ipv4Addr,
    pub prefix: u8,
}

/// Networks that nobody else on the internet has (RFC 1918, RFC 6598, RFC 2544): a guest in one takes nobody's place.
const FREE: [Cidr; 5] = [
    Cidr { network: Ipv4Addr::new(10, 0, 0, 0), prefix: 8 },
    Cidr { network: Ipv4Addr::new(172, 16, 0, 0), prefix: 12 },
    Cidr { network: Ipv4Addr::new(192, 168, 0, 0), prefix: 16 },
    Cidr { network: Ipv4Addr::new(100, 64, 0, 0), prefix: 10 },
    Cidr { network: Ipv4Addr::new(198, 18, 0, 0), prefix: 15 },
];

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl Cidr {
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (network, prefix) = text.split_once('/')?;
            let cidr = Self { network: network.parse().ok()?, prefix: prefix.parse().ok()? };
            (cidr.prefix <= 32 && u32::from(cidr.network) & !mask(cidr.prefix) == 0).then_some(cidr)
        };
        parse().ok_or_else(|| format!("{text:?} must be the address of a network and its length, such as 10.77.0.0/24"))
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
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
        if u32::from(network) & !mask(prefix) != 0 {
            let first = Ipv4Addr::from(u32::from(network) & mask(prefix));
            return Err(Error::invalid(
                "subnet",
                format!("be the address of a network; did you mean {first}/{prefix}?"),
            ));
        }
        // 0.0.0.0/8 is this host, 224.0.0.0/4 is for multicast, 240.0.0.0/4 reserved.
        if network.is_loopback() || network.octets()[0] == 0 || network.octets()[0] >= 224 {
            return Err(Error::invalid("subnet", "be a network that hosts can have"));
        }
        Ok(Self::new(network, prefix, nat))
    }

    /// What is left is as it is where nobody says.
    pub fn new(network: Ipv4Addr, prefix: u8, nat: bool) -> Self {
        Self { network, prefix, nat, dns: Dns::Default, domain: None, host_access: false, ipv6: None }
    }

    /// Whether it takes nobody's place: in a network that nobody on the internet has, or in one that the host's owner
    /// `allowed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another.
    pub fn check_free(&self, allowed: &[Cidr]) -> Result<()> {
        let within = |wide: &Cidr| wide.prefix <= self.prefix && wide.contains(self.network);
        if FREE.iter().chain(allowed).any(within) {
            return Ok(());
        }
        let must = "be in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 or 198.18.0.0/15: its guests would stand in for others there. The setting allow-subnets allows more";
        Err(Error::invalid("subnet", must))
    }

    /// That no resolver is the switch itself, which would ask itself.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check_servers(&self) -> Result<()> {
        let Dns::Servers(servers) = &self.dns else { return Ok(()) };
        let own = |server: &&Ipv4Addr| self.contains(**server) && !self.is_for_guests(**server);
        match servers.iter().find(own) {
            Some(own) => Err(Error::invalid(
                "dns",
                format!("name servers other than the switch; {own} is in {self} and no guest's"),
            )),
            None => Ok(()),
        }
    }

    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !mask(self.prefix))
    }

    /// The host's own address: the first one.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// The addresses for guests: all but the network's, the host's and the broadcast one.
    pub fn guests(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (u32::from(self.network) + 2..u32::from(self.broadcast())).map(Ipv4Addr::from)
    }

    /// Whether a guest can have this one.
    pub fn is_for_guests(&self, address: Ipv4Addr) -> bool {
        self.contains(address) && address > self.gateway() && address < self.broadcast()
    }

    /// The address here that has the same bits after the network's, where that is one for guests.
    pub fn like(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let there = Ipv4Addr::from(u32::from(self.network) | u32::from(address) & !mask(self.prefix));
        self.is_for_guests(there).then_some(there)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    pub fn domain(&self) -> &str {
        self.domain.as_deref().unwrap_or(DOMAIN)
    }

    /// Whether the switch itself resolves names for its guests.
    pub fn serves_names(&self) -> bool {
        self.nat && self.dns != Dns::None
    }
}

impl Dns {
    /// As a client names them: none for those of the host, an empty list for nobody.
    pub fn named(&self) -> Option<Vec<Ipv4Addr>> {
        match self {
            Self::Default => None,
            Self::None => Some(Vec::new()),
            Self::Servers(servers) => Some(servers.clone()),
        }
    }

    /// Resolvers that the switch or its guests are to ask.
    ///
    /// # Errors
    /// [`Error::Invalid`] for too many, or one that cannot be asked.
    pub fn of(servers: Vec<Ipv4Addr>) -> Result<Self> {
        if servers.len() > SERVERS {
            return Err(Error::invalid("dns", format!("name at most {SERVERS} servers")));
        }
        let cannot = |address: &&Ipv4Addr| address.is_unspecified() || address.is_multicast() || address.is_broadcast();
        if let Some(bad) = servers.iter().find(cannot) {
            return Err(Error::invalid("dns", format!("name servers that can be asked; {bad} is none")));
        }
        if let Some(twice) = servers.iter().enumerate().find(|(at, server)| servers[..*at].contains(server)) {
            return Err(Error::invalid("dns", format!("name every server once; {} is repeated", twice.1)));
        }
        Ok(if servers.is_empty() { Self::None } else { Self::Servers(servers) })
    }
}

impl Subnet6 {
    /// Reads `fd77::/64`. With NAT it is of ULA (RFC 4193); without, it may also be one that is routed to this host.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is not the address of such a network of 64 bits.
    pub fn parse(text: &str, nat: bool) -> Result<Self> {
        let must = |must: &str| Error::invalid("ipv6", must);
        let (network, prefix) = text.split_once('/').unwrap_or((text, ""));
        let (Ok(network), "64") = (network.parse::<Ipv6Addr>(), prefix) else {
            return Err(must("be the address of a network of 64 bits, such as fd77:1:2:3::/64"));
        };
        if u128::from(network) as u64 != 0 {
            return Err(must("be the address of a network: nothing after the 64th bit"));
        }
        let (local, global) = (network.octets()[0] == 0xfd, network.octets()[0] >> 5 == 1);
        match (local, global, nat) {
            (true, ..) | (false, true, false) => Ok(Self { network, nat }),
            (false, true, true) => Err(must("be in fd00::/8 with NAT: the guests' addresses stay within the host")),
            _ => Err(must("be in fd00::/8, or in 2000::/3 where it is routed to this host")),
        }
    }

    /// The host's own address: the first one.
    pub fn gateway(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.network) + 1)
    }

    pub fn contains(&self, address: Ipv6Addr) -> bool {
        u128::from(address) >> 64 == u128::from(self.network) >> 64
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl std::fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/64", self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::parse(text, true).unwrap()
    }

    #[test]
    fn a_subnet_is_the_address_of_a_network() {
        let net = subnet("10.77.0.0/24");
        assert_eq!((net.to_string().as_str(), net.gateway()), ("10.77.0.0/24", Ipv4Addr::new(10, 77, 0, 1)));
        let guests: Vec<_> = net.guests().collect();
        assert_eq!((guests[0], guests.len()), (Ipv4Addr::new(10, 77, 0, 2), 253));
        assert!(guests.iter().all(|guest| net.is_for_guests(*guest)));
        assert!([0, 1, 255].into_iter().all(|host| !net.is_for_guests(Ipv4Addr::new(10, 77, 0, host))));
        assert_eq!(subnet("10.0.0.0/30").guests().count(), 1);
        assert!(net.overlaps(&subnet("10.77.0.128/25")));
        assert!(!net.overlaps(&subnet("10.78.0.0/16")));
        let must = |text| Subnet::parse(text, true).unwrap_err().to_string();
        assert!(must("10.77.0.5/24").contains("10.77.0.0/24"), "{}", must("10.77.0.5/24"));
        for bad in [
            "",
            "10.77.0.0",
            "10.77.0.0/33",
            "10.77.0.0/31",
            "127.0.0.0/8",
            "0.1.0.0/16",
            "224.0.0.0/8",
            "240.0.0.0/24",
            "fd00::/64",
        ] {
            assert!(Subnet::parse(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_subnet_takes_nobodys_place() {
        for free in ["10.0.0.0/8", "172.31.0.0/16", "192.168.1.0/24", "100.64.0.0/10", "198.19.255.0/24"] {
            assert_eq!(subnet(free).check_free(&[]), Ok(()), "{free}");
        }
        for other in ["8.8.8.0/24", "169.254.169.252/30", "172.0.0.0/8", "100.0.0.0/8", "198.20.0.0/24", "11.0.0.0/8"] {
            let message = subnet(other).check_free(&[]).unwrap_err().to_string();
            assert!(message.contains("subnet must be in 10.0.0.0/8") && message.contains("allow-subnets"), "{message}");
        }
        let allowed = ["203.0.113.0/24".parse().unwrap()];
        assert_eq!(subnet("203.0.113.128/25").check_free(&allowed), Ok(()));
        assert!(subnet("203.0.112.0/23").check_free(&allowed).is_err(), "wider than what is allowed");
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0", "::/0"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!("0.0.0.0/0".parse::<Cidr>().map(|all| all.contains(Ipv4Addr::new(9, 9, 9, 9))), Ok(true));
    }

    #[test]
    fn an_address_keeps_its_place_in_another_subnet_where_it_fits() {
        let like = |to: &str, address: [u8; 4]| subnet(to).like(address.into());
        assert_eq!(like("10.78.0.0/24", [10, 77, 0, 9]), Some(Ipv4Addr::new(10, 78, 0, 9)));
        assert_eq!(like("10.77.0.0/16", [10, 77, 3, 9]), Some(Ipv4Addr::new(10, 77, 3, 9)));
        assert_eq!(like("10.78.0.0/28", [10, 77, 0, 15]), None, "the broadcast address there");
        assert_eq!(like("10.78.0.0/28", [10, 77, 0, 17]), None, "the host's own there");
        assert_eq!(like("172.16.0.0/12", [10, 77, 0, 9]), Some(Ipv4Addr::new(172, 29, 0, 9)));
    }

    #[test]
    fn names_are_resolved_by_the_switch_by_others_or_by_nobody() {
        let mut net = subnet("10.77.0.0/24");
        assert!(net.serves_names() && net.domain() == "lan");
        net.dns = Dns::of(Vec::new()).unwrap();
        assert!(!net.serves_names());
        let of = |hosts: &[u8]| Dns::of(hosts.iter().map(|host| Ipv4Addr::new(10, 77, 0, *host)).collect());
        assert!(of(&[1, 1]).unwrap_err().to_string().contains("10.77.0.1 is repeated"));
        assert!(of(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap_err().to_string().contains("at most 8"));
        assert!(Dns::of(vec![Ipv4Addr::UNSPECIFIED]).is_err());
    }

    #[test]
    fn an_ipv6_network_has_64_bits_of_its_own() {
        let net = Subnet6::parse("fd77:0:0:1::/64", true).unwrap();
        assert_eq!(
            (net.to_string().as_str(), net.gateway().to_string().as_str()),
            ("fd77:0:0:1::/64", "fd77:0:0:1::1")
        );
        assert!(net.contains("fd77:0:0:1::abcd".parse().unwrap()) && !net.contains("fd77::1".parse().unwrap()));
        assert!(Subnet6::parse("2001:db8::/64", false).is_ok());
        for (bad, nat) in [
            ("2001:db8::/64", true),
            ("fd77::/48", true),
            ("fd77::1/64", true),
            ("fe80::/64", false),
            ("ff02::/64", false),
            ("::/64", false),
            ("fd77::", true),
            ("10.0.0.0/24", true),
            ("", false),
            ("fc00::/64", true),
        ] {
            assert!(Subnet6::parse(bad, nat).is_err(), "{bad}");
        }
    }
}
