//! A volume becomes a disk of a VM, and a disk becomes a volume. A disk that is to be kept is one first, by the VM's own task and in one
//! batch with its definition, and goes then as any other: wherever that is cut short there is a volume whose VM has it.

use std::sync::Arc;

use crate::{
    host::{Access, STORAGE, image, on_storage, open_within},
    model::{
        Applied, Change, DiskWish, Error, ImageFormat, NewDisk, Result, VmId, VmView, Volume, check_disk_size,
        check_name, now_ms,
    },
    service::{Service, disks, volume_claims::conflict},
    vm::Mark,
};

const GIB: u64 = 1 << 30;
/// Characters of a VM's name in that of a volume.
const MOST_OF_NAME: usize = 48;

impl Service {
    /// Removes a disk. With `keep` its data stay as a volume, which is called `name`, or after the VM and the disk.
    ///
    /// # Errors
    /// As [`Service::change`].
    pub async fn remove_disk(
        &self,
        vm: VmId,
        disk: String,
        keep: bool,
        name: Option<String>,
    ) -> Result<(VmView, Applied)> {
        if keep {
            let view = self.view(vm)?;
            let begins: String = view.spec.name.chars().take(MOST_OF_NAME).collect();
            let name = check_name(&name.unwrap_or_else(|| format!("{}-{disk}", begins.trim_end())))?;
            let volume = Arc::new(Volume { name, created_at: now_ms() });
            self.change(vm, Change::Keep { name: disk.clone(), volume }).await?;
        }
        self.change(vm, Change::RemoveDisk(disk)).await
    }

    /// The disk that a volume is to be.
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`], [`Error::VolumeConflict`] where a VM has it; [`Error::Invalid`], [`Error::Failed`].
    pub(in crate::service) async fn disk_in_volume(&self, wish: DiskWish) -> Result<(NewDisk, disks::Claim)> {
        let DiskWish { request, volume, existing, size, base_image, io_limits, .. } = wish;
        let beside =
            [("path", existing.is_some()), ("base_image", base_image.is_some()), ("disk_size", size.is_some())];
        if let Some((param, _)) = beside.into_iter().find(|(_, given)| *given) {
            return Err(Error::invalid(param, "not be given beside volume: it is there already, and has its size"));
        }
        if let Some(limits) = &io_limits {
            limits.check()?;
        }
        let id = volume.ok_or_else(|| Error::invalid("volume", "be given"))?;
        let claim = self.volumes.take(id)?;
        let (layer, _) = self.layer_of_volume(id).await?;
        self.check_unattached(id, &layer)?;
        let (file, path) = (layer.disk_file(), layer.path());
        // Of a VM whose record could not be written at once.
        if self.registry.views_with(Mark::disk(&path)).iter().any(|view| !view.gone) {
            return Err(conflict(id, "is on its way from one VM to another; ask again"));
        }
        let parent = match layer.lies_on() {
            Some(parent) => self.layer(parent).await?,
            None => None,
        };
        let (base, clone) = layer.origin(|_| Ok(parent)).map_err(|error| Error::Storage(error.to_string()))?;
        let (folders, at) = (self.ctx.config.storage_dirs.clone(), path.clone());
        let looked = on_storage(&path, STORAGE, move || {
            let file = open_within(&folders, &at, Access::Read)?;
            image::check_disk(&file, ImageFormat::Qcow2).map_err(std::io::Error::other)
        });
        let bytes = looked.await.map_err(|error| {
            Error::Storage(format!("The volume {id} cannot be used: its file {}: {error}.", path.display()))
        })?;
        let size = check_disk_size(i64::try_from(bytes.div_ceil(GIB)).unwrap_or(i64::MAX))?;
        let disk = NewDisk { request, layer: id, file: Some(file), size, base, clone, io_limits };
        Ok((disk, disks::Claim::Volume { _claim: claim }))
    }
}
