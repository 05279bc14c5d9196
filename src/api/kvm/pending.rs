//! Where a VM's definition and what its QEMU has differ.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{disk_view::DiskView, pinning::CpuPinning};
use crate::model::{Nic, VmSpec, VmView};

/// A setting that QEMU does not have yet.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Pending {
    pub configured: Value,
    pub in_effect: Value,
}

/// Where the definition and what QEMU has differ; empty for a VM that does not run.
pub fn pending(view: &VmView) -> BTreeMap<Cow<'static, str>, Pending> {
    let Some(now) = &view.in_effect else { return BTreeMap::new() };
    let (configured, in_effect) = (settings(&view.spec), settings(now));
    let pairs = configured.into_iter().zip(in_effect);
    pairs
        .filter(|((_, configured), (_, in_effect))| configured != in_effect)
        .map(|((name, configured), (_, in_effect))| (name.into(), Pending { configured, in_effect }))
        .collect()
}

fn settings(spec: &VmSpec) -> [(&'static str, Value); 12] {
    [
        ("vcpus", json!(spec.vcpus)),
        ("max_vcpus", json!(spec.max_vcpus)),
        ("cpu_pinning", json!(spec.cpu_pinning.as_ref().map(CpuPinning::of))),
        ("cpu", json!(spec.cpu)),
        ("memory", json!(spec.memory)),
        ("disks", json!(spec.listed_disks().iter().map(DiskView::of).collect::<Vec<_>>())),
        ("networks", json!(nic_settings(&spec.nics))),
        ("disk_size", json!(spec.root().map(|disk| disk.size))),
        ("iso", json!(spec.iso)),
        ("cloud_init", json!(spec.seed.as_ref().map(|seed| seed.id))),
        ("on_io_error", json!(spec.policy.on_io_error)),
        ("io_limits", json!(spec.root().and_then(|disk| disk.io_limits))),
    ]
}

fn nic_settings(nics: &[Nic]) -> Vec<Value> {
    let entry = |nic: &Nic| {
        let mut entry = json!({ "id": nic.id.to_string(), "device": nic.name, "mac": nic.mac });
        match nic.switch() {
            Some(switch) => {
                entry["switch"] = switch.to_string().into();
                entry["port"] = json!(nic.port());
            }
            None => entry["user"] = json!({ "forwards": nic.backend.forwards() }),
        }
        entry
    };
    nics.iter().map(entry).collect()
}
