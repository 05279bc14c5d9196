//! A switch as clients write it and are told of it: one list of fields, of which each type has its own. What the dialects call
//! them is theirs.

use std::net::Ipv4Addr;

use super::{CreateSwitch, Error, MetadataWish, Result, Subnet, SubnetWish, Switch, SwitchId, SwitchKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchType {
    Private,
    Internal,
    External,
}

/// A new switch, decoded and not yet checked.
#[derive(Clone, Debug)]
pub struct SwitchForm {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<SwitchId>,
    pub name: String,
    pub kind: SwitchType,
    pub adapter: Option<String>,
    pub allow_management_os: Option<bool>,
    pub subnet: SubnetWish,
    pub notes: String,
    pub metadata: MetadataWish,
    pub mtu: Option<i64>,
}

/// What is told of what a switch connects; none for what its type does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchShape {
    pub kind: SwitchType,
    pub adapter: Option<String>,
    pub allow_management_os: Option<bool>,
    pub subnet: Option<String>,
    /// The host's address on it.
    pub host_address: Option<Ipv4Addr>,
    pub nat: Option<bool>,
    /// The resolvers that were named: none for those of the host, an empty list for nobody.
    pub dns: Option<Vec<Ipv4Addr>>,
    pub domain: Option<String>,
    pub host_access: Option<bool>,
    /// The network, and whether it has NAT.
    pub ipv6: Option<(String, bool)>,
}

impl SwitchForm {
    /// # Errors
    /// [`Error::Invalid`] for what its type does not have, or lacks.
    pub fn into_wish(self) -> Result<CreateSwitch> {
        let only = |given: Option<&'static str>, kind: &str| match given {
            Some(name) => Err(Error::invalid(name, format!("be given only for {kind} switches"))),
            None => Ok(()),
        };
        if self.kind != SwitchType::External {
            only(self.adapter.as_ref().map(|_| "adapter"), "external")?;
            only(self.allow_management_os.map(|_| "allow_management_os"), "external")?;
        }
        if self.kind != SwitchType::Internal {
            only(self.subnet.given(), "internal")?;
        }
        let kind = match self.kind {
            SwitchType::Private => SwitchKind::Private,
            SwitchType::Internal => SwitchKind::Internal { subnet: self.subnet.apply(None)? },
            SwitchType::External => {
                let must = "be given for an external switch: the name of a network adapter of the host";
                let named = self.adapter.filter(|name| !name.is_empty());
                SwitchKind::External {
                    adapter: named.ok_or_else(|| Error::invalid("adapter", must))?,
                    allow_management_os: self.allow_management_os.unwrap_or(false),
                    dhcp: false,
                }
            }
        };
        let Self { id, name, notes, metadata, mtu, .. } = self;
        Ok(CreateSwitch { id, name, kind, notes, metadata, mtu })
    }
}

impl SwitchShape {
    pub fn of(switch: &Switch) -> Self {
        let (kind, adapter, allow_management_os) = match &switch.kind {
            SwitchKind::Private => (SwitchType::Private, None, None),
            SwitchKind::Internal { .. } => (SwitchType::Internal, None, None),
            SwitchKind::External { adapter, allow_management_os, .. } => {
                (SwitchType::External, Some(adapter.clone()), Some(*allow_management_os))
            }
        };
        let subnet = switch.subnet();
        Self {
            kind,
            adapter,
            allow_management_os,
            subnet: subnet.map(Subnet::to_string),
            host_address: subnet.map(Subnet::gateway),
            nat: subnet.map(|subnet| subnet.nat),
            dns: subnet.and_then(|subnet| subnet.dns.named()),
            domain: subnet.map(|subnet| subnet.domain().to_owned()),
            host_access: subnet.map(|subnet| subnet.host_access),
            ipv6: subnet.and_then(|subnet| subnet.ipv6.as_ref()).map(|six| (six.to_string(), six.nat)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(kind: SwitchType) -> SwitchForm {
        let (name, subnet) = ("LAN".to_owned(), SubnetWish::default());
        SwitchForm {
            id: None,
            name,
            kind,
            adapter: None,
            allow_management_os: None,
            subnet,
            notes: String::new(),
            metadata: MetadataWish::default(),
            mtu: None,
        }
    }

    #[test]
    fn each_type_has_its_own_fields_and_no_others() {
        let adapter = || Some("eth1".to_owned());
        let subnet = || SubnetWish { subnet: Some(Some("10.77.0.0/24".into())), nat: Some(true), ..Default::default() };
        let refused = |form: SwitchForm| form.into_wish().unwrap_err().to_string();
        for kind in [SwitchType::Private, SwitchType::Internal] {
            let wrong = refused(SwitchForm { adapter: adapter(), ..form(kind) });
            assert!(wrong.contains("adapter must be given only for external switches"), "{wrong}");
            let wrong = refused(SwitchForm { allow_management_os: Some(false), ..form(kind) });
            assert!(wrong.contains("allow_management_os must be given only for external"), "{wrong}");
        }
        for kind in [SwitchType::Private, SwitchType::External] {
            let wrong = refused(SwitchForm { subnet: subnet(), ..form(kind) });
            assert!(wrong.contains("subnet must be given only for internal switches"), "{wrong}");
            let nat = SubnetWish { nat: Some(false), ..SubnetWish::default() };
            let wrong = refused(SwitchForm { subnet: nat, ..form(kind) });
            assert!(wrong.contains("nat must be given only for internal switches"), "{wrong}");
        }
        for none in [None, Some(String::new())] {
            let wrong = refused(SwitchForm { adapter: none, ..form(SwitchType::External) });
            assert!(wrong.contains("adapter must be given for an external switch"), "{wrong}");
        }
    }

    #[test]
    fn what_is_told_is_what_was_written() {
        let of = |form: SwitchForm| SwitchShape::of(&Switch::new("LAN", form.into_wish().unwrap().kind));
        let external = SwitchForm { adapter: Some("eth1".into()), ..form(SwitchType::External) };
        let shape = of(external);
        assert_eq!((shape.kind, shape.adapter.as_deref()), (SwitchType::External, Some("eth1")));
        assert_eq!((shape.allow_management_os, shape.subnet, shape.nat), (Some(false), None, None));
        let servers = vec![Ipv4Addr::new(9, 9, 9, 9)];
        let subnet = SubnetWish {
            subnet: Some(Some("10.77.0.0/24".into())),
            dns: Some(Some(servers.clone())),
            ipv6: Some(Some(("fd77::/64".into(), true))),
            ..SubnetWish::default()
        };
        let shape = of(SwitchForm { subnet, ..form(SwitchType::Internal) });
        assert_eq!(shape.subnet.as_deref(), Some("10.77.0.0/24"));
        assert_eq!((shape.host_address, shape.nat), (Some(Ipv4Addr::new(10, 77, 0, 1)), Some(false)));
        assert_eq!((shape.dns, shape.domain.as_deref()), (Some(servers), Some("lan")));
        assert_eq!((shape.host_access, shape.ipv6), (Some(false), Some(("fd77::/64".into(), true))));
        assert_eq!(of(form(SwitchType::Private)).kind, SwitchType::Private);
    }
}
