//! Base images: whether a file can serve as one, and which VMs hang on it. Which file a client means is found in `images`.

use std::{
    collections::{BTreeMap, HashMap},
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    Service,
    images::{self, Kind},
};
use crate::{
    host::image::{ImageError, Info, QemuImg},
    model::{BaseImage, CloneMode, Error, ImageFormat, Operation, Result, VmId, VmView},
};

/// A base image in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub path: PathBuf,
    pub format: ImageFormat,
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

/// The record is the definitions themselves, so it cannot disagree with them.
pub(super) fn in_use(views: &[VmView]) -> Vec<Base> {
    let mut bases: BTreeMap<PathBuf, Base> = BTreeMap::new();
    for spec in views.iter().filter(|view| !view.gone).map(|view| &view.spec) {
        for disk in &spec.disks {
            let Some(BaseImage { path, format }) = &disk.base else { continue };
            let base = bases.entry(path.clone());
            let base = base.or_insert_with(|| Base { path: path.clone(), format: *format, vms: Vec::new() });
            base.vms.push(BaseUser { id: spec.id, name: spec.name.clone(), clone: disk.clone });
        }
    }
    bases.into_values().collect()
}

/// Looks into base images, and into each only once for as long as it does not change: of a thousand VMs from one
/// image only the first pays for the look.
#[derive(Default)]
pub(super) struct Inspector(Mutex<HashMap<PathBuf, (Fingerprint, Info)>>);

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
    async fn inspect(
        &self,
        images: &QemuImg,
        path: &Path,
        fingerprint: Fingerprint,
    ) -> std::result::Result<Info, ImageError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some((before, info)) = known
            && before == fingerprint
        {
            return Ok(info);
        }
        let info = images.inspect(path).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (fingerprint, info.clone()));
        Ok(info)
    }
}

/// Finds and checks the base image that a client named. Returns it with its virtual size in bytes.
///
/// # Errors
/// [`Error::Invalid`] outside the image directories, or for a file that cannot be a base image;
/// [`Error::BaseImageNotFound`]; [`Error::Failed`] when its storage does not answer.
pub(super) async fn resolve(service: &Service, named: &Path) -> Result<(BaseImage, u64)> {
    let (path, metadata) = images::locate(service, named, Kind::Base).await?;
    match service.bases.inspect(&service.ctx.images, &path, Fingerprint::of(&metadata)).await {
        Ok(info) => Ok((BaseImage { path, format: info.format }, info.virtual_size)),
        Err(ImageError::Unsuitable(must)) => Err(Error::invalid(Kind::Base.param(), must)),
        Err(ImageError::Host(why)) => Err(Error::failed(Operation::Create, why)),
    }
}
