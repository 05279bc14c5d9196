//! Switches: bodies and handlers.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, error::Problem};
use crate::{
    api::http::{Reply, Request},
    model::{CreateSwitch, Error, Subnet, Switch, SwitchId, SwitchKind},
    service::{Service, SwitchView},
};

/// How a switch connects its cards, beside with one another.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
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
pub struct SwitchBody {
    name: String,
    /// `private`, `internal` or `external`.
    r#type: Kind,
    /// The host's network adapter of an external switch.
    adapter: Option<String>,
    /// The host's own addresses and routes on the adapter move to the switch while it is there; without it an adapter that
    /// has some is refused.
    allow_management_os: Option<bool>,
    /// The network of an internal switch, such as 10.77.0.0/24: the host has the first address, the VMs get theirs by DHCP.
    subnet: Option<String>,
    /// The VMs reach what the host reaches, under its address; needs a subnet.
    nat: Option<bool>,
    notes: Option<String>,
}

/// What can be changed of a switch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchUpdate {
    notes: String,
}

#[derive(Serialize, JsonSchema)]
pub struct SwitchFields {
    id: String,
    name: String,
    r#type: Kind,
    notes: String,
    adapter: Option<String>,
    allow_management_os: Option<bool>,
    subnet: Option<String>,
    nat: Option<bool>,
    /// The host's address on it.
    host_address: Option<Ipv4Addr>,
    /// Name of its bridge on the host.
    bridge: String,
    /// Why it does not work as it should, if so.
    problem: Option<String>,
    /// VMs with a network card on it.
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

#[derive(Serialize, JsonSchema)]
struct LeaseFields {
    mac: String,
    address: Ipv4Addr,
    hostname: Option<String>,
    /// Seconds since 1970.
    expires: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
pub struct SwitchDone {
    id: String,
    status: &'static str,
    message: &'static str,
}

impl SwitchBody {
    fn into_model(self) -> Result<CreateSwitch, Error> {
        let only = |given: bool, name: &'static str, kind: &str| {
            if given { Err(Error::invalid(name, format!("be given only for {kind} switches"))) } else { Ok(()) }
        };
        if !matches!(self.r#type, Kind::External) {
            only(self.adapter.is_some(), "adapter", "external")?;
            only(self.allow_management_os.is_some(), "allow_management_os", "external")?;
        }
        if !matches!(self.r#type, Kind::Internal) {
            only(self.subnet.is_some(), "subnet", "internal")?;
            only(self.nat.is_some(), "nat", "internal")?;
        }
        let kind = match self.r#type {
            Kind::Private => SwitchKind::Private,
            Kind::Internal => {
                let nat = self.nat.unwrap_or(false);
                if nat && self.subnet.is_none() {
                    return Err(Error::invalid("subnet", "be given with nat"));
                }
                SwitchKind::Internal { subnet: self.subnet.map(|text| Subnet::parse(&text, nat)).transpose()? }
            }
            Kind::External => {
                let name_it =
                    || Error::invalid("adapter", "be given for an external switch: the host's network adapter");
                SwitchKind::External {
                    adapter: self.adapter.filter(|name| !name.is_empty()).ok_or_else(name_it)?,
                    allow_management_os: self.allow_management_os.unwrap_or(false),
                    dhcp: false,
                }
            }
        };
        Ok(CreateSwitch { id: None, name: self.name, kind, notes: self.notes.unwrap_or_default(), mtu: None })
    }
}

impl SwitchFields {
    fn of(service: &Service, view: SwitchView) -> Self {
        let SwitchView { switch, used_by, problem } = view;
        let (bridge, subnet) = (switch.bridge(), switch.subnet().cloned());
        let Switch { id, name, created_at, kind, notes, .. } = switch;
        let mut fields = Self {
            id: id.to_string(),
            name,
            r#type: Kind::Private,
            notes,
            adapter: None,
            allow_management_os: None,
            host_address: subnet.as_ref().map(Subnet::gateway),
            nat: subnet.as_ref().map(|subnet| subnet.nat),
            leases: Vec::new(),
            bridge,
            problem,
            vms: used_by.into_iter().map(|(id, name)| User { id: id.to_string(), name }).collect(),
            subnet: subnet.as_ref().map(Subnet::to_string),
            created_at,
        };
        match kind {
            SwitchKind::Private => {}
            SwitchKind::Internal { .. } => fields.r#type = Kind::Internal,
            SwitchKind::External { adapter, allow_management_os, .. } => {
                fields.r#type = Kind::External;
                (fields.adapter, fields.allow_management_os) = (Some(adapter), Some(allow_management_os));
            }
        }
        if subnet.is_some() {
            let leases = service.switch_leases(id).into_iter();
            fields.leases = leases
                .map(|lease| LeaseFields {
                    mac: lease.mac,
                    address: lease.address,
                    hostname: lease.hostname,
                    expires: lease.expires,
                })
                .collect();
        }
        fields
    }
}

pub async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let service = &shared.service;
    let all: Vec<_> = service.switches().into_iter().map(|view| SwitchFields::of(service, view)).collect();
    Ok(Reply::json(StatusCode::OK, &all))
}

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: SwitchBody = request.json()?;
    let wish = CreateSwitch { id: request.makes.map(SwitchId::from), ..body.into_model()? };
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
    let view = shared.service.update_switch(id, body.notes).await?;
    Ok(Reply::json(StatusCode::OK, &SwitchFields::of(&shared.service, view)))
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = switch_id(&request)?;
    shared.service.delete_switch(id).await?;
    let done = SwitchDone { id: id.to_string(), status: "deleted", message: "Switch successfully deleted." };
    Ok(Reply::json(StatusCode::OK, &done))
}

/// The switch that a path names.
fn switch_id(request: &Request) -> Result<SwitchId, Problem> {
    SwitchId::parse(request.param("id")).ok_or(Problem::BadId)
}
