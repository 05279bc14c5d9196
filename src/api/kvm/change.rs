//! Handlers and bodies of the updates: CPU, memory, disk.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    error::Problem,
    pinning::CpuPinning,
    updated::{Of, at_least_one, update},
    vm_id,
};
use crate::{
    api::http::{HttpError, Reply, Request, given},
    model::{Change, IoLimits, VmSpec},
};

/// At least one field.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct CpuBody {
    /// 1 to 255, at most `max_vcpus` where the VM was created with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub vcpus: Option<i64>,
    /// Replaced whole; null removes it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<CpuPinning>")]
    pub cpu_pinning: Option<Option<CpuPinning>>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryBody {
    /// MiB, at most `max_memory`.
    #[schemars(range(min = 16))]
    pub memory: i64,
}

/// At least one field.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct DiskUpdate {
    /// GiB; a disk only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub disk_size: Option<i64>,
    /// Replaced whole; null removes them.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<IoLimits>")]
    pub io_limits: Option<Option<IoLimits>>,
    /// `true`: what the base image that the disk lies on has in it by now is right, though it is not what was cloned. The VM can be started then;
    /// what its guest sees where it has not written is the new content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("const" = true))]
    pub accept_base: Option<bool>,
}

impl DiskUpdate {
    /// The change of the disk with this name, and what is said of it.
    ///
    /// # Errors
    /// [`HttpError`] without a field; those of the base image.
    pub async fn change(self, shared: &Shared, spec: &VmSpec, name: &str) -> Result<Change, Problem> {
        let accepts = match self.accept_base {
            Some(true) => Some(shared.service.accepted_base(spec, name).await?),
            Some(false) => return Err(HttpError::invalid("accept_base", "be true, or not be given").into()),
            None => None,
        };
        if self.disk_size.is_none() && self.io_limits.is_none() {
            return accepts.ok_or_else(|| at_least_one("disk_size, io_limits or accept_base").into());
        }
        let io_limits = self.io_limits.map(|limits| limits.map(Box::new));
        let disk = Change::Disk { name: name.to_owned(), size: self.disk_size, io_limits };
        Ok(match accepts {
            Some(accepts) => Change::Several(vec![accepts, disk]),
            None => disk,
        })
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    pub vcpus: u32,
    pub cpu_pinning: Option<CpuPinning>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// MiB.
    pub memory: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct RootDisk {
    /// GiB.
    pub disk_size: Option<u64>,
    pub io_limits: Option<IoLimits>,
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
    let message =
        if body.disk_size.is_some() { "Disk resized successfully." } else { "I/O limits successfully updated." };
    let name = view.spec.root().map(|disk| disk.name.clone()).unwrap_or_default();
    let change = body.change(&shared, &view.spec, &name).await?;
    update(&shared, id, Of::vm(id), change, message, |spec| RootDisk {
        disk_size: spec.root().map(|disk| disk.size),
        io_limits: spec.root().and_then(|disk| disk.io_limits),
    })
    .await
}
