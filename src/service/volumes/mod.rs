//! Volumes: which there are, whose disk each is in, and who may have one. What is known of them is in the records of layers, and is
//! read from there; what they are used for at this moment `volume_claims` knows (docs/adr/0052).
//!
//! `make` makes and deletes them, `attach` gives one to a VM and leaves it when its disk goes, `read` hands out what is in one.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

mod attach;
mod make;
mod read;

use std::{collections::HashMap, fs, io, os::unix::fs::MetadataExt, path::PathBuf};

pub use make::MakeVolume;

use super::{Service, volume_claims::conflict};
use crate::{
    host::{STORAGE, on_storage},
    model::{BaseImage, CloneMode, Error, LayerId, Operation, Result, Status, VmId, VmSpec},
    store::Counted,
    vm::layers::{self, LayerRecord},
};

/// That there may be.
const MOST: usize = 10_000;

/// A volume as it is shown.
#[derive(Clone, Debug)]
pub struct VolumeView {
    pub id: LayerId,
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// GiB.
    pub size: u64,
    pub file: PathBuf,
    /// Bytes that it takes on the host's storage, where that tells.
    pub allocated: Option<u64>,
    pub base: Option<BaseImage>,
    pub clone: CloneMode,
    pub user: Option<VolumeUser>,
}

/// The VM that has a volume.
#[derive(Clone, Debug)]
pub struct VolumeUser {
    pub vm: VmId,
    /// None of one whose record cannot be read.
    pub name: Option<String>,
    /// None while its guest has not let go of one that was removed.
    pub disk: Option<String>,
}

impl Service {
    /// All of them, oldest first.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub async fn volumes(&self) -> Result<Vec<VolumeView>> {
        let store = self.ctx.store.clone();
        let scan = move || store.scan_counted::<LayerRecord>().map_err(io::Error::other);
        let layers = on_storage(&self.ctx.config.state_dir, STORAGE, scan).await.map_err(failed)?;
        let layers: HashMap<LayerId, Counted<LayerRecord>> =
            layers.into_iter().filter_map(|(key, layer)| Some((LayerId::parse(&key)?, layer.ok()?))).collect();
        let views = layers
            .iter()
            .filter_map(|(id, (layer, _))| self.view_of_volume(*id, layer, |parent| layers.get(&parent).cloned()));
        let mut views: Vec<VolumeView> = views.collect();
        views.sort_unstable_by_key(|view| (view.created_at, view.id));
        self.measure(&mut views).await;
        Ok(views)
    }

    /// # Errors
    /// [`Error::VolumeNotFound`], [`Error::Failed`].
    pub async fn volume(&self, id: LayerId) -> Result<VolumeView> {
        let (layer, _) = self.layer_of_volume(id).await?;
        let parent = match layer.lies_on() {
            Some(parent) => self.layer(parent).await?,
            None => None,
        };
        let view = self.view_of_volume(id, &layer, |_| parent);
        let mut view = [view.ok_or_else(|| Error::VolumeNotFound(id.to_string()))?];
        self.measure(&mut view).await;
        let [view] = view;
        Ok(view)
    }

    /// None of what is no volume.
    fn view_of_volume(
        &self,
        id: LayerId,
        layer: &LayerRecord,
        read: impl FnOnce(LayerId) -> Option<Counted<LayerRecord>>,
    ) -> Option<VolumeView> {
        let (volume, _) = layer.volume().filter(|(_, unfinished)| !unfinished)?;
        let (base, clone) = layer.origin(|parent| Ok(read(parent))).unwrap_or_default();
        Some(VolumeView {
            id,
            name: volume.name.clone(),
            created_at: volume.created_at,
            size: layer.volume_size(),
            file: layer.path(),
            allocated: None,
            base,
            clone,
            user: self.user_of_volume(id, layer),
        })
    }

    /// Of the VMs that its record names the one that has it. One that has let go of it says so in the record a moment later.
    fn user_of_volume(&self, id: LayerId, layer: &LayerRecord) -> Option<VolumeUser> {
        layer.owners().iter().find_map(|vm| {
            let Ok(view) = self.view(*vm) else {
                return self.registry.unreadable(*vm).map(|_| VolumeUser { vm: *vm, name: None, disk: None });
            };
            let of = |spec: &VmSpec| spec.disks.iter().find(|disk| disk.layer == id).map(|disk| disk.name.clone());
            let disk = of(&view.spec);
            let qemu_may_have_it = match &view.in_effect {
                Some(in_effect) => of(in_effect).is_some(),
                None => view.pid.is_some() || view.status == Status::Starting,
            };
            let name = Some(view.spec.name.clone());
            (disk.is_some() || qemu_may_have_it).then_some(VolumeUser { vm: *vm, name, disk })
        })
    }

    /// Says what each takes.
    async fn measure(&self, views: &mut [VolumeView]) {
        let files: Vec<PathBuf> = views.iter().map(|view| view.file.clone()).collect();
        let allocated = |file: &PathBuf| Some(fs::symlink_metadata(file).ok()?.blocks().saturating_mul(512));
        let look = move || Ok(files.iter().map(allocated).collect::<Vec<_>>());
        let looked = on_storage(&self.ctx.config.state_dir.join("images"), STORAGE, look).await;
        for (view, allocated) in views.iter_mut().zip(looked.unwrap_or_default()) {
            view.allocated = allocated;
        }
    }

    /// The record of a volume that is there whole.
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`], [`Error::Failed`].
    async fn layer_of_volume(&self, id: LayerId) -> Result<Counted<LayerRecord>> {
        let whole = |(layer, _): &Counted<LayerRecord>| layer.volume().is_some_and(|(_, unfinished)| !unfinished);
        self.layer(id).await?.filter(whole).ok_or_else(|| Error::VolumeNotFound(id.to_string()))
    }

    async fn layer(&self, id: LayerId) -> Result<Option<Counted<LayerRecord>>> {
        let store = self.ctx.store.clone();
        let read = move || layers::get(&store, id).map_err(io::Error::other);
        on_storage(&self.ctx.config.state_dir, STORAGE, read).await.map_err(failed)
    }

    /// That no VM has it.
    ///
    /// # Errors
    /// [`Error::VolumeConflict`] with the VM's name.
    fn check_unattached(&self, id: LayerId, layer: &LayerRecord) -> Result<()> {
        let Some(VolumeUser { vm, name, disk }) = self.user_of_volume(id, layer) else { return Ok(()) };
        let vm = name.map_or_else(|| vm.to_string(), |name| format!("{name} ({vm})"));
        Err(conflict(
            id,
            &match disk {
                Some(disk) => {
                    format!("is the disk {disk} of the VM {vm}; remove that disk first, and the volume stays")
                }
                None => format!("was a disk of the VM {vm}, which has not let go of it yet; stop that VM, or wait"),
            },
        ))
    }
}

fn failed(error: io::Error) -> Error {
    Error::failed(Operation::Volumes, error)
}
