//! What a switch does for its guests, one by one: ports of the host that lead to them, and addresses that it has given out.

use std::{borrow::Cow, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, error::Problem, switch_id};
use crate::{
    api::http::{Reply, Request},
    model::{Error, ForwardId, Protocol, VmId},
    service::{ForwardView, ForwardWish, LeaseView},
};

/// A port of the host that is to lead to a VM on the switch.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "host_port": 8443, "vm": "5b0b4b8e-4a0c-4f6e-9b1a-2f4f3f0c7d11", "guest_port": 443 }))]
pub struct ForwardBody {
    /// `tcp` (default) or `udp`.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address that it is for; every one where none is given. Not a loopback one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_address: Option<Ipv4Addr>,
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    pub host_port: i64,
    /// The id of the VM.
    #[schemars(extend("format" = "uuid"))]
    pub vm: String,
    /// The VM's NIC, by its id or QEMU's name of it; the first one on the switch where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    pub guest_port: i64,
}

/// A port of the host that leads to a VM on the switch.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ForwardFields {
    pub id: String,
    pub protocol: Protocol,
    /// Null for every one.
    pub host_address: Option<Ipv4Addr>,
    pub host_port: u16,
    pub vm_id: String,
    pub vm_name: String,
    /// The NIC's id.
    pub network: String,
    pub device: String,
    /// Where it leads.
    pub guest_address: Option<Ipv4Addr>,
    pub guest_port: u16,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ForwardDone {
    #[serde(flatten)]
    pub forward: ForwardFields,
    /// Always `deleted`.
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
}

/// An address that a NIC has taken from the switch's DHCP.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct LeaseFields {
    pub mac: String,
    pub address: Ipv4Addr,
    /// What the switch told the guest that it is called.
    pub hostname: Option<String>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
    pub vm_id: String,
    pub vm_name: String,
    /// The NIC's id.
    pub network: String,
}

impl ForwardFields {
    fn of(view: ForwardView) -> Self {
        let ForwardView { forward, vm, device, address } = view;
        Self {
            id: forward.id.to_string(),
            protocol: forward.protocol,
            host_address: forward.host_address,
            host_port: forward.host_port,
            vm_id: vm.0.to_string(),
            vm_name: vm.1,
            network: forward.nic.to_string(),
            device,
            guest_address: address,
            guest_port: forward.guest_port,
        }
    }
}

impl LeaseFields {
    pub fn of(lease: LeaseView) -> Self {
        Self {
            mac: lease.mac.to_string(),
            address: lease.address,
            hostname: lease.hostname,
            expires: lease.expires,
            vm_id: lease.vm.0.to_string(),
            vm_name: lease.vm.1,
            network: lease.nic.to_string(),
        }
    }
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let forwards = shared.service.forwards(switch_id(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &forwards.into_iter().map(ForwardFields::of).collect::<Vec<_>>()))
}

pub async fn add(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = switch_id(&request)?;
    shared.service.switch(id)?;
    let body: ForwardBody = request.json()?;
    let wish = ForwardWish {
        id: request.makes.map(ForwardId::from),
        protocol: body.protocol,
        host_address: body.host_address,
        host_port: body.host_port,
        vm: VmId::parse(&body.vm)
            .ok_or_else(|| Error::invalid("vm", format!("be the id of a VM, not {:?}", body.vm)))?,
        nic: body.network,
        guest_port: body.guest_port,
    };
    let made = shared.service.add_forward(id, wish).await?;
    Ok(Reply::json(StatusCode::CREATED, &ForwardFields::of(made)))
}

pub async fn remove(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = switch_id(&request)?;
    let forward = ForwardId::parse(request.param("forward")).ok_or(Problem::BadId)?;
    let forward = ForwardFields::of(shared.service.remove_forward(id, forward).await?);
    let done = ForwardDone { forward, status: "deleted".into(), message: "Port forward successfully deleted.".into() };
    Ok(Reply::json(StatusCode::OK, &done))
}

pub async fn leases(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let leases = shared.service.switch_leases(switch_id(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &leases.into_iter().map(LeaseFields::of).collect::<Vec<_>>()))
}
