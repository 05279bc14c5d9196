//! A card's port on a switch: what it was given, what it may do, how much of it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Error, Result, SwitchId, SwitchKind};

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

/// What a client wishes of a port; what is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortWish {
    /// Checked, and kept for it, by whoever knows the others' addresses.
    pub address: Option<Ipv4Addr>,
    pub allow_spoofing: Option<bool>,
    /// `Some(None)` is what nobody said.
    pub max_addresses: Option<Option<i64>>,
    pub isolated: Option<bool>,
    /// `Some(None)` takes it out.
    pub vlan: Option<Option<i64>>,
    pub trunk: Option<Vec<i64>>,
    /// Replaced whole.
    pub bandwidth: Option<Bandwidth>,
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
            allow_spoofing: false,
            max_addresses: None,
            isolated: false,
            vlan: None,
            trunk: Vec::new(),
            bandwidth: Bandwidth::default(),
        }
    }
}

impl PortWish {
    /// The first thing that it wishes for, which a card without a port cannot have.
    pub fn first(&self) -> Option<&'static str> {
        let given = [
            (self.address.is_some(), "address"),
            (self.allow_spoofing == Some(true), "allow_spoofing"),
            (matches!(self.max_addresses, Some(Some(_))), "max_addresses"),
            (self.isolated == Some(true), "isolated"),
            (matches!(self.vlan, Some(Some(_))), "vlan"),
            (self.trunk.as_ref().is_some_and(|trunk| !trunk.is_empty()), "trunk"),
            (self.bandwidth.is_some_and(|bandwidth| bandwidth != Bandwidth::default()), "bandwidth"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// Grants it to a port of a switch of this kind.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is out of range, or what such a switch does not have.
    pub fn apply(&self, port: &mut SwitchPort, kind: &SwitchKind) -> Result<()> {
        if let Some(address) = self.address {
            port.address = Some(address);
        }
        if let Some(allow) = self.allow_spoofing {
            port.allow_spoofing = allow;
        }
        if let Some(count) = self.max_addresses {
            port.max_addresses = count.map(check_max_addresses).transpose()?;
        }
        if port.max_addresses.is_some() && port.address.is_some() {
            return Err(Error::invalid("max_addresses", "not be given for a card whose address is assigned"));
        }
        if let Some(isolated) = self.isolated {
            port.isolated = isolated;
        }
        if let Some(vlan) = self.vlan {
            port.vlan = vlan.map(check_vlan).transpose()?;
        }
        if let Some(trunk) = &self.trunk {
            port.trunk = check_trunk(trunk, port.vlan)?;
        } else if port.vlan.is_some_and(|vlan| port.trunk.contains(&vlan)) {
            return Err(Error::invalid("vlan", "not be a VLAN of the card's trunk"));
        }
        if !matches!(kind, SwitchKind::External { .. }) {
            for (given, name) in [(port.vlan.is_some(), "vlan"), (!port.trunk.is_empty(), "trunk")] {
                if given {
                    return Err(Error::invalid(name, "be given only on a switch of type external"));
                }
            }
        }
        if let Some(bandwidth) = self.bandwidth {
            port.bandwidth = bandwidth.check()?;
        }
        Ok(())
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
fn check_vlan(vlan: i64) -> Result<u16> {
    match vlan {
        1..=4094 => Ok(vlan as u16),
        _ => Err(Error::invalid("vlan", "be a VLAN from 1 to 4094")),
    }
}

/// The VLANs that a port sees tagged, in order. The one that it is in is not among them.
///
/// # Errors
/// [`Error::Invalid`].
fn check_trunk(trunk: &[i64], vlan: Option<u16>) -> Result<Vec<u16>> {
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
fn check_max_addresses(count: i64) -> Result<u16> {
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
    fn a_wish_changes_what_it_names_and_nothing_else() {
        let external = SwitchKind::External { adapter: "eth0".into(), allow_management_os: false, dhcp: false };
        let mut port = SwitchPort { isolated: true, ..SwitchPort::on(SwitchId::random()) };
        let wish = PortWish { vlan: Some(Some(7)), trunk: Some(vec![9, 8]), ..PortWish::default() };
        let must = |wish: &PortWish, kind: &SwitchKind, port: &SwitchPort| {
            wish.apply(&mut port.clone(), kind).unwrap_err().to_string()
        };
        assert!(
            must(&wish, &SwitchKind::Private, &port).contains("vlan must be given only on a switch of type external")
        );
        wish.apply(&mut port, &external).unwrap();
        assert_eq!((port.vlan, &port.trunk[..], port.isolated), (Some(7), &[8, 9][..], true));
        let into_trunk = PortWish { vlan: Some(Some(8)), ..PortWish::default() };
        assert!(must(&into_trunk, &external, &port).contains("vlan must not be a VLAN of the card's trunk"));
        let before = port.clone();
        PortWish::default().apply(&mut port, &external).unwrap();
        assert_eq!(port, before);
        let clear = PortWish { vlan: Some(None), trunk: Some(Vec::new()), ..PortWish::default() };
        clear.apply(&mut port, &external).unwrap();
        assert_eq!((port.vlan, port.trunk.len()), (None, 0));
        let both =
            PortWish { address: Some(Ipv4Addr::new(10, 0, 0, 2)), max_addresses: Some(Some(5)), ..PortWish::default() };
        assert!(must(&both, &external, &port).contains("max_addresses must not be given for a card"));
        assert_eq!((both.first(), clear.first()), (Some("address"), None));
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
