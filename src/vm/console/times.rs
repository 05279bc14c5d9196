//! When a log was written: a file beside it, of bounded size, with marks. A mark says that the log's file was so long then; it is
//! made when text is moved there, so times are known to a sampling (2 s). Where there would be too many, every other one goes. The
//! log itself has no times in it: it is what the guest wrote. Losing the marks loses times and nothing else.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Bytes of a mark: an offset, and milliseconds since 1970.
const MARK: usize = 16;
/// Marks of one file, 64 KiB.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The file ended here.
    offset: u64,
    at: u64,
}

/// Where in the two files of a log something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Older(u64),
    File(u64),
}

/// Those of both files.
pub struct Times {
    older: Vec<Mark>,
    file: Vec<Mark>,
}

impl Times {
    pub fn read(log: &Path) -> Self {
        Self { older: read(&of_older(log)), file: read(&of(log)) }
    }

    /// When the byte at this offset was there.
    pub fn of_file(&self, offset: u64) -> Option<u64> {
        first_beyond(&self.file, offset)
    }

    pub fn of_older(&self, offset: u64) -> Option<u64> {
        first_beyond(&self.older, offset)
    }
}

fn first_beyond(marks: &[Mark], offset: u64) -> Option<u64> {
    marks.get(marks.partition_point(|mark| mark.offset <= offset)).map(|mark| mark.at)
}

/// What was written since a time begins after what had been written before it.
pub fn since(log: &Path, time: u64) -> Place {
    let Times { older, file } = Times::read(log);
    let before = |marks: &[Mark]| marks.iter().rev().find(|mark| mark.at < time).map(|mark| mark.offset);
    match (before(&file), before(&older)) {
        (Some(offset), _) => Place::File(offset),
        (None, Some(offset)) => Place::Older(offset),
        (None, None) => Place::Older(0),
    }
}

/// The log's file is so long now.
pub fn note(log: &Path, length: u64) {
    let path = of(log);
    let mark = Mark { offset: length, at: now() };
    let is_full = fs::metadata(&path).is_ok_and(|file| file.len() >= (MOST * MARK) as u64);
    let noted = match is_full {
        true => {
            let mut marks = read(&path);
            thin(&mut marks);
            marks.push(mark);
            write(&path, &marks)
        }
        false => {
            File::options().append(true).create(true).open(&path).and_then(|mut file| file.write_all(&bytes(&[mark])))
        }
    };
    report(&path, noted);
}

/// The last part of the log's file becomes the older one, without its first `dropped` bytes; it starts anew.
pub fn cut(log: &Path, dropped: u64) {
    let mut marks = read(&of(log));
    marks.retain(|mark| mark.offset > dropped);
    for mark in &mut marks {
        mark.offset -= dropped;
    }
    let path = of_older(log);
    report(&path, write(&path, &marks));
    let _ = fs::remove_file(of(log));
}

pub fn forget(log: &Path) {
    for path in [of(log), of_older(log)] {
        let _ = fs::remove_file(path);
    }
}

/// Every other one of those before the last goes: what is long ago is known less exactly.
fn thin(marks: &mut Vec<Mark>) {
    let last = marks.len().saturating_sub(1);
    let mut index = 0;
    marks.retain(|_| {
        index += 1;
        index % 2 == 0 || index > last
    });
}

fn of(log: &Path) -> PathBuf {
    named(log, ".times")
}

fn of_older(log: &Path) -> PathBuf {
    named(log, ".times.1")
}

fn named(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Of a file that somebody else changed, those in which offsets and times grow.
fn read(path: &Path) -> Vec<Mark> {
    let bytes = fs::read(path).unwrap_or_default();
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut marks: Vec<Mark> = Vec::with_capacity(bytes.len() / MARK);
    for mark in bytes.chunks_exact(MARK).take(2 * MOST) {
        let mark = Mark { offset: number(&mark[..8]), at: number(&mark[8..]) };
        if marks.last().is_none_or(|last| last.offset <= mark.offset) {
            marks.push(mark);
        }
    }
    marks
}

fn bytes(marks: &[Mark]) -> Vec<u8> {
    marks.iter().flat_map(|mark| mark.offset.to_le_bytes().into_iter().chain(mark.at.to_le_bytes())).collect()
}

fn write(path: &Path, marks: &[Mark]) -> io::Result<()> {
    let new = named(path, ".new");
    fs::write(&new, bytes(marks)).and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

fn report(path: &Path, done: io::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(times = %path.display(), %error, "when a log was written cannot be kept");
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_the_time_of_the_first_mark_beyond_it() {
        let mark = |offset, at| Mark { offset, at };
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        write(&of(&log), &[mark(10, 1000), mark(20, 2000), mark(35, 3000)]).unwrap();
        let times = Times::read(&log);
        for (offset, at) in [(0, Some(1000)), (9, Some(1000)), (10, Some(2000)), (34, Some(3000)), (35, None)] {
            assert_eq!(times.of_file(offset), at, "{offset}");
        }
        for (time, place) in
            [(0, Place::Older(0)), (1000, Place::Older(0)), (1001, Place::File(10)), (9999, Place::File(35))]
        {
            assert_eq!(since(&log, time), place, "{time}");
        }
        // Its first 15 bytes are not kept.
        cut(&log, 15);
        let times = Times::read(&log);
        assert_eq!((times.of_older(0), times.of_older(5), times.of_older(19)), (Some(2000), Some(3000), Some(3000)));
        assert_eq!(since(&log, 2500), Place::Older(5));
        forget(&log);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn marks_take_bounded_room_and_the_last_ones_are_exact() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        for length in 1..=3 * MOST as u64 {
            note(&log, length);
        }
        let marks = read(&of(&log));
        assert!(marks.len() <= MOST && marks.len() > MOST / 2, "{}", marks.len());
        assert_eq!(marks.last().unwrap().offset, 3 * MOST as u64);
        assert!(marks.windows(2).all(|pair| pair[0].offset < pair[1].offset && pair[0].at <= pair[1].at));
        fs::write(of(&log), b"not a mark of ours, but something else").unwrap();
        assert!(read(&of(&log)).len() <= 2);
    }
}
