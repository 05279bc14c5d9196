//! SHA-256 sums of files, on a thread of their own: how far one has come is noted, and one that nobody waits for any more
//! ends.

use std::{
    fmt::Write as _,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sha2::{Digest, Sha256};

use super::{COPY, Copied};
use crate::host::on_storage;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The sum of all that an open file holds, in hexadecimal digits. `at` is where it lies.
///
/// # Errors
/// The file system's.
pub async fn sha256(at: &Path, file: &File, copied: &Arc<Copied>) -> io::Result<String> {
    let (file, copied, given_up) = (file.try_clone()?, copied.clone(), GivenUp::default());
    let over = given_up.0.clone();
    on_storage(at, COPY, move || {
        let length = file.metadata()?.len();
        copied.begin(length);
        let (mut sum, mut piece, mut at) = (Sha256::new(), vec![0; PIECE], 0);
        loop {
            if over.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let read = match file.read_at(&mut piece, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                return Ok(hexadecimal(&sum.finalize()));
            }
            sum.update(&piece[..read]);
            at += read as u64;
            copied.is_at(at);
        }
    })
    .await
}

/// The same at once. Blocks for as long as it takes.
///
/// # Errors
/// The file system's.
pub fn sum_of(file: &File) -> io::Result<String> {
    let (mut sum, mut piece, mut at) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut piece, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Ok(hexadecimal(&sum.finalize())),
            Ok(read) => {
                sum.update(&piece[..read]);
                at += read as u64;
            }
            Err(error) => return Err(error),
        }
    }
}

#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
