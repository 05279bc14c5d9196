//! The bodies of this dialect. Numbers of requests are as wide as JSON's: their range is the domain's to judge.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    as_sent::Written,
    config::Config,
    disks::DiskBody,
    failure::FailedStart,
    network_body::{self, NetworkBody},
    pinning::CpuPinning,
    policy::{self, AutostartBody},
    times::time,
};
use crate::{
    model::{
        CloneMode, CloudInit, CreateVm, Error, GuestCpu, IoLimits, MAX_DEVICES, MAX_LABELS, MetadataWish, OnIoError,
        RestartPolicy, Sandbox, Status, VmId, VmView,
    },
    service::Service,
};

/// A VM to be created.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// 1 to 255.
    #[schemars(range(min = 1, max = 255))]
    pub vcpus: i64,
    /// MiB, 16 to the host's memory.
    #[schemars(range(min = 16))]
    pub memory: i64,
    /// GiB, 1 to 65,536; not below the base image's virtual size.
    #[schemars(range(min = 1, max = 65_536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<i64>,
    /// A raw or qcow2 image in an image directory; a relative path is looked for in each of them. Without one the first of
    /// `disks` is the root disk, and has to be one that is attached as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base_image: Option<String>,
    pub cpu_pinning: Option<CpuPinning>,
    /// The CPU that its guest sees; default the richest that the accelerator offers.
    pub cpu: Option<GuestCpu>,
    pub io_limits: Option<IoLimits>,
    /// 1 to 64 letters and digits of any script, `._-()+@:` and spaces; need not be unique.
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// Machine profile: `q35` (default), `pc`, or one of the templates folder.
    pub profile: Option<String>,
    /// Also start it, all or nothing.
    #[serde(default)]
    pub start: bool,
    /// `linked` (default): an overlay that needs the base image; `full`: a copy.
    #[serde(default)]
    pub clone: CloneMode,
    /// Disks beside the root disk; without `base_image` the root disk is the first of them.
    #[serde(default)]
    #[schemars(length(max = MAX_DEVICES))]
    pub disks: Vec<DiskBody>,
    /// NICs; default one on the user-mode network, and none for an empty list.
    #[schemars(length(max = MAX_DEVICES))]
    pub networks: Option<Vec<NetworkBody>>,
    /// vCPUs that it can grow to; default 16.
    #[schemars(range(min = 1, max = 255))]
    pub max_vcpus: Option<i64>,
    /// MiB that it can grow to; default its `memory` below 2048, else the host's memory.
    #[schemars(range(min = 16))]
    pub max_memory: Option<i64>,
    /// Whether it starts again when it has ended: `never` (default), `on-failure`, `always`.
    pub restart_policy: Option<RestartPolicy>,
    /// Restarts in a row before it is given up; default: never.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_restarts: Option<i64>,
    /// Whether it starts after a boot of the host; default no.
    pub autostart: Option<AutostartBody>,
    /// When the host cannot read or write a disk: `pause` (default), `retry`, `report`.
    pub on_io_error: Option<OnIoError>,
    /// An ISO image for its CD drive, in an image directory; it boots where the disk does not.
    #[schemars(length(min = 1))]
    pub iso: Option<String>,
    /// What its guest's cloud-init is given.
    pub cloud_init: Option<CloudInit>,
    /// What people and programs find it by: at most 64, keys of 1 to 63 letters, digits, `._-/`, values of at most 255
    /// characters.
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    pub labels: Option<BTreeMap<String, String>>,
    /// At most 1,024 characters.
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// It is neither deleted nor forced off, and loses no disk, until that is taken away; default false.
    pub protected: Option<bool>,
}

impl CreateBody {
    /// `written` is the same as its client wrote it.
    pub fn into_model(self, written: &Written) -> Result<CreateVm, Error> {
        let sent = written.sent(self.start);
        let mut disks = DiskBody::all_into_model(self.disks)?;
        let attached = self.base_image.is_none() && disks.first().is_some_and(|disk| disk.is_there());
        let root = attached.then(|| disks.remove(0));
        if root.is_none() && self.base_image.is_none() {
            let instead = if disks.is_empty() {
                ""
            } else {
                ", or path or volume in the first of disks, which is the root disk then"
            };
            return Err(Error::invalid("base_image", format!("be given{instead}")));
        }
        let disk_size = match (self.disk_size, &root) {
            (Some(size), None) => size,
            (None, None) => return Err(Error::invalid("disk_size", "be given")),
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "disk_size",
                    "not be given: the root disk is there already, and has its size",
                ));
            }
            (None, Some(_)) => 0,
        };
        if root.is_some() && self.io_limits.is_some() {
            return Err(Error::invalid("io_limits", "be given in disks[0], which is the root disk"));
        }
        Ok(CreateVm {
            id: None,
            root,
            name: self.name,
            profile: self.profile,
            vcpus: self.vcpus,
            max_vcpus: self.max_vcpus,
            memory: self.memory,
            max_memory: self.max_memory,
            disk_size,
            base_image: self.base_image.map(Into::into),
            disk_folder: None,
            iso: self.iso.map(Into::into),
            cloud_init: self.cloud_init,
            clone: self.clone,
            cpu_pinning: self.cpu_pinning.map(CpuPinning::into_model).transpose()?,
            cpu: self.cpu,
            io_limits: self.io_limits,
            disks,
            policy: policy::wish(self.restart_policy, self.max_restarts, self.autostart, self.on_io_error),
            networks: self.networks.map(network_body::into_model).transpose()?,
            metadata: MetadataWish {
                labels: self.labels,
                description: self.description.map(Some),
                protected: self.protected,
                ..MetadataWish::default()
            },
            sent,
            start: self.start,
        })
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Created {
    /// Always `uuid`, as the document has it.
    pub r#type: Cow<'static, str>,
    pub id: String,
    /// The same: published clients read either.
    pub vm_id: String,
    pub name: String,
    /// Always `created`.
    pub status: Cow<'static, str>,
    pub vcpus: u32,
    pub memory: u64,
    pub disk_size: Option<u64>,
    pub disk_file: Option<PathBuf>,
    pub mac_address: Option<String>,
    pub message: Cow<'static, str>,
}

impl Created {
    pub fn of(view: &VmView) -> Self {
        let spec = &view.spec;
        Self {
            r#type: "uuid".into(),
            id: spec.id.to_string(),
            vm_id: spec.id.to_string(),
            name: spec.name.clone(),
            status: "created".into(),
            vcpus: spec.vcpus,
            memory: spec.memory,
            disk_size: spec.root().map(|disk| disk.size),
            disk_file: spec.root().map(|disk| disk.file.to_path_buf()),
            mac_address: spec.nics.first().map(|nic| nic.mac.to_string()),
            message: "VM successfully created and storage cloned.".into(),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct StatusBody {
    pub id: String,
    pub vm_id: String,
    pub name: String,
    pub status: Status,
    pub message: String,
    /// Why it is paused, crashed or unresponsive, and whether it starts again by itself.
    pub reason: Option<String>,
    /// Restarts in a row by its policy, the next one included.
    pub restarts: u32,
    /// When it is started again by its policy.
    pub next_restart: Option<String>,
    /// With `wait`: it is as was waited for; false where the time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
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

/// All about one VM: its definition, its status and its run.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Details {
    #[serde(flatten)]
    pub config: Config,
    pub status: Status,
    pub message: String,
    pub reason: Option<String>,
    pub restarts: u32,
    pub next_restart: Option<String>,
    /// Why the last start came to nothing, until one succeeds.
    pub last_failure: Option<FailedStart>,
    /// QEMU's process.
    pub pid: Option<i32>,
    pub started_at: Option<String>,
    /// Seconds since it was started.
    pub uptime: Option<u64>,
    /// What keeps its QEMU from the host, while it runs; `null` of one that an earlier version of qherd started.
    pub sandbox: Option<Sandbox>,
    /// The guest agent has opened its port.
    pub guest_agent: bool,
    /// `kvm` or `tcg`: what it runs under, or would if it were started now.
    pub accelerator: Cow<'static, str>,
}

impl Details {
    pub fn of(service: &Service, view: &VmView) -> Self {
        let StatusBody { status, message, reason, restarts, next_restart, .. } = StatusBody::of(view);
        Self {
            config: Config::of(service, view),
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
            accelerator: service.caps().accelerator.as_str().into(),
        }
    }
}

/// What became of a start, stop or reboot.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Done {
    pub id: String,
    pub vm_id: String,
    pub status: Status,
    pub message: Cow<'static, str>,
    /// Of a stop: the guest did not power off by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced: Option<bool>,
}

impl Done {
    pub fn new(id: VmId, status: Status, message: &'static str, forced: Option<bool>) -> Self {
        Self { id: id.to_string(), vm_id: id.to_string(), status, message: message.into(), forced }
    }
}

/// How to stop. Query and body may both say it, as long as they agree.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopBody {
    /// Cut the power at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Seconds that the guest is given, 1 to 86,400; default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebootBody {
    /// Seconds that the guest is given, 1 to 86,400; default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout: Option<i64>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    pub vm_id: String,
    pub id: String,
    /// Always `deleted`.
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub disk_file: Option<PathBuf>,
}

impl Deleted {
    pub fn of(view: &VmView) -> Self {
        Self {
            vm_id: view.spec.id.to_string(),
            id: view.spec.id.to_string(),
            status: "deleted".into(),
            message: "VM successfully deleted.".into(),
            disk_file: view.spec.root().map(|disk| disk.file.to_path_buf()),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`.
    pub status: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub qemu_version: String,
    /// `kvm` or `tcg`.
    pub accelerator: Cow<'static, str>,
    /// Why this one.
    pub accelerator_reason: String,
    /// What somebody should see to.
    pub warnings: Vec<String>,
}
