//! Events: what is told of changes. One is appended in the batch of the change that it tells of, so it is there exactly where
//! its change is, and it bears the next number, so that their order is the order in which batches were made durable. What they
//! say is not known here (docs/adr/0035).
//!
//! Kept is a window of them, bounded in number, age and bytes. What falls out of it is removed by later batches, a few at a time:
//! no commit pays for more than its own. Numbers belong to one log, which has an id: a store that was restored, or made of an
//! export, begins another one, so that nobody takes its numbers for those that they know.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    Batch, Store, StoreError,
    record::{self, NewEvent, Record},
};

/// The kind of events; that of the record with the log's id.
pub const EVENT: &str = "event";
const LOG: &str = "log/id";

/// Places for events, used in turn: sled writes a place anew more cheaply than it makes and removes one, in time and in room.
const PLACES: u64 = 10_000;

/// Of what has fallen out of the window, removed by one batch.
const REMOVED_AT_ONCE: usize = 16;

/// A record that is told, not kept up.
pub trait Telling: Record {
    /// When it happened, in milliseconds since 1970.
    fn at(&self) -> u64;
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// At most 10,000.
    pub events: u64,
    pub age: Duration,
    pub bytes: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { events: PLACES, age: Duration::from_secs(7 * 24 * 3600), bytes: 16 << 20 }
    }
}

/// Which events there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The log that their numbers belong to.
    pub log: Uuid,
    /// The first number of the window; the one after `newest` where it is empty.
    pub oldest: u64,
    /// The last number that was given; 0 where none was.
    pub newest: u64,
}

/// One event, as it is stored.
#[derive(Clone, Debug)]
pub struct Event {
    pub number: u64,
    value: Vec<u8>,
}

impl Event {
    /// # Errors
    /// `BadRecord`, `Newer`, `Migrate`.
    pub fn read<R: Telling>(&self) -> Result<R, StoreError> {
        record::decode(&key(self.number), &self.value)
    }
}

/// What the writer shares with those who read.
pub(super) struct Shared {
    kept: Mutex<Kept>,
    window: Mutex<Window>,
    follower: OnceLock<mpsc::UnboundedSender<Event>>,
}

impl Shared {
    pub fn kept(&self) -> Kept {
        *lock(&self.kept)
    }
}

/// The writer's side: the log as the batches so far have left it.
pub(super) struct Log {
    shared: Arc<Shared>,
    id: Uuid,
    /// The record of its id is there.
    has_id: bool,
    next: u64,
    /// The window: when each happened, and what it takes.
    window: VecDeque<(u64, u64)>,
    bytes: u64,
    /// The first that may still be in the store.
    first: u64,
    /// Durable, and not told to the follower yet.
    fresh: Vec<Event>,
}

impl Log {
    /// What a store holds.
    ///
    /// # Errors
    /// sled's.
    pub fn of(db: &sled::Db) -> sled::Result<Self> {
        let id = db.get(LOG)?.and_then(|value| Uuid::try_parse(str::from_utf8(&value).ok()?.trim_matches('"')).ok());
        let log = id.unwrap_or_else(Uuid::new_v4);
        let mut there = Vec::new();
        for entry in db.scan_prefix(format!("{EVENT}/")) {
            let (name, value) = entry?;
            let size = (name.len() + value.len()) as u64;
            there.extend(record::number_and_time(&value).map(|(number, at)| (number, at, size)));
        }
        there.sort_unstable();
        let next = there.last().map_or(1, |(number, ..)| number + 1);
        // What a narrower window has left in its place is no part of this one.
        let unbroken = |(back, (number, ..)): &(usize, &(u64, u64, u64))| number + *back as u64 + 1 == next;
        let count = there.iter().rev().enumerate().take_while(unbroken).count();
        let window: VecDeque<_> = there.iter().skip(there.len() - count).map(|(_, at, size)| (*at, *size)).collect();
        let bytes = window.iter().map(|(_, size)| size).sum();
        let first = next - count as u64;
        let kept = Kept { log, oldest: first, newest: next - 1 };
        let shared = Shared { kept: kept.into(), window: Mutex::default(), follower: OnceLock::new() };
        let shared = Arc::new(shared);
        Ok(Self { shared, id: log, has_id: id.is_some(), next, window, bytes, first, fresh: Vec::new() })
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Adds what a batch tells to what it changes.
    pub fn append(&mut self, batch: &mut sled::Batch, events: &[NewEvent]) {
        if events.is_empty() {
            return;
        }
        if !self.has_id {
            batch.insert(LOG, format!("\"{}\"", self.id).into_bytes());
            self.has_id = true;
        }
        for event in events {
            let (name, value) = (name(self.next), record::encode_told(event, self.next));
            let size = (name.len() + value.len()) as u64;
            batch.insert(name.into_bytes(), value.as_slice());
            self.window.push_back((event.at, size));
            self.bytes += size;
            self.fresh.push(Event { number: self.next, value });
            self.next += 1;
        }
        let newest = events.iter().map(|event| event.at).max().unwrap_or_default();
        self.shrink(newest);
        let oldest = self.oldest();
        // Whose place has another one by now are gone already.
        self.first = self.first.max((self.next - 1).saturating_sub(PLACES - 1)).min(oldest);
        for number in (self.first..oldest).take(REMOVED_AT_ONCE) {
            batch.remove(name(number).into_bytes());
            self.first = number + 1;
        }
    }

    fn oldest(&self) -> u64 {
        self.next - self.window.len() as u64
    }

    /// Down to the bounds; the newest is always kept.
    fn shrink(&mut self, now: u64) {
        let bounds = *lock(&self.shared.window);
        let age = bounds.age.as_millis() as u64;
        while let Some((at, size)) = self.window.front().copied()
            && self.window.len() > 1
            && (self.window.len() as u64 > bounds.events.min(PLACES)
                || self.bytes > bounds.bytes
                || now.saturating_sub(at) > age)
        {
            self.window.pop_front();
            self.bytes -= size;
        }
    }

    /// What was appended is durable: whoever reads may know of it.
    pub fn is_durable(&mut self) {
        *lock(&self.shared.kept) = Kept { log: self.id, oldest: self.oldest(), newest: self.next - 1 };
    }

    /// Those who committed it know.
    pub fn tell(&mut self) {
        let follower = self.shared.follower.get();
        for event in self.fresh.drain(..) {
            // One that has gone away does not want to know.
            let _ = follower.map(|follower| follower.send(event));
        }
    }
}

impl Batch {
    /// Tells `event` with the changes: it is appended to the log where they are made, and nowhere else.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn tell<R: Telling>(mut self, event: &R) -> Result<Self, StoreError> {
        const { assert!(matches!(R::KIND.as_bytes(), b"event"), "events are of one kind") };
        self.events.push(NewEvent { at: event.at(), version: R::VERSION, data: record::to_tell(event)? });
        Ok(self)
    }
}

impl Store {
    /// From now on so many are kept.
    pub fn keep_events(&self, window: Window) {
        *lock(&self.0.events.window) = window;
    }

    /// Which events there are; never waits.
    pub fn kept_events(&self) -> Kept {
        self.0.events.kept()
    }

    /// The events after this number, at most so many, as far as they are there. Blocks.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is.
    pub fn events_after(&self, number: u64, most: usize) -> Result<Vec<Event>, StoreError> {
        let newest = self.kept_events().newest;
        let numbers = number.saturating_add(1)..=newest.min(number.saturating_add(most as u64));
        self.read(|db| {
            let event = |number| {
                let value = db
                    .get(name(number))?
                    .filter(|value| record::number_and_time(value).is_some_and(|(found, _)| found == number));
                Ok(value.map(|value| Event { number, value: value.to_vec() }))
            };
            numbers.filter_map(|number| event(number).transpose()).collect()
        })
    }

    /// Every event from now on, in the order of their numbers, as soon as those who committed it know. For one follower, who
    /// is never waited for; a second one hears nothing.
    pub fn follow_events(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = self.0.events.follower.set(sender);
        receiver
    }

    /// What is appended from now on belongs to another log: in a copy, for one, that may lack the newest. Takes effect when
    /// the store is opened the next time.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn begin_another_log(&self) -> Result<(), StoreError> {
        self.commit(Batch::new().remove_named(LOG)).await
    }
}

pub(super) fn is_id(name: &[u8]) -> bool {
    name == LOG.as_bytes()
}

/// Whether it is a part of the log, which is the history of one store and belongs to no other.
pub(super) fn is_of_log(name: &[u8]) -> bool {
    is_id(name) || name.strip_prefix(EVENT.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
}

fn key(number: u64) -> String {
    number.to_string()
}

/// Of its place.
fn name(number: u64) -> String {
    format!("{EVENT}/{:04x}", number % PLACES)
}

// Each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
