//! What a client wishes of the networks of an Internal switch, new or there already.

use std::net::Ipv4Addr;

use super::{Dns, Error, Result, Subnet, Subnet6, check_domain};

/// What is not given stays as it is; `Some(None)` is what nobody said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetWish {
    /// Such as 10.77.0.0/24; `Some(None)` takes all of it away.
    pub subnet: Option<Option<String>>,
    pub nat: Option<bool>,
    /// Nobody for an empty list.
    pub dns: Option<Option<Vec<Ipv4Addr>>>,
    pub domain: Option<Option<String>>,
    pub host_access: Option<bool>,
    /// Such as fd77::/64, and whether guests reach others under the host's address.
    pub ipv6: Option<Option<(String, bool)>>,
}

impl SubnetWish {
    /// The first thing that it wishes for, which a switch without a subnet cannot have.
    pub fn first(&self) -> Option<&'static str> {
        let given = [
            (matches!(self.subnet, Some(Some(_))), "subnet"),
            (self.nat == Some(true), "nat"),
            (matches!(self.dns, Some(Some(_))), "dns"),
            (matches!(self.domain, Some(Some(_))), "domain"),
            (self.host_access == Some(true), "host_access"),
            (matches!(self.ipv6, Some(Some(_))), "ipv6"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// The first thing that is said at all.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (self.subnet.is_some(), "subnet"),
            (self.nat.is_some(), "nat"),
            (self.dns.is_some(), "dns"),
            (self.domain.is_some(), "domain"),
            (self.host_access.is_some(), "host_access"),
            (self.ipv6.is_some(), "ipv6"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// What becomes of a subnet, or of none.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn apply(&self, before: Option<&Subnet>) -> Result<Option<Subnet>> {
        let mut subnet = match (&self.subnet, before) {
            (Some(Some(text)), before) => {
                let there = Subnet::parse(text, self.nat.unwrap_or(before.is_some_and(|subnet| subnet.nat)))?;
                let before = before.cloned().unwrap_or_else(|| there.clone());
                Subnet { network: there.network, prefix: there.prefix, nat: there.nat, ..before }
            }
            (None, Some(before)) => before.clone(),
            (Some(None), _) | (None, None) => {
                return match self.first() {
                    Some(name) => Err(Error::invalid(name, "be given only for a switch with a subnet")),
                    None => Ok(None),
                };
            }
        };
        if let Some(nat) = self.nat {
            subnet.nat = nat;
        }
        if let Some(servers) = &self.dns {
            subnet.dns = servers.clone().map_or(Ok(Dns::Default), Dns::of)?;
        }
        if let Some(domain) = &self.domain {
            subnet.domain = domain.as_deref().map(check_domain).transpose()?;
        }
        if let Some(access) = self.host_access {
            subnet.host_access = access;
        }
        if let Some(ipv6) = &self.ipv6 {
            subnet.ipv6 = ipv6.as_ref().map(|(text, nat)| Subnet6::parse(text, *nat)).transpose()?;
        }
        subnet.check_servers()?;
        Ok(Some(subnet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_changed_in_part() {
        let wish = SubnetWish {
            subnet: Some(Some("10.77.0.0/24".into())),
            nat: Some(true),
            dns: Some(Some(vec![Ipv4Addr::new(9, 9, 9, 9)])),
            domain: Some(Some("LAB".into())),
            host_access: Some(true),
            ipv6: Some(Some(("fd77::/64".into(), true))),
        };
        let made = wish.apply(None).unwrap().unwrap();
        assert_eq!((made.domain(), made.host_access, made.serves_names()), ("lab", true, true));
        let moved_to = |subnet: &str| SubnetWish { subnet: Some(Some(subnet.into())), ..SubnetWish::default() };
        let moved = moved_to("10.78.0.0/16").apply(Some(&made)).unwrap().unwrap();
        assert_eq!(moved.to_string(), "10.78.0.0/16");
        assert_eq!(Subnet { network: made.network, prefix: made.prefix, ..moved }, made, "and nothing else");
        let plain = SubnetWish { dns: Some(None), domain: Some(None), ipv6: Some(None), ..SubnetWish::default() };
        let plain = plain.apply(Some(&made)).unwrap().unwrap();
        assert_eq!((plain.dns, plain.domain, plain.ipv6), (Dns::Default, None, None));
        let none = SubnetWish { subnet: Some(None), ..SubnetWish::default() };
        assert_eq!(none.apply(Some(&made)), Ok(None));
        let anew = moved_to("10.79.0.0/24").apply(None).unwrap().unwrap();
        assert!(!anew.nat && anew.domain.is_none(), "what was taken away does not come back");
        // A guest may be asked, the switch itself not.
        for (server, fits) in [(9, true), (1, false), (0, false), (255, false)] {
            let servers = vec![Ipv4Addr::new(10, 77, 0, server)];
            let wish = SubnetWish { dns: Some(Some(servers)), ..SubnetWish::default() };
            assert_eq!(wish.apply(Some(&made)).is_ok(), fits, "{server}");
        }
        assert_eq!(SubnetWish::default().apply(Some(&made)), Ok(Some(made.clone())));
        let without = SubnetWish { nat: Some(true), ..SubnetWish::default() }.apply(None).unwrap_err().to_string();
        assert!(without.contains("nat must be given only for a switch with a subnet"), "{without}");
    }
}
