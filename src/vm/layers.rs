//! `layer/<id>`: the file that a disk's data is in, what it lies on, and which VMs or images of the store name it. A VM's definition names its layers,
//! and so does what is known of its run; which of them a batch has to write or remove is known here. What is done with the
//! files themselves is the plan's.
//!
//! A layer may have several owners, each with a task of its own. So each change of its record names the generation that it
//! replaces, and the store refuses the batch where another owner was quicker: its task reads the record anew
//! (docs/adr/0030). Layers of images are made and removed by `service::image_store`; those of disks that lie on one only
//! name it (docs/adr/0043).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::core::{Record, RunRecord};
use crate::{
    model::{
        BaseImage, Below, CloneMode, Disk, DiskFile, ForeignFile, ImageFormat, ImageId, LayerId, MAX_LAYER, VmId,
        Volume, VolumeFile,
    },
    store::{self, Batch, Counted, MAX_RECORD_BYTES, Record as _, Store, StoreError},
};

/// A layer as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Where its file is.
    folder: PathBuf,
    /// Relative to that.
    file: PathBuf,
    /// What it reads through to, and needs for as long as it lives.
    parent: Option<Parent>,
    /// What it was copied from. It stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy_of: Option<BaseImage>,
    /// It was there before, and is its user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    foreign: Option<Foreign>,
    /// The VMs that name it.
    owners: BTreeSet<VmId>,
    /// The images of the store that name it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    images: BTreeSet<ImageId>,
    /// It is a volume, and nobody's disk has to name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    volume: Option<Kept>,
}

/// A layer of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    volume: Arc<Volume>,
    /// GiB, as its VM had it last.
    size: u64,
    /// Its file is half made, or about to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
}

/// How a file was found that qherd did not make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Foreign {
    format: ImageFormat,
    bytes: u64,
}

/// What a layer lies on: a file of somebody's, or another layer, which lies on nothing itself. Longer chains of layers come with
/// snapshots; a VM whose layer is of one is set aside until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Parent {
    Base(BaseImage),
    /// Such a file, and what it lies on itself. An earlier qherd does not know it, and sets the VM aside: it would leave out what
    /// is below.
    Chain(BaseImage, Vec<Below>),
    Layer(LayerId),
}

impl store::Record for LayerRecord {
    const KIND: &'static str = "layer";
    /// From 2 on a file may be its user's, or an image's, and from 3 on a volume's: an earlier qherd, which would erase it with its
    /// VM, does not read the record.
    const VERSION: u32 = 3;
    const COUNTED: bool = true;

    fn migrate(_: &str, from: u32, data: Value) -> Result<Value, String> {
        if from == 1 || from == 2 { Ok(data) } else { Err(format!("nothing here knows version {from}")) }
    }
}

/// Images that may have one layer: so many names for the same content.
pub const MAX_IMAGES: usize = 64;

/// Owners are few, and the paths of a layer have their bound.
const _: () = assert!(MAX_LAYER + (64 + MAX_IMAGES) * 39 + 2048 <= MAX_RECORD_BYTES);

impl LayerRecord {
    fn of(disk: &Disk, owners: BTreeSet<VmId>) -> Self {
        let (folder, file) = match (disk.file.parent(), disk.file.file_name()) {
            (Some(folder), Some(file)) => (folder, Path::new(file)),
            // No file that was ever made.
            _ => (Path::new(""), &*disk.file),
        };
        let (parent, copy_of) = match disk.clone {
            CloneMode::Linked => (disk.base.clone().map(|base| Parent::of(base, disk.file.below())), None),
            CloneMode::Full => (None, disk.base.clone()),
        };
        let (folder, file, images) = (folder.to_owned(), file.to_owned(), BTreeSet::new());
        let foreign = disk.file.foreign().map(|file| Foreign { format: file.format, bytes: file.bytes });
        let kept = |volume: &Arc<Volume>| Kept { volume: volume.clone(), size: disk.size, unfinished: false };
        let volume = match &disk.file {
            DiskFile::Volume(VolumeFile { volume, .. }) => Some(kept(volume)),
            DiskFile::Own(_) | DiskFile::Foreign(_) => None,
        };
        Self { folder, file, parent, copy_of, foreign, owners, images, volume }
    }

    /// Of a volume whose file is to be made.
    pub fn of_volume(disk: &Disk) -> Self {
        Self::of(disk, BTreeSet::new()).unfinished(true)
    }

    /// Of a volume, whether its file is half made or about to go.
    #[must_use]
    pub fn unfinished(mut self, unfinished: bool) -> Self {
        self.volume.iter_mut().for_each(|kept| kept.unfinished = unfinished);
        self
    }

    /// What stays as it is when a VM stores its disk anew: others' names, and that it is a volume. One that does not define the disk any
    /// more does not say either how large it is.
    fn over(mut self, before: Option<&Self>, is_defined: bool) -> Self {
        let Some(before) = before else { return self };
        self.images.clone_from(&before.images);
        if let Some(kept) = &before.volume {
            let size = self.volume.as_ref().filter(|_| is_defined).map_or(kept.size, |now| now.size);
            self.volume = Some(Kept { size, ..kept.clone() });
        }
        self
    }

    /// Of images: it stands alone, and is only read.
    pub fn of_images(folder: &Path, file: &Path, images: BTreeSet<ImageId>) -> Self {
        let (folder, file) = (folder.to_owned(), file.to_owned());
        let owners = BTreeSet::new();
        Self { folder, file, parent: None, copy_of: None, foreign: None, owners, images, volume: None }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.file)
    }

    /// The VMs that name it.
    pub fn owners(&self) -> &BTreeSet<VmId> {
        &self.owners
    }

    /// The images that name it.
    pub fn images(&self) -> &BTreeSet<ImageId> {
        &self.images
    }

    /// The file that it lies on, of somebody's.
    pub fn base(&self) -> Option<&BaseImage> {
        match &self.parent {
            Some(Parent::Base(base) | Parent::Chain(base, _)) => Some(base),
            Some(Parent::Layer(_)) | None => None,
        }
    }

    /// Of a file that qherd did not make, which form it has.
    pub fn foreign_format(&self) -> Option<ImageFormat> {
        self.foreign.as_ref().map(|foreign| foreign.format)
    }

    /// Nobody names it: its file is half made, or about to go.
    pub fn is_nobodys(&self) -> bool {
        self.owners.is_empty() && self.images.is_empty() && self.volume.is_none()
    }

    /// What it is as a volume, and whether its file is half made or about to go.
    pub fn volume(&self) -> Option<(&Volume, bool)> {
        self.volume.as_ref().map(|kept| (&*kept.volume, kept.unfinished))
    }

    /// GiB, of a volume.
    pub fn volume_size(&self) -> u64 {
        self.volume.as_ref().map_or(0, |kept| kept.size)
    }

    /// The same, with what lies elsewhere by now.
    #[must_use]
    pub fn moved(mut self, today: impl Fn(&Path) -> PathBuf) -> Self {
        let path = today(&self.path());
        if let (Some(folder), Some(file)) = (path.parent(), path.file_name()) {
            (self.folder, self.file) = (folder.to_owned(), file.into());
        }
        let base = match &mut self.parent {
            Some(Parent::Base(base)) => Some(base),
            Some(Parent::Chain(base, below)) => {
                below.iter_mut().for_each(|below| below.path = today(&below.path));
                Some(base)
            }
            Some(Parent::Layer(_)) | None => self.copy_of.as_mut(),
        };
        if let Some(base) = base {
            base.path = today(&base.path);
        }
        self
    }

    /// The layer that it reads through to.
    pub fn lies_on(&self) -> Option<LayerId> {
        match &self.parent {
            Some(Parent::Layer(id)) => Some(*id),
            Some(Parent::Base(_) | Parent::Chain(..)) | None => None,
        }
    }

    /// What it was cloned from, and how.
    ///
    /// # Errors
    /// Those of `read`; `BadRecord` for a chain, and where the layer is missing that it lies on.
    pub fn origin(
        &self,
        read: impl FnOnce(LayerId) -> Result<Option<Counted<Self>>, StoreError>,
    ) -> Result<(Option<BaseImage>, CloneMode), StoreError> {
        let base = match &self.parent {
            Some(Parent::Base(base) | Parent::Chain(base, _)) => Some(base.clone()),
            Some(Parent::Layer(id)) => {
                let (parent, _) = read(*id)?.ok_or_else(|| missing(*id))?;
                if parent.parent.is_some() {
                    return Err(of_a_chain(*id));
                }
                Some(BaseImage { layer: Some(*id), ..BaseImage::at(parent.path(), ImageFormat::Qcow2) })
            }
            None => self.copy_of.clone(),
        };
        let is_copied = self.parent.is_none() && self.copy_of.is_some();
        Ok((base, if is_copied { CloneMode::Full } else { CloneMode::Linked }))
    }

    /// Its file, as that of a disk.
    pub fn disk_file(&self) -> DiskFile {
        let path = self.path();
        match (&self.foreign, &self.volume) {
            (Some(Foreign { format, bytes }), _) => {
                let below = match &self.parent {
                    Some(Parent::Chain(_, below)) => below.clone(),
                    Some(Parent::Base(_) | Parent::Layer(_)) | None => Vec::new(),
                };
                DiskFile::Foreign(ForeignFile { path, format: *format, bytes: *bytes, below })
            }
            (None, Some(kept)) => DiskFile::Volume(VolumeFile { path, volume: kept.volume.clone() }),
            (None, None) => path.into(),
        }
    }

    /// Says of a disk what its own record does not.
    fn complete(
        &self,
        disk: &mut Disk,
        read: impl FnOnce(LayerId) -> Result<Option<Counted<Self>>, StoreError>,
    ) -> Result<(), StoreError> {
        (disk.base, _) = self.origin(read)?;
        disk.file = self.disk_file();
        Ok(())
    }
}

impl Parent {
    fn of(base: BaseImage, below: &[Below]) -> Self {
        match base.layer {
            Some(layer) => Self::Layer(layer),
            None if below.is_empty() => Self::Base(base),
            None => Self::Chain(base, below.to_vec()),
        }
    }
}

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

fn of_a_chain(id: LayerId) -> StoreError {
    let record = format!("{}/{id}", LayerRecord::KIND);
    StoreError::BadRecord { record, reason: "it lies on another one, and a disk on it".to_owned() }
}

fn missing(id: LayerId) -> StoreError {
    let record = format!("{}/{id}", LayerRecord::KIND);
    StoreError::BadRecord { record, reason: "it is not there, and a VM has a disk in it".to_owned() }
}

#[cfg(test)]
mod tests;
