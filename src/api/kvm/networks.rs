//! The NICs of a VM, one by one: bodies and handlers.

use std::{borrow::Cow, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, bandwidth::BandwidthBody, error::Problem, updated::at_least_one, vm_id};
use crate::{
    api::http::{Reply, Request, given},
    model::{
        Applied, Error, Forward, MAX_FORWARDS, MacAddr, NetworkWish, Nic, NicBackend, NicId, NicWish, PortWish,
        SwitchId, SwitchRef, VmId,
    },
    service::{NicStatus, NicView, Service, among_networks},
};

/// A NIC: on a switch, or on QEMU's user-mode network.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "switch": "LAN", "address": "10.77.0.9", "name": "front" }))]
#[schemars(example = json!({ "switch": "Out", "vlan": 10, "trunk": [20, 30], "isolated": true, "bandwidth": { "in_bits_per_second": 100_000_000 } }))]
pub struct NetworkBody {
    /// The id or the name of a switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// QEMU's user-mode network: outbound traffic, and ports of the host that lead into the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserBody>,
    /// What people call the NIC; default `Network Adapter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// Pairs of queues of a NIC on a switch, 1 (default) to 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub queues: Option<i64>,
    /// Its hardware address, such as 52:54:00:ab:cd:ef; a random one where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub mac: Option<MacAddr>,
    /// Its address on the switch; where there is a subnet and none is given, one that is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// It may send from other addresses than its own; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_spoofing: Option<bool>,
    /// How many addresses it may use where none is assigned to it, 1 to 4096; default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_addresses: Option<i64>,
    /// It reaches no other isolated NIC of its switch; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// On an External switch: the VLAN that it is in, 1 to 4094; its guest sends and receives without a tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<i64>,
    /// On an External switch: VLANs that its guest sees with their tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4094))]
    pub trunk: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BandwidthBody>,
}

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

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// Ports of the host, at most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_FORWARDS))]
    pub forwards: Option<Vec<Forward>>,
}

impl NetworkBody {
    /// The body that would make a NIC like this one.
    pub fn of(nic: &Nic, service: &Service) -> Self {
        let base = Self { name: Some(nic.label.clone()), mac: Some(nic.mac), ..Self::default() };
        match &nic.backend {
            NicBackend::User { forwards } => Self { user: Some(UserBody { forwards: Some(forwards.clone()) }), ..base },
            NicBackend::Switch(port) => Self {
                switch: Some(service.switch_name(port.switch).unwrap_or_else(|| port.switch.to_string())),
                queues: Some(nic.queues.into()),
                address: port.address,
                allow_spoofing: Some(port.allow_spoofing),
                max_addresses: port.max_addresses.map(Into::into),
                isolated: Some(port.isolated),
                vlan: port.vlan.map(Into::into),
                trunk: Some(port.trunk.iter().map(|vlan| (*vlan).into()).collect()),
                bandwidth: BandwidthBody::of(port.bandwidth),
                ..base
            },
        }
    }

    pub fn into_model(self) -> Result<NicWish, Error> {
        let network = match (self.switch, self.user) {
            (Some(named), None) => {
                NetworkWish::Switch(SwitchId::parse(&named).map_or(SwitchRef::Name(named), SwitchRef::Id))
            }
            (None, Some(user)) => NetworkWish::User { forwards: user.forwards.unwrap_or_default() },
            (None, None) => return Err(Error::invalid("switch", "be given, or user")),
            (Some(_), Some(_)) => return Err(Error::invalid("switch", "not be combined with user")),
        };
        let port = PortWish {
            address: self.address,
            allow_spoofing: Some(self.allow_spoofing.unwrap_or_default()),
            max_addresses: self.max_addresses.map(Some),
            isolated: Some(self.isolated.unwrap_or_default()),
            vlan: self.vlan.map(Some),
            trunk: Some(self.trunk.unwrap_or_default()),
            bandwidth: self.bandwidth.map(BandwidthBody::into_model),
        };
        Ok(NicWish { id: None, label: self.name, network, queues: self.queues, mac: self.mac, port })
    }
}

/// The NICs of a VM that is to be made; what is wrong is told with its place.
pub fn into_model(bodies: Vec<NetworkBody>) -> Result<Vec<NicWish>, Error> {
    let placed = |(index, body): (usize, NetworkBody)| body.into_model().map_err(|error| among_networks(index, error));
    bodies.into_iter().enumerate().map(placed).collect()
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
        let NicView { nic, switch_name, addresses, reserved, dns_name, status, traffic, refused } = view;
        let (status, reason) = match status {
            NicStatus::Ok => ("ok", None),
            NicStatus::Pending => ("pending", None),
            NicStatus::Removing => ("removing", None),
            NicStatus::Degraded(reason) => ("degraded", Some(reason)),
        };
        Self {
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
            ..Self::defined(&nic, switch_name)
        }
    }

    /// What the definition alone tells.
    fn defined(nic: &Nic, switch_name: Option<String>) -> Self {
        let user = match &nic.backend {
            NicBackend::User { forwards } => Some(UserView { forwards: forwards.clone() }),
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
