//! Disks that a client wishes for: checked against the host and the base image. Making them is the VM's or `create`'s
//! work.

use super::{Service, bases, image_store::Claim};
use crate::{
    model::{Change, DiskWish, Error, LayerId, NewDisk, Result, VmId, VmView, check_disk_size},
    vm::while_wanted,
};

const GIB: u64 = 1 << 30;

/// Checks a wish. Makes nothing. What keeps the image of the store that it is to be made of is held until the disk is stored.
///
/// # Errors
/// [`Error::Invalid`], [`Error::BaseImageNotFound`].
pub(super) async fn resolve(service: &Service, wish: DiskWish) -> Result<(NewDisk, Option<Claim>)> {
    let size = check_disk_size(wish.size)?;
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
            (Some(base), claim)
        }
    };
    let DiskWish { request, clone, io_limits, .. } = wish;
    Ok((NewDisk { request, layer: LayerId::random(), size, base, clone, io_limits }, claim))
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
        if handle.view().spec.disk_of(wish.request).is_none() {
            self.check_not_made(wish.request)?;
        }
        let (disk, _claim) = while_wanted(resolve(self, wish)).await?;
        self.change_by(&handle, Change::AddDisk { disk: Box::new(disk), folder: self.ctx.image_folder(&id) }).await
    }
}
