//! What a switch does for its guests, one by one: ports of the host that lead to them, and addresses that it has given out.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, dto, error::Problem};
use crate::{
    api::http::{HttpError, Reply, Request},
    model::{Error, ForwardId, NicId, Protocol, VmId},
    service::{ForwardView, ForwardWish, LeaseView},
};

/// A port of the host that is to lead to a VM on the switch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(example = json!({ "hostPort": 8443, "vmId": "5b0b4b8e-4a0c-4f6e-9b1a-2f4f3f0c7d11", "guestPort": 443 }))]
pub struct ForwardBody {
    /// `tcp` (default) or `udp`.
    #[serde(default)]
    protocol: Protocol,
    /// The host's address that it is for; every one where none is given. Not a loopback one.
    host_address: Option<Ipv4Addr>,
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    host_port: i64,
    #[schemars(extend("format" = "uuid"))]
    vm_id: String,
    /// The first one on the switch where none is given.
    adapter_id: Option<String>,
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65_535))]
    guest_port: i64,
}

/// A port of the host that leads to a VM on the switch.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Forward {
    id: String,
    protocol: Protocol,
    /// Null for every one.
    host_address: Option<Ipv4Addr>,
    host_port: u16,
    vm_id: String,
    vm_name: String,
    adapter_id: String,
    /// Where it leads.
    guest_address: Option<Ipv4Addr>,
    guest_port: u16,
}

/// An address that an adapter has taken from the switch's DHCP.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Lease {
    /// 12 upper-case hex digits.
    mac_address: String,
    #[serde(rename = "IPAddress")]
    address: Ipv4Addr,
    /// What the switch told the guest that it is called.
    hostname: Option<String>,
    /// Seconds since 1970.
    expires: Option<u64>,
    vm_id: String,
    vm_name: String,
    adapter_id: String,
}

impl Forward {
    fn of(view: ForwardView) -> Self {
        let ForwardView { forward, vm, address, .. } = view;
        Self {
            id: forward.id.to_string(),
            protocol: forward.protocol,
            host_address: forward.host_address,
            host_port: forward.host_port,
            vm_id: vm.0.to_string(),
            vm_name: vm.1,
            adapter_id: forward.nic.to_string(),
            guest_address: address,
            guest_port: forward.guest_port,
        }
    }
}

impl Lease {
    fn of(lease: LeaseView) -> Self {
        Self {
            mac_address: dto::mac(lease.mac),
            address: lease.address,
            hostname: lease.hostname,
            expires: lease.expires,
            vm_id: lease.vm.0.to_string(),
            vm_name: lease.vm.1,
            adapter_id: lease.nic.to_string(),
        }
    }
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let forwards = shared.service.forwards(shared.switch(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &forwards.into_iter().map(Forward::of).collect::<Vec<_>>()))
}

pub async fn add(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = shared.switch(&request)?;
    let body: ForwardBody = request.json()?;
    let vm = VmId::parse_guid(&body.vm_id);
    let wish = ForwardWish {
        id: request.makes.map(ForwardId::from),
        protocol: body.protocol,
        host_address: body.host_address,
        host_port: body.host_port,
        vm: vm.ok_or_else(|| HttpError::invalid("vmId", format!("be the Id of a VM, not {:?}", body.vm_id)))?,
        nic: body.adapter_id.map(|text| NicId::parse_guid(&text).map_or(text, |id| id.to_string())),
        guest_port: body.guest_port,
    };
    // Of the body, not of the path.
    let there = shared.service.view(wish.vm).map_err(|error| match error {
        Error::VmNotFound(id) => HttpError::invalid("vmId", format!("be the Id of a VM that exists, not {id}")).into(),
        other => Problem::from(other),
    });
    there?;
    let made = shared.service.add_forward(id, wish).await?.forward;
    Ok(Reply::json(StatusCode::CREATED, &dto::Created { created: made.to_string(), id: made.id.to_string() }))
}

pub async fn remove(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = shared.switch(&request)?;
    let text = request.param("forwardId");
    let forward = ForwardId::parse_guid(text).ok_or(Problem::NoForward)?;
    shared.service.remove_forward(id, forward).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(forward, false)))
}

pub async fn leases(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let leases = shared.service.switch_leases(shared.switch(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &leases.into_iter().map(Lease::of).collect::<Vec<_>>()))
}
