//! Network adapters of a VM: bodies and handlers.

use schemars::JsonSchema;
use serde::Serialize;
use warp::http::StatusCode;

use super::{Shared, dto, error::Problem};
use crate::{
    api::http::{Reply, Request},
    model::{NicId, NicWish},
    service::{NicStatus, NicView},
};

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Adapter {
    id: String,
    name: String,
    /// "" on QEMU's user-mode network.
    switch_name: String,
    switch_id: Option<String>,
    /// `Synthetic`: every card is virtio.
    r#type: &'static str,
    /// 12 upper-case hex digits.
    mac_address: String,
    /// `Ok`; `Degraded`; `Pending`, where the running VM does not have it yet; `Removing`, where its guest has not let go.
    status: &'static str,
    /// Why it is degraded.
    status_detail: Option<String>,
    #[serde(rename = "IPAddresses")]
    ip_addresses: Vec<String>,
}

impl Adapter {
    fn of(view: NicView) -> Self {
        let (status, status_detail) = match view.status {
            NicStatus::Ok => ("Ok", None),
            NicStatus::Pending => ("Pending", None),
            NicStatus::Removing => ("Removing", None),
            NicStatus::Degraded(why) => ("Degraded", Some(why)),
        };
        let mac = view.nic.mac.to_string();
        Self {
            id: view.nic.id.to_string(),
            name: view.nic.label.clone(),
            switch_name: view.switch_name.unwrap_or_default(),
            switch_id: view.nic.switch().map(|id| id.to_string()),
            r#type: "Synthetic",
            mac_address: mac.chars().filter(|c| *c != ':').map(|c| c.to_ascii_uppercase()).collect(),
            status,
            status_detail,
            ip_addresses: view.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let adapters: Vec<Adapter> = shared.service.networks(id).await?.into_iter().map(Adapter::of).collect();
    Ok(Reply::json(StatusCode::OK, &adapters))
}

pub async fn add(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let body: dto::AdapterBody = request.json()?;
    let wish = NicWish { id: request.makes.map(NicId::from), ..body.into_model()? };
    let (view, added, _) = shared.service.add_nic(id, wish).await?;
    let created = view.spec.nic(added).map(|nic| nic.label.clone()).unwrap_or_default();
    Ok(Reply::json(StatusCode::CREATED, &dto::Created { created, id: added.to_string() }))
}

pub async fn remove(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let nic = NicId::parse_guid(request.param("adapterId")).ok_or(Problem::NoAdapter)?;
    let removed = shared.service.remove_nic(id, nic).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(nic, removed.pending)))
}
