//! Folders for disks that clients want in places of their own: made when they are missing, and noted with every VM that
//! has its disk in one, so that the last of them takes it along. A folder that somebody else made is nobody's to remove.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Service, paths};
use crate::{
    host::{STORAGE, folder, in_time},
    model::{Error, MadeFolder, Operation, Result, VmRecord},
};

/// Folders that requests under way have made, and that are in no VM's definition yet.
#[derive(Default)]
pub(super) struct Making(Mutex<HashMap<PathBuf, MadeFolder>>);

/// Those of one request. They are forgotten when this goes: by then they stand in a VM's definition, or are gone.
pub(super) struct Made<'a> {
    making: &'a Making,
    own: Vec<MadeFolder>,
}

impl Making {
    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, MadeFolder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) -> Made<'_> {
        Made { making: self, own: Vec::new() }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Made<'_> {
    fn forget(&mut self) {
        let mut making = self.making.lock();
        for made in self.own.drain(..) {
            if making.get(&made.path) == Some(&made) {
                making.remove(&made.path);
            }
        }
    }

    /// Sees to it that `place` is there. Those of its folders that qherd made, now or for another VM, are noted in the
    /// record, and the record is stored before there is anything to see of them.
    pub async fn make(&mut self, service: &Service, place: &Path, record: &mut VmRecord) -> Result<()> {
        let owner = record.spec.id.to_string();
        let failed = |error: std::io::Error| {
            Error::failed(Operation::Create, format!("cannot make {}: {error}", place.display()))
        };
        loop {
            let (wanted, dirs) = (place.to_owned(), service.ctx.config.storage_dirs.clone());
            let looked = in_time(STORAGE, move || {
                let part = |path: &Path| (path.to_owned(), path.exists(), paths::is_within(path, &dirs));
                Ok(wanted.ancestors().map(part).collect::<Vec<_>>())
            });
            let mut parts = looked.await.map_err(failed)?;
            parts.reverse();
            // A storage directory itself is not a client's, whoever made it.
            let clients = |path: &Path| parts.iter().any(|(part, _, within)| part == path && *within);
            let there = parts.iter().filter(|(path, exists, _)| *exists && clients(path));
            let mut noted: Vec<MadeFolder> = there.filter_map(|(path, ..)| self.known(service, path)).collect();
            let chain: Vec<PathBuf> =
                parts.iter().filter(|(_, exists, _)| !exists).map(|(path, ..)| path.clone()).collect();
            let Some(first) = chain.first().cloned() else {
                return note(service, record, noted).await;
            };
            let aside = folder::aside(&first, &owner);
            let (at, links) = (aside.clone(), chain.clone());
            let made = in_time(STORAGE, move || {
                // Of an earlier attempt that a crash cut short.
                folder::discard(&at, &links);
                folder::make(&at, &links).inspect_err(|_| folder::discard(&at, &links))
            });
            let made = made.await.map_err(failed)?;
            noted.extend(made.iter().filter(|made| clients(&made.path)).cloned());
            note(service, record, noted).await?;
            // Before anybody can find them; where two make the same, the one that gets the name has the last word.
            for made in &made {
                self.making.lock().entry(made.path.clone()).or_insert_with(|| made.clone());
            }
            self.own = made;
            let named = in_time(STORAGE, move || {
                let named = folder::publish(&aside, &first);
                if !matches!(named, Ok(true)) {
                    folder::discard(&aside, &chain);
                }
                named
            });
            match named.await {
                Ok(true) => {
                    let named = self.own.iter().map(|made| (made.path.clone(), made.clone()));
                    self.making.lock().extend(named);
                    return Ok(());
                }
                // Somebody else was quicker: what is there now?
                Ok(false) => self.forget(),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The folder, if it is one that was made for a VM that is there or is being made.
    fn known(&self, service: &Service, path: &Path) -> Option<MadeFolder> {
        let making = self.making.lock().get(path).cloned();
        making.or_else(|| {
            let views = service.registry.views();
            views.iter().flat_map(|view| &view.spec.named.folders).find(|made| made.path == path).cloned()
        })
    }
}

/// Before anything is put into them: a folder that no record tells of would stay for ever.
async fn note(service: &Service, record: &mut VmRecord, folders: Vec<MadeFolder>) -> Result<()> {
    if record.spec.named.folders == folders {
        return Ok(());
    }
    Arc::make_mut(&mut record.spec).named.folders = folders;
    service.ctx.persist(record).await.map_err(|e| Error::failed(Operation::Create, e))
}
