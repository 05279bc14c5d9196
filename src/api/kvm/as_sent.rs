//! The lists of a definition in the words in which they were sent, as long as the VM is so: a client that compares what it
//! reads with what it sent finds no difference then.

use serde::Deserialize;

use super::{disks::DiskBody, network_body::NetworkBody};
use crate::{model::VmSpec, service::Service};

/// Its disks beside a root disk that was made, as they were sent if they are so still.
pub fn disks(spec: &VmSpec) -> Vec<DiskBody> {
    let there = spec.listed_disks();
    if let Some(sent) = read::<DiskBody>(spec.named.sent.disks.as_deref())
        && sent.len() == there.len()
        && sent.iter().zip(there).all(|(sent, disk)| sent.clone().into_model().is_ok_and(|wish| wish.is(disk)))
    {
        return sent;
    }
    there.iter().map(DiskBody::of).collect()
}

/// Its NICs, likewise.
pub fn networks(service: &Service, spec: &VmSpec) -> Vec<NetworkBody> {
    if let Some(sent) = read::<NetworkBody>(spec.named.sent.networks.as_deref())
        && sent.len() == spec.nics.len()
        && sent.iter().zip(&spec.nics).all(|(sent, nic)| {
            let wish = sent.clone().into_model().ok();
            wish.is_some_and(|wish| service.switch_of(&wish).is_ok_and(|switch| wish.is(nic, switch)))
        })
    {
        return sent;
    }
    spec.nics.iter().map(|nic| NetworkBody::of(nic, service)).collect()
}

fn read<T: for<'de> Deserialize<'de>>(sent: Option<&str>) -> Option<Vec<T>> {
    serde_json::from_str(sent?).ok()
}
