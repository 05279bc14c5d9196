//! The guest's serial output, and QEMU's own complaints. QEMU writes both to memory of bounded size (`host::Spill`), which
//! holds them also while no daemon runs; here they are taken from there to the logs, which are kept bounded, and read back.
//! A guest fills neither the disk nor the memory, and nothing of this can keep its console waiting (docs/adr/0031).

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

mod follow;
mod input;
mod log;
mod times;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    host::{Spill, last_lines, last_text, process::Process},
    qemu::RunPaths,
};
pub(crate) use follow::Follower;
pub(crate) use input::{Refused, Typed, Writer};
pub(crate) use log::{Extent, Piece};
use log::{Log, older};
use times::now;

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
    /// Whoever moves text to the logs, or reads both in one, has them.
    logs: Mutex<Logs>,
    /// Counts what may have changed without being told by what is held: other runs, and moves to the logs.
    turn: watch::Sender<u64>,
    input: input::Input,
}

#[derive(Debug)]
struct Logs {
    console: Log,
    complaints: Log,
}

/// What can be read of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// What its guest wrote, over all runs.
    Console,
    /// What its QEMU complained of, in the last run.
    Qemu,
}

impl Logs {
    fn of(&mut self, source: Source) -> &mut Log {
        match source {
            Source::Console => &mut self.console,
            Source::Qemu => &mut self.complaints,
        }
    }
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
        let log = |path, half| Log::new(paths.dir().to_owned(), path, half);
        let logs = Logs { console: log(paths.console_log(), HALF), complaints: log(paths.qemu_log(), QEMU_HALF) };
        let input = input::Input::new(paths.serial());
        Self { paths, spills: Mutex::default(), logs: Mutex::new(logs), turn: watch::Sender::new(0), input }
    }

    /// For a QEMU that is to be started: the console goes on, its standard error is a log of this run alone.
    ///
    /// # Errors
    /// When the logs or what holds them cannot be made.
    pub(super) fn begin(&self) -> io::Result<Streams> {
        self.keep();
        let mut logs = locked(&self.logs);
        logs.complaints.clear()?;
        let marks = vec![logs.complaints.make()?.into(), logs.console.make()?.into()];
        let (console, complaints) = (Spill::new(NAME, HELD)?, Spill::new(QEMU_NAME, QEMU_HELD)?);
        let stderr = complaints.descriptor()?.into();
        *locked(&self.spills) = Spills { console: Some(Arc::new(console)), complaints: Some(Arc::new(complaints)) };
        self.turned();
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
                self.turned();
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

    fn turned(&self) {
        self.turn.send_modify(|turn| *turn += 1);
    }

    /// Moves what was written to the logs, and keeps those within their bounds.
    pub(super) fn keep(&self) {
        self.move_to_logs(&mut locked(&self.logs));
    }

    /// The same for the last time, of a QEMU that has ended; `ended` is what it was given.
    pub(super) fn keep_last(&self, ended: &Spills) {
        let mut logs = locked(&self.logs);
        // Another may have been started meanwhile, which has moved it already.
        if self.spills() == *ended && self.move_to_logs(&mut logs) {
            *locked(&self.spills) = Spills::default();
        }
    }

    /// Whether nothing is left to be moved.
    fn move_to_logs(&self, logs: &mut Logs) -> bool {
        let mut all = true;
        let Spills { console, complaints } = self.spills();
        for (log, spill) in [(&mut logs.console, console), (&mut logs.complaints, complaints)] {
            let moved = spill.map_or(Ok(()), |spill| move_to(log, &spill));
            all &= moved.is_ok();
            if let Err(error) = moved.and_then(|()| log.keep()) {
                tracing::warn!(log = %log.path().display(), %error, "cannot keep a log, or keep it within its bounds");
            }
        }
        self.turned();
        all
    }

    /// The VM is to go, and its logs with it.
    pub(super) fn forget(&self) {
        let _moving = locked(&self.logs);
        *locked(&self.spills) = Spills::default();
        self.turned();
    }

    fn held(&self, source: Source) -> Option<Arc<Spill>> {
        let Spills { console, complaints } = self.spills();
        match source {
            Source::Console => console,
            Source::Qemu => complaints,
        }
    }

    /// At most `most` bytes from a position on, over both files and what is held.
    ///
    /// # Errors
    /// When a log cannot be read; so for all that follow.
    pub(crate) fn read(&self, source: Source, from: u64, most: u64) -> io::Result<Piece> {
        let mut logs = locked(&self.logs);
        logs.of(source).read(from, most, self.held(source).as_deref())
    }

    /// Where the last `lines` lines are; one that has not ended yet counts.
    pub(crate) fn last(&self, source: Source, lines: usize) -> io::Result<Extent> {
        let mut logs = locked(&self.logs);
        logs.of(source).last(lines, self.held(source).as_deref())
    }

    /// Where what was written since then begins, in milliseconds since 1970.
    pub(crate) fn since(&self, source: Source, time: u64) -> io::Result<u64> {
        let mut logs = locked(&self.logs);
        logs.of(source).since(time, self.held(source).as_deref())
    }

    /// When what stands at each of these positions was written, as far as that is known.
    pub(crate) fn written_at(&self, source: Source, positions: &[u64]) -> io::Result<Vec<Option<u64>>> {
        let mut logs = locked(&self.logs);
        logs.of(source).written_at(positions, now(), self.held(source).as_deref())
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

fn move_to(log: &mut Log, spill: &Spill) -> io::Result<()> {
    spill.write_from_the_beginning()?;
    let full = spill.empty(|text| log.append(text))?;
    if full { log.append(GAP) } else { Ok(()) }
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
mod tests;
