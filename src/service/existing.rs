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
    time::Duration,
};

use futures_util::{StreamExt, stream};
use rustix::fs::Access;
use tokio::time::timeout;

use super::{
    Service,
    file_id::{FileId, lies_in},
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
    model::{
        BaseImage, Below, Error, ExistingDisk, ForeignFile, ImageFormat, Operation, Result, Status, VmSpec, VmView,
    },
    vm::{Mark, VmHandle},
};

/// In the names of files that qherd keeps beside disks.
const OURS: &str = ".qherd-";
const PATH: &str = "path";
/// Files that a disk lies on, one on another.
const MOST_BELOW: usize = 16;
/// Files that are looked at side by side.
const AT_A_TIME: usize = 8;

/// A file that may be attached, until it stands in the definition of a VM or does not.
#[derive(Debug)]
pub(super) struct Found {
    pub file: ForeignFile,
    /// What it lies on.
    pub base: Option<BaseImage>,
    pub claim: Claim,
}

/// Files that are about to be attached, by whatever names.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<HashSet<FileId>>>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    file: FileId,
    claims: Claims,
}

impl Claims {
    fn take(&self, file: FileId) -> Option<Claim> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(file).then(|| Claim { file, claims: self.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.file);
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
    let (path, id) = found.map_err(failed)??;
    let taken = |by: String| {
        let path = path.display();
        Error::Storage(format!("The disk {path} cannot be attached: {by}. Two VMs would write over each other."))
    };
    // Before a look at who has it: who comes after finds either the claim or the VM.
    let Some(claim) = service.attaching.take(id) else {
        return Err(taken("it is being attached right now, to another VM or as another disk of this one".into()));
    };
    if let Some(by) = user(service, &path) {
        return Err(taken(by));
    }
    // Before it is judged as a file: what is wrong with one of qherd's own is not to be mended.
    if let Some(by) = by_another_name(service, &path, Some(id)).await.map_err(failed)? {
        return Err(taken(by));
    }
    let (ctx, looked, format) = (service.ctx.clone(), path.clone(), wish.format);
    let looked = on_storage(&path, STORAGE, move || Ok(inspect(&ctx.config, looked, id, format))).await;
    let (file, base) = looked.map_err(failed)??;
    let all = base.iter().map(|base| &base.path).chain(file.below.iter().map(|below| &below.path));
    let all: Vec<PathBuf> = all.cloned().collect();
    for below in all {
        let is_disk = service.ctx.census.has_disk(&below)
            || by_another_name(service, &below, None).await.map_err(failed)?.is_some();
        if is_disk {
            return Err(taken(format!("it lies on {}, which is a disk of a VM", below.display())));
        }
    }
    Ok(Found { file, base, claim })
}

/// Who has a file that is to be a disk, by whatever name; for what a disk lies on, without an id, whose disk it is. Every file of every
/// VM is looked at, and those of the store: no path says where else a file is mounted.
async fn by_another_name(service: &Service, path: &Path, id: Option<FileId>) -> std::io::Result<Option<String>> {
    let views: Vec<VmView> = service.registry.everyone().iter().map(VmHandle::view).filter(|view| !view.gone).collect();
    let specs = views.iter().flat_map(|view| [Some(&view.spec), view.in_effect.as_ref()].into_iter().flatten());
    let mut disks: Vec<(PathBuf, Arc<VmSpec>)> = Vec::new();
    let mut bases: Vec<(PathBuf, Arc<VmSpec>)> = Vec::new();
    for spec in specs {
        disks.extend(spec.disks.iter().map(|disk| (disk.file.to_path_buf(), spec.clone())));
        bases.extend(spec.disks.iter().filter_map(|disk| Some((disk.base.as_ref()?.path.clone(), spec.clone()))));
        let below = spec.disks.iter().flat_map(|disk| disk.file.below());
        bases.extend(below.map(|below| (below.path.clone(), spec.clone())));
    }
    // Thousands of clones have one base.
    bases.sort_by(|(one, _), (other, _)| one.cmp(other));
    bases.dedup_by(|(one, _), (other, _)| one == other);
    let (layers, looked) = (service.ctx.config.layers_dir(), path.to_owned());
    on_storage(path, STORAGE, move || {
        let of = |what: &str, spec: Arc<VmSpec>| {
            format!("it is {what} of the VM {} ({}) by another name", spec.name, spec.id)
        };
        let Some(id) = id else {
            return Ok(FileId::at(&looked).and_then(|id| id.found(disks)).map(|spec| of("a disk", spec)));
        };
        let file = id.found(disks).map(|spec| of("a disk", spec));
        let file = file.or_else(|| id.found(bases).map(|spec| of("the base image of a disk", spec)));
        Ok(file.or_else(|| {
            let layer = id.found_in(&layers)?;
            Some(format!("it is a file of the image store, {}", layer.display()))
        }))
    })
    .await
}

/// How long a file that somebody has is looked at before it is passed over: storage that hangs is in nobody else's way.
const GLANCE: Duration = Duration::from_secs(1);

/// Whether a file that is to be read alone is a disk of a VM by another name. qherd's own are found by those that it has in the same
/// file system.
pub(super) async fn is_a_disk(service: &Service, file: &Metadata) -> bool {
    let id = FileId::of(file);
    let looks = with_other_names(service, file).into_iter().map(|path| async move {
        let looked = path.clone();
        let found = on_storage(&path, STORAGE, move || Ok(FileId::at(&looked)));
        timeout(GLANCE, found).await.is_ok_and(|found| found.is_ok_and(|found| found == Some(id)))
    });
    let mut looks = stream::iter(looks).buffer_unordered(AT_A_TIME);
    while let Some(is_it) = looks.next().await {
        if is_it {
            return true;
        }
    }
    false
}

/// Disks of VMs that may have this file by another name.
fn with_other_names(service: &Service, file: &Metadata) -> Vec<PathBuf> {
    let any = file.nlink() > 1;
    let views = if any { service.registry.views() } else { service.registry.views_with(Mark::Attached) };
    let specs = views.iter().filter(|view| !view.gone).flat_map(|view| [Some(&view.spec), view.in_effect.as_ref()]);
    let disks = specs.flatten().flat_map(|spec| spec.disks.iter());
    disks.filter(|disk| any || disk.file.foreign().is_some()).map(|disk| disk.file.to_path_buf()).collect()
}

/// That nobody has begun to write to the disks of a VM that is off which are not qherd's own. What QEMU says of it is for nobody.
///
/// # Errors
/// [`Error::Storage`]. Whatever else is wrong with them the start says.
pub(super) async fn are_free(handle: &VmHandle) -> Result<()> {
    let is_off = || {
        let view = handle.view();
        view.pid.is_none() && matches!(view.status, Status::Stopped | Status::Crashed)
    };
    if !is_off() {
        return Ok(());
    }
    for file in handle.view().spec.disks.iter().filter_map(|disk| disk.file.foreign()) {
        let looked = file.path.clone();
        let by = on_storage(&file.path, STORAGE, move || writer(&looked));
        // One that was started meanwhile has them itself.
        if let Ok(Some(by)) = by.await
            && is_off()
        {
            return Err(in_use(&file.path, &by));
        }
    }
    Ok(())
}

fn in_use(path: &Path, by: &str) -> Error {
    Error::Storage(format!("The disk {} is in use by {by}, which may write to it; end that first.", path.display()))
}

/// Which VM has a file, and as what.
fn user(service: &Service, file: &Path) -> Option<String> {
    let named_by = |view: &VmView| {
        let specs = [Some(&view.spec), view.in_effect.as_ref()];
        let mut disks = specs.into_iter().flatten().flat_map(|spec| &spec.disks);
        disks.find_map(|disk| {
            let what = if *disk.file == *file {
                "a disk"
            } else if disk.base.as_ref().is_some_and(|base| base.path == file)
                || disk.file.below().iter().any(|below| below.path == file)
            {
                "the base image of a disk"
            } else {
                return None;
            };
            Some(format!("it is {what} of the VM {} ({})", view.spec.name, view.spec.id))
        })
    };
    let marks = [Mark::disk(file), Mark::image(file)];
    let views = marks.into_iter().flat_map(|mark| service.registry.views_with(mark));
    views.filter(|view| !view.gone).find_map(|view| named_by(&view))
}

/// The canonical path of what a client may name, and which file that is. Like the next, it looks at the file system, and waits for it.
fn find(config: &Config, wanted: &Path) -> Result<(PathBuf, FileId)> {
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
    let id = FileId::of(&check_exists(&path).map_err(invalid)?);
    Ok((path, id))
}

/// In one of these, and not in what is qherd's own.
fn is_allowed(config: &Config, path: &Path, dirs: &[PathBuf]) -> bool {
    let own = paths::canonical(&config.state_dir);
    paths::is_within(path, dirs) && own.is_none_or(|own| !path.starts_with(&own) && !lies_in(path, &own))
}

fn inspect(
    config: &Config,
    path: PathBuf,
    id: FileId,
    format: ImageFormat,
) -> Result<(ForeignFile, Option<BaseImage>)> {
    let invalid = |must: String| Error::invalid(PATH, must);
    check_file(&path, Access::READ_OK | Access::WRITE_OK).map_err(invalid)?;
    if let Some(by) = writer(&path).map_err(|e| invalid(format!("be readable by qherd: {e}")))? {
        return Err(in_use(&path, &by));
    }
    let opened = open_within(&config.storage_dirs, &path, host::Access::ReadWrite);
    let opened = opened.map_err(|e| invalid(format!("be usable by qherd: {e}")))?;
    if opened.metadata().ok().map(|metadata| FileId::of(&metadata)) != Some(id) {
        return Err(invalid("stay the same file while it is attached".into()));
    }
    let image = image::examine_existing(&opened, format).map_err(unsuitable)?;
    let mut chain = match image.backing {
        None => Vec::new(),
        Some(backing) => chain(config, &path, backing)?,
    };
    let base = (!chain.is_empty()).then(|| chain.remove(0));
    let base = base.map(|Below { path, format }| BaseImage::at(path, format));
    Ok((ForeignFile { path, format, bytes: image.bytes, below: chain }, base))
}

/// What the image at `path` lies on, file by file, down to the one that stands alone.
fn chain(config: &Config, path: &Path, backing: Backing) -> Result<Vec<Below>> {
    let mut files: Vec<Below> = Vec::new();
    let mut next = Some(backing);
    while let Some(backing) = next {
        let above = files.last().map_or(path, |file| &file.path);
        let (file, lies_on) = below(config, above, backing)?;
        if file.path == path || files.iter().any(|known| known.path == file.path) {
            let name = file.path.display();
            return Err(Error::invalid(
                PATH,
                format!("lie on a file that stands alone in the end: {name} lies on itself"),
            ));
        }
        files.push(file);
        if files.len() > MOST_BELOW {
            let must = format!("lie on at most {MOST_BELOW} files, one on another; qemu-img convert makes one of them");
            return Err(Error::invalid(PATH, must));
        }
        next = lies_on;
    }
    Ok(files)
}

/// What the image at `path` lies on: a file that clients may name as well; and what that lies on itself.
fn below(config: &Config, path: &Path, Backing { file, format }: Backing) -> Result<(Below, Option<Backing>)> {
    let invalid = |must: String| Error::invalid(PATH, must);
    let Some(format) = format else {
        return Err(invalid(format!(
            "say which format its backing file {file} has, raw or qcow2; qemu-img rebase -u -F FORMAT -b {file} {} makes it say so",
            path.display()
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
    let examined = image::examine_existing(&opened, format).map_err(|error| match error {
        ImageError::Unsuitable(must) => backing(must),
        other => unsuitable(other),
    })?;
    Ok((Below { path: found, format }, examined.backing))
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
    // Root might: who made it so meant everybody.
    if metadata.mode() & 0o222 == 0 && access.contains(Access::WRITE_OK) {
        return Err(format!(
            "be a file that may be written to, and its mode is {:04o}; chmod u+w permits it",
            metadata.mode() & 0o7777
        ));
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
