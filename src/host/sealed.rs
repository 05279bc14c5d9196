//! A file in memory that nobody can change any more, as another process may have it: it has no name, and goes with the last
//! who has it open.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::spill::reopen;

/// Open for reading alone: QEMU asks for just that.
///
/// # Errors
/// The kernel's.
pub fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(content)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL)?;
    reopen(&file, OFlags::RDONLY)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn it_is_read_and_never_written() {
        let mut file = File::from(sealed("test", b"words").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "words");
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
        assert!(reopen(&file, OFlags::RDWR).and_then(|again| File::from(again).write_all(b"x")).is_err());
    }
}
