//! Images are renamed, described and deleted. A layer goes with the last image that names it, and never under a disk that lies
//! on it: in doubt it stays.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use super::{ImageView, file_name};
use crate::{
    host::{STORAGE, on_storage},
    model::{About, Error, Event, Image, ImageName, LayerId, MetadataWish, Operation, Result, VmId, What, now_ms},
    service::Service,
    store::{Batch, Generation, Store, StoreError, following},
    vm::{self, in_phase, layers::LayerRecord},
};

/// What is to be another.
#[derive(Clone, Debug, Default)]
pub struct ChangeImage {
    pub name: Option<String>,
    pub metadata: MetadataWish,
}

impl Image {
    pub(super) fn about(&self) -> About {
        About::Image { id: self.id, name: self.name.to_string() }
    }
}

impl Service {
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::Invalid`], [`Error::ImageExists`]; [`Error::Failed`] with nothing changed.
    pub async fn change_image(&self, named: &str, wish: ChangeImage) -> Result<ImageView> {
        let store = &self.image_store;
        let _turn = store.turn.lock().await;
        let before = self.image(named)?.image;
        let mut image = (*before).clone();
        wish.metadata.apply(&mut image.metadata)?;
        if let Some(name) = wish.name {
            image.name = ImageName::parse(&name)?;
        }
        let fields = differences(&before, &image);
        if fields.is_empty() {
            return Ok(self.view_of_image(before));
        }
        if image.name != before.name {
            let mut state = store.lock();
            if state.names.contains_key(&image.name) {
                return Err(Error::ImageExists(image.name.to_string()));
            }
            state.names.insert(image.name.clone(), None);
        }
        vm::begins(&before.name.to_string());
        let stored = in_phase("store_image", self.store_change(&image, fields)).await;
        let mut state = store.lock();
        match stored {
            Ok(()) => {
                let image = state.insert(image);
                drop(state);
                Ok(self.view_of_image(image))
            }
            Err(error) => {
                if image.name != before.name {
                    state.names.remove(&image.name);
                }
                Err(Error::failed(Operation::ChangeImage, error))
            }
        }
    }

    async fn store_change(&self, image: &Image, fields: Vec<String>) -> std::result::Result<(), StoreError> {
        let what = What::Changed { fields };
        let event = Event { at: now_ms(), about: image.about(), what, by: vm::asker().into_iter().collect() };
        self.ctx.store.commit(Batch::new().put(&image.id.to_string(), image)?.tell(&event)?).await
    }

    /// Deletes an image, and its data with the last image that has them. Returns what it was.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`]; [`Error::ImageConflict`] for one that is protected, or that disks lie on, with the names of
    /// their VMs; [`Error::Failed`], and the image is still there then.
    pub async fn delete_image(&self, named: &str) -> Result<ImageView> {
        let store = &self.image_store;
        let _turn = store.turn.lock().await;
        let view = self.image(named)?;
        let image = view.image.clone();
        if image.metadata.protected {
            let why = format!(
                "The image {} is protected against deletion; update it with protected=false first.",
                image.name
            );
            return Err(Error::ImageConflict(why));
        }
        let (last, kept) = {
            let mut state = store.lock();
            match state.layers.get_mut(&image.layer) {
                Some(kept) if kept.record.images().iter().all(|owner| *owner == image.id) => {
                    if kept.claims > 0 {
                        let why =
                            format!("A disk is being made of the image {} at this moment; ask again.", image.name);
                        return Err(Error::ImageConflict(why));
                    }
                    kept.going = true;
                    (true, Some((kept.record.clone(), kept.generation)))
                }
                Some(kept) => (false, Some((kept.record.clone(), kept.generation))),
                None => (false, None),
            }
        };
        let stays = || {
            if let Some(kept) = store.lock().layers.get_mut(&image.layer) {
                kept.going = false;
            }
        };
        if last {
            self.check_unused(&image).await.inspect_err(|_| stays())?;
        }
        vm::begins(&image.name.to_string());
        let failed = |error: StoreError| Error::failed(Operation::DeleteImage, error);
        let event =
            Event { at: now_ms(), about: image.about(), what: What::Deleted, by: vm::asker().into_iter().collect() };
        let mut batch = Batch::new().remove::<Image>(&image.id.to_string()).tell(&event).map_err(failed)?;
        let mut after = None;
        if let Some((record, generation)) = kept {
            let mut images = record.images().clone();
            images.remove(&image.id);
            let record = LayerRecord::of_images(&store.folder, Path::new(&file_name(&image.content_sha256)), images);
            batch = batch.put_over(&image.layer.to_string(), &record, Some(generation)).map_err(failed)?;
            after = Some((record, following(Some(generation))));
        }
        if let Err(error) = self.ctx.store.commit(batch.from_reserve()).await {
            // Of one that may have been stored nothing is made any more.
            if !matches!(error, StoreError::Stalled { .. } | StoreError::Failed { .. }) {
                stays();
            }
            return Err(failed(error));
        }
        let generation = after.as_ref().map(|(_, generation)| *generation);
        {
            let mut state = store.lock();
            if let Some(after) = after {
                state.keep(image.layer, after);
            }
            state.remove(image.id);
            state.names.remove(&image.name);
        }
        if let Some(generation) = generation.filter(|_| last) {
            in_phase("remove_image", self.remove_layer(image.layer, &image.content_sha256, generation)).await;
        }
        Ok(view)
    }

    /// By the records of all layers, which name also what a guest has not let go of, and VMs whose own record cannot be read.
    async fn check_unused(&self, image: &Arc<Image>) -> Result<()> {
        let (records, layer) = (self.ctx.store.clone(), image.layer);
        let looked = on_storage(&self.image_store.folder, STORAGE, move || Ok(on(&records, layer))).await;
        let failed = |why: String| Error::failed(Operation::DeleteImage, why);
        let users = looked.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        let users = users.map_err(|record| {
            Error::ImageConflict(format!(
                "The image {} stays: the record {record} cannot be read, and may be that of a disk on it; qherd db check says more.",
                image.name
            ))
        })?;
        let Users { vms: users, volumes } = users;
        if users.is_empty() && volumes.is_empty() {
            return Ok(());
        }
        let named = |id: &VmId| match self.view(*id) {
            Ok(view) => format!("{} ({id})", view.spec.name),
            Err(_) => id.to_string(),
        };
        let count = |one: &str, several: &str, count: usize| match count {
            0 => None,
            1 => Some(one.to_owned()),
            count => Some(format!("{count} {several}")),
        };
        let counts = [count("a VM", "VMs", users.len()), count("a volume", "volumes", volumes.len())];
        let all: Vec<String> = users.iter().map(named).chain(volumes).collect();
        Err(Error::ImageConflict(format!(
            "The image {} is in use by {}: {}. Delete them first, or give them full clones.",
            image.name,
            counts.into_iter().flatten().collect::<Vec<_>>().join(" and "),
            all.join(", ")
        )))
    }

    /// The file of a layer that nobody names any more, and then its record. What fails is done by the next start.
    pub(super) async fn remove_layer(&self, id: LayerId, sha256: &str, generation: Generation) {
        let file = self.image_store.folder.join(file_name(sha256));
        let gone = file.clone();
        let removed = on_storage(&file, STORAGE, move || remove(&gone)).await;
        match removed {
            Ok(()) => self.forget_layer(id, generation).await,
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "the data of an image that is deleted cannot be removed; the next start of qherd tries again");
            }
        }
    }

    pub(super) async fn forget_layer(&self, id: LayerId, generation: Generation) {
        let batch = Batch::new().remove_at::<LayerRecord>(&id.to_string(), generation).from_reserve();
        match self.ctx.store.commit(batch).await {
            Ok(()) => drop(self.image_store.lock().layers.remove(&id)),
            Err(error) => {
                tracing::error!(layer = %id, %error, "the record of a layer cannot be removed; the next start of qherd tries again")
            }
        }
    }
}

fn differences(before: &Image, after: &Image) -> Vec<String> {
    let (one, other) = (&before.metadata, &after.metadata);
    let fields = [
        ("name", before.name != after.name),
        ("labels", one.labels != other.labels),
        ("description", one.description != other.description),
        ("protected", one.protected != other.protected),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field.to_owned()).collect()
}

/// What lies on a layer.
#[derive(Default)]
struct Users {
    vms: BTreeSet<VmId>,
    /// Those that no VM has, by name and id.
    volumes: Vec<String>,
}

/// The VMs whose disks lie on a layer, and the volumes; or, as an error, the record that cannot be read. Blocks.
///
/// # Errors
/// As the store's.
fn on(store: &Store, layer: LayerId) -> std::result::Result<std::result::Result<Users, String>, StoreError> {
    let mut users = Users::default();
    for (key, record) in store.scan_counted::<LayerRecord>()? {
        let Ok((record, _)) = record else { return Ok(Err(format!("layer/{key}"))) };
        if record.lies_on() == Some(layer) {
            users.vms.extend(record.owners());
            let lonely = record.volume().filter(|_| record.owners().is_empty());
            users.volumes.extend(lonely.map(|(volume, _)| format!("the volume {} ({key})", volume.name)));
        }
    }
    Ok(Ok(users))
}

/// What is not there is gone. Blocks.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()),
    }
}
