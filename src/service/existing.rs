//! Disks that are there already and are attached as they are: which file a client means, whether it may (ruling 7), and
//! whether anybody else has it. They stay their user's (`model::DiskFile`).

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    collections::HashSet,
    fs::Metadata,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::Access;

use super::{
    Service,
    images::{host_path, listed},
    paths,
};
use crate::{
    config::Config,
    host::{
        self, STORAGE,
        image::{self, Backing, ImageError, writer},
        on_storage, open_within,
    },
    model::{BaseImage, Error, ExistingDisk, ForeignFile, ImageFormat, Operation, Result, VmView},
    vm::Mark,
};

/// In the names of files that qherd keeps beside disks.
const OURS: &str = ".qherd-";
const PATH: &str = "path";

/// A file that may be attached, until it stands in the definition of a VM or does not.
#[derive(Debug)]
pub(super) struct Found {
    pub file: ForeignFile,
    /// What it lies on.
    pub base: Option<BaseImage>,
    pub claim: Claim,
}

/// Files that are about to be attached.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<HashSet<PathBuf>>>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    claims: Claims,
}

impl Claims {
    fn take(&self, path: &Path) -> Option<Claim> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(path.to_owned()).then(|| Claim { path: path.to_owned(), claims: self.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// Finds and checks a disk image that a client named.
///
/// # Errors
/// [`Error::Invalid`] outside the storage directories, or for what cannot be a disk; [`Error::Storage`] where somebody has it;
/// [`Error::Failed`] when its storage does not answer.
pub(super) async fn resolve(service: &Service, wish: &ExistingDisk) -> Result<Found> {
    let wanted = host_path(service, &wish.path, PATH, "be the path of a disk image")?;
    let failed = |error| Error::failed(Operation::Change, error);
    let (ctx, at) = (service.ctx.clone(), wanted.clone());
    let found = on_storage(&at, STORAGE, move || Ok(find(&ctx.config, &wanted))).await;
    let path = found.map_err(failed)??;
    let taken = |by: String| {
        let path = path.display();
        Error::Storage(format!("The disk {path} cannot be attached: {by}. Two VMs would write over each other."))
    };
    // Before a look at who has it: who comes after finds either the claim or the VM.
    let Some(claim) = service.attaching.take(&path) else {
        return Err(taken("it is being attached to another VM right now".into()));
    };
    if let Some(by) = user(service, &path) {
        return Err(taken(by));
    }
    let (ctx, looked, format) = (service.ctx.clone(), path.clone(), wish.format);
    let looked = on_storage(&path, STORAGE, move || Ok(inspect(&ctx.config, looked, format))).await;
    let (file, base) = looked.map_err(failed)??;
    if let Some(base) = &base
        && service.ctx.census.has_disk(&base.path)
    {
        return Err(taken(format!("it lies on {}, which is a disk of a VM", base.path.display())));
    }
    Ok(Found { file, base, claim })
}

/// Which VM has a file, and as what.
fn user(service: &Service, file: &Path) -> Option<String> {
    let named_by = |view: &VmView| {
        let specs = [Some(&view.spec), view.in_effect.as_ref()];
        let mut disks = specs.into_iter().flatten().flat_map(|spec| &spec.disks);
        disks.find_map(|disk| {
            let what = if *disk.file == *file {
                "a disk"
            } else if disk.base.as_ref().is_some_and(|base| base.path == file) {
                "the base image of a disk"
            } else {
                return None;
            };
            Some(format!("it is {what} of the VM {} ({})", view.spec.name, view.spec.id))
        })
    };
    service.registry.views_with(Mark::path(file)).iter().filter(|view| !view.gone).find_map(named_by)
}

/// The canonical path of what a client may name. Like the next, it looks at the file system, and waits for it.
fn find(config: &Config, wanted: &Path) -> Result<PathBuf> {
    let invalid = |must: String| Error::invalid(PATH, must);
    if wanted.is_relative() {
        return Err(invalid("be an absolute path".into()));
    }
    let outside = || {
        let dirs = listed(&config.storage_dirs[1..]);
        let dirs =
            if dirs.is_empty() { "there is none but the state directory, which is qherd's own".into() } else { dirs };
        invalid(format!("lie in a storage directory ({dirs}); others are allowed with --storage-dir"))
    };
    let path = paths::canonical(wanted).filter(|path| is_allowed(config, path, &config.storage_dirs[1..]));
    let path = path.ok_or_else(outside)?;
    check_exists(&path).map_err(invalid)?;
    Ok(path)
}

/// In one of these, and not in what is qherd's own.
fn is_allowed(config: &Config, path: &Path, dirs: &[PathBuf]) -> bool {
    let own = paths::canonical(&config.state_dir);
    paths::is_within(path, dirs) && own.is_none_or(|own| !path.starts_with(own))
}

fn inspect(config: &Config, path: PathBuf, format: ImageFormat) -> Result<(ForeignFile, Option<BaseImage>)> {
    let invalid = |must: String| Error::invalid(PATH, must);
    check_file(&path, Access::READ_OK | Access::WRITE_OK).map_err(invalid)?;
    if let Some(by) = writer(&path).map_err(|e| invalid(format!("be readable by qherd: {e}")))? {
        return Err(Error::Storage(format!(
            "The disk {} is in use by {by}, which may write to it; end that first.",
            path.display()
        )));
    }
    let opened = open_within(&config.storage_dirs, &path, host::Access::ReadWrite);
    let opened = opened.map_err(|e| invalid(format!("be usable by qherd: {e}")))?;
    let image = image::examine_existing(&opened, format).map_err(unsuitable)?;
    let base = match image.backing {
        None => None,
        Some(backing) => Some(base(config, &path, backing)?),
    };
    Ok((ForeignFile { path, format, bytes: image.bytes }, base))
}

/// What the image at `path` lies on: a file that clients may name as well, and that lies on nothing itself.
fn base(config: &Config, path: &Path, Backing { file, format }: Backing) -> Result<BaseImage> {
    let invalid = |must: String| Error::invalid(PATH, must);
    let Some(format) = format else {
        return Err(invalid(format!(
            "say which format its backing file {file} has, raw or qcow2; qemu-img rebase -u -F FORMAT -b FILE makes it say so"
        )));
    };
    let folder = path.parent().unwrap_or(path);
    let dirs: Vec<PathBuf> = config.image_dirs.iter().chain(&config.storage_dirs[1..]).cloned().collect();
    // An image directory is not qherd's own, also where it is below the state directory.
    let found = paths::canonical(&folder.join(&file))
        .filter(|found| paths::is_within(found, &config.image_dirs) || is_allowed(config, found, &dirs));
    let Some(found) = found else {
        let dirs = listed(&dirs);
        return Err(invalid(format!(
            "lie on nothing outside of the image and storage directories ({dirs}), and it has the backing file {file}; allow \
             its folder with --image-dir, or flatten it with qemu-img convert"
        )));
    };
    let backing =
        |must: String| invalid(format!("have a backing file that can be used: {} must {must}", found.display()));
    check_file(&found, Access::READ_OK).map_err(backing)?;
    let opened = open_within(&dirs, &found, host::Access::Read);
    let opened = opened.map_err(|e| backing(format!("be readable by qherd: {e}")))?;
    image::examine_backing(&opened, format).map_err(|error| match error {
        ImageError::Unsuitable(must) => backing(must),
        other => unsuitable(other),
    })?;
    Ok(BaseImage::at(found, format))
}

/// Completes "must …".
fn check_file(path: &Path, access: Access) -> std::result::Result<(), String> {
    if path.to_str().is_none() {
        return Err(format!("have a path that is UTF-8, links resolved, unlike {}", path.display()));
    }
    if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(OURS)) {
        return Err("not be a file of qherd's own".into());
    }
    let metadata = check_exists(path)?;
    // Never opened before this: opening a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err("be a regular file, not a folder, pipe or device".into());
    }
    if metadata.len() == 0 {
        return Err("not be empty".into());
    }
    if metadata.nlink() > 1 && access.contains(Access::WRITE_OK) {
        let names = metadata.nlink();
        return Err(format!("have one name: it has {names} (hard links), and somebody may have it by another"));
    }
    rustix::fs::access(path, access).map_err(|e| format!("be usable by qherd: {}", std::io::Error::from(e)))
}

/// Completes "must …".
fn check_exists(path: &Path) -> std::result::Result<Metadata, String> {
    std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("exist; there is no {}", path.display()),
        _ => format!("be readable by qherd: {error}"),
    })
}

fn unsuitable(error: ImageError) -> Error {
    match error {
        ImageError::Unsuitable(must) => Error::invalid(PATH, must),
        other => Error::failed(Operation::Change, other),
    }
}
