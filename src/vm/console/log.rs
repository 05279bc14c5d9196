//! A log of bounded size: a file, its older half, and what is held in memory and not in a file yet, read as one text. What stands
//! where in it is a position, which counts on however often the files are cut; what is not kept any more has none.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::times;
use crate::host::{Access, Spill, last_text, open_within};

/// Bytes that are looked through at once for the ends of lines.
const BLOCK: u64 = 64 << 10;
/// Bytes that a line may have before where it is looked for.
const LINE: u64 = 4 << 10;

#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    path: PathBuf,
    /// Bytes in each of the two files.
    half: u64,
    /// Where the file ended at the last look, and how long it was.
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    position: u64,
    length: u64,
}

/// The positions of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub begin: u64,
    pub end: u64,
}

/// Some of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it begins: after what was asked for, where that is not kept any more.
    pub from: u64,
    pub text: Vec<u8>,
    /// Where the log ended then.
    pub end: u64,
}

impl Piece {
    /// Where it ends.
    pub fn to(&self) -> u64 {
        self.from + self.text.len() as u64
    }
}

impl Log {
    pub fn new(folder: PathBuf, path: PathBuf, half: u64) -> Self {
        Self { folder, path, half, end: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A QEMU of an early version writes to the file by itself, and a person may have cut it.
    fn look(&mut self) -> io::Result<End> {
        let length = size(&self.path)?;
        let position = match self.end {
            None => size(&older(&self.path))? + length,
            Some(end) if length >= end.length => end.position + (length - end.length),
            Some(end) => end.position + length,
        };
        Ok(*self.end.insert(End { position, length }))
    }

    /// All of it or, where the disk is full, nothing: it is tried again.
    pub fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.bound(self.half.saturating_sub(text.len() as u64))?;
        let mut file = self.open(Access::Append)?;
        let before = file.metadata()?.len();
        let written = file.write_all(text);
        if written.is_err() {
            file.set_len(before)?;
        }
        written?;
        let end = self.look()?;
        times::note(&self.path, end.length);
        Ok(())
    }

    /// Makes it where it is not there, to be opened again.
    pub fn make(&self) -> io::Result<File> {
        drop(self.open(Access::Append)?);
        self.open(Access::Read)
    }

    fn open(&self, access: Access) -> io::Result<File> {
        open_within(std::slice::from_ref(&self.folder), &self.path, access)
    }

    /// Keeps it within its bounds, whoever wrote to it.
    pub fn keep(&mut self) -> io::Result<()> {
        self.bound(self.half)
    }

    /// Once it is longer than `most` its last half becomes the older file and it starts anew. A QEMU of an early version holds
    /// it open with O_APPEND: cutting it is safe, renaming it would take it away.
    fn bound(&mut self, most: u64) -> io::Result<()> {
        let End { position, length } = self.look()?;
        if length <= most {
            return Ok(());
        }
        // Beside the older half, so that a disk that is full costs the new text and not the old one as well.
        let copy = self.path.with_extension("log.new");
        let older = older(&self.path);
        let kept = last_text(&self.path, self.half)
            .and_then(|text| fs::write(&copy, text))
            .and_then(|()| fs::rename(&copy, &older));
        if kept.is_err() {
            let _ = fs::remove_file(&copy);
        }
        times::cut(&self.path, length.saturating_sub(self.half));
        // Whether it could be kept or not: a log without end would fill the disk.
        let cut = File::options().write(true).open(&self.path).and_then(|log| log.set_len(0));
        self.end = Some(End { position, length: 0 });
        kept.and(cut)
    }

    /// It starts anew with nothing in it. Positions go on.
    pub fn clear(&mut self) -> io::Result<()> {
        let End { position, .. } = self.look()?;
        for old in [older(&self.path), self.path.clone()] {
            match fs::remove_file(old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        times::forget(&self.path);
        self.end = Some(End { position, length: 0 });
        Ok(())
    }

    pub fn extent(&mut self, held: Option<&Spill>) -> io::Result<Extent> {
        let End { position, length: file } = self.look()?;
        let begin = position - file - size(&older(&self.path))?.min(position - file);
        Ok(Extent { begin, end: position + held.map_or(Ok(0), Spill::written)? })
    }

    /// At most `most` bytes from a position on; nothing where it ends.
    pub fn read(&mut self, from: u64, most: u64, held: Option<&Spill>) -> io::Result<Piece> {
        let Extent { begin, end } = self.extent(held)?;
        let End { position, length } = self.look()?;
        let from = from.clamp(begin, end);
        let to = from.saturating_add(most).min(end);
        let mut text = vec![0; (to - from) as usize];
        let mut at = from;
        while at < to {
            let rest = &mut text[(at - from) as usize..];
            let read = if at >= position {
                let held = held.map_or(Ok(Vec::new()), |held| held.read(at - position, to - position))?;
                rest[..held.len()].copy_from_slice(&held);
                held.len()
            } else if at >= position - length {
                part(&self.path, at - (position - length), rest)?
            } else {
                part(&older(&self.path), at - begin, rest)?
            };
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        text.truncate((at - from) as usize);
        Ok(Piece { from, text, end })
    }

    pub fn last(&mut self, lines: usize, held: Option<&Spill>) -> io::Result<Extent> {
        let Extent { begin, end } = self.extent(held)?;
        let (mut wanted, mut at) = (lines, end);
        if lines == 0 {
            return Ok(Extent { begin: end, end });
        }
        // Each has a byte at least.
        if lines as u64 >= end - begin {
            return Ok(Extent { begin, end });
        }
        while at > begin {
            let from = at.saturating_sub(BLOCK).max(begin);
            let block = self.read(from, at - from, held)?.text;
            for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                let after = from + index as u64 + 1;
                // The last line's own end begins no line.
                if after == end {
                    continue;
                }
                wanted -= 1;
                if wanted == 0 {
                    return Ok(Extent { begin: after, end });
                }
            }
            at = from;
        }
        Ok(Extent { begin, end })
    }

    /// Where what was written since a time begins, in milliseconds since 1970; as exactly as it is known.
    pub fn since(&mut self, time: u64, held: Option<&Spill>) -> io::Result<u64> {
        let Extent { begin, .. } = self.extent(held)?;
        let End { position, length } = self.look()?;
        let at = match times::since(&self.path, time) {
            times::Place::Older(offset) => (begin + offset).min(position - length),
            times::Place::File(offset) => position - length + offset.min(length),
        };
        // With the beginning of a line that goes on there.
        let from = at.saturating_sub(LINE).max(begin);
        let before = self.read(from, at - from, held)?.text;
        let line = before.iter().rposition(|byte| *byte == b'\n').map(|newline| from + newline as u64 + 1);
        Ok(line.unwrap_or(if from == begin { begin } else { at }))
    }

    /// When what stands at these positions, in their order, was written; `now` where it is not in a file yet, `None` where it is
    /// not known any more.
    pub fn written_at(&mut self, positions: &[u64], now: u64, held: Option<&Spill>) -> io::Result<Vec<Option<u64>>> {
        let Extent { begin, .. } = self.extent(held)?;
        let End { position, length } = self.look()?;
        let times = times::Times::read(&self.path);
        let of = |at: u64| match at {
            at if at >= position => Some(now),
            at if at >= position - length => times.of_file(at - (position - length)).or(Some(now)),
            at => times.of_older(at.saturating_sub(begin)),
        };
        Ok(positions.iter().map(|at| of(*at)).collect())
    }
}

pub(super) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn size(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        found => Ok(found?.len()),
    }
}

/// As much of a file as is there.
fn part(path: &Path, from: u64, mut into: &mut [u8]) -> io::Result<usize> {
    let file = File::open(path)?;
    let wanted = into.len();
    let mut at = from;
    while !into.is_empty() {
        match file.read_at(into, at) {
            Ok(0) => break,
            Ok(read) => {
                at += read as u64;
                into = &mut into[read..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(wanted - into.len())
}
