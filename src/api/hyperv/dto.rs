//! The bodies of this dialect about VMs. Numbers of requests are as wide as JSON's: their range is the domain's to judge.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::state::{State, health, uptime};
use crate::{
    api::http::HttpError,
    model::{CreateVm, MacAddr, NetworkWish, NicWish, Sample, SwitchId, SwitchRef, VmId, VmView, now_ms},
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
    /// Bytes, as defined.
    memory_startup: u64,
    /// Its first disk.
    disk_file: Option<PathBuf>,
    #[serde(rename = "DiskGB")]
    disk_gb: Option<u64>,
    /// The ISO image in its CD drive.
    iso_path: Option<PathBuf>,
}

impl Vm {
    pub fn of(view: &VmView, sample: Option<&Sample>) -> Self {
        const MIB: u64 = 1 << 20;
        let spec = &view.spec;
        let usage = sample.and_then(|sample| sample.cpu_usage).unwrap_or(0.0);
        Self {
            id: spec.id.to_string(),
            name: spec.name.clone(),
            state: State::of(view),
            cpu_usage: usage.round().clamp(0.0, 100.0) as u8,
            memory_assigned: view.in_effect.as_ref().map_or(0, |now| now.memory * MIB),
            uptime: uptime(view.started_at.map_or(0, |since| now_ms().saturating_sub(since) / 1000)),
            health: health(view),
            processor_count: spec.vcpus,
            memory_startup: spec.memory * MIB,
            disk_file: spec.root().map(|disk| disk.file.clone()),
            disk_gb: spec.root().map(|disk| disk.size),
            iso_path: spec.iso.clone(),
        }
    }
}

/// A VM to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// 1 to 64 letters, digits, '.', '_', '-', spaces; need not be unique.
    name: String,
    /// 16 to the host's memory.
    #[serde(rename = "memoryMB")]
    memory_mb: i64,
    /// 1 to 255.
    vcpu: i64,
    /// A folder in a storage directory; it is made if need be. The disk is `<diskPath>/<id>.qcow2`.
    #[serde(rename = "diskPath")]
    disk_path: String,
    /// 1 to 65,536.
    #[serde(rename = "diskGB")]
    disk_gb: i64,
    /// Without a switch there is no network adapter.
    #[serde(rename = "switchName")]
    switch_name: Option<String>,
    /// Where several switches bear a name.
    #[serde(rename = "switchId")]
    switch_id: Option<String>,
    /// An ISO image in an image directory; it boots where the disk does not.
    #[serde(rename = "isoPath")]
    iso_path: Option<String>,
}

impl CreateBody {
    pub fn into_model(self) -> Result<CreateVm, HttpError> {
        let switch = one_switch(self.switch_name, self.switch_id)?;
        Ok(CreateVm {
            name: Some(self.name),
            memory: self.memory_mb,
            vcpus: self.vcpu,
            disk_size: self.disk_gb,
            disk_folder: Some(self.disk_path.into()),
            iso: self.iso_path.map(Into::into),
            networks: Some(switch.into_iter().map(|switch| card(None, NetworkWish::Switch(switch))).collect()),
            ..CreateVm::default()
        })
    }
}

/// What is to be different; what is not given stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    #[serde(default, rename = "memoryMB")]
    pub memory_mb: Option<i64>,
    #[serde(default)]
    pub vcpu: Option<i64>,
    /// Where the first network adapter is to be; one is added where there is none.
    #[serde(default, rename = "switchName")]
    pub switch_name: Option<String>,
    #[serde(default, rename = "switchId")]
    pub switch_id: Option<String>,
    /// Null ejects.
    #[serde(default, rename = "isoPath", deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub iso_path: Option<Option<String>>,
    /// The whole list.
    #[serde(default, rename = "networkAdapters")]
    pub network_adapters: Option<Vec<AdapterBody>>,
}

/// A null that is there is `Some(None)`.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A network adapter as wished for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterBody {
    /// What people call it; `Network Adapter` unless given.
    #[serde(default)]
    name: Option<String>,
    /// "" is QEMU's user-mode network.
    #[serde(default, rename = "switchName")]
    switch_name: Option<String>,
    #[serde(default, rename = "switchId")]
    switch_id: Option<String>,
}

impl AdapterBody {
    pub fn new(name: Option<String>, switch_name: Option<String>, switch_id: Option<String>) -> Self {
        Self { name, switch_name, switch_id }
    }

    /// `place` is what stands before its fields' names in an objection.
    pub fn into_model(self, place: &str) -> Result<NicWish, HttpError> {
        if self.switch_id.is_none() && self.switch_name.as_deref() == Some("") {
            return Ok(card(self.name, NetworkWish::User { forwards: Vec::new() }));
        }
        match one_switch(self.switch_name, self.switch_id)? {
            Some(switch) => Ok(card(self.name, NetworkWish::Switch(switch))),
            None => Err(HttpError::invalid(format!("{place}switchName"), "be given")),
        }
    }
}

/// # Errors
/// For an id that is none, or one beside a name.
pub fn one_switch(name: Option<String>, id: Option<String>) -> Result<Option<SwitchRef>, HttpError> {
    match (name, id) {
        (Some(_), Some(_)) => Err(HttpError::invalid("switchId", "not be combined with switchName")),
        (Some(name), None) => Ok(Some(SwitchRef::Name(name))),
        (None, Some(id)) => match SwitchId::parse(&id) {
            Some(id) => Ok(Some(SwitchRef::Id(id))),
            None => Err(HttpError::invalid("switchId", format!("be the Id of a switch, not {id:?}"))),
        },
        (None, None) => Ok(None),
    }
}

/// 12 upper-case hex digits.
pub fn mac(mac: MacAddr) -> String {
    mac.octets().iter().map(|byte| format!("{byte:02X}")).collect()
}

pub fn card(label: Option<String>, network: NetworkWish) -> NicWish {
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
