//! Network adapters of a VM: bodies and handlers.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{
    Shared, dto,
    error::Problem,
    vlans::{VlanBody, VlanFields},
};
use crate::{
    api::http::{HttpError, Reply, Request, given},
    model::{Applied, Bandwidth, MacAddr, NicId, NicWish, PortWish},
    service::{NicStatus, NicView},
};

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Adapter {
    id: String,
    name: String,
    /// "" on the user-mode network.
    switch_name: String,
    switch_id: Option<String>,
    /// `Synthetic`: every NIC is virtio.
    r#type: &'static str,
    /// 12 upper-case hex digits.
    mac_address: String,
    /// `Ok`; `Degraded`; `Pending`, where the running VM does not have it yet; `Removing`, where its guest has not let go.
    status: &'static str,
    /// Why it is degraded.
    status_detail: Option<String>,
    /// What the guest has.
    #[serde(rename = "IPAddresses")]
    ip_addresses: Vec<String>,
    /// The address that is kept for it on its switch.
    #[serde(rename = "ReservedIPAddress")]
    reserved: Option<Ipv4Addr>,
    /// What it is called in the DNS of its switch.
    dns_name: Option<String>,
    allow_spoofing: bool,
    isolated: bool,
    /// Null on the user-mode network.
    vlan_setting: Option<VlanFields>,
    bandwidth: Option<BandwidthFields>,
    /// Frames of the guest that the rules of its port refused; null where there are none.
    refused: Option<u64>,
}

/// Bits per second.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct BandwidthFields {
    in_bits_per_second: Option<u64>,
    out_bits_per_second: Option<u64>,
}

/// An adapter to be added.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(example = json!({ "switchName": "LAN", "address": "10.77.0.9" }))]
#[schemars(example = json!({ "switchName": "Out", "vlanSetting": { "operationMode": "Access", "accessVlanId": 10 } }))]
pub struct AddBody {
    /// What people call it; `Network Adapter` unless given.
    name: Option<String>,
    /// "" is the user-mode network.
    switch_name: Option<String>,
    switch_id: Option<String>,
    /// 12 hex digits, also with `:` or `-`; a random one unless given.
    #[schemars(with = "Option<String>")]
    mac_address: Option<MacAddr>,
    /// Its address on the switch; where there is a subnet and none is given, one that is free.
    address: Option<Ipv4Addr>,
    /// It may send from other addresses than its own; default false.
    allow_spoofing: Option<bool>,
    /// How many addresses it may use where none is assigned to it, 1 to 4096; default 20.
    max_addresses: Option<i64>,
    /// It reaches no other isolated adapter of its switch; default false.
    isolated: Option<bool>,
    vlan_setting: Option<VlanBody>,
    bandwidth: Option<BandwidthBody>,
}

/// Bits per second, 64,000 to 1,000,000,000,000; null for as much as there is.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BandwidthBody {
    /// Towards the guest.
    in_bits_per_second: Option<u64>,
    /// From the guest.
    out_bits_per_second: Option<u64>,
}

/// What is to change of an adapter on a switch; at least one field.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(example = json!({ "vlanSetting": { "operationMode": "Trunk", "nativeVlanId": 10, "allowedVlanIdList": [20, 30] }, "bandwidth": null }))]
pub struct ChangeBody {
    /// A running guest takes it when it renews its lease, within ten minutes; until then it is cut off.
    address: Option<Ipv4Addr>,
    allow_spoofing: Option<bool>,
    /// Null: 20.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    max_addresses: Option<Option<i64>>,
    isolated: Option<bool>,
    /// Replaced whole; of a running VM at once.
    vlan_setting: Option<VlanBody>,
    /// Replaced whole; null removes it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<BandwidthBody>")]
    bandwidth: Option<Option<BandwidthBody>>,
}

#[derive(Serialize, JsonSchema)]
pub struct Changed {
    /// Its name.
    updated: String,
    id: String,
    /// It waits for the next start of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<bool>,
}

impl BandwidthBody {
    fn into_model(self) -> Bandwidth {
        Bandwidth { inbound: self.in_bits_per_second, outbound: self.out_bits_per_second }
    }
}

impl AddBody {
    fn into_model(self) -> Result<NicWish, HttpError> {
        let place = dto::AdapterBody::new(self.name, self.switch_name, self.switch_id).into_model()?;
        let port = PortWish {
            address: self.address,
            allow_spoofing: self.allow_spoofing,
            max_addresses: self.max_addresses.map(Some),
            isolated: self.isolated,
            bandwidth: self.bandwidth.map(BandwidthBody::into_model),
            ..PortWish::default()
        };
        let port = match self.vlan_setting {
            Some(vlans) => vlans.wish(port)?,
            None => port,
        };
        Ok(NicWish { mac: self.mac_address, port, ..place })
    }
}

impl ChangeBody {
    fn into_model(self) -> Result<PortWish, HttpError> {
        let wish = PortWish {
            address: self.address,
            allow_spoofing: self.allow_spoofing,
            max_addresses: self.max_addresses,
            isolated: self.isolated,
            bandwidth: self.bandwidth.map(|bandwidth| bandwidth.unwrap_or_default().into_model()),
            ..PortWish::default()
        };
        match self.vlan_setting {
            Some(vlans) => vlans.wish(wish),
            None => Ok(wish),
        }
    }
}

impl Adapter {
    fn of(view: NicView) -> Self {
        let (status, status_detail) = match view.status {
            NicStatus::Ok => ("Ok", None),
            NicStatus::Pending => ("Pending", None),
            NicStatus::Removing => ("Removing", None),
            NicStatus::Degraded(why) => ("Degraded", Some(why)),
        };
        let port = view.nic.port();
        Self {
            id: view.nic.id.to_string(),
            name: view.nic.label.clone(),
            switch_name: view.switch_name.unwrap_or_default(),
            switch_id: view.nic.switch().map(|id| id.to_string()),
            r#type: "Synthetic",
            mac_address: dto::mac(view.nic.mac),
            status,
            status_detail,
            ip_addresses: view.addresses.iter().map(ToString::to_string).collect(),
            reserved: view.reserved,
            dns_name: view.dns_name,
            refused: view.refused,
            allow_spoofing: port.is_some_and(|port| port.allow_spoofing),
            isolated: port.is_some_and(|port| port.isolated),
            vlan_setting: port.map(VlanFields::of),
            bandwidth: port.map(|port| port.bandwidth).filter(|bandwidth| *bandwidth != Bandwidth::default()).map(
                |Bandwidth { inbound, outbound }| BandwidthFields {
                    in_bits_per_second: inbound,
                    out_bits_per_second: outbound,
                },
            ),
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
    let body: AddBody = request.json()?;
    let wish = NicWish { id: request.makes.map(NicId::from), ..body.into_model()? };
    let (view, added, _) = shared.service.add_nic(id, wish).await?;
    let created = view.spec.nic(added).map(|nic| nic.label.clone()).unwrap_or_default();
    Ok(Reply::json(StatusCode::CREATED, &dto::Created { created, id: added.to_string() }))
}

pub async fn change(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    let nic = NicId::parse_guid(request.param("adapterId")).ok_or(Problem::NoAdapter)?;
    let updated = view.spec.nic(nic).ok_or(Problem::NoAdapter)?.label.clone();
    let body: ChangeBody = request.json()?;
    let wish = body.into_model()?;
    if wish == PortWish::default() {
        let fields = "address, allowSpoofing, maxAddresses, isolated, vlanSetting or bandwidth";
        return Err(HttpError::invalid(fields, "be given, at least one of them").into());
    }
    let (view, applied) = shared.service.change_port(id, nic, wish).await?;
    let waits = applied == Applied::NextStart && view.in_effect.is_some();
    let changed = Changed { updated, id: nic.to_string(), pending: waits.then_some(true) };
    Ok(Reply::json(StatusCode::OK, &changed))
}

pub async fn remove(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let nic = NicId::parse_guid(request.param("adapterId")).ok_or(Problem::NoAdapter)?;
    let removed = shared.service.remove_nic(id, nic).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(nic, removed.pending)))
}
