//! Handlers and bodies of the updates: CPU, memory, disk, and what of them is still pending.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use warp::http::StatusCode;

use super::{Shared, error::Problem, pinning::CpuPinning, vm_id};
use crate::{
    api::http::{HttpError, Reply, Request, given},
    model::{Applied, Change, IoLimits, VmId, VmSpec, VmView},
};

/// At least one field.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuBody {
    /// 1 to 255, at most `max_vcpus` where the VM was created with one.
    #[serde(default)]
    vcpus: Option<i64>,
    /// Replaced whole; null removes it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<CpuPinning>")]
    cpu_pinning: Option<Option<CpuPinning>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryBody {
    /// MiB, at most `max_memory`.
    memory: i64,
}

/// At least one field.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskUpdate {
    /// GiB; a disk only grows.
    #[serde(default)]
    pub disk_size: Option<i64>,
    /// Replaced whole; null removes them.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<IoLimits>")]
    pub io_limits: Option<Option<IoLimits>>,
}

/// What became of an update.
#[derive(Serialize, JsonSchema)]
pub struct Updated<T> {
    #[serde(flatten)]
    of: Of,
    #[serde(flatten)]
    configured: T,
    /// Always `updated`.
    status: &'static str,
    message: &'static str,
    applied: Applied,
    /// What of it waits for the next start.
    pending: BTreeMap<&'static str, Pending>,
}

/// What was changed.
#[derive(Serialize, JsonSchema)]
pub struct Of {
    /// Of the VM; of a disk that has a path of its own, the disk's.
    id: String,
    vm_id: String,
}

impl Of {
    pub fn vm(id: VmId) -> Self {
        Self { id: id.to_string(), vm_id: id.to_string() }
    }

    /// A disk's name is its id.
    pub fn disk(vm: VmId, name: &str) -> Self {
        Self { id: name.to_owned(), vm_id: vm.to_string() }
    }
}

#[derive(Serialize, JsonSchema)]
pub struct Cpu {
    vcpus: u32,
    cpu_pinning: Option<CpuPinning>,
}

#[derive(Serialize, JsonSchema)]
pub struct Memory {
    /// MiB.
    memory: u64,
}

#[derive(Serialize, JsonSchema)]
pub struct RootDisk {
    /// GiB.
    disk_size: Option<u64>,
    io_limits: Option<IoLimits>,
}

impl<T: Serialize> Updated<T> {
    pub fn new(of: Of, view: &VmView, configured: T, message: &'static str, applied: Applied) -> Self {
        Self { of, configured, status: "updated", message, applied, pending: pending(view) }
    }

    pub fn reply(&self) -> Reply {
        Reply::json(StatusCode::OK, self)
    }
}

/// A setting that QEMU does not have yet.
#[derive(Serialize, JsonSchema)]
pub struct Pending {
    configured: Value,
    in_effect: Value,
}

/// Where the definition and what QEMU has differ; empty for a VM that does not run.
pub fn pending(view: &VmView) -> BTreeMap<&'static str, Pending> {
    let Some(now) = &view.in_effect else { return BTreeMap::new() };
    let (configured, in_effect) = (settings(&view.spec), settings(now));
    let pairs = configured.into_iter().zip(in_effect);
    pairs
        .filter(|((_, configured), (_, in_effect))| configured != in_effect)
        .map(|((name, configured), (_, in_effect))| (name, Pending { configured, in_effect }))
        .collect()
}

fn settings(spec: &VmSpec) -> [(&'static str, Value); 10] {
    [
        ("vcpus", json!(spec.vcpus)),
        ("max_vcpus", json!(spec.max_vcpus)),
        ("cpu_pinning", json!(spec.cpu_pinning.as_ref().map(CpuPinning::of))),
        ("memory", json!(spec.memory)),
        ("disks", json!(spec.disks.iter().skip(1).map(super::disks::DiskView::of).collect::<Vec<_>>())),
        ("networks", json!(super::networks::settings(&spec.nics))),
        ("disk_size", json!(spec.root().map(|disk| disk.size))),
        ("iso", json!(spec.iso)),
        ("on_io_error", json!(spec.policy.on_io_error)),
        ("io_limits", json!(spec.root().and_then(|disk| disk.io_limits))),
    ]
}

pub async fn update<T: Serialize>(
    shared: &Shared,
    id: VmId,
    of: Of,
    change: Change,
    message: &'static str,
    configured: impl FnOnce(&VmSpec) -> T,
) -> Result<Reply, Problem> {
    let (view, applied) = shared.service.change(id, change).await?;
    let configured = configured(&view.spec);
    Ok(Updated::new(of, &view, configured, message, applied).reply())
}

pub fn at_least_one(fields: &'static str) -> HttpError {
    HttpError::invalid(fields, "be given, at least one of them")
}

pub async fn cpu(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: CpuBody = request.json()?;
    if body.vcpus.is_none() && body.cpu_pinning.is_none() {
        return Err(at_least_one("vcpus or cpu_pinning").into());
    }
    let pinning = body.cpu_pinning.map(|given| given.map(CpuPinning::into_model).transpose()).transpose()?;
    let change = Change::Cpu { vcpus: body.vcpus, pinning };
    update(&shared, id, Of::vm(id), change, "CPU configuration successfully updated.", |spec| Cpu {
        vcpus: spec.vcpus,
        cpu_pinning: spec.cpu_pinning.as_ref().map(CpuPinning::of),
    })
    .await
}

pub async fn memory(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: MemoryBody = request.json()?;
    let change = Change::Memory(body.memory);
    update(&shared, id, Of::vm(id), change, "Memory configuration successfully updated.", |spec| Memory {
        memory: spec.memory,
    })
    .await
}

pub async fn disk(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let view = shared.service.view(id)?;
    let body: DiskUpdate = request.json()?;
    if body.disk_size.is_none() && body.io_limits.is_none() {
        return Err(at_least_one("disk_size or io_limits").into());
    }
    let message =
        if body.disk_size.is_some() { "Disk resized successfully." } else { "I/O limits successfully updated." };
    let name = view.spec.root().map(|disk| disk.name.clone()).unwrap_or_default();
    let change =
        Change::Disk { name, size: body.disk_size, io_limits: body.io_limits.map(|limits| limits.map(Box::new)) };
    update(&shared, id, Of::vm(id), change, message, |spec| RootDisk {
        disk_size: spec.root().map(|disk| disk.size),
        io_limits: spec.root().and_then(|disk| disk.io_limits),
    })
    .await
}
