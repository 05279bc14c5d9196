//! The end of an import: its layer, its file's name and its image are stored, in the order that leaves something which the next
//! start can finish or take back, wherever a crash cuts it short.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{file_name, work::Unfinished};
use crate::{
    host::{STORAGE, on_storage},
    model::{Error, Event, Image, LayerId, Operation, Result, What, now_ms},
    service::Service,
    store::{Batch, StoreError, following},
    vm::{
        self,
        layers::{LayerRecord, MAX_IMAGES},
    },
};

impl Service {
    /// Stores it: first the layer, as nobody's, then its file gets its name, then the image, which owns the layer.
    pub(super) async fn establish_image(&self, mut image: Image, file: Option<Unfinished>) -> Result<Arc<Image>> {
        let store = &self.image_store;
        let failed = |error: StoreError| Error::failed(Operation::Import, error);
        let _turn = store.turn.lock().await;
        let (layer, made) = match self.layer_with(&image.content_sha256)? {
            Some(found) => (found, false),
            None => {
                let gone =
                    || Error::ImageConflict("The image with the same data was deleted meanwhile; ask again.".into());
                (self.make_layer(image.layer, &image.content_sha256, file.ok_or_else(gone)?).await?, true)
            }
        };
        let (id, record, generation) = layer;
        image.layer = id;
        let mut images = record.images().clone();
        images.insert(image.id);
        let record = LayerRecord::of_images(&store.folder, Path::new(&file_name(&image.content_sha256)), images);
        let event =
            Event { at: now_ms(), about: image.about(), what: What::Created, by: vm::asker().into_iter().collect() };
        let batch = Batch::new().put(&image.id.to_string(), &image).map_err(failed)?;
        let batch =
            batch.put_over(&id.to_string(), &record, Some(generation)).map_err(failed)?.tell(&event).map_err(failed)?;
        let stored = self.ctx.store.commit(self.ctx.riders.join(batch, [image.id.into()])).await;
        if let Err(error) = stored {
            // What nobody knows the outcome of is the next start's.
            if made && !matches!(error, StoreError::Stalled { .. } | StoreError::Failed { .. }) {
                self.remove_layer(id, &image.content_sha256, generation).await;
            }
            return Err(failed(error));
        }
        let mut state = store.lock();
        state.keep(id, (record, following(Some(generation))));
        Ok(state.insert(image))
    }

    fn layer_with(&self, sha256: &str) -> Result<Option<(LayerId, LayerRecord, u64)>> {
        let state = self.image_store.lock();
        let file = self.image_store.folder.join(file_name(sha256));
        let Some((id, kept)) = state.layers.iter().find(|(_, kept)| kept.record.path() == file) else {
            return Ok(None);
        };
        if kept.going {
            let why = "An image with the same data is being deleted at this moment; ask again.";
            return Err(Error::ImageConflict(why.into()));
        }
        if kept.record.images().len() >= MAX_IMAGES {
            let why = format!("{MAX_IMAGES} images have the same data, and no more may; delete one of them first.");
            return Err(Error::ImageConflict(why));
        }
        Ok(Some((*id, kept.record.clone(), kept.generation)))
    }

    async fn make_layer(&self, id: LayerId, sha256: &str, file: Unfinished) -> Result<(LayerId, LayerRecord, u64)> {
        let store = &self.image_store;
        let failed = |error: StoreError| Error::failed(Operation::Import, error);
        let place = store.folder.join(file_name(sha256));
        let (at, to) = (file.path().to_owned(), place.clone());
        let there = place.clone();
        let is_free = on_storage(&place, STORAGE, move || Ok(fs::symlink_metadata(there).is_err())).await;
        if !is_free.map_err(|error| Error::failed(Operation::Import, error))? {
            return Err(foreign(&place));
        }
        let record = LayerRecord::of_images(&store.folder, Path::new(&file_name(sha256)), BTreeSet::new());
        let batch = Batch::new().put_over(&id.to_string(), &record, None).map_err(failed)?;
        self.ctx.store.commit(batch).await.map_err(failed)?;
        let generation = following(None);
        let named = on_storage(&place, STORAGE, move || {
            renameat_with(CWD, &at, CWD, &to, RenameFlags::NOREPLACE)?;
            to.ancestors().skip(1).take(1).try_for_each(|folder| File::open(folder)?.sync_all())
        });
        if let Err(error) = named.await {
            // One that hangs may get its name still: then its record says whose it is.
            if error.kind() != io::ErrorKind::TimedOut {
                self.forget_layer(id, generation).await;
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => foreign(&place),
                _ => Error::failed(Operation::Import, error),
            });
        }
        store.lock().keep(id, (record.clone(), generation));
        Ok((id, record, generation))
    }
}

fn foreign(place: &Path) -> Error {
    Error::Storage(format!(
        "There is a file {} already, of which no record tells, as there may be after an older export was restored. It is left \
         alone; move it away and try again.",
        place.display()
    ))
}
