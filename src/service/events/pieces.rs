//! What followers who are behind read from the store. Each piece is read once, and there is one copy of it for as long as somebody
//! reads it: 10,000 who are behind cost the memory of what is kept, and not of 10,000 times a part of it. Which of it somebody
//! wants is not known here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Semaphore;

use super::{Entry, Lost};
use crate::store::{self, Store, StoreError};

/// Events of a piece.
const PIECE: u64 = 256;
/// Pieces that are read at once: after a restart all who follow come back at the same time.
const READS: usize = 4;

/// The events `n * PIECE + 1 ..= (n + 1) * PIECE`, as far as there were any.
pub(super) struct Piece {
    /// The last that was looked for.
    pub until: u64,
    /// Without those that cannot be read.
    pub entries: Vec<Arc<Entry>>,
}

pub(super) struct Pieces {
    store: Store,
    turns: Semaphore,
    /// By their `n`, those that somebody reads.
    read: Mutex<HashMap<u64, Weak<Piece>>>,
}

impl Pieces {
    pub fn of(store: Store) -> Self {
        Self { store, turns: Semaphore::new(READS), read: Mutex::default() }
    }

    /// The piece that has what follows the event `last`.
    ///
    /// # Errors
    /// `Store`, and `Closed` when the daemon ends.
    pub async fn after(&self, last: u64) -> Result<Arc<Piece>, Lost> {
        let _turn = self.turns.acquire().await.map_err(|_| Lost::Closed)?;
        let number = last / PIECE;
        let known = self.locked().get(&number).and_then(Weak::upgrade);
        // The newest piece was shorter when it was read.
        if let Some(piece) = known.filter(|piece| piece.until > last) {
            return Ok(piece);
        }
        let store = self.store.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let (before, newest) = (number * PIECE, store.kept_events().newest);
            let found = store.events_after(before, PIECE as usize)?;
            let entries = found.iter().filter_map(read).map(Arc::new).collect();
            Ok::<_, StoreError>(Arc::new(Piece { until: newest.min(before + PIECE), entries }))
        });
        let piece = reading.await.map_err(|_| Lost::Closed)??;
        let mut pieces = self.locked();
        pieces.retain(|_, piece| piece.strong_count() > 0);
        pieces.insert(number, Arc::downgrade(&piece));
        Ok(piece)
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Weak<Piece>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None where it cannot be: it is passed over, by whoever hands it out as it comes too.
pub(super) fn read(event: &store::Event) -> Option<Entry> {
    match event.read() {
        Ok(read) => Some(Entry { number: event.number, event: read }),
        Err(error) => {
            tracing::error!(number = event.number, %error, "an event cannot be read, and is passed over");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{About, Event, SwitchId, What},
        store::Batch,
    };

    async fn tell(store: &Store) {
        let about = About::Switch { id: SwitchId::random(), name: "lan".to_owned() };
        let event = Event { at: 1, about, what: What::Created, by: Vec::new() };
        store.commit(Batch::new().tell(&event).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn those_who_are_behind_at_the_same_place_have_one_copy_which_goes_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        for _ in 0..3 {
            tell(&store).await;
        }
        let pieces = Pieces::of(store.clone());
        let (one, other) = (pieces.after(0).await.unwrap(), pieces.after(2).await.unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(one.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3]);
        // One who has come to its end has what came since.
        tell(&store).await;
        let more = pieces.after(3).await.unwrap();
        assert_eq!((one.until, more.until, more.entries.len()), (3, 4, 4));
        let kept = Arc::downgrade(&more);
        drop((one, other, more));
        assert!(kept.upgrade().is_none());
    }
}
