//! A card's port on a switch: what it was given, what it may do, how much of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Error, Result, SwitchId};

/// VLANs that a port can carry tagged.
const TRUNK: usize = 64;
/// Below it a guest cannot even resolve a name; beyond it no link of today carries anything.
const RATES: std::ops::RangeInclusive<u64> = 64_000..=1_000_000_000_000;

/// A port of one of our switches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchPort {
    pub switch: SwitchId,
    /// The only IPv4 address that it sends from, and that the switch's DHCP gives it, where the switch has a subnet.
    pub address: Option<Ipv4Addr>,
    /// Likewise of the switch's IPv6 network, beside the one that the guest makes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// It may send from other addresses than its own.
    pub allow_spoofing: bool,
    /// Without `address`: to so many it may lay claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_addresses: Option<u16>,
    /// It reaches no other isolated port of its switch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolated: bool,
    /// Of an External switch: the VLAN that the guest is in without knowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Of an External switch: VLANs whose tags the guest sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub bandwidth: Bandwidth,
}

/// How much a port carries, in bits per second; as much as there is where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the guest.
    pub inbound: Option<u64>,
    /// From the guest.
    pub outbound: Option<u64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl SwitchPort {
    /// A port that nothing special is wished of.
    pub fn on(switch: SwitchId) -> Self {
        Self {
            switch,
            address: None,
            address6: None,
            allow_spoofing: false,
            max_addresses: None,
            isolated: false,
            vlan: None,
            trunk: Vec::new(),
            bandwidth: Bandwidth::default(),
        }
    }
}

impl Bandwidth {
    /// # Errors
    /// [`Error::Invalid`] for a rate that no guest can work with.
    pub fn check(self) -> Result<Self> {
        for (rate, name) in [(self.inbound, "in_bits_per_second"), (self.outbound, "out_bits_per_second")] {
            if rate.is_some_and(|rate| !RATES.contains(&rate)) {
                let must = format!("be from {} to {} bits per second", RATES.start(), RATES.end());
                return Err(Error::invalid(format!("bandwidth.{name}"), must));
            }
        }
        Ok(self)
    }
}

/// A VLAN's number, 1 to 4094.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_vlan(vlan: i64) -> Result<u16> {
    match vlan {
        1..=4094 => Ok(vlan as u16),
        _ => Err(Error::invalid("vlan", "be a VLAN from 1 to 4094")),
    }
}

/// The VLANs that a port sees tagged, in order. The one that it is in is not among them.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_trunk(trunk: &[i64], vlan: Option<u16>) -> Result<Vec<u16>> {
    let must = |must: String| Error::invalid("trunk", must);
    if trunk.len() > TRUNK {
        return Err(must(format!("have at most {TRUNK} VLANs")));
    }
    let mut vlans = Vec::with_capacity(trunk.len());
    for tag in trunk {
        let tag = check_vlan(*tag).map_err(|_| must("be of VLANs from 1 to 4094".into()))?;
        if vlans.contains(&tag) {
            return Err(must(format!("name every VLAN once; {tag} is repeated")));
        }
        if vlan == Some(tag) {
            return Err(must(format!("not have {tag}, which is the vlan of the card itself")));
        }
        vlans.push(tag);
    }
    vlans.sort_unstable();
    Ok(vlans)
}

/// # Errors
/// [`Error::Invalid`].
pub fn check_max_addresses(count: i64) -> Result<u16> {
    match count {
        1..=4096 => Ok(count as u16),
        _ => Err(Error::invalid("max_addresses", "be from 1 to 4096")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_an_earlier_daemon_is_one_that_nothing_special_is_wished_of() {
        let switch = SwitchId::random();
        let before = serde_json::json!({ "switch": switch, "address": "10.77.0.2", "allow_spoofing": true });
        let port: SwitchPort = serde_json::from_value(before.clone()).unwrap();
        let address = Some(Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(port, SwitchPort { address, allow_spoofing: true, ..SwitchPort::on(switch) });
        assert_eq!(serde_json::to_value(port).unwrap(), before, "and its record stays what it was");
    }

    #[test]
    fn vlans_and_rates_have_bounds() {
        assert_eq!((check_vlan(1), check_vlan(4094)), (Ok(1), Ok(4094)));
        assert!([i64::MIN, -1, 0, 4095, i64::MAX].into_iter().all(|bad| check_vlan(bad).is_err()));
        assert_eq!(check_trunk(&[30, 20], Some(10)), Ok(vec![20, 30]));
        let must = |trunk: &[i64]| check_trunk(trunk, Some(10)).unwrap_err().to_string();
        assert!(must(&[20, 20]).contains("20 is repeated") && must(&[10]).contains("the card itself"));
        assert!(must(&[0]).contains("1 to 4094") && must(&[7; 65]).contains("at most 64"));
        let rate = |outbound| Bandwidth { inbound: None, outbound: Some(outbound) }.check();
        assert!(rate(64_000).is_ok() && rate(1_000_000_000_000).is_ok());
        for bad in [0, 63_999, 1_000_000_000_001, u64::MAX] {
            assert!(rate(bad).unwrap_err().to_string().contains("bandwidth.out_bits_per_second must be from 64000"));
        }
        assert!(check_max_addresses(0).is_err() && check_max_addresses(4096) == Ok(4096));
    }
}
