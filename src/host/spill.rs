//! A bounded place that another process writes to and this one empties: a file in memory that cannot grow. Writing to it
//! never waits, whoever reads or does not; what comes when it is full is refused by the kernel, and lost. It outlives the
//! daemon, as the writer has it open, and a next daemon takes it over by the writer's own descriptor (docs/adr/0031).
//!
//! What is in it ends where the writer's open file stands: emptying it is setting that back to the beginning.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use rustix::{
    fs::{
        CWD, FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals,
        fcntl_get_seals, fcntl_setfl, ftruncate, memfd_create, openat, seek, tell,
    },
    io::fcntl_dupfd_cloexec,
};

use super::{process::Process, writes::Writes};

/// From so many bytes on the memory is given back when they have been taken out.
const WORTH_FREEING: u64 = 64 << 10;

#[derive(Debug)]
pub struct Spill {
    /// The very open file that the other process writes to.
    writer: OwnedFd,
    reader: File,
    size: u64,
}

impl Spill {
    /// # Errors
    /// The kernel's.
    pub fn new(name: &str, size: u64) -> io::Result<Self> {
        let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, size)?;
        fcntl_add_seals(&memory, SEALS)?;
        // An open file of its own, with no more access than it needs.
        Ok(Self { writer: reopen(&memory, OFlags::WRONLY)?, reader: memory.into(), size })
    }

    /// Takes over what an earlier daemon gave to a process that still has it; `None` where it has none. That process may be
    /// hostile by now: only a file that cannot grow, and is no larger than `size`, is taken.
    ///
    /// # Errors
    /// When the kernel does not let this user have descriptors of the process.
    pub fn of(process: &Process, name: &str, size: u64) -> io::Result<Option<Self>> {
        let Some(writer) = process.descriptor(&format!("/memfd:{name} (deleted)"))? else { return Ok(None) };
        let sealed = fcntl_get_seals(&writer).is_ok_and(|seals| seals.contains(SEALS));
        if !sealed {
            return Ok(None);
        }
        let reader = File::from(reopen(&writer, OFlags::RDONLY)?);
        let found = reader.metadata()?.len();
        Ok((found <= size).then_some(Self { writer, reader, size: found }))
    }

    /// What the other process is given.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(&self.writer, 0)?)
    }

    /// For a writer that has set its open file to append: at the end of this one there is no room.
    ///
    /// # Errors
    /// None that is known.
    pub fn write_from_the_beginning(&self) -> io::Result<()> {
        Ok(fcntl_setfl(&self.writer, OFlags::empty())?)
    }

    /// Bytes that are in it.
    ///
    /// # Errors
    /// None that is known.
    pub fn written(&self) -> io::Result<u64> {
        // The other process may have set it anywhere.
        Ok(tell(&self.writer)?.min(self.size))
    }

    /// Some of what is in it.
    ///
    /// # Errors
    /// Beyond its size.
    pub fn read(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut text = vec![0; to.saturating_sub(from) as usize];
        self.reader.read_exact_at(&mut text, from)?;
        Ok(text)
    }

    /// Tells of each time that the other process writes to it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn writes(&self) -> io::Result<Writes> {
        Writes::of(&self.writer)
    }

    /// What is in it.
    ///
    /// # Errors
    /// None that is known.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        self.read(0, self.written()?)
    }

    /// Hands over what is in it, in order, and begins anew; says whether it had been full. What is written in the microsecond
    /// between the last look and the new beginning is lost. One caller at a time.
    ///
    /// # Errors
    /// `keep`'s: then what it did not keep stays.
    pub fn empty(&self, mut keep: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
        let mut kept = 0;
        loop {
            let end = self.written()?;
            if end <= kept {
                break;
            }
            let outcome = keep(&self.read(kept, end)?);
            if outcome.is_err() && kept == 0 {
                return outcome.map(|()| false);
            }
            if end - kept >= WORTH_FREEING {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.writer, hole, kept, end - kept)?;
            }
            kept = end;
        }
        if kept > 0 {
            seek(&self.writer, SeekFrom::Start(0))?;
        }
        Ok(kept == self.size)
    }
}

const SEALS: SealFlags = SealFlags::GROW.union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// An open file of its own.
pub(super) fn reopen(file: impl AsFd, access: OFlags) -> io::Result<OwnedFd> {
    let path = Path::new("/proc/self/fd").join(file.as_fd().as_raw_fd().to_string());
    Ok(openat(CWD, &path, access | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn emptied(spill: &Spill) -> (String, bool) {
        let mut text = Vec::new();
        let full = spill.empty(|part| text.write_all(part)).unwrap();
        (String::from_utf8(text).unwrap(), full)
    }

    #[test]
    fn what_is_written_is_read_once_in_order_and_again_from_the_beginning() {
        let spill = Spill::new("test", 1 << 20).unwrap();
        let mut writer = File::from(spill.descriptor().unwrap());
        assert_eq!(emptied(&spill), (String::new(), false));
        for round in 0..3 {
            writeln!(writer, "line {round}").unwrap();
            assert_eq!(spill.text().unwrap(), format!("line {round}\n").as_bytes(), "a look takes nothing");
            writer.write_all(&vec![b'x'; 300 << 10]).unwrap();
            let (text, full) = emptied(&spill);
            assert_eq!((text.len(), full), (7 + (300 << 10), false));
            assert_eq!(spill.text().unwrap(), b"");
        }
        // What had been kept takes no memory any more.
        assert!(
            rustix::fs::fstat(&spill.reader).unwrap().st_blocks <= 8,
            "one page at most, that was not wholly written"
        );
    }

    #[test]
    fn a_writer_is_refused_at_the_end_and_never_waits() {
        let spill = Spill::new("test", 4096).unwrap();
        let mut writer = File::from(spill.descriptor().unwrap());
        let written = (0..10_000).take_while(|_| writer.write_all(b"x").is_ok()).count();
        assert_eq!(written, 4096);
        assert_eq!(emptied(&spill), ("x".repeat(4096), true));
        writer.write_all(b"on").unwrap();
        assert_eq!(emptied(&spill), ("on".to_owned(), false));
        // It can neither grow nor be made to.
        assert!(writer.set_len(1 << 30).is_err() && writer.set_len(0).is_err());
        // Set to append it takes nothing, until it is set back.
        fcntl_setfl(&writer, OFlags::APPEND).unwrap();
        assert!(writer.write_all(b"lost").is_err());
        spill.write_from_the_beginning().unwrap();
        writer.write_all(b"kept").unwrap();
        // A writer that stands beyond the end is no more than a full one.
        seek(&writer, SeekFrom::Start(1 << 40)).unwrap();
        assert_eq!(spill.text().unwrap().len(), 4096);
    }

    #[test]
    fn what_cannot_be_kept_stays() {
        let spill = Spill::new("test", 4096).unwrap();
        File::from(spill.descriptor().unwrap()).write_all(b"word").unwrap();
        assert!(spill.empty(|_| Err(io::ErrorKind::StorageFull.into())).is_err());
        assert_eq!(emptied(&spill), ("word".to_owned(), false));
    }

    #[tokio::test]
    async fn a_next_daemon_takes_it_over_from_who_writes_and_nothing_else() {
        let spill = Spill::new("qherd-test", 4096).unwrap();
        let mut writer = File::from(spill.descriptor().unwrap());
        writer.write_all(b"before").unwrap();
        drop(spill);
        let me = super::super::process::open(std::process::id() as i32).unwrap();
        let taken = Spill::of(&me, "qherd-test", 4096).unwrap().expect("it is there");
        assert_eq!(emptied(&taken), ("before".to_owned(), false));
        writer.write_all(b"after").unwrap();
        assert_eq!(taken.text().unwrap(), b"after");
        assert!(Spill::of(&me, "qherd-test", 4095).unwrap().is_none(), "larger than it is to be");
        assert!(Spill::of(&me, "qherd-other", 4096).unwrap().is_none());
        // By that name, but one that can grow.
        let _grows = memfd_create("qherd-grows", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Spill::of(&me, "qherd-grows", 4096).unwrap().is_none());
    }
}
