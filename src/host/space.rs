//! How much room there is where a file lies.

use std::{io, path::Path};

/// Bytes that this process can still write there. May hang where the storage does.
///
/// # Errors
/// Those of statvfs(3).
pub fn free_space(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    // Some blocks are kept for root, as which QEMU runs when the daemon does.
    let blocks = if rustix::process::geteuid().is_root() { space.f_bfree } else { space.f_bavail };
    Ok(blocks * space.f_frsize)
}
