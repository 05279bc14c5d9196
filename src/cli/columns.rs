//! The one table of how each thing of the API is shown: its columns, and those of `-o wide`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    sizes::{written, written_mib, written_seconds},
    words::named,
};
use crate::{
    api::kvm::bodies::{
        Details, DiskRow, EventBody, ImageFields, KnownImageFields, Listed, NetworkRow, NetworkView, OperationBody,
        Performance, SwitchFields, VolumeFields,
    },
    model::IoLimits,
};

pub enum Look {
    Text,
    /// Coloured by what it says.
    Status,
}

pub struct Column<T> {
    pub title: &'static str,
    /// Only with `-o wide`.
    pub wide: bool,
    pub look: Look,
    pub cell: fn(&T) -> String,
}

/// What can be shown as rows of a table.
pub trait Tabled: Serialize + Sized + 'static {
    const COLUMNS: &'static [Column<Self>];
    /// What `--quiet` shows.
    fn id(&self) -> &str;
}

const fn column<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { title, wide: false, look: Look::Text, cell }
}

const fn status<T>(cell: fn(&T) -> String) -> Column<T> {
    Column { title: "STATUS", wide: false, look: Look::Status, cell }
}

const fn wide<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { title, wide: true, look: Look::Text, cell }
}

/// All about a VM, put together of what the API tells of it.
pub struct Whole {
    pub details: Details,
    pub disks: Vec<DiskRow>,
    pub networks: Vec<NetworkRow>,
}

/// The lists that tell more are in the place of those of the definition.
impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |part: serde_json::Result<Value>| part.map_err(serde::ser::Error::custom);
        let mut all = value(serde_json::to_value(&self.details))?;
        all["disks"] = value(serde_json::to_value(&self.disks))?;
        all["networks"] = value(serde_json::to_value(&self.networks))?;
        all.serialize(serializer)
    }
}

impl Tabled for Listed {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |vm| vm.name.clone()),
        status(|vm| vm.status.as_str().to_owned()),
        wide("CPUS", |vm| vm.vcpus.to_string()),
        wide("MEMORY", |vm| written_mib(vm.memory)),
        wide("ADDRESSES", |vm| vm.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        wide("UPTIME", |vm| vm.uptime.map(written_seconds).unwrap_or_default()),
        wide("PROFILE", |vm| vm.profile.clone()),
        wide("LABELS", |vm| labels(&vm.labels)),
        column("ID", |vm| vm.id.clone()),
    ];
    fn id(&self) -> &str {
        &self.id
    }
}

/// What a VM uses, where it runs.
#[derive(Serialize)]
pub struct Used {
    #[serde(flatten)]
    pub vm: Listed,
    pub performance: Option<Performance>,
}

impl Used {
    fn figure<T>(&self, figure: fn(&Performance) -> Option<T>, write: fn(T) -> String) -> String {
        self.performance.as_ref().and_then(figure).map(write).unwrap_or_default()
    }
}

impl Tabled for Used {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |row| row.vm.name.clone()),
        status(|row| row.vm.status.as_str().to_owned()),
        column("CPU", |row| row.figure(|p| p.cpu_usage, |usage| format!("{usage:.1}%"))),
        column("WAIT", |row| row.figure(|p| p.cpu_wait, |wait| format!("{wait:.1}%"))),
        column("MEMORY", |row| row.figure(|p| p.memory_usage, written_mib)),
        column("READS/S", |row| row.figure(|p| p.disk_read_iops, |reads| reads.to_string())),
        column("WRITES/S", |row| row.figure(|p| p.disk_write_iops, |writes| writes.to_string())),
        column("PACKETS IN/S", |row| row.figure(|p| p.network_in_packets, |packets| packets.to_string())),
        column("OUT/S", |row| row.figure(|p| p.network_out_packets, |packets| packets.to_string())),
        column("UPTIME", |row| row.figure(|p| p.uptime, written_seconds)),
        wide("ID", |row| row.vm.id.clone()),
    ];
    fn id(&self) -> &str {
        &self.vm.id
    }
}

impl Tabled for DiskRow {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |row| row.disk.name.clone()),
        column("SIZE", |row| format!("{}G", row.disk.disk_size)),
        column("LIMITS", |row| limits(row.disk.io_limits.as_ref())),
        column("IMAGE", |row| match (&row.disk.base_image, row.disk.attached) {
            (_, true) => row.disk.disk_file.display().to_string(),
            (base, false) => base.as_ref().map(|base| base.display().to_string()).unwrap_or_default(),
        }),
        wide("FILE", |row| row.disk.disk_file.display().to_string()),
    ];
    fn id(&self) -> &str {
        &self.disk.name
    }
}

impl Tabled for NetworkRow {
    const COLUMNS: &'static [Column<Self>] = &[
        column("DEVICE", |row| row.network.device.clone()),
        column("NETWORK", |row| network(&row.network)),
        status(|row| row.network.status.to_string()),
        column("MAC", |row| row.network.mac.clone()),
        column("ADDRESSES", |row| row.network.addresses.join(" ")),
        column("NAME", |row| row.network.name.clone()),
        wide("TRAFFIC", |row| {
            let traffic = row.network.traffic.as_ref();
            traffic.map(|t| format!("{} in, {} out", written(t.in_bytes), written(t.out_bytes))).unwrap_or_default()
        }),
        wide("ID", |row| row.network.id.clone()),
    ];
    fn id(&self) -> &str {
        &self.network.id
    }
}

/// Its switch, or the user-mode network with the ports that lead into it.
pub fn network(view: &NetworkView) -> String {
    match (&view.switch, &view.user) {
        (Some(switch), _) => switch.name.clone().unwrap_or_else(|| switch.id.clone()),
        (None, Some(user)) => {
            let forward = |f: &crate::model::Forward| {
                format!(" {}:{}->{}/{}", f.host_address, f.host_port, f.guest_port, f.protocol)
            };
            std::iter::once("user".to_owned()).chain(user.forwards.iter().map(forward)).collect()
        }
        (None, None) => String::new(),
    }
}

/// `env=prod tier=web`
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// `iops=500 bps=10485760`
pub fn limits(limits: Option<&IoLimits>) -> String {
    let Some(Ok(serde_json::Value::Object(limits))) = limits.map(serde_json::to_value) else { return String::new() };
    limits.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

impl Tabled for OperationBody {
    const COLUMNS: &'static [Column<Self>] = &[
        column("ID", |operation| operation.id.clone()),
        column("KIND", |operation| operation.kind.clone()),
        status(|operation| operation.status.to_string()),
        column("ABOUT", |operation| operation.name.clone().unwrap_or_default()),
        column("BEGAN", |operation| operation.created_at.clone()),
        column("NOW", |operation| {
            let under_way = operation.phases.iter().rfind(|phase| phase.ended_at.is_none());
            under_way.map(ToString::to_string).unwrap_or_default()
        }),
        wide("CALLER", |operation| operation.caller.clone()),
    ];
    fn id(&self) -> &str {
        &self.id
    }
}

impl Tabled for ImageFields {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |image| format!("{}:{}", image.name, image.tag)),
        column("SIZE", |image| written(image.virtual_size)),
        column("ON DISK", |image| written(image.size)),
        column("VMS", |image| image.vms.len().to_string()),
        column("MADE", |image| image.created_at.clone()),
        column("ID", |image| image.id.clone()),
        wide("FROM", |image| named(&image.format)),
        wide("SHA-256", |image| image.sha256.clone()),
        wide("FILE", |image| image.layer.file.display().to_string()),
    ];
    fn id(&self) -> &str {
        &self.id
    }
}

impl Tabled for KnownImageFields {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |image| format!("{}:{}", image.name, image.tag)),
        column("HERE", |image| if image.here { "yes" } else { "" }.to_owned()),
        column("URL", |image| image.url.clone()),
    ];
    fn id(&self) -> &str {
        &self.name
    }
}

impl Tabled for VolumeFields {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |volume| volume.name.clone()),
        column("SIZE", |volume| format!("{}G", volume.disk_size)),
        column("ON DISK", |volume| volume.allocated.map(written).unwrap_or_default()),
        column("VM", |volume| {
            let of = volume.attached.as_ref();
            of.map(|of| of.name.clone().unwrap_or_else(|| of.vm_id.clone())).unwrap_or_default()
        }),
        column("DISK", |volume| volume.attached.as_ref().and_then(|of| of.disk.clone()).unwrap_or_default()),
        column("MADE", |volume| volume.created_at.clone()),
        column("ID", |volume| volume.id.clone()),
        wide("FILE", |volume| volume.disk_file.display().to_string()),
    ];
    fn id(&self) -> &str {
        &self.id
    }
}

impl Tabled for SwitchFields {
    const COLUMNS: &'static [Column<Self>] = &[
        column("NAME", |switch| switch.name.clone()),
        column("TYPE", |switch| named(&switch.r#type)),
        column("SUBNET", |switch| switch.subnet.clone().unwrap_or_default()),
        column("NAT", |switch| if switch.nat == Some(true) { "yes" } else { "" }.to_owned()),
        column("ADAPTER", |switch| switch.adapter.clone().unwrap_or_default()),
        column("VMS", |switch| switch.vms.len().to_string()),
        column("PROBLEM", |switch| if switch.problem.is_some() { "yes" } else { "" }.to_owned()),
        column("ID", |switch| switch.id.clone()),
        wide("BRIDGE", |switch| switch.bridge.clone()),
        wide("LABELS", |switch| labels(&switch.labels)),
    ];
    fn id(&self) -> &str {
        &self.id
    }
}

impl Tabled for EventBody {
    const COLUMNS: &'static [Column<Self>] = &[
        column("TIME", |event| event.time.clone()),
        column("TYPE", |event| event.r#type.to_string()),
        column("ABOUT", |event| event.name.clone()),
        column("WHAT", event_details),
        wide("BY", |event| event.by.iter().map(|by| by.caller.clone()).collect::<Vec<_>>().join(" ")),
        wide("ID", |event| event.id.clone()),
    ];
    fn id(&self) -> &str {
        &self.id
    }
}

/// `status=running`
pub fn event_details(event: &EventBody) -> String {
    let Ok(serde_json::Value::Object(details)) = serde_json::to_value(&event.details) else { return String::new() };
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        value => value.to_string(),
    };
    let said = details.iter().filter(|(_, value)| value.as_array().is_none_or(|items| !items.is_empty()));
    said.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
}
