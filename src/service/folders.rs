//! Folders for disks that clients want in places of their own: made when they are missing, and noted with every VM that
//! has its disk in one, so that the last of them takes it along. A folder that somebody else made is nobody's to remove.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Service, paths};
use crate::{
    host::{STORAGE, folder, in_time},
    model::{Error, MadeFolder, Operation, Result, VmSpec},
    store::Batch,
    vm::{Mark, core, records::Known},
};

/// Each of them means that another request was quicker, and got further.
const TRIES: usize = 1000;

/// Folders of qherd's that requests under way count on, once for each, and that are in no VM's definition yet.
#[derive(Default)]
pub(super) struct Making(Mutex<Vec<MadeFolder>>);

/// Those of one request, and its place in the last of them. They are forgotten when this goes: by then they stand in a
/// VM's definition, or are gone.
pub(super) struct Made<'a> {
    making: &'a Making,
    own: Vec<MadeFolder>,
    taken: Option<PathBuf>,
    /// Of the VM, once it is noted that it is being made.
    noted: Option<Known>,
}

impl Making {
    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Vec<MadeFolder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) -> Made<'_> {
        Made { making: self, own: Vec::new(), taken: None, noted: None }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

/// A folder on the way to the one that is wanted.
struct Part {
    path: PathBuf,
    exists: bool,
    /// A client's, in a storage directory. That itself is not, whoever made it.
    clients: bool,
    seen: Option<MadeFolder>,
}

impl Made<'_> {
    fn forget(&mut self) {
        let mut making = self.making.lock();
        for made in self.own.drain(..) {
            if let Some(at) = making.iter().position(|other| *other == made) {
                making.swap_remove(at);
            }
        }
    }

    fn count_on(&mut self, folders: &[MadeFolder]) {
        self.making.lock().extend_from_slice(folders);
        self.own.extend_from_slice(folders);
    }

    /// Of those that are there, the ones that were made for a VM that is there or is being made; this request counts on
    /// them as well from now on. It is one step: whoever looks later finds them with this one, when that VM has gone.
    fn count_on_known(&mut self, service: &Service, seen: &[MadeFolder]) -> Vec<MadeFolder> {
        let mut making = self.making.lock();
        let noted = |folder: &MadeFolder| {
            let views = service.registry.views_with(Mark::folder(&folder.path));
            views.iter().any(|view| view.spec.named.folders.contains(folder))
        };
        let known: Vec<_> = seen.iter().filter(|folder| making.contains(folder) || noted(folder)).cloned().collect();
        making.extend_from_slice(&known);
        self.own.extend_from_slice(&known);
        known
    }

    /// Sees to it that `place` is there, and stays until [`Self::leave`]. Those of its folders that qherd made, now or for
    /// another VM, are noted in the definition, which is stored before there is anything to see of them.
    pub async fn make(&mut self, service: &Service, place: &Path, spec: &mut Arc<VmSpec>) -> Result<()> {
        self.record(service, spec).await?;
        let taken = folder::taken(place, &spec.id.to_string());
        let mut refused = None;
        for _ in 0..TRIES {
            let parts = look(service, place).await.map_err(|error| failed(place, &error))?;
            let seen: Vec<_> = parts.iter().filter(|part| part.clients).filter_map(|part| part.seen.clone()).collect();
            let known = self.count_on_known(service, &seen);
            let missing: Vec<PathBuf> =
                parts.iter().filter(|part| !part.exists).map(|part| part.path.clone()).collect();
            let there = match missing.first() {
                None => {
                    self.note(service, spec, known).await?;
                    let place = taken.clone();
                    in_time(STORAGE, move || folder::take(&place, &seen)).await
                }
                Some(first) => {
                    let chain = missing.iter().cloned().chain([taken.clone()]).collect();
                    self.build(service, spec, (first, chain, known, &parts)).await?
                }
            };
            match there {
                Ok(true) => {
                    self.taken = Some(taken);
                    return Ok(());
                }
                // Somebody else was quicker: what is there now?
                Ok(false) => refused = None,
                // What it was to be in has gone, or takes no folders, as /proc.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => refused = Some(error),
                Err(error) => return Err(failed(place, &error)),
            }
            self.forget();
        }
        Err(match refused {
            Some(error) => failed(place, &error),
            None => {
                Error::Storage(format!("{} is made and removed by others all the time; try again.", place.display()))
            }
        })
    }

    /// Makes what is missing, all of it at once. False when somebody else has made something meanwhile; `NotFound` when
    /// what it is to be in has gone.
    async fn build(
        &mut self,
        service: &Service,
        spec: &mut Arc<VmSpec>,
        (first, chain, mut noted, parts): (&Path, Vec<PathBuf>, Vec<MadeFolder>, &[Part]),
    ) -> Result<std::io::Result<bool>> {
        let aside = folder::aside(first, &spec.id.to_string());
        let (at, links) = (aside.clone(), chain.clone());
        let made = in_time(STORAGE, move || {
            // Of an earlier attempt that a crash cut short.
            folder::discard(&at, &links);
            folder::make(&at, &links).inspect_err(|_| folder::discard(&at, &links))
        });
        let mut made = match made.await {
            Ok(made) => made,
            Err(error) => return Ok(Err(error)),
        };
        made.retain(|made| parts.iter().any(|part| part.clients && part.path == made.path));
        noted.extend_from_slice(&made);
        self.note(service, spec, noted).await?;
        // Before anybody can find them.
        self.count_on(&made);
        let first = first.to_owned();
        let named = in_time(STORAGE, move || {
            let named = folder::publish(&aside, &first);
            if !matches!(named, Ok(true)) {
                folder::discard(&aside, &chain);
            }
            named
        });
        Ok(named.await)
    }

    /// What is stored of the VM.
    pub fn noted(&self) -> Option<Known> {
        self.noted.clone()
    }

    /// Before anything is put into them: a folder that no record tells of would stay for ever.
    async fn note(&mut self, service: &Service, spec: &mut Arc<VmSpec>, folders: Vec<MadeFolder>) -> Result<()> {
        if spec.named.folders == folders {
            return Ok(());
        }
        Arc::make_mut(spec).named.folders = folders;
        self.record(service, spec).await
    }

    /// From here on whatever is made for it goes with it.
    async fn record(&mut self, service: &Service, spec: &Arc<VmSpec>) -> Result<()> {
        let known = self.noted.take().unwrap_or_default();
        let stored = async {
            let (batch, after) = known.put(Batch::new(), &core::unmade(spec.clone()))?;
            service.ctx.store.commit(batch).await.map(|()| after)
        };
        self.noted = Some(stored.await.map_err(|e| Error::failed(Operation::Create, e))?);
        Ok(())
    }

    /// Something has been put there, or will not be.
    pub async fn leave(&mut self) {
        if let Some(taken) = self.taken.take() {
            let left = in_time(STORAGE, move || {
                folder::leave(&taken);
                Ok(())
            });
            // What stays of it goes with the VM.
            let _ = left.await;
        }
    }
}

fn failed(place: &Path, error: &std::io::Error) -> Error {
    Error::failed(Operation::Create, format!("cannot make {}: {error}", place.display()))
}

/// What there is on the way to `place`, the outermost first.
async fn look(service: &Service, place: &Path) -> std::io::Result<Vec<Part>> {
    let (wanted, dirs) = (place.to_owned(), service.ctx.config.storage_dirs.clone());
    let part = move |path: &Path| Part {
        path: path.to_owned(),
        exists: path.exists(),
        clients: paths::is_within(path, &dirs),
        seen: folder::look(path),
    };
    let looked = in_time(STORAGE, move || Ok(wanted.ancestors().map(part).collect::<Vec<_>>()));
    let mut parts = looked.await?;
    parts.reverse();
    Ok(parts)
}
