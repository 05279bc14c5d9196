//! The daemon's start: images and their layers are read, layers are found where the state directory is today, and what a
//! crash has cut short is finished: a layer that nobody names goes, with its file.

use std::{collections::HashSet, path::Path};

use anyhow::{Context, bail};

use super::{ImageStore, change::remove, work};
use crate::{
    host::{STORAGE, in_time},
    model::{Image, ImageId, LayerId},
    store::{Batch, Counted, Store, StoreError, following},
    vm::layers::LayerRecord,
};

impl ImageStore {
    /// Before any VM is read, whose disks are found by these records.
    pub(super) async fn recover(&self, store: &Store) -> anyhow::Result<()> {
        let records = store.clone();
        let read = move || Ok((records.scan::<Image>(), records.scan_counted::<LayerRecord>()));
        let (images, layers) = in_time(STORAGE, read).await.context("cannot read the images")?;
        let (images, layers) = (images.context("cannot read the images")?, layers.context("cannot read the layers")?);
        if let Some(newer) = images.iter().find_map(|(_, image)| image.as_ref().err().filter(|error| error.is_newer()))
        {
            bail!("cannot read the images: {newer}");
        }
        let folder = self.folder.clone();
        in_time(STORAGE, move || work::sweep(&folder)).await.context("cannot make the folder of the images' data")?;
        let unreadable = layers.iter().any(|(_, layer)| layer.is_err());
        let parents: HashSet<LayerId> =
            layers.iter().filter_map(|(_, layer)| layer.as_ref().ok()?.0.lies_on()).collect();
        for (key, layer) in layers {
            let Some((id, layer)) = LayerId::parse(&key).zip(layer.ok()) else { continue };
            let is_needed = unreadable || parents.contains(&id);
            match layer.0.is_nobodys() {
                true if is_needed => tracing::error!(layer = key, "the data of no image stay: a disk may lie on them"),
                true => self.finish(store, id, &layer).await,
                false if layer.0.images().is_empty() => continue,
                false => {}
            }
            if !layer.0.is_nobodys() || is_needed {
                let layer = self.bring_up_to_date(store, id, layer).await?;
                self.lock().keep(id, layer);
            }
        }
        let mut state = self.lock();
        for (key, image) in images {
            match image {
                Ok(image) if ImageId::parse(&key) == Some(image.id) => drop(state.insert(image)),
                Ok(_) => tracing::error!(image = key, "an image bears another id than its record; it is left alone"),
                Err(error) => tracing::error!(image = key, %error, "an image cannot be read, and is left alone"),
            }
        }
        Ok(())
    }

    /// What is left of an import or of a deletion.
    async fn finish(&self, store: &Store, id: LayerId, (layer, generation): &Counted<LayerRecord>) {
        let Some(name) = layer.path().file_name().map(|name| self.folder.join(name)) else { return };
        let gone = name.clone();
        let removed = in_time(STORAGE, move || remove(&gone)).await;
        tracing::info!(file = %name.display(), ?removed, "data of no image are removed");
        if removed.is_err() {
            return;
        }
        let batch = Batch::new().remove_at::<LayerRecord>(&id.to_string(), *generation).from_reserve();
        if let Err(error) = store.commit(batch).await {
            tracing::error!(layer = %id, %error, "the record of a layer cannot be removed; the next start tries again");
        }
    }

    /// The state directory may have another name today.
    async fn bring_up_to_date(
        &self,
        store: &Store,
        id: LayerId,
        (layer, generation): Counted<LayerRecord>,
    ) -> Result<Counted<LayerRecord>, StoreError> {
        let path = layer.path();
        let Some(name) = path.file_name().map(Path::new).filter(|name| self.folder.join(name) != path) else {
            return Ok((layer, generation));
        };
        let today = LayerRecord::of_images(&self.folder, name, layer.images().clone());
        let batch = Batch::new().put_over(&id.to_string(), &today, Some(generation))?;
        store.commit(batch.from_reserve()).await?;
        Ok((today, following(Some(generation))))
    }
}
