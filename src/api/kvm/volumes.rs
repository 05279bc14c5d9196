//! Volumes: bodies, handlers, and their rows of the route table.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{
    Shared, content,
    error::{Endpoint, NotFound, Problem, endpoint},
    times::time,
};
use crate::{
    api::http::{Reply, Request, Route, in_section, listing},
    model::{CloneMode, Error, ImageFormat, LayerId, Role},
    service::{
        operations::Work,
        volumes::{MakeVolume, VolumeUser, VolumeView},
    },
};

const VOLUMES: Endpoint = endpoint(NotFound::Short, "Internal server error while retrieving volumes.");
const MAKE: Endpoint = endpoint(NotFound::Short, "Internal error during volume creation.");
const DELETE: Endpoint = endpoint(NotFound::Short, "Internal error during volume deletion.");
const TAG: &str = "Volumes";

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/volumes", "listVolumes", in_section(&VOLUMES, list))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("The volumes, oldest first: disks that stay when their VM goes.")
            .output::<Vec<VolumeFields>>(200, "The volumes."),
        Route::post("/volumes", "createVolume", in_section(&MAKE, make))
            .does(Work::MakeVolume)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Make a volume, empty or of an image. (A disk becomes one when it is removed with `keep=true`.)")
            .input::<VolumeBody>()
            .output::<VolumeFields>(201, "The volume, which no VM has yet.")
            .error(404, "The base image does not exist.")
            .error(409, "The base image is open for writing elsewhere, or there are too many volumes.")
            .error(507, "A full clone does not fit; the message has the figures."),
        Route::get("/volumes/{volume}", "getVolume", in_section(&VOLUMES, details))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("One volume, with the VM that has it.")
            .output::<VolumeFields>(200, "The volume.")
            .error(404, "There is no such volume."),
        Route::get("/volumes/{volume}/content", "getVolumeContent", in_section(&VOLUMES, read))
            .role(Role::Operator)
            .tag(TAG)
            .summary("The data of a volume that no VM has and that stands alone, as a qcow2 file.")
            .output_file(200, "The file; `ETag` is another when the volume is.")
            .output_file(206, "The range that was asked for.")
            .error(404, "There is no such volume.")
            .error(409, "A VM has it, or it lies on an image.")
            .error(416, "The range begins beyond the end."),
        Route::delete("/volumes/{volume}", "deleteVolume", in_section(&DELETE, delete))
            .does(Work::DeleteVolume)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Delete a volume that no VM has, with its data.")
            .output::<VolumeDone>(200, "It is gone.")
            .error(404, "There is no such volume.")
            .error(409, "A VM has it, which the message names; or it is read or attached at this moment."),
    ]
}

/// A volume to be made.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "data", "disk_size": 20 }))]
#[schemars(example = json!({ "name": "data", "disk_size": 20, "base_image": "debian:12", "clone": "full" }))]
pub struct VolumeBody {
    /// 1 to 64 letters and digits of any script, `._-()+@:` and spaces; need not be unique.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// GiB.
    #[schemars(range(min = 1, max = 65_536))]
    pub disk_size: i64,
    /// Cloned; without one the volume is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base_image: Option<PathBuf>,
    /// `linked` (default) or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<CloneMode>,
}

/// A volume.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct VolumeFields {
    pub id: String,
    pub name: String,
    /// GiB.
    pub disk_size: u64,
    pub disk_file: PathBuf,
    pub format: ImageFormat,
    /// Bytes that it takes on the host's storage, where that tells.
    pub allocated: Option<u64>,
    pub base_image: Option<PathBuf>,
    pub clone: Option<CloneMode>,
    /// Who has it; null where nobody has.
    pub attached: Option<AttachedTo>,
    pub created_at: String,
}

/// The VM that has a volume.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AttachedTo {
    pub vm_id: String,
    /// Null of a VM whose record cannot be read.
    pub name: Option<String>,
    /// The name of the disk that it is; null while a guest has not let go of a disk that was removed.
    pub disk: Option<String>,
}

/// A volume that was deleted.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct VolumeDone {
    #[serde(flatten)]
    pub volume: VolumeFields,
    pub status: String,
    pub message: String,
}

impl VolumeFields {
    fn of(view: &VolumeView) -> Self {
        Self {
            id: view.id.to_string(),
            name: view.name.clone(),
            disk_size: view.size,
            disk_file: view.file.clone(),
            format: ImageFormat::Qcow2,
            allocated: view.allocated,
            base_image: view.base.as_ref().map(|base| base.path.clone()),
            clone: view.base.as_ref().map(|_| view.clone),
            attached: view.user.clone().map(|VolumeUser { vm, name, disk }| AttachedTo {
                vm_id: vm.to_string(),
                name,
                disk,
            }),
            created_at: time(view.created_at),
        }
    }
}

/// The volume that a client names.
///
/// # Errors
/// [`Error::VolumeNotFound`] for what is no id of one.
pub(super) fn id(named: &str) -> Result<LayerId, Error> {
    LayerId::parse(named).ok_or_else(|| Error::VolumeNotFound(named.to_owned()))
}

async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let mut all = shared.service.volumes().await?.into_iter();
    Ok(listing::array(move |_: Option<()>| {
        let page: Vec<VolumeFields> = all.by_ref().take(listing::PAGE).map(|view| VolumeFields::of(&view)).collect();
        (page, (all.len() > 0).then_some(()))
    }))
}

async fn make(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: VolumeBody = request.json()?;
    let wish = MakeVolume {
        id: request.makes.map(LayerId::from),
        name: body.name,
        size: body.disk_size,
        base_image: body.base_image,
        clone: body.clone.unwrap_or_default(),
    };
    let made = shared.service.make_volume(wish).await?;
    Ok(Reply::json(StatusCode::CREATED, &VolumeFields::of(&made)))
}

async fn details(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let found = shared.service.volume(id(request.param("volume"))?).await?;
    Ok(Reply::json(StatusCode::OK, &VolumeFields::of(&found)))
}

async fn read(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let found = shared.service.volume_content(id(request.param("volume"))?).await?;
    content::send(found, &request)
}

async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let gone = shared.service.delete_volume(id(request.param("volume"))?).await?;
    let (status, message) = ("deleted".to_owned(), "Volume successfully deleted.".to_owned());
    Ok(Reply::json(StatusCode::OK, &VolumeDone { volume: VolumeFields::of(&gone), status, message }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::has_examples;

    #[test]
    fn what_is_shown_as_an_example_is_taken() {
        has_examples::<VolumeBody>();
    }
}
