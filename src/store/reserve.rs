//! Space that the store keeps for itself, so that a full disk refuses what is new and not what has happened: stops and
//! deletions are stored from it. Decides nothing; `disk` asks it how much room there is.
//!
//! The reserve is blocks allocated behind the end of the log (`fallocate`, the length stays). The log grows into
//! them, hence nobody else (a guest's disk image, say) can be faster, as with a file that would have to be removed first.
//! Where the file system cannot allocate ahead (NFS, ZFS) the reserve is only a higher threshold for what is new; where
//! it writes elsewhere what it overwrites (btrfs) it covers the log's growth alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, StatVfsMountFlags, fallocate};

/// sled writes some 10 MiB before it begins to clean up behind itself, and from then on stays about there (measured with
/// records of 28 KiB); the rest is the room that it has to have at any time.
pub(super) const RESERVE_BYTES: u64 = 24 << 20;

/// The reserve is made whole in steps of this: not for every record.
const STEP: u64 = 1 << 20;

/// What sled writes while it opens: a snapshot, of some ten thousand pages at the most in this much.
const OPENING_BYTES: u64 = 1 << 20;

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

/// Lets go of a little of the reserve where sled could not open the store without: it writes a snapshot then.
pub(super) fn give_way(dir: &Path) -> io::Result<()> {
    let log = match File::options().read(true).write(true).open(dir.join("db")) {
        Ok(log) => log,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let space = Space::look(dir, &log)?;
    if space.free >= OPENING_BYTES || space.held < OPENING_BYTES {
        return Ok(());
    }
    let length = log.metadata()?.len();
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // What is allocated may end a little later than reckoned.
    let punched = fallocate(&log, how, length + space.held - OPENING_BYTES, OPENING_BYTES + STEP);
    if punched.is_err() || Space::look(dir, &log)?.free < OPENING_BYTES {
        // ext4 does not do that behind the end, where a file can only be cut; the rest is taken back at once.
        log.set_len(length)?;
        if let Err(error) = fallocate(&log, FallocateFlags::KEEP_SIZE, 0, length + space.held - OPENING_BYTES) {
            tracing::warn!(%error, "somebody else took the space that was kept for the store");
        }
    }
    Ok(())
}
