//! A NIC's port on a switch: what it was given, what it may do, how much of it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Error, Result, SwitchId};

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
    /// `Some(None)` is none.
    pub vlan: Option<Option<i64>>,
    /// Replaced whole.
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

    /// It carries what the bridge has to keep apart from other ports.
    pub fn is_in_vlan(&self) -> bool {
        self.vlan.is_some() || !self.trunk.is_empty()
    }
}

impl PortWish {
    /// The first thing that it wishes for, which a NIC without a port cannot have.
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

    /// The same of a whole port: what it does not wish for is as by default. Its address stays, where none is wished for.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self {
            address: self.address,
            allow_spoofing: Some(self.allow_spoofing.unwrap_or_default()),
            max_addresses: Some(self.max_addresses.flatten()),
            isolated: Some(self.isolated.unwrap_or_default()),
            vlan: Some(self.vlan.flatten()),
            trunk: Some(self.trunk.clone().unwrap_or_default()),
            bandwidth: Some(self.bandwidth.unwrap_or_default()),
        }
    }

    /// Grants it to a port.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is out of range, or does not fit together.
    pub fn apply(&self, port: &mut SwitchPort) -> Result<()> {
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
            return Err(Error::invalid("max_addresses", "not be given for a NIC whose address is assigned"));
        }
        if let Some(isolated) = self.isolated {
            port.isolated = isolated;
        }
        if let Some(bandwidth) = self.bandwidth {
            port.bandwidth = bandwidth.check()?;
        }
        if let Some(vlan) = self.vlan {
            port.vlan = vlan.map(|id| check_vlan("vlan", id)).transpose()?;
        }
        if let Some(trunk) = &self.trunk {
            port.trunk = check_trunk(trunk)?;
        }
        if let Some(vlan) = port.vlan.filter(|vlan| port.trunk.contains(vlan)) {
            return Err(Error::invalid(
                "trunk",
                format!("not contain {vlan}, the VLAN that the NIC is in without a tag"),
            ));
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

/// # Errors
/// [`Error::Invalid`].
fn check_max_addresses(count: i64) -> Result<u16> {
    match count {
        1..=4096 => Ok(count as u16),
        _ => Err(Error::invalid("max_addresses", "be from 1 to 4096")),
    }
}

/// # Errors
/// [`Error::Invalid`].
fn check_vlan(name: &'static str, id: i64) -> Result<u16> {
    match id {
        1..=4094 => Ok(id as u16),
        _ => Err(Error::invalid(name, "be from 1 to 4094")),
    }
}

/// In their order, each once.
fn check_trunk(ids: &[i64]) -> Result<Vec<u16>> {
    let mut trunk = Vec::new();
    for id in ids {
        let id = check_vlan("trunk", *id)?;
        if trunk.contains(&id) {
            return Err(Error::invalid("trunk", format!("name each VLAN once, not {id} twice")));
        }
        trunk.push(id);
    }
    trunk.sort_unstable();
    Ok(trunk)
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
        let mut port = SwitchPort { isolated: true, ..SwitchPort::on(SwitchId::random()) };
        let rate = Bandwidth { inbound: Some(1_000_000), outbound: None };
        let wish = PortWish { allow_spoofing: Some(true), bandwidth: Some(rate), ..PortWish::default() };
        wish.apply(&mut port).unwrap();
        assert_eq!((port.allow_spoofing, port.bandwidth, port.isolated), (true, rate, true));
        let before = port.clone();
        PortWish::default().apply(&mut port).unwrap();
        assert_eq!(port, before);
        let clear = PortWish { isolated: Some(false), bandwidth: Some(Bandwidth::default()), ..PortWish::default() };
        clear.apply(&mut port).unwrap();
        assert_eq!((port.isolated, port.bandwidth, port.allow_spoofing), (false, Bandwidth::default(), true));
        let address = Some(Ipv4Addr::new(10, 0, 0, 2));
        let both = PortWish { address, max_addresses: Some(Some(5)), ..PortWish::default() };
        let message = both.apply(&mut port).unwrap_err().to_string();
        assert!(message.contains("max_addresses must not be given for a NIC"), "{message}");
        assert_eq!((both.first(), clear.first()), (Some("address"), None));
    }

    #[test]
    fn a_port_is_in_a_vlan_or_sees_its_tag() {
        let mut port = SwitchPort::on(SwitchId::random());
        let wish = |vlan, trunk: Option<Vec<i64>>| PortWish { vlan, trunk, ..PortWish::default() };
        wish(Some(Some(10)), Some(vec![4094, 20, 1])).apply(&mut port).unwrap();
        assert_eq!((port.vlan, &port.trunk[..], port.is_in_vlan()), (Some(10), &[1, 20, 4094][..], true));
        for (vlan, trunk, must) in [
            (Some(Some(0)), None, "vlan must be from 1 to 4094"),
            (Some(Some(4095)), None, "vlan must be from 1 to 4094"),
            (None, Some(vec![20, -1]), "trunk must be from 1 to 4094"),
            (None, Some(vec![20, 30, 20]), "trunk must name each VLAN once, not 20 twice"),
            (None, Some(vec![10]), "trunk must not contain 10"),
            (Some(Some(20)), None, "trunk must not contain 20"),
        ] {
            let message = wish(vlan, trunk).apply(&mut port.clone()).unwrap_err().to_string();
            assert!(message.contains(must), "{message}");
        }
        wish(Some(None), Some(Vec::new())).apply(&mut port).unwrap();
        assert!(!port.is_in_vlan());
        assert_eq!((wish(Some(None), Some(vec![])).first(), wish(None, Some(vec![7])).first()), (None, Some("trunk")));
    }

    #[test]
    fn rates_and_counts_have_bounds() {
        let rate = |outbound| Bandwidth { inbound: None, outbound: Some(outbound) }.check();
        assert!(rate(64_000).is_ok() && rate(1_000_000_000_000).is_ok());
        for bad in [0, 63_999, 1_000_000_000_001, u64::MAX] {
            assert!(rate(bad).unwrap_err().to_string().contains("bandwidth.out_bits_per_second must be from 64000"));
        }
        assert!(check_max_addresses(0).is_err() && check_max_addresses(4096) == Ok(4096));
    }
}
