//! The NICs of a VM, one by one: bodies and handlers.

use std::{borrow::Cow, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{
    Shared, bandwidth::BandwidthBody, error::Problem, network_body::NetworkBody, updated::at_least_one, vm_id,
};
use crate::{
    api::http::{Reply, Request, given},
    model::{Applied, Carrier, Error, Forward, Nic, NicBackend, NicId, NicWish, PortWish, VmId},
    service::{NicStatus, NicView},
};

/// What is to change of a NIC on a switch; at least one field.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
#[schemars(example = json!({ "vlan": 20, "trunk": null, "bandwidth": { "out_bits_per_second": 10_000_000 } }))]
pub struct NetworkUpdate {
    /// A running guest takes it when it renews its lease, within ten minutes; until then it is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_spoofing: Option<bool>,
    /// Null: 20.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub max_addresses: Option<Option<i64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Null: the adapter's own network.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>")]
    pub vlan: Option<Option<i64>>,
    /// Replaced whole; null or an empty list removes it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<i64>>", length(max = 4094))]
    pub trunk: Option<Option<Vec<i64>>>,
    /// Replaced whole; null removes it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BandwidthBody>")]
    pub bandwidth: Option<Option<BandwidthBody>>,
}

impl NetworkUpdate {
    fn into_model(self) -> PortWish {
        PortWish {
            address: self.address,
            allow_spoofing: self.allow_spoofing,
            max_addresses: self.max_addresses,
            isolated: self.isolated,
            vlan: self.vlan,
            trunk: self.trunk.map(Option::unwrap_or_default),
            bandwidth: self.bandwidth.map(|bandwidth| bandwidth.unwrap_or_default().into_model()),
        }
    }
}

/// One NIC.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NetworkView {
    pub id: String,
    /// What people call it.
    pub name: String,
    /// QEMU's device id: `net0`…
    pub device: String,
    pub mac: String,
    /// Null on the user-mode network.
    pub switch: Option<SwitchBody>,
    /// Null on a switch.
    pub user: Option<UserView>,
    /// What the guest has: taken from the DHCP of the switch, else as the guest agent tells; empty where neither knows.
    pub addresses: Vec<String>,
    /// The address that is kept for it on its switch.
    pub reserved: Option<Ipv4Addr>,
    /// What it is called in the DNS of its switch.
    pub dns_name: Option<String>,
    /// `ok`; `pending` (the running QEMU does not have it yet), `removing` (the guest has not let go of it), `degraded`.
    pub status: Cow<'static, str>,
    /// Why it is degraded.
    pub reason: Option<String>,
    pub queues: u8,
    pub allow_spoofing: bool,
    pub max_addresses: Option<u16>,
    pub isolated: bool,
    pub vlan: Option<u16>,
    pub trunk: Vec<u16>,
    pub bandwidth: Option<BandwidthBody>,
    /// Since it was plugged; null where nobody counts.
    pub traffic: Option<TrafficBody>,
    /// Frames of the guest that were refused since it was plugged: forged addresses, and what a guest is not to send.
    pub refused: Option<u64>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SwitchBody {
    pub id: String,
    /// Null when the switch is gone.
    pub name: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct UserView {
    pub forwards: Vec<Forward>,
    /// What carries it; null while the VM is off or does not have it yet.
    pub carrier: Option<Carrier>,
}

/// One line of the list.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NetworkRow {
    pub vm_id: String,
    #[serde(flatten)]
    pub network: NetworkView,
}

/// In is towards the guest.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct TrafficBody {
    pub in_bytes: u64,
    pub in_packets: u64,
    pub in_dropped: u64,
    pub out_bytes: u64,
    pub out_packets: u64,
    pub out_dropped: u64,
}

impl NetworkView {
    fn of(view: NicView) -> Self {
        let NicView { nic, switch_name, addresses, reserved, dns_name, status, carrier, traffic, refused } = view;
        let (status, reason) = match status {
            NicStatus::Ok => ("ok", None),
            NicStatus::Pending => ("pending", None),
            NicStatus::Removing => ("removing", None),
            NicStatus::Degraded(reason) => ("degraded", Some(reason)),
        };
        let defined = Self::defined(&nic, switch_name);
        Self {
            user: defined.user.map(|user| UserView { carrier, ..user }),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            reserved,
            dns_name,
            status: status.into(),
            reason,
            traffic: traffic.map(|t| TrafficBody {
                in_bytes: t.in_bytes,
                in_packets: t.in_packets,
                in_dropped: t.in_dropped,
                out_bytes: t.out_bytes,
                out_packets: t.out_packets,
                out_dropped: t.out_dropped,
            }),
            refused,
            ..defined
        }
    }

    /// What the definition alone tells.
    fn defined(nic: &Nic, switch_name: Option<String>) -> Self {
        let user = match &nic.backend {
            NicBackend::User { forwards } => Some(UserView { forwards: forwards.clone(), carrier: None }),
            NicBackend::Switch(_) => None,
        };
        let port = nic.port();
        Self {
            id: nic.id.to_string(),
            name: nic.label.clone(),
            device: nic.name.clone(),
            mac: nic.mac.to_string(),
            switch: nic.switch().map(|id| SwitchBody { id: id.to_string(), name: switch_name }),
            user,
            addresses: Vec::new(),
            reserved: port.and_then(|port| port.address),
            dns_name: None,
            status: "ok".into(),
            reason: None,
            queues: nic.queues,
            allow_spoofing: port.is_some_and(|port| port.allow_spoofing),
            max_addresses: port.and_then(|port| port.max_addresses),
            isolated: port.is_some_and(|port| port.isolated),
            vlan: port.and_then(|port| port.vlan),
            trunk: port.map(|port| port.trunk.clone()).unwrap_or_default(),
            bandwidth: port.and_then(|port| BandwidthBody::of(port.bandwidth)),
            traffic: None,
            refused: None,
        }
    }
}

/// A NIC that was added.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NetworkAdded {
    pub vm_id: String,
    #[serde(flatten)]
    pub network: Option<NetworkView>,
    pub message: Cow<'static, str>,
    pub applied: Applied,
}

/// A NIC that was changed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NetworkChanged {
    pub vm_id: String,
    #[serde(flatten)]
    pub network: Option<NetworkView>,
    pub message: Cow<'static, str>,
    pub applied: Applied,
}

/// A NIC that was removed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NetworkRemoved {
    pub vm_id: String,
    pub id: String,
    pub name: String,
    pub device: String,
    pub mac: String,
    /// Always `deleted`.
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// The guest has not let go of it: it goes as soon as the guest does, or when the VM stops.
    pub pending: bool,
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let networks = shared.service.networks(id).await?.into_iter();
    let row = |view| NetworkRow { vm_id: id.to_string(), network: NetworkView::of(view) };
    Ok(Reply::json(StatusCode::OK, &networks.map(row).collect::<Vec<_>>()))
}

pub async fn add(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: NetworkBody = request.json()?;
    let wish = NicWish { id: request.makes.map(NicId::from), ..body.into_model()? };
    let (_, nic, applied) = shared.service.add_nic(id, wish).await?;
    // Gone again where somebody was quick to remove it.
    let network = shared.service.networks(id).await?.into_iter().find(|view| view.nic.id == nic).map(NetworkView::of);
    let message = "NIC successfully added.".into();
    let added = NetworkAdded { vm_id: id.to_string(), network, message, applied };
    Ok(Reply::json(StatusCode::CREATED, &added))
}

pub async fn change(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let nic = named(&shared, id, &request)?;
    let body: NetworkUpdate = request.json()?;
    let wish = body.into_model();
    if wish == PortWish::default() {
        let fields = "address, allow_spoofing, max_addresses, isolated, vlan, trunk or bandwidth";
        return Err(at_least_one(fields).into());
    }
    let (_, applied) = shared.service.change_port(id, nic, wish).await?;
    let network = shared.service.networks(id).await?.into_iter().find(|view| view.nic.id == nic).map(NetworkView::of);
    let message = "NIC successfully updated.".into();
    let changed = NetworkChanged { vm_id: id.to_string(), network, message, applied };
    Ok(Reply::json(StatusCode::OK, &changed))
}

pub async fn remove(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let nic = named(&shared, id, &request)?;
    let removed = shared.service.remove_nic(id, nic).await?;
    let message = if removed.pending {
        "NIC removed; it goes as soon as the guest lets go of it."
    } else {
        "NIC successfully removed."
    };
    let body = NetworkRemoved {
        vm_id: id.to_string(),
        id: removed.nic.id.to_string(),
        name: removed.nic.label,
        device: removed.nic.name,
        mac: removed.nic.mac.to_string(),
        status: "deleted".into(),
        message: message.into(),
        pending: removed.pending,
    };
    Ok(Reply::json(StatusCode::OK, &body))
}

/// The NIC that the path names, by its id or as QEMU calls it. One that the guest has not let go of can be removed again,
/// which changes nothing.
fn named(shared: &Shared, id: VmId, request: &Request) -> Result<NicId, Error> {
    let name = request.param("nic");
    let view = shared.service.view(id)?;
    let nics = view.spec.nics.iter().chain(view.in_effect.iter().flat_map(|now| &now.nics));
    let found = nics.into_iter().find(|nic| nic.is_called(name)).map(|nic| nic.id);
    found.ok_or_else(|| Error::NicNotFound { name: name.to_owned() })
}
