//! Runs of the programs that work on images, qemu-img and our own that unpacks: each bounded in time and in what it uses of the
//! host, kept from everything but the files that it is lent, and ended with the daemon, with whatever it leaves behind.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;

use super::{Copied, ImageError};
use crate::{
    host::{
        STORAGE,
        cgroups::Group,
        launcher::{
            Cell, Child, Permit, QEMU_IMG, QEMU_IMG_THAT_OPENS, Shown, Tcp, UNPACK, UNPACK_THAT_OPENS, User, View,
        },
        on_storage,
        sandbox::{Made, Needs, Programs, Sandbox, installed_in},
    },
    model::{Layer, MissingLayer, Uids},
};

const GIB: u64 = 1 << 30;
/// Bytes of its last words that people are told.
const TOLD: usize = 4096;

/// Whose users such programs run as, and what marks their groups: the state directory's.
#[derive(Clone, Debug)]
pub struct Keep {
    pub uids: Uids,
    pub mark: String,
}

/// What one of them may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Of files only what it is lent.
    lent: Permit,
    /// Where that cannot be.
    opens: Permit,
    /// Bytes, with what the kernel keeps of its files.
    memory: u64,
}

pub(super) const IMAGES: Terms = Terms { lent: QEMU_IMG, opens: QEMU_IMG_THAT_OPENS, memory: 4 * GIB };
pub(super) const UNPACKING: Terms = Terms { lent: UNPACK, opens: UNPACK_THAT_OPENS, memory: 2 * GIB };

/// A program, and how it is kept in.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    program: PathBuf,
    terms: Terms,
    kept: Kept,
    /// Why it is kept in less than it could be.
    why: Option<String>,
}

#[derive(Clone, Debug)]
enum Kept {
    /// In all that this host has.
    In(Arc<Sandbox>),
    /// As the daemon's user, from all files but those of these programs and those that it works with.
    FromFiles(Vec<PathBuf>),
    /// As that user.
    Free,
}

impl Tool {
    /// Tries what this host has.
    ///
    /// # Errors
    /// In words, when it cannot be run.
    pub async fn find(program: &Path, terms: Terms, keep: &Keep, deadline: Duration) -> Result<Self, String> {
        let own = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(program))
            .find(|found| found.is_file());
        let named = own.as_deref().unwrap_or(program);
        let programs = Programs { program: named, version: "", others: &[], permit: terms.lent, kvm: false };
        let sandbox = Sandbox::find(programs, keep.uids.clone(), &keep.mark).await;
        let folders = installed_in(named).into_iter().collect();
        let mut tool = Self { program: program.to_owned(), terms, kept: Kept::In(Arc::new(sandbox)), why: None };
        let Err(why) = tool.works(deadline).await else { return Ok(tool) };
        for kept in [Kept::FromFiles(folders), Kept::Free] {
            (tool.kept, tool.why) = (kept, Some(why.clone()));
            if tool.works(deadline).await.is_ok() {
                tracing::warn!(program = %program.display(), %why, "it is kept in less than it could be");
                return Ok(tool);
            }
        }
        Err(why)
    }

    async fn works(&self, deadline: Duration) -> Result<(), String> {
        self.run(deadline, |permit| permit).arg("--version").finish().await.map_err(|error| error.to_string())
    }

    /// What it goes without, for people.
    pub fn missing(&self) -> Vec<MissingLayer> {
        match &self.kept {
            Kept::In(sandbox) => sandbox.missing().to_vec(),
            Kept::FromFiles(_) | Kept::Free => {
                let why = self.why.as_deref().unwrap_or_default();
                vec![MissingLayer {
                    layer: Layer::User,
                    why: format!("it opens files itself, as the daemon's user: {why}"),
                }]
            }
        }
    }

    pub fn run(&self, deadline: Duration, bounded: impl FnOnce(Permit) -> Permit) -> Run {
        let Terms { lent, opens, .. } = self.terms;
        let permit = if matches!(self.kept, Kept::In(_)) { lent } else { opens };
        let child = Child::new(bounded(permit), &self.program);
        Run { child, tool: self.clone(), copied: None, shown: Shown::default(), deadline }
    }
}

/// One run.
pub(super) struct Run {
    child: Child,
    tool: Tool,
    copied: Option<Arc<Copied>>,
    /// Where it opens files itself.
    shown: Shown,
    deadline: Duration,
}

impl Run {
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        Self { child: self.child.arg(arg), ..self }
    }

    /// An open file that it reads.
    pub fn reads(mut self, file: &File) -> Self {
        self.shown.read.push(as_path(file));
        Self { child: self.child.lend(file), ..self }
    }

    /// One that it also writes to.
    pub fn writes(mut self, file: &File) -> Self {
        self.shown.written.push(as_path(file));
        Self { child: self.child.lend(file), ..self }
    }

    /// What it says of how far it has come is for this.
    pub fn heard_by(self, copied: &Arc<Copied>) -> Self {
        Self { copied: Some(copied.clone()), ..self }
    }

    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        Self { child: self.child.args(args), ..self }
    }

    /// `None` where it did not end in time. It ends with whoever waits for it, and with the daemon.
    pub async fn output(self) -> Option<io::Result<Output>> {
        let deadline = self.deadline;
        tokio::time::timeout(deadline, self.output_at_last()).await.ok()
    }

    async fn output_at_last(self) -> io::Result<Output> {
        let Self { child, tool, copied, shown, .. } = self;
        let copied = copied.unwrap_or_default();
        match tool.kept {
            Kept::In(sandbox) => {
                let needs = Needs { vm: None, network: false, memory: tool.terms.memory };
                apart(child, move || sandbox.cell(needs), copied).await
            }
            Kept::FromFiles(programs) => {
                let shown = Shown { programs, ..shown };
                let on = shown.written.first().or(shown.read.first()).cloned().unwrap_or_default();
                let view = on_storage(&on, STORAGE, move || View::of(&shown, Tcp::None)).await?;
                apart(child, || Ok(Made::of(Cell { view: Some(view), ..Cell::default() })), copied).await
            }
            Kept::Free => apart(child, || Ok(Made::of(Cell::default())), copied).await,
        }
    }

    /// # Errors
    /// qemu-img's own words; [`ImageError::NoUser`].
    pub async fn finish(self) -> Result<(), ImageError> {
        let deadline = self.deadline.as_secs();
        let program = self.tool.program.clone();
        let program = program.file_name().unwrap_or_default().display();
        let output = self.output().await.ok_or_else(|| format!("{program} did not end within {deadline} s"))?;
        let output = output.map_err(|error| ImageError::of_run(&program.to_string(), &error))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr[output.stderr.len().saturating_sub(TOLD)..]);
        let words = words.trim().trim_start_matches("qemu-img: ");
        let words = if words.is_empty() { format!("{program} ended with {}", output.status) } else { words.to_owned() };
        Err(ImageError::Host(words))
    }
}

/// An open file by a name of this process.
fn as_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Runs it in a thread of its own, in a cell that is made there: its program may lie on storage that hangs, and the kernel ends the child
/// with the thread that started it. That thread also clears away what was made for it, whoever waits for it or not.
async fn apart(
    child: Child,
    cell: impl FnOnce() -> io::Result<Made> + Send + 'static,
    copied: Arc<Copied>,
) -> io::Result<Output> {
    let leash = Leash::default();
    let (held, (answer, output)) = (leash.0.clone(), oneshot::channel());
    let run = move || {
        let ended = cell().and_then(|Made { cell, shown, group }| {
            let ended = child.within(cell).piped().spawn().and_then(|child| {
                held.hold(child.pid())?;
                child.output_heard(group.as_ref(), |line| copied.hear(line))
            });
            group.iter().for_each(Group::end);
            if let Some(Err(error)) = shown.uid.map(User::forget) {
                tracing::warn!(uid = shown.uid, %error, "cannot remove the file of a user that nobody has");
            }
            ended
        });
        // Nobody waits for one that was given up.
        let _ = answer.send(ended);
    };
    thread::Builder::new().name("image".to_owned()).spawn(run)?;
    output.await.map_err(io::Error::other)?
}

/// Ends a child when it is dropped, also one that is spawned only then.
#[derive(Default)]
struct Leash(Arc<Held>);

#[derive(Default)]
struct Held {
    let_go: AtomicBool,
    child: OnceLock<OwnedFd>,
}

impl Held {
    /// Of a child that is not reaped yet, so that its number cannot mean another.
    fn hold(&self, pid: Pid) -> io::Result<()> {
        let _ = self.child.set(pidfd_open(pid, PidfdFlags::empty())?);
        if self.let_go.load(Ordering::SeqCst) {
            self.kill();
        }
        Ok(())
    }

    fn kill(&self) {
        if let Some(child) = self.child.get() {
            // It may have ended.
            let _ = pidfd_send_signal(child, Signal::KILL);
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.let_go.store(true, Ordering::SeqCst);
        self.0.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process;

    #[tokio::test]
    async fn a_run_that_nobody_waits_for_any_more_is_ended() {
        let (program, long) = (Path::new("/bin/sleep"), "1000.2718281828");
        let running = || process::find(&["/bin/sleep", long]).unwrap();
        let free = || Ok(Made::of(Cell::default()));
        let begin = || apart(Child::new(QEMU_IMG, program).arg(long), free, Arc::default());
        tokio::select! {
            ended = begin() => panic!("{ended:?}"),
            () = async { while running().is_empty() { tokio::task::yield_now().await } } => {}
        }
        // Given up before it has begun, too.
        drop(tokio::time::timeout(Duration::ZERO, begin()).await);
        while !running().is_empty() {
            tokio::task::yield_now().await;
        }
        let done = apart(Child::new(QEMU_IMG, program).arg("0"), free, Arc::default()).await.unwrap();
        assert!(done.status.success());
    }
}
