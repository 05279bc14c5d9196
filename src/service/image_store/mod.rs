//! The store of images: which there are, what they are called, and which VMs are being made of them. An image's data are in
//! a layer whose owners are the images that name it; disks that are cloned lie on that layer (docs/adr/0043).
//!
//! `import` makes images, of files of this host and of what `spool` has received, from a client or by a `pull`, of what a VM has (`of_vm`), and `establish` stores them;
//! `known` has the addresses of well-known ones, `uploads` what comes in several requests; `change` renames and deletes them, `export` reads them;
//! `recover` finishes what a crash has cut short; `work` has the files that are not done yet.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait, or before the daemon serves anybody")]

mod change;
mod establish;
mod export;
mod given;
mod import;
mod known;
mod of_vm;
mod pull;
mod record;
mod recover;
mod spool;
mod tree;
mod uploads;
mod work;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound::{Excluded, Unbounded},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use change::ChangeImage;
pub use import::{ImportFrom, ImportImage};
pub use known::KnownImage;
pub use spool::{SpoolError, Spooled};
pub use tree::{DiskOn, ImageTree};
pub use uploads::UploadView;

use super::Service;
use crate::{
    config::Config,
    fetch::Fetcher,
    host::{Places, STORAGE, image::Unpacker, on_storage},
    model::{BaseImage, Error, Image, ImageFormat, ImageId, ImageName, LabelFilter, LayerId, Operation, Result, VmId},
    store::{Counted, Generation, Store},
    vm::{Mark, layers::LayerRecord},
};

/// Imports at a time; others wait for their turn, and no create of a VM does.
const IMPORTS: usize = 2;
/// Images that there may be.
const MOST: usize = 10_000;

pub(super) struct ImageStore {
    state: Arc<Mutex<State>>,
    /// Of changes of records, which come one after the other.
    turn: tokio::sync::Mutex<()>,
    imports: Places,
    pulls: Places,
    fetcher: Fetcher,
    known: known::KnownImages,
    uploads: uploads::Uploads,
    unpacker: Unpacker,
    /// Where the files of layers are.
    folder: PathBuf,
}

#[derive(Default)]
struct State {
    /// By age.
    images: BTreeMap<(u64, ImageId), Arc<Image>>,
    ages: HashMap<ImageId, u64>,
    /// None for a name that an import under way is to give.
    names: HashMap<ImageName, Option<ImageId>>,
    layers: HashMap<LayerId, Kept>,
}

/// A layer of images.
struct Kept {
    record: LayerRecord,
    generation: Generation,
    /// Requests that are about to lay a disk over it, or to copy it.
    claims: usize,
    /// It is about to be removed.
    going: bool,
}

/// Keeps an image from being deleted while a disk is made of it, until that is in a record of its own.
pub(super) struct Claim {
    state: Arc<Mutex<State>>,
    layer: LayerId,
}

/// An image as it is shown.
#[derive(Clone, Debug)]
pub struct ImageView {
    pub image: Arc<Image>,
    /// The file with its data.
    pub file: PathBuf,
    /// The VMs with a disk that lies on it.
    pub vms: Vec<(VmId, String)>,
}

/// Which images a list is to hold.
#[derive(Clone, Debug, Default)]
pub struct ImageFilter {
    /// With or without its tag.
    pub name: Option<String>,
    pub labels: LabelFilter,
}

impl ImageFilter {
    fn wants(&self, image: &Image) -> bool {
        let named = |name: &String| *name == image.name.name || *name == image.name.to_string();
        self.name.as_ref().is_none_or(named) && self.labels.wants(&image.metadata.labels)
    }
}

/// Images, and where the next ones begin, if there are any.
pub type ImagePage = (Vec<ImageView>, Option<(u64, ImageId)>);

impl ImageStore {
    /// Reads what is stored, and finishes what a crash has cut short, before any VM is read.
    ///
    /// # Errors
    /// For the person who starts the daemon.
    pub async fn open(config: &Config, records: &Store, unpacker: Unpacker) -> anyhow::Result<Self> {
        let store = Self {
            state: Arc::default(),
            turn: tokio::sync::Mutex::default(),
            imports: Places::new(IMPORTS),
            pulls: Places::new(pull::PULLS),
            fetcher: Fetcher::new(config.pull_from.clone()),
            known: known::KnownImages::load(config.templates_dir.as_deref())?,
            uploads: uploads::Uploads::default(),
            unpacker,
            folder: config.layers_dir(),
        };
        store.recover(records).await?;
        Ok(store)
    }

    /// What unpacks images.
    pub(super) fn unpacker(&self) -> &Unpacker {
        &self.unpacker
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Counts on the layer of an image from now on.
    fn claim(&self, layer: LayerId) -> Option<(BaseImage, Claim)> {
        let mut state = self.lock();
        let kept = state.layers.get_mut(&layer).filter(|kept| !kept.going)?;
        kept.claims += 1;
        let base = BaseImage { layer: Some(layer), ..BaseImage::at(kept.record.path(), ImageFormat::Qcow2) };
        Some((base, Claim { state: self.state.clone(), layer }))
    }
}

// Every change under the lock is whole, so a panic leaves nothing half done.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(kept) = lock(&self.state).layers.get_mut(&self.layer) {
            kept.claims -= 1;
        }
    }
}

impl State {
    fn insert(&mut self, image: Image) -> Arc<Image> {
        let image = Arc::new(image);
        if let Some(before) = self.remove(image.id)
            && before.name != image.name
        {
            self.names.remove(&before.name);
        }
        self.names.insert(image.name.clone(), Some(image.id));
        self.ages.insert(image.id, image.created_at);
        self.images.insert((image.created_at, image.id), image.clone());
        image
    }

    /// Its name stays taken.
    fn remove(&mut self, id: ImageId) -> Option<Arc<Image>> {
        let at = self.ages.remove(&id)?;
        self.images.remove(&(at, id))
    }

    fn get(&self, id: ImageId) -> Option<&Arc<Image>> {
        self.images.get(&(*self.ages.get(&id)?, id))
    }

    fn find(&self, text: &str) -> Option<&Arc<Image>> {
        let id = ImageId::parse(text).or_else(|| *self.names.get(&ImageName::parse(text).ok()?)?);
        self.get(id?)
    }

    fn keep(&mut self, id: LayerId, (record, generation): Counted<LayerRecord>) {
        let before = self.layers.remove(&id);
        let (claims, going) = before.map_or((0, false), |before| (before.claims, before.going));
        self.layers.insert(id, Kept { record, generation, claims, going });
    }
}

impl Service {
    /// A page of images, oldest first.
    pub fn images(&self, filter: &ImageFilter, after: Option<(u64, ImageId)>, limit: usize) -> ImagePage {
        let from = after.map_or(Unbounded, Excluded);
        let mut found: Vec<Arc<Image>> = {
            let state = self.image_store.lock();
            let wanted =
                state.images.range((from, Unbounded)).map(|(_, image)| image).filter(|image| filter.wants(image));
            wanted.take(limit + 1).cloned().collect()
        };
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|image| (image.created_at, image.id));
        (found.into_iter().map(|image| self.view_of_image(image)).collect(), next)
    }

    /// By its id or its name.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`].
    pub fn image(&self, named: &str) -> Result<ImageView> {
        let found = self.image_store.lock().find(named).cloned();
        found.map(|image| self.view_of_image(image)).ok_or_else(|| Error::ImageNotFound(named.to_owned()))
    }

    fn view_of_image(&self, image: Arc<Image>) -> ImageView {
        let file = self.image_store.folder.join(file_name(&image.content_sha256));
        let vms = self.registry.views_with(Mark::Base(image.layer)).into_iter();
        let vms = vms.map(|view| (view.spec.id, view.spec.name.clone())).collect();
        ImageView { file, vms, image }
    }

    /// The names of the images that a layer is of.
    pub fn images_of(&self, layer: LayerId) -> Vec<String> {
        let state = self.image_store.lock();
        let owners = state.layers.get(&layer).into_iter().flat_map(|kept| kept.record.images());
        owners.filter_map(|id| Some(state.get(*id)?.name.to_string())).collect()
    }

    /// What a client's `base_image` means where it is an image of the store: its name, its id, or the path of its file. None
    /// where it is a path as ever.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is a file of that name as well; [`Error::Failed`] when its storage does not answer.
    pub(super) async fn stored_base(&self, named: &Path) -> Result<Option<(BaseImage, u64, Claim)>> {
        let Some(text) = named.to_str() else { return Ok(None) };
        let found = {
            let state = self.image_store.lock();
            let found = match text.contains('/') {
                false => state.find(text),
                true if named.parent() != Some(&self.image_store.folder) => None,
                true => {
                    let is_file = |image: &&Arc<Image>| named.ends_with(file_name(&image.content_sha256));
                    state.images.values().find(is_file)
                }
            };
            found.cloned()
        };
        let Some(image) = found else { return Ok(None) };
        if let Some(file) = self.file_of_that_name(named).await? {
            let must = format!(
                "name one image, and {text} is both an image of the store and the file {}; give the image's id ({}), or the \
                 whole path of the file",
                file.display(),
                image.id
            );
            return Err(Error::invalid("base_image", must));
        }
        let gone = || Error::BaseImageNotFound { path: named.to_owned() };
        let (base, claim) = self.image_store.claim(image.layer).ok_or_else(gone)?;
        Ok(Some((base, image.virtual_size, claim)))
    }

    /// In an image directory, or by a client's prefix.
    async fn file_of_that_name(&self, named: &Path) -> Result<Option<PathBuf>> {
        if named.is_absolute() {
            return Ok(None);
        }
        let config = &self.ctx.config;
        let mapped = named.to_str().and_then(|text| config.path_maps.iter().find_map(|map| map.apply(text)));
        let candidates: Vec<PathBuf> =
            mapped.into_iter().chain(config.image_dirs.iter().map(|dir| dir.join(named))).collect();
        let Some(first) = candidates.first().cloned() else { return Ok(None) };
        let looked = on_storage(&first, STORAGE, move || Ok(candidates.into_iter().find(|path| path.exists()))).await;
        looked.map_err(|error| Error::failed(Operation::Create, error))
    }
}

/// Of a layer: the sum of what is in it.
fn file_name(sha256: &str) -> String {
    format!("{sha256}.qcow2")
}
