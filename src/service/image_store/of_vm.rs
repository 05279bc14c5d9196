//! An image of a VM that is off: what its guest would see of one of its disks, with what that lies on, as one file that stands
//! alone. The VM is not held up: where it is started and writes meanwhile, the image is refused.

use std::{io, sync::Arc};

use super::{
    given::{Content, fingerprint},
    work::{Part, Unfinished},
};
use crate::{
    host::{
        Access, STORAGE,
        image::{self, Copied, Opened, Over},
        on_storage, open_within,
    },
    model::{Disk, Error, ImageFormat, Operation, Result, SourceFormat, Status, VmId},
    qemu::devices,
    service::Service,
    vm::{self, copying},
};

/// A disk of a VM that is off.
pub(super) struct OfVm {
    pub vm: VmId,
    pub disk: Box<Disk>,
}

impl Service {
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::DiskNotFound`]; [`Error::ImageConflict`] for a VM that is not off.
    pub(super) fn disk_of_vm(&self, vm: VmId, named: Option<&str>) -> Result<OfVm> {
        let view = self.view(vm)?;
        if !matches!(view.status, Status::Stopped | Status::Crashed) {
            let why = format!("The VM {} is not off, and its disks do not stand still; stop it first.", view.spec.name);
            return Err(Error::ImageConflict(why));
        }
        let disk = match named {
            Some(name) => view.spec.disk(name).ok_or_else(|| Error::DiskNotFound { name: name.to_owned() })?,
            None => view.spec.root().ok_or_else(|| Error::DiskNotFound { name: "root".to_owned() })?,
        };
        Ok(OfVm { vm, disk: Box::new(disk.clone()) })
    }

    /// What comes of it. Nothing is left of one that is given up.
    pub(super) async fn content_of_vm(&self, name: &str, from: &OfVm) -> Result<Content> {
        let store = &self.image_store;
        let failed = |error: io::Error| Error::failed(Operation::Import, error);
        let disk = &*from.disk;
        let (path, folders) = (disk.file.to_path_buf(), self.ctx.config.storage_dirs.clone());
        let opened = on_storage(&disk.file, STORAGE, move || open_within(&folders, &path, Access::Read)).await;
        let file = opened
            .map_err(|error| Error::Storage(format!("The disk {} cannot be read ({error}).", disk.file.display())))?;
        let given = self.given(file, disk.file.to_path_buf(), "from_vm").await?;
        vm::begins(name);
        let client = vm::asker().map(|asker| asker.caller);
        let _turn = store.imports.take_for(client.as_deref(), &[&store.folder]).await.map_err(failed)?;
        let before = fingerprint(&given).await?;
        let format = match disk.file.format() {
            ImageFormat::Raw => SourceFormat::Raw,
            ImageFormat::Qcow2 => SourceFormat::Qcow2,
        };
        // In our words, and not by its header: a guest cannot have it lie on another file.
        let graph = devices::blockdev_by_path(disk);
        let below = self.ctx.images.open_chain(&disk.lies_on()).await.map_err(Error::Storage)?;
        let over = Over { graph: &graph, below: &below };
        let source = Opened { file: &given.file, format, over: Some(over) };
        let measured = self.ctx.images.measure(source).await.map_err(|error| given.error(error))?;
        self.check_room(&given, measured.required).await?;
        let made = Unfinished::new(&store.folder, Part::Image);
        let image = made.make().await.map_err(failed)?;
        let copied = Arc::<Copied>::default();
        let convert = self.ctx.images.convert(source, measured, (&image, made.path()), &copied);
        let virtual_size = copying("convert", &copied, convert).await.map_err(|error| given.error(error))?;
        let is_off = matches!(self.view(from.vm)?.status, Status::Stopped | Status::Crashed);
        if !is_off || fingerprint(&given).await? != before {
            let why = "The VM was started while the image was made of it; stop it, and ask again.";
            return Err(Error::ImageConflict(why.to_owned()));
        }
        let result = image.try_clone().map_err(failed)?;
        let size = on_storage(&store.folder, STORAGE, move || Ok(result.metadata()?.len())).await.map_err(failed)?;
        let copied = Arc::<Copied>::default();
        let sum = copying("checksum", &copied, image::sha256(made.path(), &image, &copied)).await.map_err(failed)?;
        Ok(Content {
            sha256: sum.clone(),
            format,
            compression: None,
            virtual_size,
            size,
            content_sha256: sum,
            file: Some(made),
        })
    }
}
