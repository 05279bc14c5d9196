//! The store: what qherd remembers across restarts. The only place that names sled.
//!
//! Generic over [`Record`]s; it neither knows nor cares what they mean. Desired and run facts belong in it, derived
//! status does not. All records live in one tree under `kind/key`, so a [`Batch`] is atomic across kinds; kinds that
//! nobody asks for are left alone.
//!
//! ```text
//! commit ──queue──> writer thread: apply… → flush → fdatasync ──> answers
//! get, scan ──> sled's memory or disk, between two groups
//! ```
//! The promise: when [`Store::commit`] returns `Ok`, the batch survives `kill -9` and a power cut. On `Err` it was not
//! promised; except for `NoSpace`, `ReadOnly`, `Busy` and `Outdated` it may still turn up when the store is opened the next time.
//!
//! A batch may tell of what it changes: see `events`.
//!
//! Around it: `check` reads everything, `export` writes it as text (`dump`), `import` makes a store of that, and `try_open`
//! finds out in a helper process whether a store can be opened at all (sled may spin for ever on a damaged one).

#![allow(clippy::disallowed_methods, reason = "the writer's thread, and threads that may wait")]

mod backend;
mod batch;
mod check;
mod dump;
mod error;
mod events;
mod export;
mod import;
mod record;
mod reserve;
mod riders;
mod trial;
mod writer;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout;

pub use batch::Batch;
pub(crate) use batch::following;
pub(crate) use check::fuzz;
pub use check::{RecordKind, Report};
pub use error::StoreError;
pub use events::{EVENT, Event, Kept, Telling, Window};
pub use export::{ExportError, exports};
pub use import::{Import, put_in_place};
pub use record::{Generation, MAX_RECORD_BYTES, Record};
pub use riders::Riders;
pub use trial::{DEADLINE, Helper, copy, help, sync, try_open};
use writer::{End, Health, Job};

use crate::host::fail_point;

/// Commits that may wait. Each VM has one under way at most, so a full queue means a dead disk.
const QUEUE: usize = 4096;

/// After this a commit is answered with `Stalled`, so that no request hangs for ever on a frozen disk
/// or on a sled thread that has died.
const STALL: Duration = Duration::from_secs(30);

/// How long the last handle waits for the writer to finish.
const CLOSE: Duration = Duration::from_secs(5);

/// A record of a counted kind, and its generation.
pub type Counted<R> = (R, Generation);

/// Records by key, each as it could be read.
pub type Scanned<R> = Vec<(String, Result<R, StoreError>)>;

/// A handle on the open store; clones are cheap. When the last one is dropped, everything queued is written and the
/// store is closed, which blocks for as long as that takes (5 s at most).
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    db: sled::Db,
    health: Arc<Health>,
    events: Arc<events::Shared>,
    /// Taken on drop: the writer ends when it is gone.
    queue: Option<SyncSender<Job>>,
    /// Disconnected once the writer has ended and released its part of sled.
    ended: std::sync::Mutex<Receiver<()>>,
}

impl Store {
    /// Opens the store in `dir`, creating it where there is none. Blocks; meant for the start of the program.
    ///
    /// # Errors
    /// `InUse` when another process has it, `Damaged` when sled cannot make sense of it, `Io` otherwise.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let backend = backend::Backend::open(dir)?;
        backend.keep_reserve();
        let db = backend.db.clone();
        let events = backend.events.borrow().shared();
        let health = Arc::new(Health::default());
        let (queue, jobs) = sync_channel(QUEUE);
        let (ending, ended) = sync_channel(0);
        let state = health.clone();
        thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let write = |group: &[Job]| {
                    fail_point::around(fail_point::Counted::Commit, group.len(), || backend.write(group))
                };
                let tell = || backend.events.borrow_mut().tell();
                let end = writer::run(&jobs, &state, write, tell, || backend.keep_reserve());
                if end == End::Panicked {
                    // Its destructor flushes, and could panic or wait for ever.
                    std::mem::forget(backend);
                } else {
                    drop(backend);
                }
                drop(ending);
            })
            .map_err(|source| StoreError::Io {
                what: "start the writer of the store",
                dir: dir.to_path_buf(),
                source,
            })?;
        let ended = std::sync::Mutex::new(ended);
        let dir = dir.to_path_buf();
        Ok(Store(Arc::new(Inner { dir, db, health, events, queue: Some(queue), ended })))
    }

    /// All records of one kind, by key, each as it could be read: one that cannot hides no other. Blocks; meant for the
    /// start of the program.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is; of one record `BadRecord`, `Newer` or `Migrate`.
    pub fn scan<R: Record>(&self) -> Result<Scanned<R>, StoreError> {
        self.scan_as::<R, R>(record::decode)
    }

    /// As [`Store::scan`], of a counted kind.
    ///
    /// # Errors
    /// As there.
    pub fn scan_counted<R: Record>(&self) -> Result<Scanned<Counted<R>>, StoreError> {
        const { assert!(R::COUNTED, "nobody counts the generations of this kind") };
        self.scan_as::<R, _>(counted::<R>)
    }

    fn scan_as<R: Record, T>(
        &self,
        decode: impl Fn(&str, &[u8]) -> Result<T, StoreError>,
    ) -> Result<Scanned<T>, StoreError> {
        let prefix = record::name::<R>("");
        let found = self.read(|db| db.scan_prefix(&prefix).collect::<sled::Result<Vec<_>>>())?;
        let decoded = found.into_iter().map(|(name, value)| {
            let key = String::from_utf8_lossy(&name[prefix.len()..]).into_owned();
            let record = decode(&key, &value);
            (key, record)
        });
        Ok(decoded.collect())
    }

    /// Every record, as it is stored: name and value. Events are none.
    fn entries(&self) -> Result<Vec<(sled::IVec, sled::IVec)>, StoreError> {
        Ok(self.everything()?.into_iter().filter(|(name, _)| !events::is_of_log(name)).collect())
    }

    fn everything(&self) -> Result<Vec<(sled::IVec, sled::IVec)>, StoreError> {
        self.read(|db| {
            db.iter().filter(|entry| entry.as_ref().map_or(true, |(name, _)| !events::is_id(name))).collect()
        })
    }

    /// The names of all records: `kind/key`. Blocks.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.entries()?.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Whether there is no record of any kind. Blocks.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.entries()?.is_empty())
    }

    /// One record, or `None`. Blocks for a disk read, or while a group is being written.
    ///
    /// # Errors
    /// `BadRecord`, `Newer` or `Migrate`; `Failed` or `Damaged` as the store is.
    pub fn get<R: Record>(&self, key: &str) -> Result<Option<R>, StoreError> {
        let value = self.read(|db| db.get(record::name::<R>(key)))?;
        value.map(|value| record::decode(key, &value)).transpose()
    }

    /// As [`Store::get`], of a counted kind.
    ///
    /// # Errors
    /// As there.
    pub fn get_counted<R: Record>(&self, key: &str) -> Result<Option<Counted<R>>, StoreError> {
        const { assert!(R::COUNTED, "nobody counts the generations of this kind") };
        let value = self.read(|db| db.get(record::name::<R>(key)))?;
        value.map(|value| counted(key, &value)).transpose()
    }

    /// Makes `batch` durable, all of it or nothing. It is queued before this function returns: dropping
    /// the future does not take it back, and batches are applied in the order of the calls.
    ///
    /// The future needs a tokio runtime with its timer.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly`: nothing happened, try again when there is room. `Busy`: likewise, the queue was full. `Outdated`:
    /// likewise, what was to be replaced is another by now. `Failed`: the store is out of use until it is opened anew. `Stalled`: the disk does not answer, the outcome is open.
    #[must_use = "what was committed is only known once this has been awaited"]
    pub fn commit(&self, batch: Batch) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let queued = self.0.enqueue(batch);
        async move {
            match timeout(STALL, queued?).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(gone()),
                Err(_) => Err(StoreError::Stalled { seconds: STALL.as_secs() }),
            }
        }
    }

    /// Reads what is durable. A panic of sled becomes an error.
    fn read<T>(&self, read: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        let damaged = |reason| StoreError::Damaged { dir: self.0.dir.clone(), reason };
        self.0.health.while_good(|| match catch_unwind(AssertUnwindSafe(|| read(&self.0.db))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(damaged(e.to_string())),
            Err(panic) => Err(damaged(panic_text(panic.as_ref()).to_owned())),
        })
    }
}

impl Inner {
    fn enqueue(&self, batch: Batch) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (done, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        match queue.try_send(Job { batch, done }) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(gone()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Disconnection is the answer. On a frozen disk it does not come, and exiting matters more.
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(CLOSE) {
            tracing::warn!(dir = %self.dir.display(), "the store did not finish writing in time");
        }
    }
}

fn counted<R: Record>(key: &str, value: &[u8]) -> Result<Counted<R>, StoreError> {
    Ok((record::decode(key, value)?, record::generation(value)))
}

/// The writer ends only after the last handle, so this is not expected to be seen.
fn gone() -> StoreError {
    StoreError::Failed { reason: "its writer is gone".into() }
}

/// Kinds are checked while compiling, keys when they come.
fn check_key<R: Record>(key: &str) -> Result<(), StoreError> {
    const { assert!(is_plain(R::KIND), "a kind is not empty and has no slash") };
    let name = record::name::<R>(key);
    if key.is_empty() || name.len() > record::MAX_KEY_BYTES {
        let reason = format!("its key is empty or its name longer than {} bytes", record::MAX_KEY_BYTES);
        return Err(StoreError::Refused { record: record::name::<R>(key), reason });
    }
    Ok(())
}

const fn is_plain(kind: &str) -> bool {
    let bytes = kind.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'/' {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty()
}

/// `2026-11-22T00:00:00Z`.
fn utc(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The message of a caught panic.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests;
