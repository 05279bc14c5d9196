//! sled on a real disk: opening it, and making it keep what it promises. Knows nothing of records or waiting callers.
//!
//! What sled 0.34 writes in its directory, and what makes it durable:
//! - `db`, the log with everything in it. sled's `flush` ends in `sync_file_range`, which writes neither the file's
//!   length nor the drive's cache, so a power cut loses acknowledged data (sled#1452). We call `sync_data`
//!   on it after every flush.
//! - `blobs/N`, pages larger than a quarter of a segment. sled neither syncs them nor orders them with the log, and a
//!   power cut then loses or tears what was acknowledged (tried: 6 of 6 runs without a sync of our own, 1 in 10 with
//!   it). So there must never be any: a page holds at most 18 records, and [`SEGMENT_BYTES`], [`MAX_RECORD_BYTES`]
//!   and [`MAX_KEY_BYTES`] are chosen so that these fit.
//! - `conf` and `snap.X` are written while opening, and synced at its end together with the directories.
//! - `snap.X.generating`, half a snapshot: when sled is interrupted there, it later takes the rest for the newest
//!   snapshot and calls the store corrupt. It is never needed, and removed before opening.
//!
//! Some kinds of damage make sled panic while opening, which is caught here, or spin for ever, which cannot be: `try_open`
//! finds out before.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::dump::Entry;
use super::events::Log;
use super::record::{self, MAX_KEY_BYTES, MAX_RECORD_BYTES};
use super::reserve::{self, RESERVE_BYTES, Space};
use super::writer::{Job, Refusal, WriteError};
use super::{StoreError, panic_text};

/// Written into `conf` at creation: a store can only be opened with the size that it was made with. Memory grows
/// with it (a store of 500 records, opened: 2 MiB with 512 KiB, 5 with 2 MiB, 12 with 4 MiB).
const SEGMENT_BYTES: usize = 2 << 20;

/// Above this a page would become a blob (sled's `MINIMUM_ITEMS_PER_SEGMENT`, less some room for headers).
const MAX_PAGE_BYTES: usize = SEGMENT_BYTES / 4 - 256;
/// sled splits a page that it finds with more than 16 records; 18 leaves room for the one being added.
const MAX_PAGE_RECORDS: usize = 18;
const _: () = assert!(MAX_PAGE_RECORDS * (MAX_RECORD_BYTES + MAX_KEY_BYTES + 16) < MAX_PAGE_BYTES);

/// sled keeps decoded pages up to this; the records of a thousand VMs fit.
const CACHE_BYTES: u64 = 4 << 20;

/// Room that has to remain, beside the reserve for what is new. A real ENOSPC inside sled stops the store for good,
/// one noticed before does not; sled allocates in segments, and this leaves room for a few.
const HEADROOM_BYTES: u64 = 3 * SEGMENT_BYTES as u64;

/// How long to wait for a predecessor to let go. sled's threads hold the file for a moment after the last handle
/// is gone, and so does a process between fork and exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The writing side. Reading goes through clones of `db`.
pub(super) struct Backend {
    pub db: sled::Db,
    dir: PathBuf,
    log: File,
    /// Of the writer alone.
    pub events: RefCell<Log>,
}

impl Backend {
    /// Opens, or creates, the database in `dir`; on success all of it is durable.
    ///
    /// # Errors
    /// `InUse`, `Damaged`, or `Io` when the operating system refuses.
    pub fn open(dir: &Path) -> Result<Backend, StoreError> {
        let io = |what| move |source| StoreError::Io { what, dir: dir.to_path_buf(), source };
        let db = open_alone(dir)?;
        let log = File::options().read(true).write(true).open(dir.join("db"));
        let log = log.map_err(io("open the log of the store"))?;
        let events = match catch_unwind(AssertUnwindSafe(|| Log::of(&db))) {
            Ok(events) => events.map_err(|e| e.to_string()),
            Err(panic) => Err(panic_text(panic.as_ref()).to_owned()),
        };
        let damaged = |reason| StoreError::Damaged { dir: dir.to_path_buf(), reason };
        let backend = Backend { events: RefCell::new(events.map_err(damaged)?), db, dir: dir.to_path_buf(), log };
        backend.sync_everything().map_err(io("sync the store"))?;
        Ok(backend)
    }

    /// Applies `group` in order and returns when it is durable. Of each job it tells why it was left out, if it was: on a
    /// disk that is nearly full only those go through that may use the reserve, and what a batch is to replace has to be
    /// what is stored when its turn comes.
    ///
    /// # Errors
    /// `Refused` before anything is touched, `Fatal` after.
    pub fn write(&self, group: &[Job]) -> Result<Vec<Option<Refusal>>, WriteError> {
        let fatal = |what: &str, e: &dyn std::fmt::Display| WriteError::Fatal(format!("{what}: {e}"));
        let space = Space::look(&self.dir, &self.log).map_err(|e| fatal("statvfs", &e))?;
        if space.read_only {
            return Err(WriteError::Refused(Refusal::ReadOnly));
        }
        let bytes: usize = group.iter().map(|job| job.batch.bytes()).sum();
        let lacks = |needed: u64| {
            let needed = needed + bytes as u64;
            (space.room() < needed)
                .then(|| Refusal::NoSpace { free: space.free, needed: needed.saturating_sub(space.held) })
        };
        if let Some(refusal) = lacks(HEADROOM_BYTES) {
            return Err(WriteError::Refused(refusal));
        }
        let refusal = lacks(HEADROOM_BYTES + RESERVE_BYTES);
        let stored = |name: &str| Ok(self.db.get(name)?.map(|value| record::generation(&value)));
        let mut refused = Vec::with_capacity(group.len());
        for job in group {
            let mut why = refusal.clone().filter(|_| !job.batch.may_use_reserve);
            if why.is_none() {
                let outdated = job.batch.outdated(stored).map_err(|e: sled::Error| fatal("read", &e))?;
                why = outdated.map(|record| Refusal::Outdated { record: record.to_owned() });
            }
            if why.is_none() {
                let mut batch = job.batch.to_sled();
                self.events.borrow_mut().append(&mut batch, &job.batch.events);
                self.db.apply_batch(batch).map_err(|e| fatal("write", &e))?;
            }
            refused.push(why);
        }
        self.db.flush().map_err(|e| fatal("flush", &e))?;
        self.log.sync_data().map_err(|e| fatal("fdatasync", &e))?;
        self.events.borrow_mut().is_durable();
        Ok(refused)
    }

    /// Stores entries as they are, for a store that is being made. Durable when it returns.
    ///
    /// # Errors
    /// `NoSpace` and `Failed`.
    pub fn insert(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::Failed { reason: reason.into() };
        let space = Space::look(&self.dir, &self.log).map_err(|e| failed(e.to_string()))?;
        if space.room() < HEADROOM_BYTES {
            return Err(StoreError::NoSpace { free: space.free, needed: HEADROOM_BYTES.saturating_sub(space.held) });
        }
        let mut batch = sled::Batch::default();
        for (name, value) in entries {
            batch.insert(name.as_slice(), value.as_slice());
        }
        self.db.apply_batch(batch).and_then(|()| self.db.flush().map(drop)).map_err(|e| failed(e.to_string()))?;
        self.log.sync_data().map_err(|e| failed(e.to_string()))
    }

    /// Without it the store still works, as long as there is room.
    pub fn keep_reserve(&self) {
        if let Err(error) = reserve::top_up(&self.dir, &self.log) {
            tracing::debug!(%error, "no space is kept for the store");
        }
    }

    /// After opening: files, then the directories that name them, up to the one that names the store.
    fn sync_everything(&self) -> io::Result<()> {
        self.db.flush().map_err(io::Error::from)?;
        for entry in fs::read_dir(&self.dir)? {
            sync_if_there(&entry?.path())?;
        }
        File::open(&self.dir)?.sync_all()?;
        let full = self.dir.canonicalize()?;
        full.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }
}

/// Opens, or creates, the database in `dir`, after a predecessor has let go of it. Not all of it need be durable.
///
/// # Errors
/// As [`Backend::open`].
pub(super) fn open_alone(dir: &Path) -> Result<sled::Db, StoreError> {
    let io = |what| move |source| StoreError::Io { what, dir: dir.to_path_buf(), source };
    // For nobody else: it tells where the guests' disks are.
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create the store"))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let opened = match try_lock(dir).map_err(io("lock the store"))? {
            Lock::Taken => Err(StoreError::InUse { dir: dir.to_path_buf() }),
            Lock::Free(_held) => {
                remove_half_snapshots(dir).map_err(io("tidy the store"))?;
                reserve::give_way(dir).map_err(io("make room in the store"))?;
                Ok(())
            } // released here: sled takes its own
        };
        match opened.and_then(|()| open_sled(dir)) {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
}

/// sled tidies its directory in the background.
fn sync_if_there(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|file| file.sync_all()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

enum Lock {
    Taken,
    /// Held until this is dropped, when there is a file to lock.
    Free(Option<File>),
}

/// Takes the same lock as sled, which would report a failure only in words.
fn try_lock(dir: &Path) -> io::Result<Lock> {
    let file = match File::open(dir.join("db")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lock::Free(None)),
        Err(e) => return Err(e),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock::Free(Some(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Lock::Taken),
        Err(e) => Err(e.into()),
    }
}

fn remove_half_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %entry.path().display(), "removed a half-written snapshot");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_sled(dir: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        // We flush after every group; a timer would only wake an idle daemon.
        .flush_every_ms(None);
    let damaged = |reason| StoreError::Damaged { dir: dir.to_path_buf(), reason };
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        // Somebody was faster between the probe and this.
        Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
            Err(StoreError::InUse { dir: dir.to_path_buf() })
        }
        Ok(Err(sled::Error::Io(e))) if e.kind() != io::ErrorKind::UnexpectedEof => {
            Err(StoreError::Io { what: "open the store", dir: dir.to_path_buf(), source: e })
        }
        Ok(Err(e)) => Err(damaged(e.to_string())),
        Err(panic) => Err(damaged(panic_text(panic.as_ref()).to_owned())),
    }
}
