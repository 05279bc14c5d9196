//! The guest's serial output, and QEMU's own complaints. QEMU writes both to memory of bounded size (`host::Spill`), which
//! holds them also while no daemon runs; here they are taken from there to the logs, which are kept bounded, and read back.
//! A guest fills neither the disk nor the memory, and nothing of this can keep its console waiting (docs/adr/0031).

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    host::{Access, Spill, last_lines, last_text, open_within, process::Process},
    qemu::RunPaths,
};

/// Bytes in each of the two files of the console, 16 MiB together.
const HALF: u64 = 8 << 20;
/// And of QEMU's standard error, where only the last lines are ever wanted.
const QEMU_HALF: u64 = 256 << 10;
/// Bytes of the console that are held for a daemon to come, and until the next look of the one that runs.
const HELD: u64 = 1 << 20;
const QEMU_HELD: u64 = 64 << 10;
/// What these are called among the open files of a QEMU.
const NAME: &str = "qherd-console";
const QEMU_NAME: &str = "qherd-stderr";
/// Where the guest has filled what is held.
const GAP: &[u8] = b"\n[qherd: the guest wrote more here than is held]\n";

/// What a VM's QEMU and its guest write, over all runs. Its methods read and write files, some of them for as long as the
/// storage takes.
#[derive(Debug)]
pub(crate) struct Console {
    paths: RunPaths,
    /// Of the run that there is.
    spills: Mutex<Spills>,
    /// Whoever moves text to the logs, or reads both in one.
    moving: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Spills {
    console: Option<Arc<Spill>>,
    complaints: Option<Arc<Spill>>,
}

/// The same if they are of one start.
impl PartialEq for Spills {
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Spill>>, two: &Option<Arc<Spill>>| match (one, two) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (one, two) => one.is_none() && two.is_none(),
        };
        same(&self.console, &other.console) && same(&self.complaints, &other.complaints)
    }
}

/// What a QEMU is started with.
pub(super) struct Streams {
    pub stderr: File,
    /// The logs themselves, only to have them open: that proves whose QEMU it is (`host::process::has_open`).
    pub marks: Vec<OwnedFd>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Console {
    pub(super) fn new(paths: RunPaths) -> Self {
        Self { paths, spills: Mutex::default(), moving: Mutex::default() }
    }

    /// For a QEMU that is to be started: the console goes on, its standard error is a log of this run alone.
    ///
    /// # Errors
    /// When the logs or what holds them cannot be made.
    pub(super) fn begin(&self) -> io::Result<Streams> {
        self.keep();
        let _moving = locked(&self.moving);
        for old in [older(&self.paths.qemu_log()), self.paths.qemu_log()] {
            match fs::remove_file(old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let mut marks = Vec::new();
        for log in self.paths.logs() {
            drop(append_to(&self.paths, &log)?);
            marks.push(open_within(&[self.paths.dir().to_owned()], &log, Access::Read)?.into());
        }
        let (console, complaints) = (Spill::new(NAME, HELD)?, Spill::new(QEMU_NAME, QEMU_HELD)?);
        let stderr = complaints.descriptor()?.into();
        *locked(&self.spills) = Spills { console: Some(Arc::new(console)), complaints: Some(Arc::new(complaints)) };
        Ok(Streams { stderr, marks })
    }

    /// Where QEMU is to write the guest's output.
    ///
    /// # Errors
    /// When there is no start, or no descriptor is left.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.spills().console.ok_or_else(|| io::Error::other("no start has begun"))?.descriptor()
    }

    /// QEMU has opened its logs, which it does to append; its guest has not written anything yet.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn opened(&self) -> io::Result<()> {
        self.spills().console.map_or(Ok(()), |console| console.write_from_the_beginning())
    }

    /// Takes over what an earlier daemon gave to this QEMU. One that was started by an early version has none: it writes to
    /// the logs by itself.
    pub(super) fn adopt(&self, process: &Process) {
        let console = Spill::of(process, NAME, HELD);
        let complaints = Spill::of(process, QEMU_NAME, QEMU_HELD);
        match console.and_then(|console| Ok((console, complaints?))) {
            Ok((console, complaints)) => {
                *locked(&self.spills) = Spills { console: console.map(Arc::new), complaints: complaints.map(Arc::new) };
            }
            Err(error) => tracing::warn!(
                pid = process.pid(), %error,
                "cannot take over the console of a VM, so nothing new is read of it until its next start; it takes the \
                 right to trace the process (CAP_SYS_PTRACE)"
            ),
        }
    }

    pub(super) fn spills(&self) -> Spills {
        locked(&self.spills).clone()
    }

    /// Moves what was written to the logs, and keeps those within their bounds.
    pub(super) fn keep(&self) {
        let _moving = locked(&self.moving);
        self.move_to_logs();
    }

    /// The same for the last time, of a QEMU that has ended; `ended` is what it was given.
    pub(super) fn keep_last(&self, ended: &Spills) {
        let _moving = locked(&self.moving);
        // Another may have been started meanwhile, which has moved it already.
        if self.spills() == *ended && self.move_to_logs() {
            *locked(&self.spills) = Spills::default();
        }
    }

    /// Whether nothing is left to be moved.
    fn move_to_logs(&self) -> bool {
        let mut all = true;
        let Spills { console, complaints } = self.spills();
        let streams = [(self.paths.console_log(), HALF, console), (self.paths.qemu_log(), QEMU_HALF, complaints)];
        for (log, half, spill) in streams {
            let moved = spill.map_or(Ok(()), |spill| move_to(&self.paths, &log, half, &spill));
            all &= moved.is_ok();
            if let Err(error) = moved.and_then(|()| cut(&log, half, half)) {
                tracing::warn!(log = %log.display(), %error, "cannot keep a log, or keep it within its bounds");
            }
        }
        all
    }

    /// The VM is to go, and its logs with it.
    pub(super) fn forget(&self) {
        let _moving = locked(&self.moving);
        *locked(&self.spills) = Spills::default();
    }

    /// The last `lines` lines of the console, over both files and what is held; empty when the VM never ran.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub(crate) fn tail(&self, lines: usize) -> io::Result<Vec<u8>> {
        let _moving = locked(&self.moving);
        read_back(&self.paths.console_log(), 2 * HALF, self.spills().console.as_deref(), lines)
    }

    /// The last `lines` lines of QEMU's standard error; empty when there are none.
    fn complaints(&self, lines: usize) -> Vec<u8> {
        // Does not wait for whoever moves text: at worst it stands there twice.
        let held = self.spills().complaints;
        read_back(&self.paths.qemu_log(), 8192, held.as_deref(), lines).unwrap_or_default()
    }

    /// The last complaints of QEMU, for a message.
    pub(super) fn last_complaints(&self) -> String {
        let text = self.complaints(3);
        let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ").replace(char::is_control, " ");
        let mut from = text.len().saturating_sub(MAX_COMPLAINT);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        if text.is_empty() { "it left no message".to_owned() } else { text[from..].trim_start().to_owned() }
    }
}

/// Bytes of them in a message: it stands in the VM's record after a crash.
pub(super) const MAX_COMPLAINT: usize = 1024;

fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn append_to(paths: &RunPaths, log: &Path) -> io::Result<File> {
    open_within(&[paths.dir().to_owned()], log, Access::Append)
}

fn move_to(paths: &RunPaths, log: &Path, half: u64, spill: &Spill) -> io::Result<()> {
    spill.write_from_the_beginning()?;
    let full = spill.empty(|text| append(paths, log, half, text))?;
    if full { append(paths, log, half, GAP) } else { Ok(()) }
}

/// All of it or, where the disk is full, nothing: it is tried again.
fn append(paths: &RunPaths, log: &Path, half: u64, text: &[u8]) -> io::Result<()> {
    cut(log, half, half.saturating_sub(text.len() as u64))?;
    let mut file = append_to(paths, log)?;
    let before = file.metadata()?.len();
    let written = file.write_all(text);
    if written.is_err() {
        file.set_len(before)?;
    }
    written
}

/// Once a log is longer than `most` its last half becomes the older file and it starts anew. A QEMU of an early version holds
/// it open with O_APPEND: cutting it is safe, renaming it would take it away.
fn cut(log: &Path, half: u64, most: u64) -> io::Result<()> {
    if !fs::metadata(log).is_ok_and(|m| m.len() > most) {
        return Ok(());
    }
    // Beside the older half, so that a disk that is full costs the new text and not the old one as well.
    let copy = log.with_extension("log.new");
    let kept =
        last_text(log, half).and_then(|text| fs::write(&copy, text)).and_then(|()| fs::rename(&copy, older(log)));
    if kept.is_err() {
        let _ = fs::remove_file(&copy);
    }
    // Whether it could be kept or not: a log without end would fill the disk.
    let cut = File::options().write(true).open(log).and_then(|log| log.set_len(0));
    kept.and(cut)
}

/// At most `limit` bytes of each file, and what is held.
fn read_back(log: &Path, limit: u64, held: Option<&Spill>, lines: usize) -> io::Result<Vec<u8>> {
    let read = |path: &Path| match last_text(path, limit) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    let mut text = read(&older(log))?;
    text.extend(read(log)?);
    text.extend(held.map_or(Ok(Vec::new()), Spill::text)?);
    Ok(last_lines(&text, lines).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(dir: &Path) -> Console {
        Console::new(RunPaths::new(dir.to_owned()))
    }

    fn size(dir: &Path) -> u64 {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn the_log_stays_bounded_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(console(&dir.path().join("never ran")).tail(9).unwrap(), b"");
        let console = console(dir.path());
        console.begin().unwrap();
        let mut qemu = File::from(console.descriptor().unwrap());
        let line = "x".repeat(1023);
        for number in 0..20_000 {
            writeln!(qemu, "{number} {line}").unwrap();
            if number % 500 == 0 {
                console.keep();
            }
        }
        assert!(size(dir.path()) <= 2 * HALF, "{}", size(dir.path()));
        let text = String::from_utf8(console.tail(9000).unwrap()).unwrap();
        assert_eq!(text.lines().count(), 9000);
        assert!(text.starts_with("11000 ") && text.lines().last().unwrap().starts_with("19999 "));
    }

    #[test]
    fn a_log_that_a_qemu_of_an_early_version_writes_stays_bounded_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let console = console(dir.path());
        let mut qemu = File::options().create(true).append(true).open(console.paths.console_log()).unwrap();
        let line = "x".repeat(1023);
        for number in 0..20_000 {
            writeln!(qemu, "{number} {line}").unwrap();
            console.keep();
        }
        assert!(size(dir.path()) <= 2 * HALF + 2048, "{}", size(dir.path()));
        assert!(console.tail(9000).unwrap().starts_with(b"11000 "));
    }

    #[test]
    fn what_comes_while_nobody_takes_it_is_bounded_and_the_log_says_where_it_was_more() {
        let dir = tempfile::tempdir().unwrap();
        let console = console(dir.path());
        console.begin().unwrap();
        let mut qemu = File::from(console.descriptor().unwrap());
        writeln!(qemu, "begin").unwrap();
        while qemu.write_all(b"y\n").is_ok() {}
        assert_eq!(size(dir.path()), 0, "nothing of it is on disk");
        console.keep();
        writeln!(qemu, "on").unwrap();
        let text = String::from_utf8(console.tail(usize::MAX).unwrap()).unwrap();
        assert!(text.starts_with("begin\ny\n") && text.len() as u64 <= HELD + 128, "{}", text.len());
        assert!(
            text.ends_with("y\n\n[qherd: the guest wrote more here than is held]\non\n"),
            "{:?}",
            &text[text.len() - 99..]
        );
    }

    #[test]
    fn a_disk_that_is_full_keeps_what_is_held_and_nothing_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let console = console(dir.path());
        console.begin().unwrap();
        let mut qemu = File::from(console.descriptor().unwrap());
        writeln!(qemu, "one").unwrap();
        // A folder in its place refuses as well as a full disk does.
        fs::remove_file(console.paths.console_log()).unwrap();
        fs::create_dir(console.paths.console_log()).unwrap();
        console.keep();
        fs::remove_dir(console.paths.console_log()).unwrap();
        writeln!(qemu, "two").unwrap();
        console.keep();
        assert_eq!(console.tail(9).unwrap(), b"one\ntwo\n");
        console.forget();
        writeln!(qemu, "three").unwrap();
        console.keep();
        assert_eq!(console.tail(9).unwrap(), b"one\ntwo\n", "of a VM that is gone nothing is written");
    }

    #[test]
    fn of_a_qemu_that_has_ended_nothing_is_held_and_of_the_next_one_all() {
        let dir = tempfile::tempdir().unwrap();
        let console = console(dir.path());
        console.begin().unwrap();
        writeln!(File::from(console.descriptor().unwrap()), "one").unwrap();
        let ended = console.spills();
        console.keep_last(&ended);
        assert!(console.descriptor().is_err() && console.spills() == Spills::default());
        console.begin().unwrap();
        let ended = console.spills();
        writeln!(File::from(console.descriptor().unwrap()), "two").unwrap();
        // Its end is looked after only when the next one has begun.
        console.begin().unwrap();
        console.keep_last(&ended);
        writeln!(File::from(console.descriptor().unwrap()), "three").unwrap();
        assert_eq!(console.tail(9).unwrap(), b"one\ntwo\nthree\n");
    }

    #[test]
    fn what_qemu_complained_of_last_is_there_also_after_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let console = console(dir.path());
        assert_eq!(console.last_complaints(), "it left no message");
        let mut qemu = console.begin().unwrap().stderr;
        let sentence = "x".repeat(99);
        for number in 0..20_000 {
            writeln!(qemu, "{number} {sentence}").unwrap();
            if number % 500 == 0 {
                console.keep();
            }
        }
        writeln!(qemu, "the end").unwrap();
        let text = String::from_utf8(console.complaints(2)).unwrap();
        assert_eq!(text, format!("19999 {sentence}\nthe end\n"));
        console.keep();
        assert!(size(dir.path()) <= 2 * QEMU_HALF, "{}", size(dir.path()));
        console.begin().unwrap();
        assert_eq!(console.complaints(9), b"", "of this run alone");
    }
}
