//! Switches: bodies and handlers.

use std::{borrow::Cow, collections::BTreeMap, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, error::Problem, forwards::LeaseFields, switch_id, updated::at_least_one};
use crate::{
    api::{
        http::{Reply, Request, given},
        labels,
    },
    model::{
        CreateSwitch, Error, MAX_LABELS, MetadataWish, SubnetWish, Switch, SwitchForm, SwitchId, SwitchShape,
        SwitchType, SwitchWish,
    },
    service::{Service, SwitchView},
};

/// How a switch connects its NICs, beside with one another.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKindBody {
    /// With nothing.
    Private,
    /// With the host.
    Internal,
    /// With the network behind an adapter of the host.
    External,
}

/// A switch to be made.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true }))]
#[schemars(example = json!({ "name": "Out", "type": "external", "adapter": "eth1" }))]
pub struct SwitchBody {
    pub name: String,
    /// `private`, `internal` or `external`.
    pub r#type: SwitchKindBody,
    /// The host's network adapter of an external switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The host's own addresses and routes on the adapter move to the switch while it is there; without it an adapter that
    /// has some is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_management_os: Option<bool>,
    /// The network of an internal switch, such as 10.77.0.0/24: the host has the first address, the VMs get theirs by DHCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The VMs reach what the host reaches, under its address; needs a subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
    /// Resolvers that the switch is to ask, instead of the host's (without NAT: that its VMs are to ask); none for `[]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<Ipv4Addr>>,
    /// What the names of VMs end with on the switch; default `lan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The VMs reach what listens on the host's address on the switch; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_access: Option<bool>,
    /// A network of IPv6 beside the subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Body>,
    /// The largest packet in bytes, 576 to 65521; default: the adapter's, or 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// What a program may find it by: up to 64, keys of 1 to 63 letters and digits with `._-/` between them, values of up to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    pub labels: Option<BTreeMap<String, String>>,
    /// It is not deleted until that is taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

/// A network of IPv6: VMs make their addresses themselves.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv6Body {
    /// Of 64 bits, such as fd77:1:2:3::/64.
    pub subnet: String,
    /// The VMs reach what the host reaches, under its address; without it, the network is routed.
    #[serde(default)]
    pub nat: bool,
}

/// What is to change of a switch; at least one field. What belongs to a subnet is for internal switches.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchUpdate {
    /// Null clears them.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub notes: Option<Option<String>>,
    /// Replaced whole; null removes all.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, String>>", extend("maxProperties" = MAX_LABELS))]
    pub labels: Option<Option<BTreeMap<String, String>>>,
    /// While it is so, it is not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// Null: the adapter's, or 1500.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub mtu: Option<Option<i64>>,
    /// VMs on it keep the last part of their addresses where that fits. Null takes it away, with all that belongs to it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub subnet: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
    /// Null: the host's resolvers.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Ipv4Addr>>")]
    pub dns: Option<Option<Vec<Ipv4Addr>>>,
    /// Null: `lan`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub domain: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_access: Option<bool>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Ipv6Body>")]
    pub ipv6: Option<Option<Ipv6Body>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SwitchFields {
    pub id: String,
    pub name: String,
    pub r#type: SwitchKindBody,
    pub notes: String,
    pub labels: BTreeMap<String, String>,
    pub protected: bool,
    pub adapter: Option<String>,
    pub allow_management_os: Option<bool>,
    pub subnet: Option<String>,
    pub nat: Option<bool>,
    /// The resolvers that were named; `[]` for none, null for the host's.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// Null without a subnet.
    pub domain: Option<String>,
    pub host_access: Option<bool>,
    pub ipv6: Option<Ipv6Body>,
    /// Null for the adapter's, or 1500.
    pub mtu: Option<u32>,
    /// The host's address on it.
    pub host_address: Option<Ipv4Addr>,
    /// Name of its bridge on the host.
    pub bridge: String,
    /// Why it does not work as it should, if so.
    pub problem: Option<String>,
    /// VMs with a NIC on it.
    pub vms: Vec<User>,
    /// Addresses that its DHCP has given out.
    pub leases: Vec<LeaseFields>,
    /// Milliseconds since 1970.
    pub created_at: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct User {
    pub id: String,
    pub name: String,
}

/// A switch that was changed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SwitchChanged {
    #[serde(flatten)]
    pub switch: SwitchFields,
    /// NICs whose address did not fit any more. Guests that run take the new one when they renew theirs, which they do
    /// within ten minutes. Absent where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(!default)]
    pub readdressed: Vec<ReaddressedBody>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ReaddressedBody {
    pub vm_id: String,
    /// The NIC's id.
    pub network: String,
    pub from: Option<Ipv4Addr>,
    pub to: Ipv4Addr,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SwitchDone {
    pub id: String,
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
}

impl From<SwitchKindBody> for SwitchType {
    fn from(kind: SwitchKindBody) -> Self {
        match kind {
            SwitchKindBody::Private => Self::Private,
            SwitchKindBody::Internal => Self::Internal,
            SwitchKindBody::External => Self::External,
        }
    }
}

impl From<SwitchType> for SwitchKindBody {
    fn from(kind: SwitchType) -> Self {
        match kind {
            SwitchType::Private => Self::Private,
            SwitchType::Internal => Self::Internal,
            SwitchType::External => Self::External,
        }
    }
}

impl Ipv6Body {
    fn into_model(self) -> (String, bool) {
        (self.subnet, self.nat)
    }
}

impl SwitchBody {
    fn into_model(self, id: Option<SwitchId>) -> Result<CreateSwitch, Error> {
        let subnet = SubnetWish {
            subnet: self.subnet.map(Some),
            nat: self.nat,
            dns: self.dns.map(Some),
            domain: self.domain.map(Some),
            host_access: self.host_access,
            ipv6: self.ipv6.map(|ipv6| Some(ipv6.into_model())),
        };
        let form = SwitchForm {
            id,
            name: self.name,
            kind: self.r#type.into(),
            adapter: self.adapter,
            allow_management_os: self.allow_management_os,
            subnet,
            notes: self.notes.unwrap_or_default(),
            metadata: MetadataWish { labels: self.labels, protected: self.protected, ..MetadataWish::default() },
            mtu: self.mtu,
        };
        form.into_wish()
    }
}

impl SwitchUpdate {
    fn into_model(self) -> Result<SwitchWish, Problem> {
        let wish = SwitchWish {
            notes: self.notes.map(Option::unwrap_or_default),
            metadata: MetadataWish {
                labels: self.labels.map(Option::unwrap_or_default),
                protected: self.protected,
                ..MetadataWish::default()
            },
            mtu: self.mtu,
            subnet: SubnetWish {
                subnet: self.subnet,
                nat: self.nat,
                dns: self.dns,
                domain: self.domain,
                host_access: self.host_access,
                ipv6: self.ipv6.map(|ipv6| ipv6.map(Ipv6Body::into_model)),
            },
        };
        if wish == SwitchWish::default() {
            return Err(
                at_least_one("notes, mtu, subnet, nat, dns, domain, host_access, ipv6, labels or protected").into()
            );
        }
        Ok(wish)
    }
}

impl SwitchFields {
    fn of(service: &Service, view: SwitchView) -> Self {
        let SwitchView { switch, used_by, problem } = view;
        let bridge = switch.bridge();
        let shape = SwitchShape::of(&switch);
        let Switch { id, name, created_at, notes, metadata, mtu, .. } = switch;
        // Gone where somebody was quick to delete it.
        let leases = service.switch_leases(id).unwrap_or_default();
        Self {
            id: id.to_string(),
            name,
            r#type: shape.kind.into(),
            notes,
            labels: metadata.labels,
            protected: metadata.protected,
            adapter: shape.adapter,
            allow_management_os: shape.allow_management_os,
            subnet: shape.subnet,
            nat: shape.nat,
            dns: shape.dns,
            domain: shape.domain,
            host_access: shape.host_access,
            ipv6: shape.ipv6.map(|(subnet, nat)| Ipv6Body { subnet, nat }),
            mtu,
            host_address: shape.host_address,
            bridge,
            problem,
            vms: used_by.into_iter().map(|(id, name)| User { id: id.to_string(), name }).collect(),
            leases: leases.into_iter().map(LeaseFields::of).collect(),
            created_at,
        }
    }
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let service = &shared.service;
    let labels = labels::wanted(&request)?;
    let all: Vec<_> = service.switches(&labels).into_iter().map(|view| SwitchFields::of(service, view)).collect();
    Ok(Reply::json(StatusCode::OK, &all))
}

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: SwitchBody = request.json()?;
    let wish = body.into_model(request.makes.map(SwitchId::from))?;
    let view = shared.service.create_switch(wish).await?;
    Ok(Reply::json(StatusCode::CREATED, &SwitchFields::of(&shared.service, view)))
}

pub async fn details(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.switch(switch_id(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &SwitchFields::of(&shared.service, view)))
}

pub async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = switch_id(&request)?;
    shared.service.switch(id)?;
    let body: SwitchUpdate = request.json()?;
    let changed = shared.service.update_switch(id, body.into_model()?).await?;
    let readdressed = changed.readdressed.into_iter().map(|nic| ReaddressedBody {
        vm_id: nic.vm.to_string(),
        network: nic.nic.to_string(),
        from: nic.from,
        to: nic.to,
    });
    let readdressed = readdressed.collect();
    let body = SwitchChanged { switch: SwitchFields::of(&shared.service, changed.view), readdressed };
    Ok(Reply::json(StatusCode::OK, &body))
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = switch_id(&request)?;
    shared.service.delete_switch(id).await?;
    let done =
        SwitchDone { id: id.to_string(), status: "deleted".into(), message: "Switch successfully deleted.".into() };
    Ok(Reply::json(StatusCode::OK, &done))
}
