//! What is in a file that disks are cloned from, in a sum that takes some reads of any length: its beginning, where the tables of
//! an image are, its end, and samples between them. It tells an image from the next version of it, and is no proof against
//! somebody who knows where it looks; nothing but the image's owner writes there.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use sha2::{Digest, Sha256};

use super::hexadecimal;
use crate::model::{BaseContent, now_ms};

/// Bytes at its beginning, and at its end.
const ENDS: u64 = 1 << 20;
const SAMPLES: u64 = 256;
const SAMPLE: u64 = 16 << 10;
/// Milliseconds within which two writes may leave a file with the same time.
const TICK: u64 = 1000;

/// What is in an open file. Blocks.
///
/// # Errors
/// The file system's.
pub fn content(file: &File) -> io::Result<BaseContent> {
    let mut now = stamp(file)?;
    let since = now_ms().saturating_sub(now.modified / 1_000_000);
    if since < TICK {
        // Whoever writes to it now may leave its time as it is: let what is in it be looked at each time.
        now.inode = 0;
    }
    let mut sum = Sha256::new();
    sum.update(now.size.to_le_bytes());
    let mut piece = vec![0; ENDS as usize];
    for (at, length) in places(now.size) {
        let piece = &mut piece[..length as usize];
        file.read_exact_at(piece, at)?;
        sum.update(&piece);
    }
    Ok(BaseContent { sample: hexadecimal(&sum.finalize()), ..now })
}

/// What is in an open file by now, where that is something else than `was`. Blocks.
///
/// # Errors
/// The file system's.
pub fn other_content(file: &File, was: &BaseContent) -> io::Result<Option<BaseContent>> {
    let now = stamp(file)?;
    if (now.inode, now.size, now.modified) == (was.inode, was.size, was.modified) {
        return Ok(None);
    }
    // Touched, or put back: what is in it counts.
    let now = content(file)?;
    Ok((now.sample != was.sample).then_some(now))
}

/// Without what is in it.
fn stamp(file: &File) -> io::Result<BaseContent> {
    let found = file.metadata()?;
    let seconds = u64::try_from(found.mtime()).unwrap_or(0).saturating_mul(1_000_000_000);
    let modified = seconds.saturating_add(u64::try_from(found.mtime_nsec()).unwrap_or(0));
    Ok(BaseContent { inode: found.ino(), size: found.size(), modified, sample: String::new() })
}

/// Where it is looked, and how far; of what is short enough everywhere.
fn places(size: u64) -> Vec<(u64, u64)> {
    if size <= SAMPLES * SAMPLE {
        return (0..size.div_ceil(ENDS)).map(|number| (number * ENDS, ENDS.min(size - number * ENDS))).collect();
    }
    let between = size / SAMPLES;
    let samples = (0..SAMPLES).map(|number| (number * between, SAMPLE));
    [(0, ENDS), (size - ENDS, ENDS)].into_iter().chain(samples).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: u64, written: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        written.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        file
    }

    #[test]
    fn the_same_content_passes_in_another_file_and_another_content_does_not() {
        for length in [0, 1, 512, ENDS, ENDS + 1, SAMPLES * SAMPLE] {
            let was = content(&file(length, &[])).unwrap();
            assert_eq!(other_content(&file(length, &[]), &was).unwrap(), None, "{length}");
            let longer = other_content(&file(length + 1, &[]), &was).unwrap();
            assert!(longer.is_some_and(|now| now.size == length + 1), "{length}");
            for (at, count) in places(length).into_iter().filter(|(_, count)| *count > 0) {
                let other = file(length, &[(at + count - 1, b"x")]);
                let now = other_content(&other, &was).unwrap();
                assert!(now.is_some(), "{at} of {length}");
            }
        }
    }

    #[test]
    fn no_place_is_outside_and_a_short_file_is_read_whole() {
        for length in [0, 1, ENDS, ENDS + 7, SAMPLES * SAMPLE] {
            assert_eq!(places(length).iter().map(|(_, count)| count).sum::<u64>(), length);
        }
        for length in [SAMPLES * SAMPLE + 1, 123_456_789, 64 << 40] {
            assert!(places(length).iter().all(|(at, count)| at + count <= length), "{length}");
        }
    }
}
