//! The definition of a VM as this dialect shows it.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    as_sent,
    disks::DiskBody,
    network_body::NetworkBody,
    pending::{Pending, pending},
    pinning::CpuPinning,
    policy::PolicyView,
    times::time,
    words::AsSent,
};
use crate::{
    model::{CloneMode, CloudInit, GuestCpu, IoLimits, Result, Role, VmView},
    service::{Service, access::Caller},
};

/// The definition.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Config {
    pub id: String,
    pub vm_id: String,
    pub name: String,
    pub vcpus: u32,
    pub max_vcpus: u32,
    /// MiB.
    pub memory: u64,
    /// MiB.
    pub max_memory: u64,
    /// GiB.
    pub disk_size: Option<u64>,
    #[schemars(with = "Option<CpuPinning>")]
    pub cpu_pinning: AsSent<Option<CpuPinning>>,
    /// Null for the richest that the accelerator offers.
    #[schemars(with = "Option<GuestCpu>")]
    pub cpu: AsSent<Option<GuestCpu>>,
    #[schemars(with = "Option<IoLimits>")]
    pub io_limits: AsSent<Option<IoLimits>>,
    pub disk_file: Option<PathBuf>,
    pub base_image: Option<PathBuf>,
    pub clone: Option<CloneMode>,
    /// All disks beside a root disk that was made, as they were sent if they are so still.
    #[schemars(with = "Vec<DiskBody>")]
    pub disks: AsSent<Vec<DiskBody>>,
    /// All NICs, likewise; `GET /vms/{id}/networks` has all about them.
    #[schemars(with = "Vec<NetworkBody>")]
    pub networks: AsSent<Vec<NetworkBody>>,
    /// The image in its CD drive.
    pub iso: Option<PathBuf>,
    /// What its guest's cloud-init is given. Its password is shown to nobody, and the rest in the answers of `GET` to those who may
    /// change it: `withheld` says what there is beside that.
    pub cloud_init: Option<CloudInit>,
    pub labels: BTreeMap<String, String>,
    pub description: Option<String>,
    pub protected: bool,
    /// As it was sent.
    pub start: bool,
    pub mac_address: Option<String>,
    pub profile: String,
    pub machine_type: String,
    #[serde(flatten)]
    pub policy: PolicyView,
    pub created_at: String,
    /// What is configured but not in effect yet.
    pub pending: BTreeMap<Cow<'static, str>, Pending>,
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
            cpu_pinning: as_sent::cpu_pinning(spec),
            cpu: as_sent::cpu(spec),
            io_limits: as_sent::io_limits(spec),
            disk_file: root.map(|disk| disk.file.to_path_buf()),
            base_image: spec.base_image_as_sent().cloned(),
            clone: root.filter(|disk| disk.base.is_some()).map(|disk| disk.clone),
            disks: as_sent::disks(spec),
            networks: as_sent::networks(service, spec),
            iso: spec.iso_as_sent().cloned(),
            cloud_init: spec.seed.as_ref().map(CloudInit::hidden),
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

    /// With what may be shown to whoever asks. An answer that is kept, such as that of an update, has it without.
    pub async fn shown_to(self, caller: &Caller, service: &Service, view: &VmView) -> Result<Self> {
        match caller.role {
            Role::Viewer => Ok(self),
            Role::Operator | Role::Admin => Ok(Self { cloud_init: service.cloud_init(&view.spec).await?, ..self }),
        }
    }
}
