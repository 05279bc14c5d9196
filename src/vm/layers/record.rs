//! The record of a layer: where its file is, what that lies on, and who names it. Which records a batch changes is not decided here.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    model::{
        BaseImage, Below, CloneMode, Disk, DiskFile, ForeignFile, ImageFormat, ImageId, LayerId, MAX_LAYER, VmId,
        Volume, VolumeFile,
    },
    store::{self, Counted, MAX_RECORD_BYTES, Record as _, StoreError},
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
    pub(super) owners: BTreeSet<VmId>,
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
    pub(super) fn of(disk: &Disk, owners: BTreeSet<VmId>) -> Self {
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
    pub(super) fn over(mut self, before: Option<&Self>, is_defined: bool) -> Self {
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
    pub(super) fn complete(
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

fn of_a_chain(id: LayerId) -> StoreError {
    let record = format!("{}/{id}", LayerRecord::KIND);
    StoreError::BadRecord { record, reason: "it lies on another one, and a disk on it".to_owned() }
}

pub(super) fn missing(id: LayerId) -> StoreError {
    let record = format!("{}/{id}", LayerRecord::KIND);
    StoreError::BadRecord { record, reason: "it is not there, and a VM has a disk in it".to_owned() }
}
