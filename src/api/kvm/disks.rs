//! The disks of a VM, one by one: bodies and handlers.

use std::{borrow::Cow, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{
    Shared,
    change::DiskUpdate,
    disk_view::DiskView,
    error::Problem,
    updated::{Of, update},
    vm_id, volumes,
};
use crate::{
    api::http::{HttpError, QueryParam, Reply, Request},
    model::{Applied, CloneMode, Disk, DiskWish, Error, ExistingDisk, ImageFormat, IoLimits, VmSpec, VmView},
};

pub(super) const REMOVE_QUERY: &[QueryParam] = &[
    QueryParam::boolean("keep", "What is in it stays, as a volume that other VMs can be given; default false."),
    QueryParam::text("name", "What the volume is to be called, with `keep`; default after the VM and the disk."),
];

/// A disk beside the root disk.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "disk_size": 20 }), example = serde_json::json!({ "path": "/srv/vms/data.qcow2", "format": "qcow2" }), example = serde_json::json!({ "volume": "123e4567-e89b-42d3-a456-426614174000" }))]
pub struct DiskBody {
    /// GiB. Of a disk that is attached as it is, it is what it has, and may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub disk_size: Option<i64>,
    /// A disk image below a storage directory, attached as it is: it is never deleted, renamed or given another owner, and stays when the disk
    /// or the VM is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub path: Option<PathBuf>,
    /// Of the image at `path`, which does not say it reliably itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// The id of a volume that no VM has, which the disk is to be in: it has its size, and stays when the disk or the VM is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub volume: Option<String>,
    /// Cloned; without one the disk is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base_image: Option<PathBuf>,
    /// `linked` (default) or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<CloneMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_limits: Option<IoLimits>,
}

impl DiskBody {
    pub fn of(disk: &Disk) -> Self {
        let (foreign, base) = (disk.file.foreign(), disk.base.as_ref().filter(|_| disk.file.own().is_some()));
        let volume = disk.file.volume().map(|_| disk.layer.to_string());
        Self {
            disk_size: Some(disk.size.try_into().unwrap_or(i64::MAX)),
            path: foreign.map(|file| file.path.clone()),
            format: foreign.map(|file| file.format),
            volume,
            base_image: base.map(|base| base.path.clone()),
            clone: base.map(|_| disk.clone),
            io_limits: disk.io_limits,
        }
    }

    /// # Errors
    /// [`Error::Invalid`] for one half of what names an image.
    pub fn into_model(self) -> Result<DiskWish, Error> {
        let existing = match (self.path, self.format) {
            (None, None) => None,
            (Some(path), Some(format)) => Some(ExistingDisk { path, format }),
            (Some(_), None) => {
                return Err(Error::invalid(
                    "format",
                    "be given beside path (raw or qcow2): a guest can write what looks like another",
                ));
            }
            (None, Some(_)) => return Err(Error::invalid("format", "only be given beside path")),
        };
        Ok(DiskWish {
            request: None,
            existing,
            volume: self.volume.as_deref().map(volumes::id).transpose()?,
            size: self.disk_size,
            base_image: self.base_image,
            clone: self.clone.unwrap_or_default(),
            io_limits: self.io_limits,
        })
    }

    /// Disks of a list.
    ///
    /// # Errors
    /// As [`Self::into_model`], of the field's place.
    pub fn all_into_model(disks: Vec<Self>) -> Result<Vec<DiskWish>, Error> {
        let one =
            |(index, disk): (usize, Self)| disk.into_model().map_err(|error| error.within(&format!("disks[{index}]")));
        disks.into_iter().enumerate().map(one).collect()
    }
}

/// One line of the list.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct DiskRow {
    #[serde(flatten)]
    pub of: Of,
    #[serde(flatten)]
    pub disk: DiskView,
}

/// A disk that was added, changed or removed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct DiskDone {
    #[serde(flatten)]
    pub of: Of,
    #[serde(flatten)]
    pub disk: Option<DiskView>,
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub applied: Applied,
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.view(vm_id(&request)?)?;
    let row = |disk: &Disk| DiskRow { of: Of::disk(view.spec.id, &disk.name), disk: DiskView::of(disk) };
    Ok(Reply::json(StatusCode::OK, &view.spec.disks.iter().map(row).collect::<Vec<_>>()))
}

pub async fn add(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: DiskBody = request.json()?;
    let wish = DiskWish { request: request.makes, ..body.into_model()? };
    let (view, applied) = shared.service.add_disk(id, wish).await?;
    let disk = view.spec.disk_of(request.makes).or(view.spec.disks.last());
    let of = Of::disk(id, disk.map_or("", |disk| &disk.name));
    let done = DiskDone {
        of,
        disk: disk.map(DiskView::of),
        status: "created".into(),
        message: "Disk successfully added.".into(),
        applied,
    };
    Ok(Reply::json(StatusCode::CREATED, &done))
}

pub async fn change(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let view = shared.service.view(id)?;
    let name = named(&view, &request)?;
    let body: DiskUpdate = request.json()?;
    let change = body.change(&shared, &view.spec, &name).await?;
    let of = |spec: &VmSpec| spec.disk(&name).map(DiskView::of);
    update(&shared, id, Of::disk(id, &name), change, "Disk configuration successfully updated.", of).await
}

pub async fn remove(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let view = shared.service.view(id)?;
    let name = named(&view, &request)?;
    let RemoveQuery { keep, name: called } = request.query()?;
    if called.is_some() && !keep {
        return Err(HttpError::invalid("name", "only be given with keep=true: it is that of the volume").into());
    }
    let before = view.spec.disk(&name);
    let foreign = before.is_some_and(|disk| disk.file.foreign().is_some());
    let volume = before.filter(|disk| keep || disk.file.volume().is_some()).map(|disk| disk.layer.to_string());
    let disk = before.map(|disk| DiskView { volume: volume.clone(), ..DiskView::of(disk) });
    let of = Of::disk(id, &name);
    let (_, applied) = shared.service.remove_disk(id, name, keep, called).await?;
    let message = match volume {
        Some(_) => "Disk successfully detached; its data stay in the volume.",
        None if foreign => "Disk successfully detached; its file stays as it is.",
        None => "Disk successfully removed.",
    };
    let done = DiskDone { of, disk, status: "deleted".into(), message: message.into(), applied };
    Ok(Reply::json(StatusCode::OK, &done))
}

#[derive(Deserialize)]
struct RemoveQuery {
    #[serde(default)]
    keep: bool,
    name: Option<String>,
}

/// The disk that the path names.
fn named(view: &VmView, request: &Request) -> Result<String, Error> {
    let name = request.param("disk").to_owned();
    if view.spec.disk(&name).is_some() { Ok(name) } else { Err(Error::DiskNotFound { name }) }
}
