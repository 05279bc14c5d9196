//! Which image, or folder for one, a client means, and whether it may (ruling 7) and can be had now. What is in a base
//! image is looked at in `bases`.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs::Metadata,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{Service, paths, trusted};
use crate::{
    config::{Config, is_windows},
    host::{
        STORAGE,
        image::{not_a_cd, writer},
        on_storage,
    },
    model::{Error, Operation, Result, VmId, VmSpec},
    vm::Context,
};

/// What an image is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageUse {
    /// To be cloned.
    Base,
    /// For an image of the store to be made of it.
    Import,
    /// For the CD drive.
    Iso,
}

impl ImageUse {
    pub fn param(self) -> &'static str {
        match self {
            Self::Base => "base_image",
            Self::Import => "path",
            Self::Iso => "iso",
        }
    }

    fn invalid(self, must: impl Into<String>) -> Error {
        Error::invalid(self.param(), must)
    }

    fn missing(self, named: &Path) -> Error {
        match self {
            Self::Base => Error::BaseImageNotFound { path: named.to_owned() },
            Self::Import | Self::Iso => self.invalid(format!("exist; there is no {}", named.display())),
        }
    }

    /// What the host lacks is no fault of the client's.
    fn unreadable(self, named: &Path, error: &std::io::Error) -> Error {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO) => Error::failed(self.operation(named), error),
            _ => self.invalid(format!("be readable by qherd: {error}")),
        }
    }

    fn operation(self, named: &Path) -> Operation {
        match self {
            Self::Base => Operation::Clone { base: named.to_owned() },
            Self::Import => Operation::Import,
            Self::Iso => Operation::Change,
        }
    }
}

/// The canonical path of an image file that a client named, in its own words.
///
/// # Errors
/// [`Error::Invalid`] outside the image directories or for what is no readable file; where it does not exist what its
/// kind says to that; [`Error::Failed`] when its storage does not answer.
pub(super) async fn locate(service: &Service, named: &Path, kind: ImageUse) -> Result<(PathBuf, Metadata)> {
    let wanted = host_path(service, named, kind.param(), "be the path of an image file")?;
    let (ctx, shown) = (service.ctx.clone(), named.to_owned());
    let at = wanted.clone();
    let found = on_storage(&at, STORAGE, move || Ok(find(&ctx, &shown, wanted, kind))).await;
    found.map_err(|e| Error::failed(kind.operation(named), e))?
}

/// The canonical path of the folder that a client wants its disk in. It need not be there.
///
/// # Errors
/// [`Error::Invalid`] outside the storage directories, or where there is something that is no folder;
/// [`Error::Failed`] when its storage does not answer.
pub(super) async fn folder(service: &Service, named: &Path) -> Result<PathBuf> {
    let wanted = host_path(service, named, FOLDER, "be the path of a folder")?;
    let ctx = service.ctx.clone();
    let at = wanted.clone();
    let found = on_storage(&at, STORAGE, move || Ok(find_folder(&ctx.config, &wanted))).await;
    found.map_err(|e| Error::failed(Operation::Create, e))?
}

/// Whether a client's folder is the one that a VM's root disk lies in.
///
/// # Errors
/// [`Error::Fixed`] when it is not; [`Error::Failed`] when its storage does not answer.
pub(super) async fn check_same_folder(service: &Service, named: &Path, spec: &VmSpec) -> Result<()> {
    let Some(place) = spec.root().and_then(|root| root.file.parent()).map(Path::to_owned) else { return Ok(()) };
    if spec.named.disk_folder.as_deref() == Some(named) {
        return Ok(());
    }
    let wanted = host_path(service, named, FOLDER, "be the path of a folder")?;
    let shown = spec.named.disk_folder.clone().unwrap_or_else(|| place.clone());
    let at = wanted.clone();
    let look = move || Ok(wanted == place || paths::canonical(&wanted) == paths::canonical(&place));
    let same = on_storage(&at, STORAGE, look).await;
    match same.map_err(|e| Error::failed(Operation::Change, e))? {
        true => Ok(()),
        false => Err(Error::Fixed { param: FOLDER.into(), is: shown.display().to_string() }),
    }
}

const FOLDER: &str = "disk_folder";
/// Bytes that a qcow2 image has for the name of its backing file.
const BACKING_PATH: usize = 1023;

/// A client's path as one of this host.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn host_path(service: &Service, named: &Path, param: &'static str, must: &str) -> Result<PathBuf> {
    let Some(text) = named.to_str().filter(|t| !t.is_empty() && !t.contains('\0')) else {
        return Err(Error::invalid(param, must));
    };
    match service.ctx.config.path_maps.iter().find_map(|map| map.apply(text)) {
        Some(mapped) => Ok(mapped),
        None if is_windows(text) => Err(Error::invalid(
            param,
            format!(
                "be a path of this host, not one of Windows ({text}); a client's folder is given a meaning here with --path-map, such as 'D:/HyperV=/srv/vms'"
            ),
        )),
        None => Ok(named.to_owned()),
    }
}

/// The part that looks at the file system, and waits for it. `named` is the image in the client's words.
fn find(ctx: &Context, named: &Path, mut wanted: PathBuf, kind: ImageUse) -> Result<(PathBuf, Metadata)> {
    let config = &ctx.config;
    if wanted.is_relative() {
        // A plain name is looked for in the image directories, in their order.
        let candidates = || config.image_dirs.iter().map(|dir| dir.join(&wanted));
        wanted = candidates().find(|path| path.exists()).or_else(|| candidates().next()).unwrap_or(wanted);
    }
    let outside = || {
        let dirs = listed(&config.image_dirs);
        kind.invalid(format!("lie in an image directory ({dirs}); others are allowed with --image-dir"))
    };
    let path =
        paths::canonical(&wanted).filter(|path| paths::is_within(path, &config.image_dirs)).ok_or_else(outside)?;
    if path.to_str().is_none() {
        return Err(kind.invalid(format!("have a path that is UTF-8, links resolved, unlike {}", path.display())));
    }
    if paths::is_within(&path, &config.storage_dirs[..1]) || ctx.census.has_disk(&path) {
        return Err(kind.invalid("not be a disk of a VM"));
    }
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(kind.missing(named)),
        Err(e) => return Err(kind.unreadable(named, &e)),
    };
    // Never opened before this: opening a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err(kind.invalid("be a regular file, not a folder, pipe or device"));
    }
    if metadata.len() == 0 {
        return Err(kind.invalid("not be empty"));
    }
    if let Err(e) = rustix::fs::access(&path, rustix::fs::Access::READ_OK) {
        return Err(kind.unreadable(named, &e.into()));
    }
    let unreadable = |e: std::io::Error| kind.unreadable(named, &e);
    match kind {
        ImageUse::Base => {
            if path.as_os_str().len() > BACKING_PATH {
                return Err(
                    kind.invalid(format!("have a path of at most {BACKING_PATH} bytes: a clone holds no longer one"))
                );
            }
            if let Some(by) = writer(&path).map_err(unreadable)? {
                return Err(Error::BaseImageInUse { path: named.to_owned(), by });
            }
        }
        ImageUse::Import => {
            if let Some(by) = writer(&path).map_err(unreadable)? {
                return Err(Error::BaseImageInUse { path: named.to_owned(), by });
            }
        }
        ImageUse::Iso => {
            if let Some(foreign) = not_a_cd(&path).map_err(unreadable)? {
                return Err(kind.invalid(format!("be an ISO image, not {foreign}")));
            }
        }
    }
    Ok((path, metadata))
}

fn find_folder(config: &Config, wanted: &Path) -> Result<PathBuf> {
    let invalid = |must: String| Err(Error::invalid(FOLDER, must));
    if wanted.is_relative() {
        return invalid("be an absolute path".into());
    }
    let dirs = &config.storage_dirs;
    let allowed = |path: &PathBuf| {
        paths::is_within(path, dirs) || dirs.iter().any(|dir| paths::canonical(dir).as_ref() == Some(path))
    };
    let Some(path) = paths::canonical(wanted).filter(allowed) else {
        let dirs = listed(dirs);
        return invalid(format!("lie in a storage directory ({dirs}); others are allowed with --storage-dir"));
    };
    if path.to_str().is_none() {
        return invalid(format!("be UTF-8, links resolved, unlike {}", path.display()));
    }
    // It goes with its VM, whatever lies in it.
    let own = paths::canonical(&dirs[0]).and_then(|own| Some(path.strip_prefix(own).ok()?.iter().next()?.to_owned()));
    if own.and_then(|first| VmId::parse(first.to_str()?)).is_some() {
        return invalid("not lie in the folder of another VM".into());
    }
    // Up to the storage directory; what leads there is the administrator's.
    let below = path.ancestors().take_while(|part| allowed(&part.to_path_buf()));
    for part in below {
        if let Some(who) = trusted::changed_by(part) {
            return invalid(format!(
                "be a folder that only the administrator can change, unlike {}, which {who} can",
                part.display()
            ));
        }
    }
    match path.ancestors().find_map(|part| std::fs::metadata(part).ok()) {
        Some(metadata) if !metadata.is_dir() => invalid("be a folder, or one that can be made".into()),
        _ => Ok(path),
    }
}

pub(super) fn listed(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}
