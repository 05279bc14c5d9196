//! What a short-lived QEMU complains of, beside its exit status.

use std::{
    fs::File,
    io::{self, Read, Seek},
};

/// Where a short-lived QEMU writes its complaints.
pub(super) struct Words(File);

impl Words {
    /// All that was written; the process must have ended.
    pub(super) fn read(mut self) -> String {
        let mut text = String::new();
        let _ = self.0.rewind();
        let _ = self.0.take(4096).read_to_string(&mut text);
        text.trim().to_owned()
    }
}

/// A nameless file for standard error.
pub(super) fn stderr_pipe() -> io::Result<(File, Words)> {
    let fd = rustix::fs::memfd_create("qemu-stderr", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = File::from(fd);
    Ok((file.try_clone()?, Words(file)))
}
