//! Folders for disks that clients want in places of their own: made when they are missing, and noted with every VM that
//! has its disk in one, so that the last of them takes it along. A folder that somebody else made is nobody's to remove.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Service, paths};
use crate::{
    host::{STORAGE, folder, in_time},
    model::{Error, MadeFolder, Operation, Result},
};

/// How long one that is being made by another request is waited for between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Folders that requests under way are making (`None`) or have made, and that are in no VM's definition yet.
#[derive(Default)]
pub(super) struct Making(Mutex<HashMap<PathBuf, Option<MadeFolder>>>);

/// Folders of a request that is under way. What it made is forgotten when this goes: by then it stands in a VM's
/// definition, or is gone.
pub(super) struct Made<'a> {
    making: &'a Making,
    own: Vec<PathBuf>,
}

impl Making {
    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Option<MadeFolder>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) -> Made<'_> {
        Made { making: self, own: Vec::new() }
    }

    /// Whether it is this request's to make; another may be making it, or have made it.
    async fn claim(&self, path: &Path) -> Option<MadeFolder> {
        loop {
            match self.lock().get(path) {
                None => return None,
                Some(Some(made)) => return Some(made.clone()),
                Some(None) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let mut making = self.making.lock();
        self.own.iter().for_each(|path| drop(making.remove(path)));
    }
}

impl Made<'_> {
    /// Sees to it that `place` is there. Those of its folders that qherd made, now or for another VM, go into `noted`,
    /// the outermost first, also when it fails half way.
    pub async fn make(&mut self, service: &Service, place: &Path, noted: &mut Vec<MadeFolder>) -> Result<()> {
        let (place, dirs) = (place.to_owned(), service.ctx.config.storage_dirs.clone());
        let looked = in_time(STORAGE, move || {
            let part = |path: &Path| (path.to_owned(), path.exists(), paths::is_within(path, &dirs));
            Ok(place.ancestors().map(part).collect::<Vec<_>>())
        });
        let parts = looked.await.map_err(|e| Error::failed(Operation::Create, e))?;
        for (path, exists, within) in parts.into_iter().rev() {
            let made = match self.making.claim(&path).await {
                Some(made) => Some(made),
                None if exists => service.made_before(&path),
                None => self.make_one(service, &path).await?,
            };
            // A storage directory itself is not a client's, whoever made it.
            noted.extend(made.filter(|made| within && !noted.contains(made)));
        }
        Ok(())
    }

    async fn make_one(&mut self, service: &Service, path: &Path) -> Result<Option<MadeFolder>> {
        self.making.lock().insert(path.to_owned(), None);
        self.own.push(path.to_owned());
        let wanted = path.to_owned();
        match in_time(STORAGE, move || folder::make(&wanted)).await {
            Ok(made) => {
                self.making.lock().insert(path.to_owned(), Some(made.clone()));
                Ok(Some(made))
            }
            Err(error) => {
                self.making.lock().remove(path);
                self.own.pop();
                match error.kind() {
                    // Somebody else was quicker.
                    ErrorKind::AlreadyExists => Ok(service.made_before(path)),
                    _ => Err(Error::failed(Operation::Create, format!("cannot make {}: {error}", path.display()))),
                }
            }
        }
    }
}

impl Service {
    /// The folder, if it is one that was made for a VM that is there.
    fn made_before(&self, path: &Path) -> Option<MadeFolder> {
        let views = self.registry.views();
        views.iter().flat_map(|view| &view.spec.named.folders).find(|made| made.path == path).cloned()
    }
}
