//! The addresses of a VM, with who says so.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, error::Problem, vm_id};
use crate::{
    api::http::{Reply, Request},
    model::AddressSource,
    service::AddressView,
};

/// One address, by one source.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct AddressRow {
    pub vm_id: String,
    /// The NIC's id.
    pub network: String,
    pub mac: String,
    pub address: IpAddr,
    pub source: AddressSource,
    /// Seconds since the source said so, or saw it.
    pub age: Option<u64>,
    /// When a lease ends, in seconds since 1970.
    pub expires: Option<u64>,
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let row = |view: AddressView| AddressRow {
        vm_id: id.to_string(),
        network: view.nic.to_string(),
        mac: view.mac.to_string(),
        address: view.address,
        source: view.source,
        age: view.age,
        expires: view.expires,
    };
    let rows: Vec<AddressRow> = shared.service.address_views(id).await?.into_iter().map(row).collect();
    Ok(Reply::json(StatusCode::OK, &rows))
}
