//! Idempotency keys: which requests were made under which key, and what they were answered. Durable, so that a client
//! that lost its connection, or us, can ask again and gets the first answer instead of a second VM.
//!
//! A key is recorded before its request is carried out, together with the id that whatever the request makes is to
//! have. So a daemon that died between the effect and the answer needs no more than to carry the request out again:
//! a create finds by that id what it has made already. That it has been made is stored in the batch that makes it, so that it
//! is not made again where somebody has deleted it meanwhile (docs/adr/0012). What a request is, and what an answer looks
//! like, is the HTTP plumbing's business.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    model::now_ms,
    store::{Batch, Record, Riders, Store, StoreError},
};

/// How long a key holds, counted from its first request.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Beyond it there is no room for new ones: none is forgotten before its time. Some hundred bytes each.
const MOST: usize = 100_000;
/// Old ones that one new key takes along at most, to keep its batch small.
const SWEPT_AT_ONCE: usize = 32;

/// A digest; as hexadecimal text it is the name of a record and part of one.
pub type Digest = String;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    /// Of the request that the key was first used for.
    request: Digest,
    /// Milliseconds since 1970.
    at: u64,
    /// What the request makes has this id.
    id: Uuid,
    /// It has been made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    made: bool,
    /// None until the request was carried out.
    answer: Option<KeptAnswer>,
}

impl Record for KeyRecord {
    const KIND: &'static str = "key";
    const VERSION: u32 = 1;
}

/// What a client was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    pub status: u16,
    pub content_type: Option<String>,
    pub body: String,
}

/// What is to be done with a request that came with a key.
pub enum Claim {
    /// Carry it out.
    Run(Attempt),
    /// It was carried out, with this answer.
    Replay(KeptAnswer),
    /// The key belongs to another request.
    Reused,
}

/// Why a request with a key is not carried out.
#[derive(Debug)]
pub enum KeyError {
    /// There is no room for another key.
    Full,
    /// It cannot be recorded.
    Store(StoreError),
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// All keys of the last 24 hours.
pub struct Keys {
    store: Store,
    riders: Arc<Riders>,
    /// When they were opened, by the wall clock and by one that nobody sets.
    opened: (u64, Instant),
    inner: Mutex<Inner>,
}

/// What an attempt was answered, once it was.
type Outcome = watch::Receiver<Option<KeptAnswer>>;

#[derive(Default)]
struct Inner {
    /// By key; the receiver ends with the attempt.
    under_way: HashMap<Digest, (Digest, Outcome)>,
    /// What is stored, the oldest first.
    ages: BTreeSet<(u64, Digest)>,
}

impl Keys {
    /// Reads what is stored. Blocks; meant for the start of the program.
    ///
    /// # Errors
    /// As the store's.
    pub(super) fn open(store: Store, riders: Arc<Riders>) -> Result<Arc<Self>, StoreError> {
        // One that cannot be read is the first to go.
        let age = |record: Result<KeyRecord, StoreError>| record.map_or(0, |record| record.at);
        let ages = store.scan()?.into_iter().map(|(key, record)| (age(record), key)).collect();
        Ok(Arc::new(Self {
            store,
            riders,
            opened: (now_ms(), Instant::now()),
            inner: Mutex::new(Inner { ages, ..Inner::default() }),
        }))
    }

    /// The turn of a request: `key` and `request` are digests. Waits for a request with the same key that is under way.
    ///
    /// # Errors
    /// Nothing was recorded, and the request must not be carried out.
    pub async fn claim(self: &Arc<Self>, key: Digest, request: Digest) -> Result<Claim, KeyError> {
        let (opened, since) = self.opened;
        let steady = opened + since.elapsed().as_millis() as u64;
        let wall = now_ms();
        // A clock that is set forward makes no key forgotten before its time.
        self.claim_at(Now { wall, lagging: wall.min(steady) }, key, request).await
    }

    async fn claim_at(self: &Arc<Self>, now: Now, key: Digest, request: Digest) -> Result<Claim, KeyError> {
        let turn = loop {
            match self.turn(&key, &request) {
                Ok(turn) => break turn,
                Err((theirs, _)) if theirs != request => return Ok(Claim::Reused),
                Err((_, mut attempt)) => {
                    // An error is the end of the attempt, which is what is waited for.
                    while attempt.changed().await.is_ok() {}
                    // A failure is theirs as well: by now their time to be carried out may be long over.
                    if let Some(answer) = attempt.borrow().clone() {
                        return Ok(Claim::Replay(answer));
                    }
                }
            }
        };
        let known = self.read(key.clone()).await?;
        let stale = known.as_ref().map(|known| known.at).filter(|at| expired(*at, now.lagging));
        match known {
            Some(known) if stale.is_none() && known.request != request => Ok(Claim::Reused),
            Some(KeyRecord { answer: Some(answer), .. }) if stale.is_none() => Ok(Claim::Replay(answer)),
            // It was cut short, or failed.
            Some(record) if stale.is_none() => self.attempt(turn, record, false),
            _ => {
                let record = KeyRecord { request, at: now.wall, id: Uuid::new_v4(), made: false, answer: None };
                self.record(&key, &record, stale, now.lagging).await?;
                self.attempt(turn, record, true)
            }
        }
    }

    /// Whatever makes what the request is to make, stores that it has.
    fn attempt(&self, turn: Turn, record: KeyRecord, first: bool) -> Result<Claim, KeyError> {
        let made = KeyRecord { made: true, ..record.clone() };
        self.riders.add(record.id, Batch::new().put(&turn.key, &made)?, record.made);
        Ok(Claim::Run(Attempt { turn, record, first }))
    }

    /// The exclusive right to deal with a key, or who has it.
    fn turn(self: &Arc<Self>, key: &Digest, request: &Digest) -> Result<Turn, (Digest, Outcome)> {
        let mut inner = self.lock();
        if let Some(other) = inner.under_way.get(key) {
            return Err(other.clone());
        }
        let (answered, attempt) = watch::channel(None);
        inner.under_way.insert(key.clone(), (request.clone(), attempt));
        Ok(Turn { keys: self.clone(), key: key.clone(), answered })
    }

    async fn read(self: &Arc<Self>, key: Digest) -> Result<Option<KeyRecord>, StoreError> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.get::<KeyRecord>(&key)).await;
        read.unwrap_or_else(|ended| Err(StoreError::Failed { reason: ended.to_string().into() }))
    }

    /// Stores a new key, or one anew whose earlier time is over, and drops some whose time is over.
    async fn record(&self, key: &Digest, record: &KeyRecord, earlier: Option<u64>, now: u64) -> Result<(), KeyError> {
        let age = (record.at, key.clone());
        let gone: Vec<(u64, Digest)> = {
            let mut inner = self.lock();
            let old = inner.ages.iter().take_while(|(at, _)| expired(*at, now));
            // This key itself is among those under way.
            let free = old.filter(|(_, old)| !inner.under_way.contains_key(old));
            let gone: Vec<_> = free.take(SWEPT_AT_ONCE).cloned().collect();
            if inner.ages.len() - gone.len() >= MOST {
                return Err(KeyError::Full);
            }
            // Its room is taken before it is stored: many may come at once.
            inner.ages.insert(age.clone());
            gone
        };
        let batch = gone.iter().fold(Batch::new(), |batch, (_, old)| batch.remove::<KeyRecord>(old));
        let stored = match batch.put(key, record) {
            Ok(batch) => self.store.commit(batch).await,
            Err(error) => Err(error),
        };
        let mut inner = self.lock();
        if let Err(error) = stored {
            inner.ages.remove(&age);
            return Err(error.into());
        }
        for old in &gone {
            inner.ages.remove(old);
        }
        if let Some(earlier) = earlier {
            inner.ages.remove(&(earlier, key.clone()));
        }
        Ok(())
    }

    // A panic while the lock is held leaves single insertions and removals.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970: what is written down, and what ages are judged by.
#[derive(Clone, Copy)]
struct Now {
    wall: u64,
    lagging: u64,
}

fn expired(at: u64, now: u64) -> bool {
    now.saturating_sub(at) > KEPT.as_millis() as u64
}

/// While this lives, others with the same key wait.
struct Turn {
    keys: Arc<Keys>,
    key: Digest,
    answered: watch::Sender<Option<KeptAnswer>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.keys.lock().under_way.remove(&self.key);
    }
}

/// A request that is being carried out. When it is dropped without an answer, the next one with its key runs again,
/// for the same id.
pub struct Attempt {
    turn: Turn,
    record: KeyRecord,
    /// No other has had its id, so that nothing can bear it but what this one makes.
    first: bool,
}

impl Attempt {
    /// The id of what the request makes.
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// Keeps the answer. One that cannot be stored is no harm: the next request with this key is carried out again, and
    /// finds what this one has done.
    pub async fn keep(mut self, answer: KeptAnswer) {
        self.record.answer = Some(answer.clone());
        let riders = &self.turn.keys.riders;
        self.record.made |= riders.has_made(self.record.id);
        // From here on what it says would be older than the answer.
        riders.remove(self.record.id);
        let stored = match Batch::new().put(&self.turn.key, &self.record) {
            Ok(batch) => self.turn.keys.store.commit(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "the answer to a request with an Idempotency-Key cannot be kept");
        }
        self.tell(answer);
    }

    /// The request was refused, and has made nothing: its key is free for the next one, which may be another. After an
    /// attempt that was cut short the key stays, with the id of what that may have made.
    pub async fn release(self, answer: KeptAnswer) {
        if self.first {
            let (keys, key) = (&self.turn.keys, &self.turn.key);
            keys.riders.remove(self.record.id);
            match keys.store.commit(Batch::new().remove::<KeyRecord>(key)).await {
                Ok(()) => drop(keys.lock().ages.remove(&(self.record.at, key.clone()))),
                Err(error) => tracing::warn!(%error, "an Idempotency-Key that was of no use stays for its time"),
            }
        }
        self.tell(answer);
    }

    /// The host failed. What had been made is taken back as far as that was possible: the next request makes it, or finds it.
    pub async fn fail(self, answer: KeptAnswer) {
        let (keys, id) = (&self.turn.keys, self.record.id);
        if keys.riders.has_made(id) && !self.record.made {
            let stored = match Batch::new().put(&self.turn.key, &self.record) {
                Ok(batch) => keys.store.commit(batch).await,
                Err(error) => Err(error),
            };
            if let Err(error) = stored {
                tracing::warn!(%error, "an Idempotency-Key stays used, of a request that failed");
            }
        }
        self.tell(answer);
    }

    /// Gives the answer to those that wait for this attempt, and keeps it for nobody else.
    fn tell(self, answer: KeptAnswer) {
        self.turn.answered.send_replace(Some(answer));
    }
}

#[cfg(test)]
mod tests;
