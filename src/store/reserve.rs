//! Space that the store keeps for itself, so that a full disk refuses what is new and not what has happened: stops and
//! deletions are stored from it. Decides nothing; `disk` asks it how much room there is.
//!
//! The reserve is blocks allocated behind the end of the log (`fallocate`, the length stays). The log grows into
//! them, hence nobody else (a guest's disk image, say) can be faster, as with a file that would have to be removed first.
//! Where the file system cannot allocate ahead (NFS, ZFS) the reserve is only a higher threshold for what is new; where
//! it writes elsewhere what it overwrites (btrfs) it covers the log's growth alone.
//!
//! `spare` is a small file that gives way when the store is opened on a full disk, which sled has to write some for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, StatVfsMountFlags, fallocate};

/// sled writes some 10 MiB before it begins to clean up behind itself, and from then on stays about there (measured with
/// records of 28 KiB); the rest is the room that it has to have at any time.
pub(super) const RESERVE_BYTES: u64 = 24 << 20;

/// The reserve is made whole in steps of this: not for every record.
const STEP: u64 = 1 << 20;

/// Half a megabyte holds sled's snapshot of some ten thousand pages.
const SPARE_BYTES: u64 = 512 << 10;
const SPARE: &str = "spare";

/// How much the store can still write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub read_only: bool,
    /// For everybody, without the reserve of root.
    pub free: u64,
    /// Allocated behind the end of the log.
    pub held: u64,
}

impl Space {
    /// # Errors
    /// As `statvfs` and `fstat`.
    pub fn look(dir: &Path, log: &File) -> io::Result<Space> {
        let system = rustix::fs::statvfs(dir)?;
        let file = log.metadata()?;
        Ok(Space {
            read_only: system.f_flag.contains(StatVfsMountFlags::RDONLY),
            free: system.f_bavail.saturating_mul(system.f_frsize),
            // A hole, or compression, makes it less than it is.
            held: (file.blocks() * 512).saturating_sub(file.len()),
        })
    }

    pub fn room(&self) -> u64 {
        self.free.saturating_add(self.held)
    }
}

/// Makes the reserve whole again, as far as there is room: the log has grown into it, or sled has cut the log, which
/// frees all that is behind (and somebody else may be faster then).
pub(super) fn top_up(dir: &Path, log: &File) -> io::Result<()> {
    let space = Space::look(dir, log)?;
    let missing = RESERVE_BYTES.saturating_sub(space.held).min(space.free / STEP * STEP);
    if missing == 0 || space.read_only {
        return Ok(());
    }
    let length = log.metadata()?.len() + space.held + missing;
    match fallocate(log, FallocateFlags::KEEP_SIZE, 0, length) {
        // The file system cannot, or there is less than it said: then there is what there is.
        Ok(()) | Err(rustix::io::Errno::NOSPC | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::DQUOT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Lets go of the spare file where an opening could not do without.
pub(super) fn give_way(dir: &Path) -> io::Result<()> {
    let system = rustix::fs::statvfs(dir)?;
    if system.f_bavail.saturating_mul(system.f_frsize) >= SPARE_BYTES {
        return Ok(());
    }
    match fs::remove_file(dir.join(SPARE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Has it again for the next opening, as soon as there is room.
pub(super) fn keep_spare(dir: &Path, free: u64) {
    let path = dir.join(SPARE);
    if free < 2 * SPARE_BYTES || path.exists() {
        return;
    }
    let made = File::create(&path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, SPARE_BYTES)?));
    if let Err(error) = made {
        let _ = fs::remove_file(&path);
        tracing::debug!(%error, "no spare space for the next opening");
    }
}
