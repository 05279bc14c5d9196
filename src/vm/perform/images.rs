//! Images of disks: made, grown while nobody has them open, removed. What proves that one is ours and unused is ADR 0014's:
//! its name stands in the record, which was stored before there was an image; its storage is there; nobody has it locked.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Brief, Done, Hands, bases, disks};
use crate::{
    host::{
        Access, STORAGE,
        image::{self, ImageError},
        on_storage, open_within, remove_image,
    },
    model::{Disk, DiskFile, Error, ImageFormat, LayerId, VmSpec},
    qemu::devices,
    store::StoreError,
    vm::{
        core::{DiskNo, Setback, StepReport as Report},
        layers, mark_storage,
        storage::check,
        storage_of,
    },
};

/// For a look at one name.
const LOOK: Duration = Duration::from_secs(10);
/// Freeing the blocks of a large image takes seconds.
pub(super) const REMOVAL: Duration = Duration::from_secs(60);

/// Whether the place of a new image is free. What is there is none that a record tells of, and is left alone.
pub(super) async fn check_free(hands: &Hands, brief: &Brief, no: DiskNo) -> Done {
    let disk = defined(brief, no)?;
    let file = match &disk.file {
        DiskFile::Own(file) => file.to_path_buf(),
        DiskFile::Foreign(file) => return check_there(hands, &file.path, file.format).await,
        DiskFile::Volume(file) => {
            // Of one that is off its next start says it, and what can be done then.
            if brief.record.run.up().is_some() {
                let checked = bases::check(hands, disk).await;
                checked.map_err(|why| {
                    let then = "Attach the volume while the VM is off, where that can be said of its disk.";
                    Setback::Foreign(Error::Storage(format!(
                        "The volume cannot be attached to a VM that runs: {why}. {then}"
                    )))
                })?;
            }
            return check_there(hands, &file.path, disk.file.format()).await;
        }
    };
    let looked = file.clone();
    let found = on_storage(&file, LOOK, move || match fs::symlink_metadata(looked) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    });
    let found = found.await;
    let file = file.display();
    match found {
        Ok(false) => {
            let checked = bases::check_new(hands, disk).await;
            checked.map(|()| Report::Done).map_err(|why| Setback::Foreign(Error::Storage(why)))
        }
        Ok(true) if no == DiskNo(0) => Err(Setback::Foreign(Error::Storage(format!(
            "There is a file {file} already, of which no record tells. It is left alone; ask under another idempotency key."
        )))),
        Ok(true) => Err(Setback::Foreign(Error::Storage(format!(
            "There is a file {file} that no record names, as there may be after an older export was restored; qherd does not \
             write over it. Move it away and try again."
        )))),
        Err(error) => Err(Setback::Host(format!("cannot look for {file}: {error}"))),
    }
}

/// Whether a file that is to be attached is still what it was found to be.
async fn check_there(hands: &Hands, file: &Path, format: ImageFormat) -> Done {
    let (path, folders) = (file.to_owned(), hands.ctx.config.storage_dirs.clone());
    let looked = on_storage(file, STORAGE, move || {
        let file = open_within(&folders, &path, Access::ReadWrite)?;
        image::check_disk(&file, format).map_err(io::Error::other)
    });
    match looked.await {
        Ok(_) => Ok(Report::Done),
        Err(error) => Err(Setback::Foreign(Error::Storage(format!(
            "The disk {} cannot be attached any more ({error}).",
            file.display()
        )))),
    }
}

/// Makes the image, on stable storage when this returns. Dropped half-way it leaves one that is half made, which the next
/// try, or a removal, takes away: its name was free when it was noted.
pub(super) async fn make(hands: &Hands, brief: &Brief, no: DiskNo, size: u64) -> Done {
    let disk = defined(brief, no)?;
    if !brief.record.run.held.images.contains_key(&no) {
        return Err(Setback::Host(format!("the image of {} is not noted yet", disk.name)));
    }
    let (ctx, file) = match &disk.file {
        DiskFile::Own(file) => (&hands.ctx, file.clone()),
        DiskFile::Foreign(_) | DiskFile::Volume(_) => return Ok(Report::Done),
    };
    let (folder, folders) = (ctx.image_folder(&hands.id), ctx.config.storage_dirs.clone());
    let prepared = on_storage(&disk.file, STORAGE, move || {
        if file.parent() == Some(&folder) {
            fs::create_dir_all(&folder)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot make {}: {e}", folder.display())))?;
        }
        // Of a try that was cut short.
        remove_image(&file, &folders)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot make {}: {e}", file.display())))?;
        if let Some(storage) = storage_of(&file, &folders) {
            mark_storage(storage);
        }
        Ok(())
    });
    prepared.await.map_err(host)?;
    let made = match &disk.base {
        Some(base) => ctx.images.clone_base(base, disk.clone, &disk.file, size, &brief.copied).await,
        None => ctx.images.create(&disk.file, size).await,
    };
    made.map_err(of_image)?;
    Ok(Report::Done)
}

/// Removes an image that neither the definition nor QEMU has any more. Where another disk of the VM is missing beside it,
/// the folder is not the one that the record tells of, and nothing is removed.
pub(super) async fn remove(hands: &Hands, brief: &Brief, no: DiskNo) -> Done {
    let Some(disk) = brief.record.run.held.images.get(&no) else { return Ok(Report::Done) };
    if hands.ctx.owns(disk, brief.definition()).is_err() {
        // The original's: this one has never had it.
        return Ok(Report::Done);
    }
    if let Ok(session) = hands.session() {
        // A node without its device, of a plugging that was cut short.
        disks::close_node(&session, disk).await?;
    }
    let stays = kept(hands, vec![disk.layer]).await?.contains(&disk.layer);
    let Some(file) = disk.file.own().filter(|_| !stays) else {
        tracing::info!(vm = %hands.id, file = %disk.file.display(), "detached a disk; its file stays as it is");
        return Ok(Report::Done);
    };
    let (file, others) = (file.clone(), beside(brief, disk));
    let folders = hands.ctx.config.storage_dirs.clone();
    let removed = on_storage(&disk.file, REMOVAL, move || {
        if let Some(missing) = others.iter().find(|other| fs::symlink_metadata(other).is_err()) {
            let why = format!("{} stays, because {} is missing", file.display(), missing.display());
            return Err(io::Error::other(why));
        }
        check(&file, &folders).map_err(io::Error::other)?;
        let removed = remove_image(&file, &folders);
        removed.map_err(|e| io::Error::new(e.kind(), format!("cannot remove {}: {e}", file.display())))
    });
    if removed.await.map_err(host)? {
        tracing::info!(vm = %hands.id, file = %disk.file.display(), "removed the image of a disk that was taken out");
    }
    Ok(Report::Done)
}

/// Which of these layers are volumes by now. What is stored counts, and not what this VM remembers of a disk that it had: it may have
/// been told that something could not be stored which was.
pub(super) async fn kept(hands: &Hands, layers: Vec<LayerId>) -> Result<BTreeSet<LayerId>, Setback> {
    let store = hands.ctx.store.clone();
    let look = move || {
        let mut kept = BTreeSet::new();
        for id in layers {
            let layer = layers::get(&store, id)?;
            kept.extend(layer.filter(|(layer, _)| layer.volume().is_some()).map(|_| id));
        }
        Ok::<_, StoreError>(kept)
    };
    let looked = tokio::task::spawn_blocking(look).await.map_err(|ended| ended.to_string());
    looked.and_then(|kept| kept.map_err(|error| error.to_string())).map_err(Setback::Host)
}

/// Gives an image that no QEMU has open its size; it never shrinks, and one that is large enough stays as it is.
pub(super) async fn grow(hands: &Hands, brief: &Brief, no: DiskNo, size: u64) -> Done {
    let disk = defined(brief, no)?;
    hands.ctx.owns(disk, brief.definition()).map_err(Setback::Reported)?;
    // In QEMU's own words, and not by its header: a base image may have moved with the state directory.
    let image = devices::blockdev_by_path(disk);
    let (format, bytes) = (disk.file.format(), disk.file.bytes(size));
    hands.ctx.images.grow(image, (&disk.file, format), &disk.lies_on(), bytes).await.map_err(of_image)?;
    Ok(Report::Done)
}

fn defined(brief: &Brief, no: DiskNo) -> Result<&Disk, Setback> {
    let gone = || Setback::NotNow(format!("{} is not defined any more", no.name()));
    brief.definition().disk(&no.name()).ok_or_else(gone)
}

/// The images that are to be in the same folder.
fn beside(brief: &Brief, disk: &Disk) -> Vec<PathBuf> {
    let in_effect = brief.record.run.up().map(|up| &*up.in_effect);
    let specs = [Some(&**brief.definition()), in_effect].into_iter().flatten();
    let made = |spec: &'_ &VmSpec| {
        let is_made = |disk: &&Disk| DiskNo::of(&disk.name).is_some_and(|no| !brief.record.run.unmade.contains(&no));
        let own = |disk: &Disk| Some(disk.file.own()?.to_path_buf());
        spec.disks.iter().filter(is_made).filter_map(own).collect::<Vec<_>>()
    };
    let same = |file: &PathBuf| file.parent() == disk.file.parent() && **file != *disk.file;
    specs.flat_map(|spec| made(&spec)).filter(same).collect()
}

fn of_image(error: ImageError) -> Setback {
    match error {
        ImageError::NoUser(why) => Setback::Reported(Error::BeyondBounds(why)),
        other => Setback::Host(other.to_string()),
    }
}

pub(super) fn host(error: io::Error) -> Setback {
    Setback::Host(error.to_string())
}

/// A path that is not there is no matter.
pub(super) fn absent(removed: io::Result<()>, path: &Path) -> io::Result<()> {
    match removed {
        // Where its folder should be there may be something else.
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(io::Error::new(e.kind(), format!("cannot remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}
