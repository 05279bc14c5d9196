//! The bodies of this dialect. Numbers of requests are as wide as JSON's: their range is the domain's to judge.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    disks::DiskBody,
    failure::FailedStart,
    networks::{self, NetworkBody},
    pending::{Pending, pending},
    pinning::CpuPinning,
    policy::{self, AutostartBody, PolicyView},
    times::time,
};
use crate::{
    model::{
        CloneMode, CreateVm, Error, ImageFormat, IoLimits, MAX_DEVICES, OnIoError, RestartPolicy, Sandbox, Status,
        VmId, VmView,
    },
    service::Base,
};

/// A VM to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// 1 to 255.
    vcpus: i64,
    /// MiB, 16 to the host's memory.
    memory: i64,
    /// GiB, 1 to 65,536; not below the base image's virtual size.
    disk_size: i64,
    /// A raw or qcow2 image in an image directory; a relative path is looked for in each of them.
    base_image: String,
    cpu_pinning: Option<CpuPinning>,
    io_limits: Option<IoLimits>,
    /// 1 to 64 letters and digits of any script, `._-()+@:` and spaces; need not be unique.
    name: Option<String>,
    /// Machine profile: `q35` (default), `pc`, or one of the templates folder.
    profile: Option<String>,
    /// Also start it, all or nothing.
    #[serde(default)]
    start: bool,
    /// `linked` (default): an overlay that needs the base image; `full`: a copy.
    #[serde(default)]
    clone: CloneMode,
    /// Disks beside the root disk.
    #[serde(default)]
    #[schemars(length(max = MAX_DEVICES))]
    disks: Vec<DiskBody>,
    /// NICs; default one on the user-mode network, and none for an empty list.
    #[schemars(length(max = MAX_DEVICES))]
    networks: Option<Vec<NetworkBody>>,
    /// vCPUs that it can grow to; default 16.
    max_vcpus: Option<i64>,
    /// MiB that it can grow to; default its `memory` below 2048, else the host's memory.
    max_memory: Option<i64>,
    /// Whether it starts again when it has ended: `never` (default), `on-failure`, `always`.
    restart_policy: Option<RestartPolicy>,
    /// Restarts in a row before it is given up; default: never.
    max_restarts: Option<i64>,
    /// Whether it starts after a boot of the host; default no.
    autostart: Option<AutostartBody>,
    /// When the host cannot read or write a disk: `pause` (default), `retry`, `report`.
    on_io_error: Option<OnIoError>,
    /// An ISO image for its CD drive, in an image directory; it boots where the disk does not.
    iso: Option<String>,
}

impl CreateBody {
    pub fn into_model(self) -> Result<CreateVm, Error> {
        Ok(CreateVm {
            id: None,
            name: self.name,
            profile: self.profile,
            vcpus: self.vcpus,
            max_vcpus: self.max_vcpus,
            memory: self.memory,
            max_memory: self.max_memory,
            disk_size: self.disk_size,
            base_image: Some(self.base_image.into()),
            disk_folder: None,
            iso: self.iso.map(Into::into),
            clone: self.clone,
            cpu_pinning: self.cpu_pinning.map(CpuPinning::into_model).transpose()?,
            io_limits: self.io_limits,
            disks: self.disks.into_iter().map(DiskBody::into_model).collect(),
            policy: policy::wish(self.restart_policy, self.max_restarts, self.autostart, self.on_io_error),
            networks: self.networks.map(networks::into_model).transpose()?,
            start: self.start,
        })
    }
}

#[derive(Serialize, JsonSchema)]
pub struct Created {
    /// Always `uuid`, as the document has it.
    r#type: &'static str,
    id: String,
    /// The same: published clients read either.
    vm_id: String,
    name: String,
    /// Always `created`.
    status: &'static str,
    vcpus: u32,
    memory: u64,
    disk_size: Option<u64>,
    disk_file: Option<PathBuf>,
    mac_address: Option<String>,
    message: &'static str,
}

impl Created {
    pub fn of(view: &VmView) -> Self {
        let spec = &view.spec;
        Self {
            r#type: "uuid",
            id: spec.id.to_string(),
            vm_id: spec.id.to_string(),
            name: spec.name.clone(),
            status: "created",
            vcpus: spec.vcpus,
            memory: spec.memory,
            disk_size: spec.root().map(|disk| disk.size),
            disk_file: spec.root().map(|disk| disk.file.clone()),
            mac_address: spec.nics.first().map(|nic| nic.mac.to_string()),
            message: "VM successfully created and storage cloned.",
        }
    }
}

/// One line of the list.
#[derive(Serialize, JsonSchema)]
pub struct Listed {
    id: String,
    vm_id: String,
    name: String,
    status: Status,
}

impl Listed {
    pub fn of(view: &VmView) -> Self {
        let id = view.spec.id.to_string();
        Self { vm_id: id.clone(), id, name: view.spec.name.clone(), status: view.status }
    }
}

#[derive(Serialize, JsonSchema)]
pub struct StatusBody {
    id: String,
    vm_id: String,
    name: String,
    status: Status,
    message: String,
    /// Why it is paused, crashed or unresponsive, and whether it starts again by itself.
    reason: Option<String>,
    /// Restarts in a row by its policy, the next one included.
    restarts: u32,
    /// When it is started again by its policy.
    next_restart: Option<String>,
    /// With `wait`: it is as was waited for; false where the time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
}

impl StatusBody {
    /// After somebody has waited.
    pub fn waited(view: &VmView, reached: bool) -> Self {
        Self { reached: Some(reached), ..Self::of(view) }
    }

    pub fn of(view: &VmView) -> Self {
        Self {
            id: view.spec.id.to_string(),
            vm_id: view.spec.id.to_string(),
            name: view.spec.name.clone(),
            status: view.status,
            message: format!("VM is {}", view.status.as_str()),
            reason: view.reason(),
            restarts: view.upkeep.attempts,
            next_restart: view.upkeep.restart().map(|restart| time(restart.wall_time())),
            reached: None,
        }
    }
}

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
    /// The image in its CD drive.
    iso: Option<PathBuf>,
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
    pub fn of(view: &VmView) -> Self {
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
            base_image: root.and_then(|disk| disk.base.as_ref()).map(|base| base.path.clone()),
            clone: root.filter(|disk| disk.base.is_some()).map(|disk| disk.clone),
            iso: spec.iso.clone(),
            mac_address: spec.nics.first().map(|nic| nic.mac.to_string()),
            profile: spec.machine.profile.clone(),
            machine_type: spec.machine.machine_type.clone(),
            policy: PolicyView::of(spec),
            created_at: time(spec.created_at),
            pending: pending(view),
        }
    }
}

/// All about one VM: its definition, its status and its run.
#[derive(Serialize, JsonSchema)]
pub struct Details {
    #[serde(flatten)]
    config: Config,
    status: Status,
    message: String,
    reason: Option<String>,
    restarts: u32,
    next_restart: Option<String>,
    /// Why the last start came to nothing, until one succeeds.
    last_failure: Option<FailedStart>,
    /// QEMU's process.
    pid: Option<i32>,
    started_at: Option<String>,
    /// Seconds since it was started.
    uptime: Option<u64>,
    /// What keeps its QEMU from the host, while it runs; `null` of one that an earlier version of qherd started.
    sandbox: Option<Sandbox>,
    /// The guest agent has opened its port.
    guest_agent: bool,
    /// `kvm` or `tcg`: what it runs under, or would if it were started now.
    accelerator: &'static str,
}

impl Details {
    pub fn of(view: &VmView, accelerator: &'static str) -> Self {
        let StatusBody { status, message, reason, restarts, next_restart, .. } = StatusBody::of(view);
        Self {
            config: Config::of(view),
            status,
            message,
            reason,
            restarts,
            next_restart,
            last_failure: view.failed_start.as_deref().map(FailedStart::of),
            pid: view.pid,
            started_at: view.started_at().map(time),
            uptime: view.uptime(),
            sandbox: view.sandbox.clone(),
            guest_agent: view.agent,
            accelerator,
        }
    }
}

/// What became of a start, stop or reboot.
#[derive(Serialize, JsonSchema)]
pub struct Done {
    id: String,
    vm_id: String,
    status: Status,
    message: &'static str,
    /// Of a stop: the guest did not power off by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<bool>,
}

impl Done {
    pub fn new(id: VmId, status: Status, message: &'static str, forced: Option<bool>) -> Self {
        Self { id: id.to_string(), vm_id: id.to_string(), status, message, forced }
    }
}

/// How to stop. Query and body may both say it, as long as they agree.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopBody {
    /// Cut the power at once.
    pub force: Option<bool>,
    /// Seconds that the guest is given, 1 to 86,400; default 60.
    pub timeout: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebootBody {
    /// Seconds that the guest is given, 1 to 86,400; default 60.
    pub timeout: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
pub struct Deleted {
    vm_id: String,
    id: String,
    /// Always `deleted`.
    status: &'static str,
    message: &'static str,
    disk_file: Option<PathBuf>,
}

impl Deleted {
    pub fn of(view: &VmView) -> Self {
        Self {
            vm_id: view.spec.id.to_string(),
            id: view.spec.id.to_string(),
            status: "deleted",
            message: "VM successfully deleted.",
            disk_file: view.spec.root().map(|disk| disk.file.clone()),
        }
    }
}

/// A base image and the VMs that were cloned from it.
#[derive(Serialize, JsonSchema)]
pub struct BaseBody {
    path: PathBuf,
    format: ImageFormat,
    vms: Vec<BaseUserBody>,
}

#[derive(Serialize, JsonSchema)]
struct BaseUserBody {
    id: String,
    vm_id: String,
    name: String,
    clone: CloneMode,
}

impl From<Base> for BaseBody {
    fn from(base: Base) -> Self {
        let user = |user: crate::service::BaseUser| BaseUserBody {
            id: user.id.to_string(),
            vm_id: user.id.to_string(),
            name: user.name,
            clone: user.clone,
        };
        Self { path: base.path, format: base.format, vms: base.vms.into_iter().map(user).collect() }
    }
}

#[derive(Serialize, JsonSchema)]
pub struct Health {
    /// `ok`.
    pub status: &'static str,
    pub version: &'static str,
    pub qemu_version: String,
    /// `kvm` or `tcg`.
    pub accelerator: &'static str,
    /// Why this one.
    pub accelerator_reason: String,
    /// What somebody should see to.
    pub warnings: Vec<String>,
}
