//! A NIC as a client wishes for it, with a VM or alone.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bandwidth::BandwidthBody;
use crate::{
    model::{
        Error, Forward, MAX_FORWARDS, MacAddr, NetworkWish, Nic, NicBackend, NicWish, PortWish, SwitchId, SwitchRef,
    },
    service::{Service, among_networks},
};

/// A NIC: on a switch, or on the user-mode network.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "switch": "LAN", "address": "10.77.0.9", "name": "front" }))]
#[schemars(example = json!({ "switch": "Out", "vlan": 10, "trunk": [20, 30], "isolated": true, "bandwidth": { "in_bits_per_second": 100_000_000, "out_bits_per_second": null } }))]
pub struct NetworkBody {
    /// The id or the name of a switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// The user-mode network: outbound traffic, and ports of the host that lead into the guest.
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
