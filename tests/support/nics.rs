//! NICs, as the API tells of them and as the taps of this thread's namespace.
#![allow(dead_code)] // Every test file uses its own part.

use serde_json::Value;

use crate::support::{Daemon, netns};

/// The links of this thread's namespace.
pub fn links() -> Vec<Value> {
    netns::ip_json("link").as_array().unwrap().clone()
}

/// The taps among them that are ours, by name, in order.
pub fn taps() -> Vec<String> {
    let names = links().into_iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    let mut taps: Vec<String> = names.filter(|name| name.starts_with("qht")).collect();
    taps.sort();
    taps
}

/// Name of the tap of a NIC, by the NIC's id.
pub fn tap_of(nic: &Value) -> String {
    format!("qht{}", &nic["id"].as_str().unwrap().replace('-', "")[..12])
}

/// The NICs of a VM.
pub async fn networks(daemon: &Daemon, id: &str) -> Vec<Value> {
    daemon.get(&format!("/vms/{id}/networks")).await.expect(200).as_array().unwrap().clone()
}
