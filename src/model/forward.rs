//! Ports of the host that lead to guests on a switch with a subnet.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Error, ForwardId, NicId, Protocol, Result};

/// A port of the host that leads to a port of a NIC on the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchForward {
    pub id: ForwardId,
    pub protocol: Protocol,
    /// The host's address that it is for; every one where none is named.
    pub host_address: Option<Ipv4Addr>,
    pub host_port: u16,
    pub nic: NicId,
    pub guest_port: u16,
}

impl SwitchForward {
    /// Whether a packet could be for both.
    pub fn meets(&self, other: &Self) -> bool {
        (self.protocol, self.host_port) == (other.protocol, other.host_port)
            && (self.host_address == other.host_address || self.host_address.is_none() || other.host_address.is_none())
    }
}

impl fmt::Display for SwitchForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        write!(f, "{} {address}:{}", self.protocol, self.host_port)
    }
}

/// The host's address and the ports of a forward as wished for.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_forward(
    host_address: Option<Ipv4Addr>,
    host_port: i64,
    guest_port: i64,
) -> Result<(Option<Ipv4Addr>, u16, u16)> {
    let port = |name: &'static str, port: i64| match port {
        1..=65_535 => Ok(port as u16),
        _ => Err(Error::invalid(name, "be a port from 1 to 65535")),
    };
    // 0.0.0.0 is how others write it.
    let host_address = host_address.filter(|address| !address.is_unspecified());
    // What comes from the host itself over loopback is not the network's.
    let cannot = |address: Ipv4Addr| address.is_loopback() || address.is_multicast() || address.is_broadcast();
    if host_address.is_some_and(cannot) {
        return Err(Error::invalid("host_address", "be an address at which others reach this host"));
    }
    Ok((host_address, port("host_port", host_port)?, port("guest_port", guest_port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(protocol: Protocol, host_address: Option<[u8; 4]>, host_port: u16) -> SwitchForward {
        let host_address = host_address.map(Ipv4Addr::from);
        SwitchForward {
            id: ForwardId::random(),
            protocol,
            host_address,
            host_port,
            nic: NicId::random(),
            guest_port: 80,
        }
    }

    #[test]
    fn two_forwards_meet_where_a_packet_could_be_for_both() {
        let one = forward(Protocol::Tcp, Some([192, 0, 2, 1]), 8080);
        assert!(one.meets(&forward(Protocol::Tcp, Some([192, 0, 2, 1]), 8080)));
        assert!(one.meets(&forward(Protocol::Tcp, None, 8080)) && forward(Protocol::Tcp, None, 8080).meets(&one));
        assert!(!one.meets(&forward(Protocol::Tcp, Some([192, 0, 2, 2]), 8080)));
        assert!(!one.meets(&forward(Protocol::Udp, None, 8080)) && !one.meets(&forward(Protocol::Tcp, None, 8081)));
        assert_eq!(
            (one.to_string().as_str(), forward(Protocol::Udp, None, 53).to_string().as_str()),
            ("tcp 192.0.2.1:8080", "udp 0.0.0.0:53")
        );
    }

    #[test]
    fn ports_and_addresses_have_bounds() {
        assert_eq!(check_forward(Some(Ipv4Addr::UNSPECIFIED), 1, 65_535), Ok((None, 1, 65_535)));
        let must =
            |address: [u8; 4], host, guest| check_forward(Some(address.into()), host, guest).unwrap_err().to_string();
        assert!(must([10, 0, 0, 1], 0, 1).contains("host_port must be a port from 1 to 65535"));
        assert!(must([10, 0, 0, 1], 1, 65_536).contains("guest_port"));
        assert!(must([224, 0, 0, 1], 1, 1).contains("host_address") && must([255; 4], 1, 1).contains("host_address"));
        assert!(must([127, 0, 0, 1], 1, 1).contains("host_address must be an address at which others reach this host"));
    }
}
