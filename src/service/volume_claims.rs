//! Who uses a volume at this moment, where no record tells of it. It is in memory alone: one process changes the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::{Error, LayerId, Result};

/// What volumes are used for that no record tells of: one that is about to be attached, deleted or made, or is read.
#[derive(Clone, Default)]
pub(super) struct Volumes(Arc<Mutex<HashMap<LayerId, Use>>>);

enum Use {
    Taken,
    /// By so many.
    Read(usize),
}

/// Keeps others from a volume until it is dropped.
pub(super) struct Claim {
    volumes: Volumes,
    id: LayerId,
}

impl Volumes {
    /// For one alone.
    ///
    /// # Errors
    /// [`Error::VolumeConflict`].
    pub fn take(&self, id: LayerId) -> Result<Claim> {
        let mut uses = self.lock();
        match uses.get(&id) {
            None => drop(uses.insert(id, Use::Taken)),
            Some(Use::Taken) => {
                return Err(conflict(id, "is being attached, made or deleted at this moment; ask again"));
            }
            Some(Use::Read(_)) => {
                return Err(conflict(id, "is being read at this moment; ask again when that has ended"));
            }
        }
        Ok(Claim { volumes: self.clone(), id })
    }

    /// With others that read as well.
    ///
    /// # Errors
    /// [`Error::VolumeConflict`].
    pub fn read(&self, id: LayerId) -> Result<Claim> {
        match self.lock().entry(id).or_insert(Use::Read(0)) {
            Use::Taken => return Err(conflict(id, "is being attached, made or deleted at this moment; ask again")),
            Use::Read(readers) => *readers += 1,
        }
        Ok(Claim { volumes: self.clone(), id })
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<LayerId, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut uses = self.volumes.lock();
        match uses.get_mut(&self.id) {
            Some(Use::Read(readers)) if *readers > 1 => *readers -= 1,
            _ => drop(uses.remove(&self.id)),
        }
    }
}

/// Of a volume, with what it is or does.
pub(super) fn conflict(id: LayerId, why: &str) -> Error {
    Error::VolumeConflict(format!("The volume {id} {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_a_volume_alone_or_several_read_it() {
        let (volumes, id) = (Volumes::default(), LayerId::random());
        let taken = volumes.take(id).unwrap();
        assert!(volumes.take(id).is_err() && volumes.read(id).is_err());
        assert!(volumes.take(LayerId::random()).is_ok());
        drop(taken);
        let (one, other) = (volumes.read(id).unwrap(), volumes.read(id).unwrap());
        drop(one);
        assert!(volumes.take(id).is_err());
        drop(other);
        assert!(volumes.take(id).is_ok() && volumes.lock().is_empty());
    }
}
