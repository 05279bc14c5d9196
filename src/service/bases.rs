//! Base images: which file a client means, whether it can serve as one, and which VMs hang on it.

use std::{
    collections::{BTreeMap, HashMap},
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{Service, paths};
use crate::{
    config::Config,
    host::{
        STORAGE,
        image::{ImageError, Info, QemuImg},
        in_time,
    },
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
    let failed = |why: String| Error::failed(Operation::Clone { base: named.to_owned() }, why);
    let Some(text) = named.to_str().filter(|t| !t.is_empty() && !t.contains('\0')) else {
        return Err(invalid("be the path of an image file"));
    };
    let asked = service.host_path(text);
    let (ctx, views, told) = (service.ctx.clone(), service.registry.views(), named.to_owned());
    let found = in_time(STORAGE, move || Ok(find(&ctx.config, &views, &told, asked))).await;
    let (path, metadata) = found.map_err(|e| failed(e.to_string()))??;
    match service.bases.inspect(&service.ctx.images, &path, Fingerprint::of(&metadata)).await {
        Ok(info) => Ok((BaseImage { path, format: info.format }, info.virtual_size)),
        Err(ImageError::Unsuitable(must)) => Err(invalid(must)),
        Err(ImageError::Host(why)) => Err(Error::failed(Operation::Create, why)),
    }
}

/// The part that looks at the file system, and waits for it. `named` is the image in the client's words.
fn find(config: &Config, views: &[VmView], named: &Path, mut asked: PathBuf) -> Result<(PathBuf, Metadata)> {
    if asked.is_relative() {
        // A plain name is looked for in the image directories, in their order.
        let candidates = || config.image_dirs.iter().map(|dir| dir.join(&asked));
        asked = candidates().find(|path| path.exists()).or_else(|| candidates().next()).unwrap_or(asked);
    }
    let outside = || {
        let dirs: Vec<String> = config.image_dirs.iter().map(|d| d.display().to_string()).collect();
        invalid(format!("lie in an image directory ({}); others are allowed with --image-dir", dirs.join(", ")))
    };
    let path =
        paths::canonical(&asked).filter(|path| paths::is_within(path, &config.image_dirs)).ok_or_else(outside)?;
    if path.to_str().is_none() {
        return Err(invalid(format!("have a path that is UTF-8, links resolved, unlike {}", path.display())));
    }
    if paths::is_within(&path, &config.storage_dirs[..1])
        || views.iter().any(|view| view.spec.disks.iter().any(|disk| disk.file == path))
    {
        return Err(invalid("not be a disk that qherd made for a VM"));
    }
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::BaseImageNotFound { path: named.to_owned() });
        }
        Err(e) => return Err(invalid(format!("be readable by qherd: {e}"))),
    };
    // Never opened before this: opening a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err(invalid("be a regular file, not a folder, pipe or device"));
    }
    if metadata.len() == 0 {
        return Err(invalid("not be empty"));
    }
    if let Err(e) = rustix::fs::access(&path, rustix::fs::Access::READ_OK) {
        return Err(invalid(format!("be readable by qherd: {e}")));
    }
    Ok((path, metadata))
}

fn invalid(must: impl Into<String>) -> Error {
    Error::invalid("base_image", must)
}
