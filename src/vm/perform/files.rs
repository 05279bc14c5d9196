//! What a VM has on disk beside its images: looked for, and removed with it (ADR 0014).

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    Brief, Done, Hands,
    images::{REMOVAL, absent, host, kept},
};
use crate::{
    host::{STORAGE, folder, in_time, on_storage, on_storage_of, remove_image},
    model::{Disk, Error, LayerId, MadeFolder, OwnFile},
    qemu::RunPaths,
    vm::{
        core::{DiskNo, Setback, StepReport as Report},
        storage::check,
    },
};

/// Storage that does not answer by then is not there.
const LOOK: Duration = Duration::from_secs(9);
/// How long a VM that is to go is asked for its disks before anybody is answered.
const QUICK_LOOK: Duration = Duration::from_millis(900);

/// The first file that the next start would not find, in words.
pub(super) async fn find(hands: &Hands, brief: &Brief) -> Done {
    let spec = brief.definition();
    let disks = made(brief).map(|disk| disk.file.to_path_buf());
    let bases = spec.disks.iter().flat_map(|disk| disk.lies_on()).map(|below| below.path);
    let seed = spec.seed.as_ref().map(|seed| hands.ctx.seeds(spec.id).file(seed.id));
    let files: Vec<PathBuf> = disks.chain(bases).chain(spec.iso.clone()).chain(seed).collect();
    // All in one go: after a start of the daemon every VM looks.
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let looking_at = Arc::new(AtomicUsize::new(0));
    let (looked, at) = (files.clone(), looking_at.clone());
    let found = on_storage_of(&paths, LOOK, move || {
        looked.iter().enumerate().try_for_each(|(number, file)| {
            at.store(number, Ordering::Relaxed);
            fs::metadata(file).map(drop)
        })
    });
    let missing = found.await.err().and_then(|error| {
        let file = files.get(looking_at.load(Ordering::Relaxed))?;
        Some(format!("{} cannot be used: {error}", file.display()))
    });
    Ok(Report::Missing(missing))
}

/// Whether a deletion could remove the VM's disks, before anything is done about it.
pub(super) async fn check_removable(hands: &Hands, brief: &Brief) -> Done {
    are_removable(hands, brief, QUICK_LOOK).await?;
    Ok(Report::Done)
}

async fn are_removable(hands: &Hands, brief: &Brief, patience: Duration) -> Result<(), Setback> {
    for file in own_images(hands, brief, made(brief)).into_values() {
        let (looked, folders) = (file.clone(), hands.ctx.config.storage_dirs.clone());
        let checked = on_storage(&file, patience, move || Ok(check(&looked, &folders))).await;
        checked.map_err(host)?.map_err(|why| Setback::Reported(Error::Storage(why)))?;
    }
    Ok(())
}

/// Removes everything that belongs to a VM but its record: its images, the folders that were made for them, what its
/// cloud-init was given, its run directory. Of one that was `half_made` what is not there is no matter.
pub(super) async fn erase(hands: &Hands, brief: &Brief, half_made: bool) -> Done {
    if !half_made {
        are_removable(hands, brief, STORAGE).await?;
    }
    let spec = brief.definition();
    let held = brief.record.run.held.images.values().map(|disk| &**disk);
    let mut images = own_images(hands, brief, made(brief).chain(held));
    let stay = kept(hands, images.keys().copied().collect()).await?;
    images.retain(|layer, _| !stay.contains(layer));
    for file in images.into_values() {
        let (image, folders) = (file.clone(), hands.ctx.config.storage_dirs.clone());
        let removed = on_storage(&file, REMOVAL, move || remove_image(&image, &folders)).await;
        removed.map_err(|e| Setback::Host(format!("cannot remove {}: {e}", file.display())))?;
    }
    let (folder, run, console) = (hands.ctx.image_folder(&hands.id), hands.paths.clone(), hands.console.clone());
    let seeds = hands.ctx.seeds(hands.id);
    let removed = in_time(REMOVAL, move || {
        seeds.remove_all()?;
        remove_emptied(&folder)?;
        console.forget();
        clear(&run)?;
        for file in run.all() {
            absent(fs::remove_file(&file), &file)?;
        }
        remove_emptied(run.dir())
    });
    removed.await.map_err(host)?;
    let own = spec.root().and_then(|root| root.file.own());
    if let Some(place) = own.and_then(|file| file.parent()).map(Path::to_owned) {
        remove_folders(place, spec.id.to_string(), spec.named.folders.clone()).await;
    }
    Ok(Report::Done)
}

/// What a run has left in its directory; the logs stay.
pub(super) async fn remove_run_files(hands: &Hands) -> Done {
    let paths = hands.paths.clone();
    in_time(STORAGE, move || clear(&paths)).await.map_err(host)?;
    Ok(Report::Done)
}

/// Removes sockets and pid file of a run.
///
/// # Errors
/// The file system's.
pub(in crate::vm) fn clear(paths: &RunPaths) -> io::Result<()> {
    let known = [paths.qmp(), paths.agent(), paths.serial(), paths.pid()];
    let left = match fs::read_dir(paths.dir()) {
        Ok(left) => left.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        // Such as that no descriptor is left to look by.
        Err(error) => return Err(error),
    };
    let carriers =
        left.iter().filter(|file| file.file_name().to_str().is_some_and(RunPaths::is_carrier)).map(fs::DirEntry::path);
    known.into_iter().chain(carriers).try_for_each(|file| absent(fs::remove_file(&file), &file))
}

/// The disks that have an image.
fn made(brief: &Brief) -> impl Iterator<Item = &Disk> {
    let unmade = &brief.record.run.unmade;
    let is_made = |disk: &&Disk| DiskNo::of(&disk.name).is_none_or(|no| !unmade.contains(&no));
    brief.definition().disks.iter().filter(is_made)
}

/// Those that qherd made, and not for another state directory.
fn own_images<'a>(hands: &Hands, brief: &Brief, disks: impl Iterator<Item = &'a Disk>) -> BTreeMap<LayerId, OwnFile> {
    let owned = disks.filter(|disk| hands.ctx.owns(disk, brief.definition()).is_ok());
    owned.filter_map(|disk| Some((disk.layer, disk.file.own()?.clone()))).collect()
}

/// Folders that were made for its disk, where no other VM's is in them. One that is not the one that was made stays, and
/// keeps nothing else.
async fn remove_folders(place: PathBuf, owner: String, folders: Vec<MadeFolder>) {
    let at = place.clone();
    let removal = on_storage(&at, REMOVAL, move || {
        folder::discard_all(&place, &owner);
        folders.iter().rev().try_for_each(|made| folder::remove(made).map(|removed| tracing::debug!(?made, removed)))
    });
    if let Err(error) = removal.await {
        tracing::warn!(%error, "cannot remove a folder that was made for a disk");
    }
}

/// A folder of ours, in which a volume may be, or somebody may have put something of theirs.
fn remove_emptied(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::info!(folder = %folder.display(), "there is something in the folder of a deleted VM that was not its own, such as a volume; it stays");
            Ok(())
        }
        removed => absent(removed, folder),
    }
}
