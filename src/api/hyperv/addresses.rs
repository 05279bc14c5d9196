//! The addresses of a VM, with who says so.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;
use warp::http::StatusCode;

use super::{Shared, dto, error::Problem};
use crate::{
    api::http::{Reply, Request},
    model::AddressSource,
    service::AddressView,
};

/// One address, by one source.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Address {
    adapter_id: String,
    mac_address: String,
    #[serde(rename = "IPAddress")]
    ip_address: IpAddr,
    source: Source,
    /// Seconds since the source said so, or saw it.
    age: Option<u64>,
    /// When a lease ends, in seconds since 1970.
    expires: Option<u64>,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
enum Source {
    /// The DHCP of its switch has given it out, and it was taken.
    Dhcp,
    /// The guest's agent tells it.
    Agent,
    /// The guest has sent from it; of an adapter that has none assigned.
    Seen,
}

impl From<AddressSource> for Source {
    fn from(source: AddressSource) -> Self {
        match source {
            AddressSource::Dhcp => Self::Dhcp,
            AddressSource::Agent => Self::Agent,
            AddressSource::Seen => Self::Seen,
        }
    }
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let row = |view: AddressView| Address {
        adapter_id: view.nic.to_string(),
        mac_address: dto::mac(view.mac),
        ip_address: view.address,
        source: view.source.into(),
        age: view.age,
        expires: view.expires,
    };
    let rows: Vec<Address> = shared.service.address_views(id).await?.into_iter().map(row).collect();
    Ok(Reply::json(StatusCode::OK, &rows))
}
