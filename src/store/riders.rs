//! Changes that ride along: they are stored in the batch in which a thing comes to be that somebody waits for, whoever makes it
//! and in however many steps. What an idempotency key says of its request is such a change (docs/adr/0012).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use super::Batch;

/// By the id of the thing.
#[derive(Debug, Default)]
pub struct Riders(Mutex<HashMap<Uuid, Rider>>);

#[derive(Debug)]
struct Rider {
    changes: Batch,
    /// Its thing has come to be.
    made: bool,
}

impl Riders {
    // A panic while the lock is held leaves single insertions and removals.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Rider>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `changes` go with what bears this id; `made` where that was there before, and may be gone again.
    pub fn add(&self, id: Uuid, changes: Batch, made: bool) {
        self.lock().insert(id, Rider { changes, made });
    }

    pub fn remove(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    /// Whether what bears this id has been there.
    pub fn has_made(&self, id: Uuid) -> bool {
        self.lock().get(&id).is_some_and(|rider| rider.made)
    }

    /// `batch`, which stores what bears these ids, with what goes with them.
    pub fn join(&self, batch: Batch, ids: impl IntoIterator<Item = Uuid>) -> Batch {
        let mut riders = self.lock();
        if riders.is_empty() {
            return batch;
        }
        ids.into_iter().fold(batch, |batch, id| match riders.get_mut(&id) {
            Some(rider) => {
                rider.made = true;
                batch.and(&rider.changes)
            }
            None => batch,
        })
    }
}
