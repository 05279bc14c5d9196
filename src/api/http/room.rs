//! The places for connections, and who gives his up when they run out (docs/adr/0026).
//!
//! A place is for who is about to ask. A request that takes long is none: it stands, and its connection takes a place again
//! for its next one. A connection that says nothing, or takes nothing of its answer, keeps its place until somebody needs it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::Limits;
use super::gate::Visitor;
use super::wire::Turns;

/// A request that takes longer gives its place back.
pub(super) const LONG: Duration = Duration::from_millis(100);
/// For whoever was asked to leave to do so, before another one is asked.
const PATIENCE: Duration = Duration::from_millis(50);

/// Of one server.
pub(super) struct Room {
    places: Arc<Semaphore>,
    standing: Arc<Semaphore>,
    /// There is no place left.
    full: watch::Sender<bool>,
    inside: Arc<Inside>,
    /// How many are asked to leave at once: where one more comes, others often do.
    batch: usize,
}

#[derive(Default)]
struct Inside {
    next: AtomicU64,
    connections: Mutex<HashMap<u64, Inmate>>,
}

struct Inmate {
    turns: Arc<Turns>,
    /// Whose it is, as soon as that is known.
    visitor: Arc<OnceLock<Arc<Visitor>>>,
    leave: watch::Sender<bool>,
}

/// Where a connection is, until it ends.
pub(super) struct Seat {
    place: Mutex<Place>,
    places: Arc<Semaphore>,
    standing: Arc<Semaphore>,
    inside: Arc<Inside>,
    id: u64,
    visitor: Arc<OnceLock<Arc<Visitor>>>,
    /// Others need its place.
    pub full: watch::Receiver<bool>,
    /// It is to go.
    pub leave: watch::Receiver<bool>,
}

struct Place {
    gave_place: bool,
    _permit: OwnedSemaphorePermit,
}

// Every change under these locks is whole, so a panic leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    pub fn new(limits: &Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.connections)),
            standing: Arc::new(Semaphore::new(limits.standing)),
            full: watch::Sender::new(false),
            inside: Arc::default(),
            batch: (limits.connections / 64).max(1),
        }
    }

    /// A place for somebody who has come. Of those who say and take nothing, some are asked to leave until
    /// there is one.
    pub async fn place(&self) -> io::Result<OwnedSemaphorePermit> {
        let place = loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                break place;
            }
            self.set_full(true);
            self.inside.ask_to_leave(self.batch);
            tokio::select! {
                // Never closed, so the error cannot be; it would end the loop's turn only.
                place = Arc::clone(&self.places).acquire_owned() => break place.map_err(io::Error::other)?,
                () = tokio::time::sleep(PATIENCE) => {}
            }
        };
        self.set_full(self.places.available_permits() == 0);
        Ok(place)
    }

    pub fn seat(&self, permit: OwnedSemaphorePermit, turns: Arc<Turns>) -> Seat {
        let id = self.inside.next.fetch_add(1, Ordering::Relaxed);
        let leave = watch::Sender::new(false);
        let leaving = leave.subscribe();
        let visitor = Arc::<OnceLock<_>>::default();
        let inmate = Inmate { turns, visitor: Arc::clone(&visitor), leave };
        locked(&self.inside.connections).insert(id, inmate);
        Seat {
            place: Mutex::new(Place { gave_place: false, _permit: permit }),
            places: Arc::clone(&self.places),
            standing: Arc::clone(&self.standing),
            inside: Arc::clone(&self.inside),
            id,
            visitor,
            full: self.full.subscribe(),
            leave: leaving,
        }
    }

    fn set_full(&self, full: bool) {
        self.full.send_if_modified(|now| std::mem::replace(now, full) != full);
    }
}

impl Inside {
    /// Of whoever has the most connections, those that have been idle for the longest time: a crowd makes room for others,
    /// and not they for it.
    fn ask_to_leave(&self, count: usize) {
        let connections = locked(&self.connections);
        let mut idle: HashMap<String, Vec<(Instant, &Inmate)>> = HashMap::new();
        for inmate in connections.values().filter(|inmate| !*inmate.leave.borrow()) {
            if let Some(since) = inmate.turns.idle_since() {
                idle.entry(inmate.whose()).or_default().push((since, inmate));
            }
        }
        let mut crowd = idle.into_values().max_by_key(Vec::len).unwrap_or_default();
        crowd.sort_unstable_by_key(|(since, _)| *since);
        for (_, inmate) in crowd.into_iter().take(count) {
            inmate.leave.send_replace(true);
        }
    }
}

impl Inmate {
    /// The same for all connections of one caller, or of one address that is nobody's yet.
    fn whose(&self) -> String {
        self.visitor.get().map_or_else(String::new, |visitor| visitor.whose())
    }
}

impl Seat {
    /// Whose it is.
    pub fn is_of(&self, visitor: Arc<Visitor>) {
        // Said once, when it opens.
        let _ = self.visitor.set(visitor);
    }

    /// The request takes long: its place is for others.
    pub fn give_place(&self) {
        let mut place = locked(&self.place);
        if !place.gave_place
            && let Ok(permit) = Arc::clone(&self.standing).try_acquire_owned()
        {
            *place = Place { gave_place: true, _permit: permit };
        }
    }

    /// The request is over: whether there is a place for the next one.
    pub fn take_place(&self) -> bool {
        let mut place = locked(&self.place);
        if place.gave_place {
            let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else { return false };
            *place = Place { gave_place: false, _permit: permit };
        }
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        locked(&self.inside.connections).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::service::access::Peer;

    fn from(address: &str) -> Arc<Visitor> {
        let address: SocketAddr = address.parse().unwrap();
        Visitor::new(Peer::Tcp { theirs: address, ours: address, tls: None })
    }

    #[tokio::test]
    async fn a_crowd_makes_room_for_others_and_they_not_for_it() {
        let room = Room::new(&Limits { connections: 4, ..Limits::default() });
        let mut seats = Vec::new();
        for whose in ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.2:2", "192.0.2.2:3"] {
            let seat = room.seat(room.place().await.unwrap(), Turns::new());
            seat.is_of(from(whose));
            seats.push(seat);
            // No two of them are idle for the same time.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let leaves = async |seats: &mut Vec<Seat>| {
            let left = async {
                loop {
                    if let Some(at) = seats.iter().position(|seat| *seat.leave.borrow()) {
                        drop(seats.remove(at));
                        break at;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let (place, left) = tokio::join!(room.place(), left);
            drop(place);
            left
        };
        let first = leaves(&mut seats).await;
        assert_eq!(first, 1, "the first of those who are three, though another one has been idle for longer");
        let place = room.place().await;
        assert_eq!(leaves(&mut seats).await, 1);
        drop(place);
    }

    #[tokio::test]
    async fn whoever_waits_takes_no_place_and_has_one_for_the_next_request_while_there_are_any() {
        let room = Room::new(&Limits { connections: 1, standing: 1, ..Limits::default() });
        let waits = room.seat(room.place().await.unwrap(), Turns::new());
        waits.give_place();
        let other = room.seat(room.place().await.unwrap(), Turns::new());
        // There is no room to stand, so it keeps its place.
        other.give_place();
        assert!(!waits.take_place(), "its answer is the last one of its connection");
        drop(other);
        assert!(waits.take_place());
    }
}
