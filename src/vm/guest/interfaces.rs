//! What a guest says of its network interfaces, through its agent.

use std::{net::IpAddr, time::Duration};

use qapi::{
    Command,
    qga::{GuestNetworkInterface, guest_network_get_interfaces},
};

use super::Guest;
use crate::model::MacAddr;

/// One interface that has a NIC of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInterface {
    pub mac: MacAddr,
    /// Without those that only hold on its own link.
    pub addresses: Vec<IpAddr>,
}

impl Guest {
    /// Asks the agent of a running guest, for `patience` at most; nothing where it does not answer.
    pub(crate) async fn interfaces(&self, patience: Duration) -> Vec<GuestInterface> {
        let exchange = async {
            // Raw: of a list in which one interface is odd the others are still to be had.
            self.0.turn(patience, patience).await?.execute(guest_network_get_interfaces::NAME, None).await
        };
        match tokio::time::timeout(patience, exchange).await {
            Ok(Ok(reply)) => read(reply),
            Ok(Err(error)) => {
                tracing::debug!(%error, "guest agent");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

/// A guest is not to be trusted: what is not as expected is left out.
fn read(reply: serde_json::Value) -> Vec<GuestInterface> {
    let serde_json::Value::Array(interfaces) = reply else { return Vec::new() };
    let interfaces = interfaces.into_iter().filter_map(|interface| serde_json::from_value(interface).ok());
    let ours = interfaces.filter_map(|interface: GuestNetworkInterface| {
        let mac = MacAddr::try_from(interface.hardware_address?.to_lowercase()).ok()?;
        let addresses = interface.ip_addresses.unwrap_or_default();
        let addresses = addresses.iter().filter_map(|address| address.ip_address.parse().ok());
        Some(GuestInterface { mac, addresses: addresses.filter(is_global).collect() })
    });
    ours.collect()
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn interfaces_are_those_of_our_nics_and_nonsense_is_left_out() {
        let answer = read(json!([
            { "name": "lo", "ip-addresses": [{ "ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8 }],
              "hardware-address": "00:00:00:00:00:00" },
            { "name": "eth0", "hardware-address": "52:54:00:AB:cd:ef", "ip-addresses": [
                { "ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24 },
                { "ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64 },
                { "ip-address": "fd00::2", "ip-address-type": "ipv6", "prefix": 64 },
                { "ip-address": "not one", "ip-address-type": "ipv4", "prefix": 24 } ] },
            { "name": "eth1", "hardware-address": "52:54:00:00:00:01" },
            { "name": "tun0" }, 7, { "hardware-address": 3 },
        ]));
        let addresses: Vec<String> = answer[0].addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(addresses, ["10.0.2.15", "fd00::2"]);
        assert_eq!((answer.len(), answer[1].addresses.len()), (2, 0));
        assert_eq!(read(json!({ "x": 1 })), []);
    }
}
