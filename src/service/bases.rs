//! Base images: whether a file can serve as one, and which VMs hang on it. Which file a client means is found in `images`.

use std::{
    collections::{BTreeMap, HashMap},
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::{
    Service, existing,
    image_store::Claim,
    images::{self, ImageUse},
};
use crate::{
    host::image::{ImageError, Info, QemuImg},
    model::{BaseImage, Below, CloneMode, Error, ImageFormat, LayerId, Operation, Result, VmId, VmView},
};

/// A base image in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub path: PathBuf,
    pub format: ImageFormat,
    /// Of an image of the store.
    pub layer: Option<LayerId>,
    /// The VMs that were cloned from it.
    pub vms: Vec<BaseUser>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUser {
    pub id: VmId,
    pub name: String,
    /// A linked clone needs the file for as long as it lives.
    pub clone: CloneMode,
}

impl Service {
    /// The base images that VMs were cloned from, and who depends on each.
    pub fn bases(&self) -> Vec<Base> {
        in_use(&self.registry.views())
    }
}

/// The record is the definitions themselves, so it cannot disagree with them.
fn in_use(views: &[VmView]) -> Vec<Base> {
    let mut bases: BTreeMap<PathBuf, Base> = BTreeMap::new();
    for spec in views.iter().filter(|view| !view.gone).map(|view| &view.spec) {
        for disk in &spec.disks {
            let Some(BaseImage { path, format, layer }) = &disk.base else { continue };
            let base = bases.entry(path.clone());
            let base =
                base.or_insert_with(|| Base { path: path.clone(), format: *format, layer: *layer, vms: Vec::new() });
            let user = BaseUser { id: spec.id, name: spec.name.clone(), clone: disk.clone };
            base.vms.push(user.clone());
            for Below { path, format } in disk.file.below() {
                let below = bases.entry(path.clone());
                let below =
                    below.or_insert_with(|| Base { path: path.clone(), format: *format, layer: None, vms: Vec::new() });
                below.vms.push(user.clone());
            }
        }
    }
    bases.into_values().collect()
}

/// How long a request waits for the look into an image; the look itself goes on.
const PATIENCE: Duration = Duration::from_secs(25);

/// Looks into base images, and into each only once for as long as it does not change: of a thousand VMs from one
/// image only the first pays for the look, and those that come meanwhile wait for the same one.
#[derive(Default)]
pub(super) struct Inspector(Arc<Mutex<HashMap<PathBuf, (Fingerprint, Look)>>>);

/// A look that is under way or done. It is a task of its own: nobody who hangs up ends it for the others.
type Look = Shared<BoxFuture<'static, std::result::Result<Info, ImageError>>>;

/// Changes with every write to a file.
#[derive(Clone, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Inspector {
    /// The look into a file as it is now.
    fn look(&self, images: &QemuImg, path: &Path, fingerprint: Fingerprint) -> Look {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, look)) = looks.get(path)
            && *before == fingerprint
        {
            return look.clone();
        }
        let (images, looked, all) = (images.clone(), path.to_owned(), self.0.clone());
        let same = fingerprint.clone();
        let task = tokio::spawn(async move {
            let outcome = images.inspect(&looked).await;
            if outcome.is_err() {
                // It may be another the next time, or nobody's fault.
                let mut looks = all.lock().unwrap_or_else(PoisonError::into_inner);
                if looks.get(&looked).is_some_and(|(fingerprint, _)| *fingerprint == same) {
                    looks.remove(&looked);
                }
            }
            outcome
        });
        let ended = async move { task.await.unwrap_or_else(|e| Err(ImageError::Host(e.to_string()))) };
        let look = ended.boxed().shared();
        looks.insert(path.to_owned(), (fingerprint, look.clone()));
        look
    }
}

/// Finds and checks the base image that a client named: an image of the store, or a file. Returns it with its virtual size in
/// bytes, and what keeps the former from being deleted until the clone is stored.
///
/// # Errors
/// [`Error::Invalid`] outside the image directories, or for a file that cannot be a base image;
/// [`Error::BaseImageNotFound`], [`Error::BaseImageInUse`], [`Error::BaseImageUnchecked`]; [`Error::Failed`] when its
/// storage does not answer.
pub(super) async fn resolve(service: &Service, named: &Path) -> Result<(BaseImage, u64, Option<Claim>)> {
    if let Some((base, size, claim)) = service.stored_base(named).await? {
        return Ok((base, size, Some(claim)));
    }
    let (path, metadata) = images::locate(service, named, ImageUse::Base).await?;
    if existing::is_a_disk(service, &metadata).await {
        return Err(Error::invalid(ImageUse::Base.param(), "not be a disk of a VM, by whatever name"));
    }
    let look = service.bases.look(&service.ctx.images, &path, Fingerprint::of(&metadata));
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(info)) => Ok((BaseImage { path, format: info.format, layer: None }, info.virtual_size, None)),
        Ok(Err(ImageError::Unsuitable(must))) => Err(Error::invalid(ImageUse::Base.param(), must)),
        Ok(Err(ImageError::InUse(by))) => Err(Error::BaseImageInUse { path: named.to_owned(), by }),
        Ok(Err(error @ (ImageError::Host(_) | ImageError::Full))) => Err(Error::failed(Operation::Create, error)),
        Err(_) => Err(Error::BaseImageUnchecked { path: named.to_owned() }),
    }
}

/// The path of the base image that a client named, whatever is there.
///
/// # Errors
/// As [`resolve`].
pub(super) async fn path_of(service: &Service, named: &Path) -> Result<PathBuf> {
    match service.stored_base(named).await? {
        Some((base, ..)) => Ok(base.path),
        None => Ok(images::locate(service, named, ImageUse::Base).await?.0),
    }
}
