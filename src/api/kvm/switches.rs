//! Switches: bodies and handlers.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, error::Problem, forwards::LeaseFields, switch_id, updated::at_least_one};
use crate::{
    api::http::{Reply, Request, given},
    model::{CreateSwitch, Error, SubnetWish, Switch, SwitchForm, SwitchId, SwitchShape, SwitchType, SwitchWish},
    service::{Service, SwitchView},
};

/// How a switch connects its NICs, beside with one another.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
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
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true }))]
#[schemars(example = json!({ "name": "Out", "type": "external", "adapter": "eth1" }))]
pub struct SwitchBody {
    name: String,
    /// `private`, `internal` or `external`.
    r#type: SwitchKindBody,
    /// The host's network adapter of an external switch.
    adapter: Option<String>,
    /// The host's own addresses and routes on the adapter move to the switch while it is there; without it an adapter that
    /// has some is refused.
    allow_management_os: Option<bool>,
    /// The network of an internal switch, such as 10.77.0.0/24: the host has the first address, the VMs get theirs by DHCP.
    subnet: Option<String>,
    /// The VMs reach what the host reaches, under its address; needs a subnet.
    nat: Option<bool>,
    /// Resolvers that the switch is to ask, instead of the host's (without NAT: that its VMs are to ask); none for `[]`.
    dns: Option<Vec<Ipv4Addr>>,
    /// What the names of VMs end with on the switch; default `lan`.
    domain: Option<String>,
    /// The VMs reach what listens on the host's address on the switch; default false.
    host_access: Option<bool>,
    /// A network of IPv6 beside the subnet.
    ipv6: Option<Ipv6Body>,
    /// The largest packet in bytes, 576 to 65521; default: the adapter's, or 1500.
    mtu: Option<i64>,
    notes: Option<String>,
}

/// A network of IPv6: VMs make their addresses themselves.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv6Body {
    /// Of 64 bits, such as fd77:1:2:3::/64.
    subnet: String,
    /// The VMs reach what the host reaches, under its address; without it, the network is routed.
    #[serde(default)]
    nat: bool,
}

/// What is to change of a switch; at least one field. What belongs to a subnet is for internal switches.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchUpdate {
    /// Null clears them.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    notes: Option<Option<String>>,
    /// Null: the adapter's, or 1500.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    mtu: Option<Option<i64>>,
    /// VMs on it keep the last part of their addresses where that fits. Null takes it away, with all that belongs to it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    subnet: Option<Option<String>>,
    #[serde(default)]
    nat: Option<bool>,
    /// Null: the host's resolvers.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<Ipv4Addr>>")]
    dns: Option<Option<Vec<Ipv4Addr>>>,
    /// Null: `lan`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    domain: Option<Option<String>>,
    #[serde(default)]
    host_access: Option<bool>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Ipv6Body>")]
    ipv6: Option<Option<Ipv6Body>>,
}

#[derive(Serialize, JsonSchema)]
pub struct SwitchFields {
    id: String,
    name: String,
    r#type: SwitchKindBody,
    notes: String,
    adapter: Option<String>,
    allow_management_os: Option<bool>,
    subnet: Option<String>,
    nat: Option<bool>,
    /// The resolvers that were named; `[]` for none, null for the host's.
    dns: Option<Vec<Ipv4Addr>>,
    /// Null without a subnet.
    domain: Option<String>,
    host_access: Option<bool>,
    ipv6: Option<Ipv6Body>,
    /// Null for the adapter's, or 1500.
    mtu: Option<u32>,
    /// The host's address on it.
    host_address: Option<Ipv4Addr>,
    /// Name of its bridge on the host.
    bridge: String,
    /// Why it does not work as it should, if so.
    problem: Option<String>,
    /// VMs with a NIC on it.
    vms: Vec<User>,
    /// Addresses that its DHCP has given out.
    leases: Vec<LeaseFields>,
    /// Milliseconds since 1970.
    created_at: u64,
}

#[derive(Serialize, JsonSchema)]
struct User {
    id: String,
    name: String,
}

/// A switch that was changed.
#[derive(Serialize, JsonSchema)]
pub struct SwitchChanged {
    #[serde(flatten)]
    switch: SwitchFields,
    /// NICs whose address did not fit any more. Guests that run take the new one when they renew theirs, which they do
    /// within ten minutes. Absent where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    readdressed: Vec<ReaddressedBody>,
}

#[derive(Serialize, JsonSchema)]
struct ReaddressedBody {
    vm_id: String,
    /// The NIC's id.
    network: String,
    from: Option<Ipv4Addr>,
    to: Ipv4Addr,
}

#[derive(Serialize, JsonSchema)]
pub struct SwitchDone {
    id: String,
    status: &'static str,
    message: &'static str,
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
            mtu: self.mtu,
        };
        form.into_wish()
    }
}

impl SwitchUpdate {
    fn into_model(self) -> Result<SwitchWish, Problem> {
        let wish = SwitchWish {
            notes: self.notes.map(Option::unwrap_or_default),
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
            return Err(at_least_one("notes, mtu, subnet, nat, dns, domain, host_access or ipv6").into());
        }
        Ok(wish)
    }
}

impl SwitchFields {
    fn of(service: &Service, view: SwitchView) -> Self {
        let SwitchView { switch, used_by, problem } = view;
        let bridge = switch.bridge();
        let shape = SwitchShape::of(&switch);
        let Switch { id, name, created_at, notes, mtu, .. } = switch;
        // Gone where somebody was quick to delete it.
        let leases = service.switch_leases(id).unwrap_or_default();
        Self {
            id: id.to_string(),
            name,
            r#type: shape.kind.into(),
            notes,
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

pub async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let service = &shared.service;
    let all: Vec<_> = service.switches().into_iter().map(|view| SwitchFields::of(service, view)).collect();
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
    let done = SwitchDone { id: id.to_string(), status: "deleted", message: "Switch successfully deleted." };
    Ok(Reply::json(StatusCode::OK, &done))
}
