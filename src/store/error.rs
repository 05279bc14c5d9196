//! What can go wrong in the store, in words a person can act on. Rendering for HTTP is not done here.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Every failure of the store. `record` is always `kind/key`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another `Store` of this one, has the store open.
    #[error("the store in {dir} is in use by another process; is a second qherd running on it?")]
    InUse { dir: PathBuf },

    /// The operating system refused something while the store was opened.
    #[error("cannot {what} in {dir}: {source}")]
    Io { what: &'static str, dir: PathBuf, source: io::Error },

    /// The files of the store do not make sense any more.
    #[error(
        "the store in {} is damaged: {reason}. To set it aside and go on with what can be saved of it, or with the newest \
         export, run: qherd db restore --state-dir {}. Running VMs are not affected",
        .dir.display(), .dir.parent().unwrap_or(.dir).display()
    )]
    Damaged { dir: PathBuf, reason: String },

    /// A file that is no export, or not a whole one.
    #[error("the export cannot be used: {reason}")]
    Export { reason: String },

    /// Written by a later qherd. Guessing could lose what it meant, so it is refused.
    #[error(
        "record {record} has version {found}, this qherd knows versions up to {known}: \
         start the newer qherd again, or restore an export made by this one"
    )]
    Newer { record: String, found: u32, known: u32 },

    /// An older record that its type cannot bring up to date.
    #[error("record {record} of version {from} cannot be brought to version {known}: {reason}")]
    Migrate { record: String, from: u32, known: u32, reason: String },

    /// One record does not decode or fails its checksum; the others can still be read.
    #[error("record {record} cannot be read: {reason}; restore it from an export")]
    BadRecord { record: String, reason: String },

    /// The record cannot be stored as it is: a fault of the caller.
    #[error("record {record} cannot be stored: {reason}")]
    Refused { record: String, reason: String },

    /// Somebody else has changed a record since it was read that the batch was to replace. Nothing of the batch was stored.
    #[error(
        "record {record} is not what it was when it was read: somebody else has changed it since; read it anew and try again"
    )]
    Outdated { record: String },

    /// Too little free space to write safely. Nothing was written, and the store goes on once there is room.
    #[error(
        "no room in the state directory: {} MiB are free and {} MiB needed, the last being kept for stops and deletions; \
         free some space, or delete a VM, and try again",
        .free >> 20, .needed.div_ceil(1 << 20)
    )]
    NoSpace { free: u64, needed: u64 },

    /// Nothing was written, and the store goes on once it can.
    #[error("the file system of the state directory is read-only; mount it read-write and try again")]
    ReadOnly,

    /// A write failed, so memory and disk may differ: nothing is read or written until the store is opened anew.
    /// The write that met it may or may not be found then.
    #[error(
        "the store has stopped after a failed write ({reason}); correct the cause and restart qherd, VMs keep running"
    )]
    Failed { reason: Arc<str> },

    /// Thousands of commits wait already. This one was not queued, nothing was changed by it.
    #[error("the store's disk does not keep up, its queue is full; try again later")]
    Busy,

    /// No answer from the disk for a long time. The write stays queued and may still happen.
    #[error("the store's disk has not answered for {seconds} s; whether the change was stored is not known")]
    Stalled { seconds: u64 },
}

impl StoreError {
    /// Whether a later qherd has written it, so that nothing is wrong but this program's age.
    pub fn is_newer(&self) -> bool {
        matches!(self, StoreError::Newer { .. })
    }
}
