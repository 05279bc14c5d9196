//! The definition of a VM as this dialect shows it.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    as_sent,
    disks::DiskBody,
    networks::NetworkBody,
    pending::{Pending, pending},
    pinning::CpuPinning,
    policy::PolicyView,
    times::time,
};
use crate::{
    model::{CloneMode, IoLimits, VmView},
    service::Service,
};

/// The definition.
#[derive(Serialize, JsonSchema)]
pub struct Config {
    id: String,
    vm_id: String,
    name: String,
    vcpus: u32,
    max_vcpus: u32,
    /// MiB.
    memory: u64,
    /// MiB.
    max_memory: u64,
    /// GiB.
    disk_size: Option<u64>,
    cpu_pinning: Option<CpuPinning>,
    io_limits: Option<IoLimits>,
    disk_file: Option<PathBuf>,
    base_image: Option<PathBuf>,
    clone: Option<CloneMode>,
    /// All disks beside the root disk, as they were sent if they are so still.
    disks: Vec<DiskBody>,
    /// All NICs, likewise; `GET /vms/{id}/networks` has all about them.
    networks: Vec<NetworkBody>,
    /// The image in its CD drive.
    iso: Option<PathBuf>,
    labels: BTreeMap<String, String>,
    description: Option<String>,
    protected: bool,
    /// As it was sent.
    start: bool,
    mac_address: Option<String>,
    profile: String,
    machine_type: String,
    #[serde(flatten)]
    policy: PolicyView,
    created_at: String,
    /// What is configured but not in effect yet.
    pending: BTreeMap<&'static str, Pending>,
}

impl Config {
    pub fn of(service: &Service, view: &VmView) -> Self {
        let spec = &view.spec;
        let root = spec.root();
        Self {
            id: spec.id.to_string(),
            vm_id: spec.id.to_string(),
            name: spec.name.clone(),
            vcpus: spec.vcpus,
            max_vcpus: spec.max_vcpus,
            memory: spec.memory,
            max_memory: spec.max_memory,
            disk_size: root.map(|disk| disk.size),
            cpu_pinning: spec.cpu_pinning.as_ref().map(CpuPinning::of),
            io_limits: root.and_then(|disk| disk.io_limits),
            disk_file: root.map(|disk| disk.file.clone()),
            base_image: spec.base_image_as_sent().cloned(),
            clone: root.filter(|disk| disk.base.is_some()).map(|disk| disk.clone),
            disks: as_sent::disks(spec),
            networks: as_sent::networks(service, spec),
            iso: spec.iso_as_sent().cloned(),
            labels: spec.metadata.labels.clone(),
            description: spec.metadata.description.clone(),
            protected: spec.metadata.protected,
            start: spec.named.sent.start,
            mac_address: spec.nics.first().map(|nic| nic.mac.to_string()),
            profile: spec.machine.profile.clone(),
            machine_type: spec.machine.machine_type.clone(),
            policy: PolicyView::of(spec),
            created_at: time(spec.created_at),
            pending: pending(view),
        }
    }
}
