//! `layer/<id>`: the file that a disk's data is in, what it lies on, and which VMs or images of the store name it. A VM's definition names its layers,
//! and so does what is known of its run; which of them a batch has to write or remove is known here. What is done with the
//! files themselves is the plan's.
//!
//! A layer may have several owners, each with a task of its own. So each change of its record names the generation that it
//! replaces, and the store refuses the batch where another owner was quicker: its task reads the record anew
//! (docs/adr/0030). Layers of images are made and removed by `service::image_store`; those of disks that lie on one only
//! name it (docs/adr/0043).

mod record;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use record::missing;
pub use record::{LayerRecord, MAX_IMAGES};

use super::core::{Record, RunRecord};
use crate::{
    model::{Disk, LayerId, VmId},
    store::{self, Batch, Counted, Store, StoreError},
};

/// Layers as they were when they were read or written last. (A map makes room for eleven values at once, of each VM.)
#[derive(Clone, Debug, Default)]
pub(super) struct Layers(BTreeMap<LayerId, Arc<Counted<LayerRecord>>>);

impl Layers {
    /// Completes the disks of what was stored of a VM. One that an earlier version has stored says everything itself.
    ///
    /// # Errors
    /// Those of `read`; `BadRecord` where there is no such layer.
    pub fn complete<'a>(
        &mut self,
        disks: impl IntoIterator<Item = &'a mut Disk>,
        read: impl Fn(LayerId) -> Result<Option<Counted<LayerRecord>>, StoreError>,
    ) -> Result<(), StoreError> {
        for disk in disks.into_iter().filter(|disk| disk.file.as_os_str().is_empty()) {
            let (layer, _) = &**match self.0.entry(disk.layer) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(Arc::new(read(disk.layer)?.ok_or_else(|| missing(disk.layer))?)),
            };
            layer.complete(disk, &read)?;
        }
        Ok(())
    }

    /// What is to change for a VM that is to be stored so; and what its layers are then.
    ///
    /// # Errors
    /// As [`Batch::put_over`].
    pub fn put(&self, mut batch: Batch, record: &Record) -> Result<(Batch, Self), StoreError> {
        let owner = record.definition.id;
        let mut after = self.clone();
        let named = named(record);
        for (id, (disk, is_defined)) in &named {
            let before = self.0.get(id).map(|known| &known.0);
            let mut owners = before.map(|layer| layer.owners.clone()).unwrap_or_default();
            owners.insert(owner);
            let layer = LayerRecord::of(disk, owners).over(before, *is_defined);
            if before.is_none_or(|before| *before != layer) {
                batch = after.write(batch, *id, layer)?;
            }
        }
        let named = named.keys().copied().collect();
        after.disown(batch, owner, &named).map(|batch| (batch, after))
    }

    /// What is to change for a VM that is no more.
    ///
    /// # Errors
    /// As [`Batch::put_over`].
    pub fn remove(&self, batch: Batch, owner: VmId) -> Result<(Batch, Self), StoreError> {
        let mut after = self.clone();
        after.disown(batch, owner, &BTreeSet::new()).map(|batch| (batch, after))
    }

    /// The batch in which nobody names a layer any more takes it along.
    fn disown(&mut self, mut batch: Batch, owner: VmId, but: &BTreeSet<LayerId>) -> Result<Batch, StoreError> {
        let given_up = self.0.iter().filter(|(id, known)| !but.contains(id) && known.0.owners.contains(&owner));
        let given_up: Vec<_> = given_up.map(|(id, known)| (*id, (**known).clone())).collect();
        for (id, (mut layer, generation)) in given_up {
            layer.owners.remove(&owner);
            if layer.is_nobodys() {
                batch = batch.remove_at::<LayerRecord>(&id.to_string(), generation);
            } else {
                batch = self.write(batch, id, layer)?;
            }
            self.0.remove(&id);
        }
        Ok(batch)
    }

    fn write(&mut self, batch: Batch, id: LayerId, layer: LayerRecord) -> Result<Batch, StoreError> {
        let before = self.0.get(&id).map(|known| known.1);
        let batch = batch.put_over(&id.to_string(), &layer, before)?;
        self.0.insert(id, Arc::new((layer, store::following(before))));
        Ok(batch)
    }

    /// What these layers, and those that `record` names, are by now. Blocks.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn read_anew(&self, store: &Store, record: Option<&Record>) -> Result<Self, StoreError> {
        let named = record.map(named).unwrap_or_default();
        let ids: BTreeSet<LayerId> = self.0.keys().chain(named.keys()).copied().collect();
        let mut now = BTreeMap::new();
        for id in ids {
            now.extend(get(store, id)?.map(|layer| (id, Arc::new(layer))));
        }
        Ok(Self(now))
    }
}

/// One layer, or `None`. Blocks.
///
/// # Errors
/// As [`Store::get`].
pub(crate) fn get(store: &Store, id: LayerId) -> Result<Option<Counted<LayerRecord>>, StoreError> {
    store.get_counted(&id.to_string())
}

/// Every layer that a VM has or may have, with a disk that says what it is, and whether that is defined.
fn named(record: &Record) -> BTreeMap<LayerId, (&Disk, bool)> {
    let defined = record.definition.disks.iter().map(|disk| (disk, true));
    let mut named = BTreeMap::new();
    for (disk, is_defined) in defined.chain(known_to_run(&record.run).map(|disk| (disk, false))) {
        // What is wanted of one goes before what QEMU knows of it.
        named.entry(disk.layer).or_insert((disk, is_defined));
    }
    named
}

fn known_to_run(run: &RunRecord) -> impl Iterator<Item = &Disk> {
    let in_effect = run.up().into_iter().flat_map(|up| &up.in_effect.disks);
    in_effect.chain(run.held.images.values().map(|disk| &**disk))
}

#[cfg(test)]
mod tests;
