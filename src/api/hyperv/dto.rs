//! The bodies of this dialect about VMs. Numbers of requests are as wide as JSON's: their range is the domain's to judge.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::{State, health, uptime};
use crate::{
    api::http::{HttpError, given},
    model::{
        CreateVm, MAX_DEVICES, MAX_LABELS, MacAddr, MetadataWish, NetworkWish, NicWish, Sample, SwitchId, SwitchRef,
        VmId, VmView,
    },
};

/// A VM, in the list and alone.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Vm {
    id: String,
    name: String,
    state: State,
    /// Percent of its vCPUs, 0 to 100.
    #[serde(rename = "CPUUsage")]
    cpu_usage: u8,
    /// Bytes; 0 when it is off.
    memory_assigned: u64,
    /// `hh:mm:ss`, from a day on `d.hh:mm:ss`.
    uptime: String,
    /// `Ok`, or what the state does not say, with the reason.
    health: String,
    /// vCPUs, as defined.
    processor_count: u32,
    /// The CPU model that its guest sees; null for the richest that the accelerator offers.
    #[serde(rename = "CPUModel")]
    cpu_model: Option<String>,
    /// CPU features that are switched on or off beside the model.
    #[serde(rename = "CPUFeatures")]
    cpu_features: BTreeMap<String, bool>,
    /// Bytes, as defined.
    memory_startup: u64,
    /// Its first disk, as this host calls it.
    disk_file: Option<PathBuf>,
    /// The folder of it, as it was sent.
    disk_path: Option<PathBuf>,
    #[serde(rename = "DiskGB")]
    disk_gb: Option<u64>,
    /// The ISO image in its CD drive, as it was sent.
    iso_path: Option<PathBuf>,
    /// As this host calls it.
    iso_file: Option<PathBuf>,
    /// Its guest's cloud-init is given something; the KVM dialect says what, and takes it.
    cloud_init: bool,
    /// Of its first network adapter: "" on the user-mode network; null without an adapter.
    switch_name: Option<String>,
    labels: BTreeMap<String, String>,
    notes: Option<String>,
    /// It is neither deleted nor turned off by force until that is taken away.
    protected: bool,
    /// With `wait`: it is as was waited for; false where the time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
}

impl Vm {
    /// After somebody has waited.
    pub fn waited(self, reached: bool) -> Self {
        Self { reached: Some(reached), ..self }
    }

    pub fn of(view: &VmView, sample: Option<&Sample>, switch_name: Option<String>) -> Self {
        const MIB: u64 = 1 << 20;
        let spec = &view.spec;
        let (root, named) = (spec.root(), &spec.named);
        let folder = || root.and_then(|disk| disk.file.parent()).map(Into::into);
        let usage = sample.and_then(|sample| sample.cpu_usage).unwrap_or(0.0);
        Self {
            id: spec.id.to_string(),
            name: spec.name.clone(),
            state: State::of(view),
            cpu_usage: usage.round().clamp(0.0, 100.0) as u8,
            memory_assigned: view.in_effect.as_ref().map_or(0, |now| now.memory * MIB),
            uptime: uptime(view.uptime().unwrap_or(0)),
            health: health(view),
            processor_count: spec.vcpus,
            cpu_model: spec.cpu.as_ref().and_then(|cpu| cpu.model.clone()),
            cpu_features: spec.cpu.iter().flat_map(|cpu| cpu.features.clone()).collect(),
            memory_startup: spec.memory * MIB,
            disk_file: root.map(|disk| disk.file.to_path_buf()),
            disk_path: named.disk_folder.clone().or_else(folder),
            disk_gb: root.map(|disk| disk.size),
            iso_path: spec.iso_as_sent().cloned(),
            iso_file: spec.iso.clone(),
            cloud_init: spec.seed.is_some(),
            switch_name,
            labels: spec.metadata.labels.clone(),
            notes: spec.metadata.description.clone(),
            protected: spec.metadata.protected,
            reached: None,
        }
    }
}

/// A VM to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// 1 to 64 letters and digits of any script, `._-()+@:` and spaces; need not be unique.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// 16 to the host's memory.
    #[serde(rename = "memoryMB")]
    #[schemars(range(min = 16))]
    memory_mb: i64,
    /// 1 to 255.
    #[schemars(range(min = 1, max = 255))]
    vcpu: i64,
    /// A folder in a storage directory; it is made if need be. The disk is `<diskPath>/<id>.qcow2`.
    #[serde(rename = "diskPath")]
    #[schemars(length(min = 1))]
    disk_path: String,
    /// 1 to 65,536.
    #[serde(rename = "diskGB")]
    #[schemars(range(min = 1, max = 65_536))]
    disk_gb: i64,
    /// Without a switch there is no network adapter; "" is the user-mode network.
    #[serde(rename = "switchName")]
    switch_name: Option<String>,
    /// Where several switches bear a name.
    #[serde(rename = "switchId")]
    switch_id: Option<String>,
    /// An ISO image in an image directory; it boots where the disk does not. "" is none.
    #[serde(rename = "isoPath")]
    iso_path: Option<String>,
    /// What people and programs find it by: at most 64, keys of 1 to 63 letters, digits, `._-/`, values of at most 255
    /// characters.
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    labels: Option<BTreeMap<String, String>>,
    /// At most 1,024 characters.
    #[schemars(length(max = 1024))]
    notes: Option<String>,
    /// It is neither deleted nor turned off by force until that is taken away; default false.
    protected: Option<bool>,
}

impl CreateBody {
    pub fn into_model(self) -> Result<CreateVm, HttpError> {
        let network = network(self.switch_name, self.switch_id)?;
        Ok(CreateVm {
            name: Some(self.name),
            memory: self.memory_mb,
            vcpus: self.vcpu,
            disk_size: self.disk_gb,
            disk_folder: Some(self.disk_path.into()),
            iso: self.iso_path.filter(|path| !path.is_empty()).map(Into::into),
            networks: Some(network.into_iter().map(|network| nic(None, network)).collect()),
            metadata: MetadataWish {
                labels: self.labels,
                description: self.notes.map(Some),
                protected: self.protected,
                ..MetadataWish::default()
            },
            ..CreateVm::default()
        })
    }
}

/// What is to be different; what is not given stays. The whole of a create may be sent again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    /// The present one: it cannot be changed.
    #[serde(default, rename = "Id")]
    pub id: Option<String>,
    /// Another renames it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// The present one: it cannot be changed.
    #[serde(default, rename = "diskPath")]
    #[schemars(length(min = 1))]
    pub disk_path: Option<String>,
    /// More grows its first disk; it cannot shrink.
    #[serde(default, rename = "diskGB")]
    #[schemars(range(min = 1, max = 65_536))]
    pub disk_gb: Option<i64>,
    #[serde(default, rename = "memoryMB")]
    #[schemars(range(min = 16))]
    pub memory_mb: Option<i64>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 255))]
    pub vcpu: Option<i64>,
    /// Replaced whole, also while it runs.
    #[serde(default)]
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    pub labels: Option<BTreeMap<String, String>>,
    /// Beside those that there are, also those that others set at the same time. Not together with `labels`.
    #[serde(default, rename = "addLabels")]
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    pub add_labels: Option<BTreeMap<String, String>>,
    /// By their keys; the others stay. Not together with `labels`.
    #[serde(default, rename = "removeLabels")]
    #[schemars(length(max = MAX_LABELS))]
    pub remove_labels: Option<Vec<String>>,
    /// Also while it runs; "" removes them.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub notes: Option<String>,
    /// Also while it runs.
    #[serde(default)]
    pub protected: Option<bool>,
    /// Where the first network adapter is to be, "" for QEMU's user-mode network; one is added where there is none.
    #[serde(default, rename = "switchName")]
    pub switch_name: Option<String>,
    #[serde(default, rename = "switchId")]
    pub switch_id: Option<String>,
    /// Null and "" eject.
    #[serde(default, rename = "isoPath", deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub iso_path: Option<Option<String>>,
    /// The whole list.
    #[serde(default, rename = "networkAdapters")]
    #[schemars(length(max = MAX_DEVICES))]
    pub network_adapters: Option<Vec<AdapterBody>>,
}

/// A network adapter as wished for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterBody {
    /// What people call it; `Network Adapter` unless given.
    #[serde(default)]
    name: Option<String>,
    /// "" is the user-mode network.
    #[serde(default, rename = "switchName")]
    switch_name: Option<String>,
    #[serde(default, rename = "switchId")]
    switch_id: Option<String>,
}

impl AdapterBody {
    pub fn new(name: Option<String>, switch_name: Option<String>, switch_id: Option<String>) -> Self {
        Self { name, switch_name, switch_id }
    }

    pub fn into_model(self) -> Result<NicWish, HttpError> {
        match network(self.switch_name, self.switch_id)? {
            Some(network) => Ok(nic(self.name, network)),
            None => Err(HttpError::invalid("switchName", "be given, or switchId")),
        }
    }
}

/// What an adapter is to be plugged into, where that is said.
///
/// # Errors
/// For an id that is none, or one beside a name.
pub fn network(name: Option<String>, id: Option<String>) -> Result<Option<NetworkWish>, HttpError> {
    match (name, id) {
        (Some(_), Some(_)) => Err(HttpError::invalid("switchId", "not be combined with switchName")),
        (Some(name), None) if name.is_empty() => Ok(Some(NetworkWish::User { forwards: Vec::new() })),
        (Some(name), None) => Ok(Some(NetworkWish::Switch(SwitchRef::Name(name)))),
        (None, Some(id)) => match SwitchId::parse_guid(&id) {
            Some(id) => Ok(Some(NetworkWish::Switch(SwitchRef::Id(id)))),
            None => Err(HttpError::invalid("switchId", format!("be the Id of a switch, not {id:?}"))),
        },
        (None, None) => Ok(None),
    }
}

/// 12 upper-case hex digits.
pub fn mac(mac: MacAddr) -> String {
    mac.octets().iter().map(|byte| format!("{byte:02X}")).collect()
}

pub fn nic(label: Option<String>, network: NetworkWish) -> NicWish {
    NicWish { label, ..NicWish::on(network) }
}

#[derive(Serialize, JsonSchema)]
pub struct Created {
    /// Its name.
    pub created: String,
    pub id: String,
}

/// One of `updated` and `unchanged` is there.
#[derive(Serialize, JsonSchema)]
pub struct Updated {
    #[serde(skip_serializing_if = "Option::is_none")]
    updated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
    name: String,
    id: String,
}

impl Updated {
    pub fn new(id: VmId, name: String, changed: bool) -> Self {
        let (updated, unchanged) = (changed.then_some(true), (!changed).then_some(true));
        Self { updated, unchanged, name, id: id.to_string() }
    }
}

#[derive(Serialize, JsonSchema)]
pub struct Deleted {
    deleted: String,
    id: String,
    /// The guest has not let go of it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<bool>,
}

impl Deleted {
    pub fn new(id: impl ToString, pending: bool) -> Self {
        Self { deleted: id.to_string(), id: id.to_string(), pending: pending.then_some(true) }
    }
}

#[derive(Serialize, JsonSchema)]
pub struct Started {
    pub started: String,
    #[serde(rename = "AlreadyRunning", skip_serializing_if = "Option::is_none")]
    pub already_running: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
pub struct Stopped {
    pub stopped: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Restarted {
    pub restarted: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Suspended {
    pub suspended: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Resumed {
    pub resumed: String,
}

/// Query and body may both say it, as long as they agree.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Force {
    /// Do not ask the guest: cut the power, or reset, at once.
    pub force: Option<bool>,
}
