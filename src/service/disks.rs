//! Disks that a client wishes for: checked against the host and the base image. Making them is the VM's or `create`'s
//! work.

use std::path::PathBuf;

use super::{
    Service, bases,
    existing::{self, Found},
    image_store,
    room::{self, FullClone},
    volume_claims,
};
use crate::{
    model::{
        BaseImage, Change, CloneMode, Disk, DiskFile, DiskWish, Error, LayerId, NewDisk, Result, VmId, VmView,
        check_disk_size,
    },
    vm::while_wanted,
};

const GIB: u64 = 1 << 30;

/// What keeps others from what a disk is to be, or to be made of, until it stands in a definition, or does not.
pub(super) enum Claim {
    /// Nobody else attaches it.
    File { _claim: existing::Claim },
    /// Nobody deletes it.
    Image { _claim: image_store::Claim },
    /// Nobody else has it.
    Volume { _claim: volume_claims::Claim },
}

/// Checks a wish. Makes nothing.
///
/// # Errors
/// [`Error::Invalid`], [`Error::BaseImageNotFound`], [`Error::Storage`].
pub(super) async fn resolve(service: &Service, wish: DiskWish) -> Result<(NewDisk, Option<Claim>)> {
    if wish.volume.is_some() {
        let (disk, claim) = service.disk_in_volume(wish).await?;
        return Ok((disk, Some(claim)));
    }
    if wish.existing.is_some() {
        return attach(service, wish).await;
    }
    let size = wish.size.ok_or_else(|| Error::invalid("disk_size", "be given"))?;
    let size = check_disk_size(size)?;
    if let Some(limits) = &wish.io_limits {
        limits.check()?;
    }
    let (base, claim) = match &wish.base_image {
        None => (None, None),
        Some(named) => {
            let (base, virtual_size, claim) = bases::resolve(service, named).await?;
            if virtual_size > size * GIB {
                let must = format!(
                    "be at least {} (GiB), the size of the base image ({virtual_size} bytes), not {size}",
                    virtual_size.div_ceil(GIB)
                );
                return Err(Error::invalid("disk_size", must));
            }
            (Some(base), claim.map(|claim| Claim::Image { _claim: claim }))
        }
    };
    let DiskWish { request, clone, io_limits, .. } = wish;
    Ok((NewDisk { request, layer: LayerId::random(), file: None, size, base, clone, io_limits }, claim))
}

/// A disk that is there already, as it is.
async fn attach(service: &Service, wish: DiskWish) -> Result<(NewDisk, Option<Claim>)> {
    let DiskWish { request, existing, size, base_image, clone, io_limits, .. } = wish;
    if base_image.is_some() {
        return Err(Error::invalid("base_image", "not be given beside path: the disk is there already"));
    }
    if size.is_some() {
        return Err(Error::invalid("disk_size", "not be given beside path: the disk has its size; grow it afterwards"));
    }
    if let Some(limits) = &io_limits {
        limits.check()?;
    }
    let Some(existing) = existing else { return Err(Error::invalid("path", "be given")) };
    let Found { file, base, claim } = existing::resolve(service, &existing).await?;
    let size = check_disk_size(i64::try_from(file.size()).unwrap_or(i64::MAX)).map_err(|_| {
        Error::invalid("path", format!("have a size that a disk may have, and it has {} bytes", file.bytes))
    })?;
    let file = Some(DiskFile::Foreign(file));
    let disk = NewDisk { request, layer: LayerId::random(), file, size, base, clone, io_limits };
    Ok((disk, Some(Claim::File { _claim: claim })))
}

/// What is copied for a disk, where something is.
pub(super) fn full_clone(base: &Option<BaseImage>, clone: CloneMode, file: PathBuf) -> Option<FullClone> {
    let base = base.as_ref().filter(|_| clone == CloneMode::Full)?;
    Some(FullClone { base: base.path.clone(), file })
}

/// The same error about the field of the `index`th further disk.
pub(super) fn among(index: usize, error: Error) -> Error {
    error.within(&format!("disks[{index}]"))
}

impl Service {
    /// Adds a disk, to a running VM by hot-plug. Returns the VM; the new disk is its last, unless the wish's request has
    /// made it before.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`], [`Error::BaseImageNotFound`], [`Error::MadeAndDeleted`];
    /// [`Error::Conflict`] without a free slot; [`Error::Failed`] with nothing changed.
    pub async fn add_disk(&self, id: VmId, wish: DiskWish) -> Result<(VmView, crate::model::Applied)> {
        let handle = self.handle(id)?;
        let folder = self.ctx.image_folder(&id);
        let made = handle.view().spec.disk_of(wish.request).filter(|disk| disk.file.volume().is_some()).cloned();
        // The same request has attached it already, and its answer was lost.
        if let Some(Disk { layer, file, size, base, clone, io_limits, request, .. }) = made {
            let disk = NewDisk { request, layer, file: Some(file), size, base, clone, io_limits };
            return self.change_by(&handle, Change::AddDisk { disk: disk.into(), folder }).await;
        }
        if handle.view().spec.disk_of(wish.request).is_none() {
            self.check_not_made(wish.request)?;
        }
        // Kept until it stands in the definition, or does not.
        let (disk, _claim) = while_wanted(resolve(self, wish)).await?;
        room::check(full_clone(&disk.base, disk.clone, folder.join("disk")).into_iter().collect()).await?;
        let disk = Box::new(disk);
        self.change_by(&handle, Change::AddDisk { disk, folder }).await
    }
}
