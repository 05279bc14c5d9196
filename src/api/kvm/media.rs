//! Bodies and handlers of what a VM needs of the host and may have lost: the ISO image in its CD drive, and its machine
//! type.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    error::Problem,
    updated::{Of, Updated, update},
    vm_id,
};
use crate::{
    api::http::{Reply, Request, given},
    model::{Applied, VmId},
};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IsoBody {
    /// An ISO image in an image directory; null ejects.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub iso: Option<Option<String>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Iso {
    /// The image in its CD drive.
    pub iso: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineBody {
    /// A machine type of this QEMU, of the same kind as the present one (`pc-q35-7.2`, or `q35` for the latest); without
    /// one the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct MachineType {
    pub machine_type: String,
}

pub async fn put_iso(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: IsoBody = request.json()?;
    set_iso(&shared, id, body.iso.flatten().map(Into::into)).await
}

pub async fn eject(shared: Shared, request: Request) -> Result<Reply, Problem> {
    set_iso(&shared, vm_id(&request)?, None).await
}

async fn set_iso(shared: &Shared, id: VmId, iso: Option<PathBuf>) -> Result<Reply, Problem> {
    let message = if iso.is_some() { "ISO image successfully inserted." } else { "ISO image successfully ejected." };
    let change = shared.service.medium(id, iso.as_deref()).await?;
    update(shared, id, Of::vm(id), change, message, |spec| Iso { iso: spec.iso.clone() }).await
}

pub async fn machine(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: MachineBody = request.json_or_default()?;
    let view = shared.service.change_machine(id, body.r#type.as_deref()).await?;
    let configured = MachineType { machine_type: view.spec.machine.machine_type.clone() };
    let message = "Machine type successfully updated.";
    Ok(Updated::new(Of::vm(id), &view, configured, message, Applied::NextStart).reply())
}
