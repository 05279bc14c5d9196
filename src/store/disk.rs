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
//! Some kinds of damage make sled panic while opening, which is caught here, or spin for ever, which cannot be. For
//! the latter the store has to be opened in a helper process with a deadline first.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::record::{MAX_KEY_BYTES, MAX_RECORD_BYTES};
use super::writer::{Job, WriteError};
use super::{StoreError, panic_text};

/// Written into `conf` at creation: a store can only be opened with the size that it was made with. Memory grows
/// with it (a store of 500 records, opened: 2 MiB with 512 KiB, 5 with 2 MiB, 12 with 4 MiB).
const SEGMENT_BYTES: usize = 2 << 20;

/// Above this a page would become a blob (sled's `MINIMUM_ITEMS_PER_SEGMENT`, less some room for headers).
const MAX_PAGE_BYTES: usize = SEGMENT_BYTES / 4 - 256;
/// sled splits a page that it finds with more than 16 records; 18 leaves room for the one being added.
const MAX_PAGE_RECORDS: usize = 18;
const _: () = assert!(MAX_PAGE_RECORDS * (MAX_RECORD_BYTES + MAX_KEY_BYTES + 16) < MAX_PAGE_BYTES);

/// sled keeps decoded pages up to this; the records of a thousand machines fit.
const CACHE_BYTES: u64 = 4 << 20;

/// Free space that has to remain. A real ENOSPC inside sled stops the store for good, one noticed before does not;
/// sled allocates in segments, and this leaves room for a few.
const HEADROOM_BYTES: u64 = 3 * SEGMENT_BYTES as u64;

/// How long to wait for a predecessor to let go. sled's threads hold the file for a moment after the last handle
/// is gone, and so does a process between fork and exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The writing side. Reading goes through clones of `db`.
pub(super) struct Disk {
    pub db: sled::Db,
    dir: PathBuf,
    log: File,
}

impl Disk {
    /// Opens, or creates, the database in `dir`; on success all of it is durable.
    ///
    /// # Errors
    /// `InUse`, `Damaged`, or `Io` when the operating system refuses.
    pub fn open(dir: &Path) -> Result<Disk, StoreError> {
        let io = |what| move |source| StoreError::Io { what, dir: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(io("create the store"))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        let db = loop {
            let opened = match lock_probe(dir).map_err(io("lock the store"))? {
                Lock::Taken => Err(StoreError::InUse { dir: dir.to_path_buf() }),
                Lock::Free(_held) => {
                    remove_half_snapshots(dir).map_err(io("tidy the store"))?;
                    Ok(())
                } // released here: sled takes its own
            };
            match opened.and_then(|()| open_sled(dir)) {
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                other => break other?,
            }
        };
        let log = File::open(dir.join("db")).map_err(io("open the log of the store"))?;
        let disk = Disk { db, dir: dir.to_path_buf(), log };
        disk.sync_everything().map_err(io("sync the store"))?;
        Ok(disk)
    }

    /// Applies `group` in order and returns when all of it is durable.
    ///
    /// # Errors
    /// `NoSpace` before anything is touched, `Fatal` after.
    pub fn write(&self, group: &[Job]) -> Result<(), WriteError> {
        let fatal = |what: &str, e: &dyn std::fmt::Display| WriteError::Fatal(format!("{what}: {e}"));
        let bytes: usize = group.iter().map(|job| job.batch.bytes()).sum();
        let needed = HEADROOM_BYTES + bytes as u64;
        let free = free_bytes(&self.dir).map_err(|e| fatal("statvfs", &e))?;
        if free < needed {
            return Err(WriteError::NoSpace { free, needed });
        }
        for job in group {
            self.db.apply_batch(job.batch.to_sled()).map_err(|e| fatal("write", &e))?;
        }
        self.db.flush().map_err(|e| fatal("flush", &e))?;
        self.log.sync_data().map_err(|e| fatal("fdatasync", &e))
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

/// Free space for everybody, not the reserve of root.
fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
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
fn lock_probe(dir: &Path) -> io::Result<Lock> {
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
