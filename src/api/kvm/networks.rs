//! The NICs of a VM, one by one: bodies and handlers.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, bandwidth::BandwidthBody, error::Problem, updated::at_least_one, vm_id};
use crate::{
    api::http::{Reply, Request, given},
    model::{
        Applied, Carrier, Error, Forward, MAX_FORWARDS, MacAddr, NetworkWish, Nic, NicBackend, NicId, NicWish,
        PortWish, SwitchId, SwitchRef, VmId,
    },
    service::{NicStatus, NicView, among_networks},
};

/// A NIC: on a switch, or on the user-mode network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "switch": "LAN", "address": "10.77.0.9", "name": "front" }))]
#[schemars(example = json!({ "switch": "Out", "vlan": 10, "trunk": [20, 30], "isolated": true, "bandwidth": { "in_bits_per_second": 100_000_000 } }))]
pub struct NetworkBody {
    /// The id or the name of a switch.
    switch: Option<String>,
    /// The user-mode network: outbound traffic, and ports of the host that lead into the guest.
    user: Option<UserBody>,
    /// What people call the NIC; default `Network Adapter`.
    name: Option<String>,
    /// Pairs of queues of a NIC on a switch, 1 (default) to 8.
    queues: Option<i64>,
    /// Its hardware address, such as 52:54:00:ab:cd:ef; a random one where none is given.
    #[schemars(with = "Option<String>")]
    mac: Option<MacAddr>,
    /// Its address on the switch; where there is a subnet and none is given, one that is free.
    address: Option<Ipv4Addr>,
    /// It may send from other addresses than its own; default false.
    #[serde(default)]
    allow_spoofing: bool,
    /// How many addresses it may use where none is assigned to it, 1 to 4096; default 20.
    max_addresses: Option<i64>,
    /// It reaches no other isolated NIC of its switch; default false.
    #[serde(default)]
    isolated: bool,
    /// On an External switch: the VLAN that it is in, 1 to 4094; its guest sends and receives without a tag.
    vlan: Option<i64>,
    /// On an External switch: VLANs that its guest sees with their tags.
    #[serde(default)]
    #[schemars(length(max = 4094))]
    trunk: Vec<i64>,
    bandwidth: Option<BandwidthBody>,
}

/// What is to change of a NIC on a switch; at least one field.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "vlan": 20, "trunk": null, "bandwidth": { "out_bits_per_second": 10_000_000 } }))]
pub struct NetworkUpdate {
    /// A running guest takes it when it renews its lease, within ten minutes; until then it is cut off.
    #[serde(default)]
    address: Option<Ipv4Addr>,
    #[serde(default)]
    allow_spoofing: Option<bool>,
    /// Null: 20.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    max_addresses: Option<Option<i64>>,
    #[serde(default)]
    isolated: Option<bool>,
    /// Null: the adapter's own network.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    vlan: Option<Option<i64>>,
    /// Replaced whole; null or an empty list removes it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<i64>>", length(max = 4094))]
    trunk: Option<Option<Vec<i64>>>,
    /// Replaced whole; null removes it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<BandwidthBody>")]
    bandwidth: Option<Option<BandwidthBody>>,
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

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UserBody {
    /// Ports of the host, at most 64.
    #[serde(default)]
    #[schemars(length(max = MAX_FORWARDS))]
    forwards: Vec<Forward>,
}

impl NetworkBody {
    pub fn into_model(self) -> Result<NicWish, Error> {
        let network = match (self.switch, self.user) {
            (Some(named), None) => {
                NetworkWish::Switch(SwitchId::parse(&named).map_or(SwitchRef::Name(named), SwitchRef::Id))
            }
            (None, Some(user)) => NetworkWish::User { forwards: user.forwards },
            (None, None) => return Err(Error::invalid("switch", "be given, or user")),
            (Some(_), Some(_)) => return Err(Error::invalid("switch", "not be combined with user")),
        };
        let port = PortWish {
            address: self.address,
            allow_spoofing: Some(self.allow_spoofing),
            max_addresses: self.max_addresses.map(Some),
            isolated: Some(self.isolated),
            vlan: self.vlan.map(Some),
            trunk: Some(self.trunk),
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
#[derive(Serialize, JsonSchema)]
pub struct NetworkView {
    id: String,
    /// What people call it.
    name: String,
    /// QEMU's device id: `net0`…
    device: String,
    mac: String,
    /// Null on the user-mode network.
    switch: Option<SwitchBody>,
    /// Null on a switch.
    user: Option<UserView>,
    /// What the guest has: taken from the DHCP of the switch, else as the guest agent tells; empty where neither knows.
    addresses: Vec<String>,
    /// The address that is kept for it on its switch.
    reserved: Option<Ipv4Addr>,
    /// What it is called in the DNS of its switch.
    dns_name: Option<String>,
    /// `ok`; `pending` (the running QEMU does not have it yet), `removing` (the guest has not let go of it), `degraded`.
    status: &'static str,
    /// Why it is degraded.
    reason: Option<String>,
    queues: u8,
    allow_spoofing: bool,
    max_addresses: Option<u16>,
    isolated: bool,
    vlan: Option<u16>,
    trunk: Vec<u16>,
    bandwidth: Option<BandwidthBody>,
    /// Since it was plugged; null where nobody counts.
    traffic: Option<TrafficBody>,
    /// Frames of the guest that were refused since it was plugged: forged addresses, and what a guest is not to send.
    refused: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct SwitchBody {
    id: String,
    /// Null when the switch is gone.
    name: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct UserView {
    forwards: Vec<Forward>,
    /// What carries it; null while the VM is off or does not have it yet.
    carrier: Option<Carrier>,
}

/// One line of the list.
#[derive(Serialize, JsonSchema)]
pub struct NetworkRow {
    vm_id: String,
    #[serde(flatten)]
    network: NetworkView,
}

/// In is towards the guest.
#[derive(Serialize, JsonSchema)]
struct TrafficBody {
    in_bytes: u64,
    in_packets: u64,
    in_dropped: u64,
    out_bytes: u64,
    out_packets: u64,
    out_dropped: u64,
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
            status,
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
            status: "ok",
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
#[derive(Serialize, JsonSchema)]
pub struct NetworkAdded {
    vm_id: String,
    #[serde(flatten)]
    network: Option<NetworkView>,
    message: &'static str,
    applied: Applied,
}

/// A NIC that was changed.
#[derive(Serialize, JsonSchema)]
pub struct NetworkChanged {
    vm_id: String,
    #[serde(flatten)]
    network: Option<NetworkView>,
    message: &'static str,
    applied: Applied,
}

/// A NIC that was removed.
#[derive(Serialize, JsonSchema)]
pub struct NetworkRemoved {
    vm_id: String,
    id: String,
    name: String,
    device: String,
    mac: String,
    /// Always `deleted`.
    status: &'static str,
    message: &'static str,
    /// The guest has not let go of it: it goes as soon as the guest does, or when the VM stops.
    pending: bool,
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
    let message = "NIC successfully added.";
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
    let message = "NIC successfully updated.";
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
        status: "deleted",
        message,
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
