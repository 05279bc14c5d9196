//! Volumes that are made empty or of an image, and volumes that go. The record is stored first, as that of something unfinished, and
//! goes last: whatever a crash leaves between is such a record, and the next start removes its file, and then it.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{MOST, VolumeView};
use crate::{
    host::{
        STORAGE,
        image::{Copied, ImageError},
        on_storage, remove_image,
    },
    model::{
        About, CloneMode, Disk, DiskFile, DiskWish, Error, Event, LayerId, Operation, OwnFile, Result, VmId, Volume,
        VolumeFile, What, check_name, now_ms,
    },
    service::{Service, disks, relocate::Names, room, volume_claims::conflict},
    store::{Batch, Counted, Generation, StoreError, following},
    vm::{self, copying, in_phase, layers::LayerRecord, mark_storage, storage_of, while_wanted},
};

/// In a folder of its own, beside those of VMs.
const FILE: &str = "volume.qcow2";

/// What a VM that has let go of a volume is given to say so in its record.
const SAID_BY: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A volume to be made: decoded, not yet checked.
#[derive(Clone, Debug)]
pub struct MakeVolume {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<LayerId>,
    pub name: String,
    /// GiB.
    pub size: i64,
    /// It is empty without one.
    pub base_image: Option<PathBuf>,
    pub clone: CloneMode,
}

impl Service {
    /// # Errors
    /// As those of a disk that is made; [`Error::VolumeConflict`] where there are too many. Nothing is left then.
    pub async fn make_volume(&self, wish: MakeVolume) -> Result<VolumeView> {
        let id = wish.id.unwrap_or_else(LayerId::random);
        let _claim = self.volumes.take(id)?;
        // The same request has made it already, and its answer was lost.
        if let Ok(made) = self.volume(id).await {
            return Ok(made);
        }
        self.check_not_made(wish.id)?;
        let volume = Arc::new(Volume { name: check_name(&wish.name)?, created_at: now_ms() });
        if self.volumes().await?.len() >= MOST {
            let why = format!("There are {MOST} volumes, and there may be no more; delete some first.");
            return Err(Error::VolumeConflict(why));
        }
        let of_disk =
            DiskWish { size: Some(wish.size), base_image: wish.base_image, clone: wish.clone, ..DiskWish::default() };
        // Kept until it is stored what it lies on.
        let (new, _base) = while_wanted(disks::resolve(self, of_disk)).await?;
        let path = self.ctx.config.state_dir.join("images").join(id.to_string()).join(FILE);
        let disk = Disk {
            name: "volume".to_owned(),
            layer: id,
            file: DiskFile::Volume(VolumeFile { path, volume: volume.clone() }),
            size: new.size,
            clone: new.clone,
            base: new.base,
            io_limits: None,
            slot: None,
            request: None,
        };
        let copies = disks::full_clone(&disk.base, disk.clone, disk.file.to_path_buf());
        room::check(copies.into_iter().collect()).await?;
        vm::begins(&volume.name);
        let failed = |error: StoreError| Error::failed(Operation::MakeVolume, error);
        let record = LayerRecord::of_volume(&disk);
        let batch = Batch::new().put_over(&id.to_string(), &record, None).map_err(failed)?;
        self.ctx.store.commit(batch).await.map_err(failed)?;
        let generation = following(None);
        if let Err(error) = while_wanted(self.make_file(&disk)).await {
            self.remove_volume(id, &record, generation).await;
            return Err(error);
        }
        let about = About::Volume { id, name: volume.name.clone() };
        let event = Event { at: now_ms(), about, what: What::Created, by: vm::asker().into_iter().collect() };
        let whole = record.clone().unfinished(false);
        let batch = Batch::new().put_over(&id.to_string(), &whole, Some(generation)).map_err(failed)?;
        let batch = self.ctx.riders.join(batch.tell(&event).map_err(failed)?, [id.into()]);
        if let Err(error) = in_phase("store_volume", self.ctx.store.commit(batch)).await {
            // What nobody knows the outcome of is the next start's.
            if !matches!(error, StoreError::Stalled { .. } | StoreError::Failed { .. }) {
                self.remove_volume(id, &record, generation).await;
            }
            return Err(failed(error));
        }
        self.volume(id).await
    }

    async fn make_file(&self, disk: &Disk) -> Result<()> {
        let failed = |why: String| Error::failed(Operation::MakeVolume, why);
        let (file, folders) = (disk.file.to_path_buf(), self.ctx.config.storage_dirs.clone());
        let prepare = move || {
            file.parent().map_or(Ok(()), fs::create_dir_all)?;
            if let Some(storage) = storage_of(&file, &folders) {
                mark_storage(storage);
            }
            Ok(())
        };
        on_storage(&disk.file, STORAGE, prepare).await.map_err(|error| failed(error.to_string()))?;
        let copied = Arc::<Copied>::default();
        let images = &self.ctx.images;
        let made = match &disk.base {
            Some(base) => {
                let clone = images.clone_base(base, disk.clone, &disk.file, disk.size, &copied);
                copying("make_image", &copied, clone).await
            }
            None => in_phase("make_image", images.create(&disk.file, disk.size)).await,
        };
        made.map_err(|error| match error {
            ImageError::NoUser(why) => Error::BeyondBounds(why),
            other => failed(other.to_string()),
        })
    }

    /// Deletes a volume that no VM has, with its data. Returns what it was.
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`], [`Error::VolumeConflict`]; [`Error::Storage`] where its storage is away; [`Error::Failed`], and it
    /// is still there then.
    pub async fn delete_volume(&self, id: LayerId) -> Result<VolumeView> {
        let _claim = self.volumes.take(id)?;
        let view = self.volume(id).await?;
        let (layer, generation) = self.nobodys_volume(id).await?;
        let failed = |error: StoreError| Error::failed(Operation::DeleteVolume, error);
        let (file, folders) = (layer.path(), self.ctx.config.storage_dirs.clone());
        let looked = on_storage(&layer.path(), STORAGE, move || Ok(vm::check_removable(&file, &folders))).await;
        looked.map_err(|error| Error::failed(Operation::DeleteVolume, error))?.map_err(Error::Storage)?;
        vm::begins(&view.name);
        let about = About::Volume { id, name: view.name.clone() };
        let event = Event { at: now_ms(), about, what: What::Deleted, by: vm::asker().into_iter().collect() };
        let going = layer.unfinished(true);
        let batch = Batch::new().put_over(&id.to_string(), &going, Some(generation)).map_err(failed)?;
        self.ctx.store.commit(batch.tell(&event).map_err(failed)?.from_reserve()).await.map_err(failed)?;
        in_phase("remove_image", self.remove_volume(id, &going, following(Some(generation)))).await;
        Ok(view)
    }

    /// The record of a volume that no VM has or had a moment ago: where the store has it that a VM holds on to a layer that is not
    /// there, that VM cannot be read.
    async fn nobodys_volume(&self, id: LayerId) -> Result<Counted<LayerRecord>> {
        let deadline = Instant::now() + SAID_BY;
        loop {
            let (layer, generation) = self.layer_of_volume(id).await?;
            self.check_unattached(id, &layer)?;
            if layer.owners().is_empty() {
                return Ok((layer, generation));
            }
            if Instant::now() > deadline {
                return Err(conflict(
                    id,
                    "was a disk of a VM that has not stored yet that it is none any more; ask again",
                ));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The file of one that is unfinished, and then its record. What fails is done by the next start.
    async fn remove_volume(&self, id: LayerId, layer: &LayerRecord, generation: Generation) {
        let (path, folders) = (layer.path(), self.ctx.config.storage_dirs.clone());
        let file = OwnFile::new(path.clone());
        let of_vm = path.parent().and_then(|folder| VmId::parse(folder.file_name()?.to_str()?));
        // Its own, or that of a VM that is gone. A folder of any other name is a client's.
        let is_nobodys = of_vm.is_some_and(|vm| self.view(vm).is_err() && self.registry.unreadable(vm).is_none());
        let remove = move || {
            remove_image(&file, &folders)?;
            // It stays where anything else is in it.
            let _ = file.parent().filter(|_| is_nobodys).map(fs::remove_dir);
            io::Result::Ok(())
        };
        let removed = match on_storage(&path, STORAGE, remove).await {
            Ok(()) => {
                let batch = Batch::new().remove_at::<LayerRecord>(&id.to_string(), generation).from_reserve();
                self.ctx.store.commit(batch).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = removed {
            tracing::error!(volume = %id, file = %path.display(), %error, "a volume cannot be removed; the next start of qherd tries again");
        }
    }

    /// The daemon's start: what a crash has cut short is taken back, and volumes that no VM has are found where the state directory is
    /// today. Those of VMs their VMs tell of.
    pub(in crate::service) async fn recover_volumes(&self, names: &Names) -> io::Result<()> {
        let store = self.ctx.store.clone();
        let scan = move || store.scan_counted::<LayerRecord>().map_err(io::Error::other);
        for (key, layer) in on_storage(&self.ctx.config.state_dir, STORAGE, scan).await? {
            let Some((id, (layer, generation))) = LayerId::parse(&key).zip(layer.ok()) else { continue };
            let Some((_, unfinished)) = layer.volume() else { continue };
            if !layer.owners().is_empty() {
                continue;
            }
            let today = layer.clone().moved(|path| names.of_today(path));
            if unfinished {
                self.remove_volume(id, &today, generation).await;
            } else if today != layer {
                let batch = Batch::new().put_over(&key, &today, Some(generation)).map_err(io::Error::other)?;
                self.ctx.store.commit(batch.from_reserve()).await.map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}
