//! The files that a QEMU works with: opened here, looked into by that very descriptor, and handed over. QEMU itself opens
//! none, and no copy stays here: the locks on an image belong to the open file.

use std::{io, os::fd::OwnedFd, path::PathBuf};

use qapi::qmp::{query_fdsets, remove_fd};

use super::Hands;
use crate::{
    host::{Access, STORAGE, image, on_storage, open_within},
    model::{Error, SeedId},
    qemu::devices::{FileUse, HostFile, set_of},
    qmp::{QmpError, Session},
    vm::core::Setback,
};

/// An open file for a set of QEMU's.
pub(super) struct Opened {
    pub descriptor: OwnedFd,
    /// Bytes that a guest sees of a disk.
    pub size: Option<u64>,
}

/// Opens one with exactly the access that QEMU asks its set for.
///
/// # Errors
/// The host's, with its number; without one where the file is not what it was taken for any more.
pub(super) async fn open(hands: &Hands, file: &HostFile) -> io::Result<Opened> {
    let (path, used) = (file.path.clone(), file.used);
    if used == FileUse::Log {
        // Not the log itself, which a guest would fill.
        return Ok(Opened { descriptor: hands.console.descriptor()?, size: None });
    }
    if let FileUse::Seed(_) = used {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is made for a start, and not opened"));
    }
    let config = &hands.ctx.config;
    let (access, folders) = match used {
        FileUse::Log | FileUse::Seed(_) | FileUse::Medium | FileUse::Base(_) | FileUse::Overlay(_) => {
            (Access::Read, config.base_dirs())
        }
        FileUse::Disk(_) => (Access::ReadWrite, config.storage_dirs.clone()),
    };
    let opened = on_storage(&file.path, STORAGE, move || {
        let file = open_within(&folders, &path, access)?;
        let checked = match used {
            FileUse::Disk(format) => image::check_disk(&file, format).map(Some),
            FileUse::Base(format) => image::check_base(&file, format).map(|()| None),
            FileUse::Overlay(format) => image::check_overlay(&file, format).map(|()| None),
            FileUse::Medium | FileUse::Seed(_) | FileUse::Log => Ok(None),
        };
        let size = checked.map_err(|error| io::Error::other(error.in_a_sentence()))?;
        Ok(Opened { descriptor: file.into(), size })
    });
    opened.await
}

/// What cloud-init of a guest is given, as a disk, for a VM that is called so.
///
/// # Errors
/// The host's, with its number; without one where the data is not there any more.
async fn seed(hands: &Hands, id: SeedId, name: &str) -> io::Result<Opened> {
    let (seeds, vm, name) = (hands.ctx.seeds(hands.id), hands.id, name.to_owned());
    let descriptor = on_storage(&hands.ctx.config.state_dir, STORAGE, move || {
        seeds.disk(id, (vm, &name)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(
                "the data for its cloud-init is not there any more; PUT /vms/{id} gives it anew, and cloud_init null none",
            ),
            _ => error,
        })
    });
    Ok(Opened { descriptor: descriptor.await?, size: None })
}

/// Opens one that a VM which is called so starts with.
///
/// # Errors
/// `Unstartable` for what a change of the definition mends.
pub(super) async fn open_for_start(hands: &Hands, file: &HostFile, name: &str) -> Result<Opened, Setback> {
    let opened = match file.used {
        FileUse::Seed(id) => seed(hands, id, name).await,
        _ => open(hands, file).await,
    };
    opened.map_err(|error| {
        let why = unusable(file, &error);
        // Descriptors that have run out, or storage that hangs, are no matter of the definition.
        let is_the_hosts = error.raw_os_error().is_some() || error.kind() == io::ErrorKind::TimedOut;
        match file.used {
            FileUse::Medium | FileUse::Seed(_) | FileUse::Base(_) | FileUse::Overlay(_) if !is_the_hosts => {
                Setback::Reported(Error::Unstartable { why })
            }
            _ => Setback::Host(why),
        }
    })
}

/// For people.
fn unusable(file: &HostFile, error: &io::Error) -> String {
    format!("{} cannot be used: {error}", file.path.display())
}

/// Opens some, and gives them to a QEMU that runs.
///
/// # Errors
/// `Refused` for what cannot be opened; QEMU's.
pub(in crate::vm) async fn give(hands: &Hands, session: &Session, files: &[HostFile]) -> Result<(), Setback> {
    // Of a try that was cut short.
    take_back(session, files).await?;
    for file in files {
        let opened = open(hands, file).await;
        let opened = opened.map_err(|error| Setback::Refused(unusable(file, &error)))?;
        session.add_descriptor(file.set, &file.path.display().to_string(), opened.descriptor).await?;
    }
    Ok(())
}

/// Takes the sets of some files back; there may be none.
///
/// # Errors
/// That QEMU does not answer.
pub(in crate::vm) async fn take_back(session: &Session, files: &[HostFile]) -> Result<(), QmpError> {
    for file in files {
        match session.execute(remove_fd { fdset_id: file.set.into(), fd: None }).await {
            Ok(_) | Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The path of what QEMU calls by a set's name, or by its own, as one that an earlier daemon started does.
///
/// # Errors
/// That QEMU does not answer.
pub(in crate::vm) async fn path_of(session: &Session, name: &str) -> Result<PathBuf, QmpError> {
    let Some(number) = set_of(name) else { return Ok(name.into()) };
    let sets = session.execute(query_fdsets {}).await?;
    let set = sets.into_iter().find(|set| set.fdset_id == i64::from(number));
    // The newest is the last, and the one that QEMU opens. Up to 7.2 one that is taken back while the guest is halted stays
    // listed, and open, until it goes on.
    let opaque = set.and_then(|set| set.fds.into_iter().last()).and_then(|member| member.opaque);
    Ok(opaque.map_or_else(|| name.into(), PathBuf::from))
}
