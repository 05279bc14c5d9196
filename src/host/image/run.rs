//! Runs of qemu-img: each bounded in time and in what it uses of the host, kept from all files but those that it is run for, and
//! ended with the daemon.

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

use super::Copied;
use crate::host::{
    STORAGE,
    launcher::{Cell, Child, QEMU_IMG, Shown, Tcp, View},
    on_storage,
    sandbox::installed_in,
};

/// The program, and how it can be kept in.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    program: PathBuf,
    /// What it is shown beside the files that it works with; none where it cannot be kept from others.
    programs: Option<Vec<PathBuf>>,
}

impl Tool {
    /// # Errors
    /// In words, when it cannot be run.
    pub async fn find(program: &Path, deadline: Duration) -> Result<Self, String> {
        let own = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(program))
            .find(|found| found.is_file());
        let programs = own.as_deref().and_then(installed_in).into_iter().collect();
        let kept = Self { program: program.to_owned(), programs: Some(programs) };
        let Err(why) = kept.run(deadline, 0).arg("--version").finish().await else { return Ok(kept) };
        let free = Self { programs: None, ..kept };
        free.run(deadline, 0).arg("--version").finish().await?;
        tracing::warn!(%why, "qemu-img is not kept from files by Landlock");
        Ok(free)
    }

    pub fn run(&self, deadline: Duration, largest_file: u64) -> Run {
        let child = Child::new(QEMU_IMG.for_image(largest_file, deadline.as_secs()), &self.program);
        let shown = self.programs.clone().map(|programs| Shown { programs, ..Shown::default() });
        Run { child, copied: None, shown, deadline }
    }
}

/// One run.
pub(super) struct Run {
    child: Child,
    copied: Option<Arc<Copied>>,
    shown: Option<Shown>,
    deadline: Duration,
}

impl Run {
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        Self { child: self.child.arg(arg), ..self }
    }

    /// A file that it opens to read.
    pub fn reads(mut self, file: &Path) -> Self {
        self.shown.iter_mut().for_each(|shown| shown.read.push(file.to_owned()));
        self
    }

    /// An open file that it reads, which the caller holds until the run has ended.
    pub fn reads_open(self, file: &File) -> Self {
        self.inherits(file).reads(&as_path(file))
    }

    /// The same that it also writes to.
    pub fn writes_open(self, file: &File) -> Self {
        let mut run = self.inherits(file);
        run.shown.iter_mut().for_each(|shown| shown.written.push(as_path(file)));
        run
    }

    /// What it says of how far it has come is for this.
    pub fn heard_by(self, copied: &Arc<Copied>) -> Self {
        Self { copied: Some(copied.clone()), ..self }
    }

    fn inherits(self, file: &File) -> Self {
        Self { child: self.child.inherit([file.as_raw_fd()]), ..self }
    }

    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        Self { child: self.child.args(args), ..self }
    }

    /// `None` where it did not end in time. It ends with whoever waits for it, and with the daemon.
    pub async fn output(self) -> Option<io::Result<Output>> {
        let run = async move |mut run: Self| {
            let copied = run.copied.take().unwrap_or_default();
            apart(run.confined().await?, copied).await
        };
        tokio::time::timeout(self.deadline, run(self)).await.ok()
    }

    /// It sees no files but its own: no header leads it elsewhere.
    async fn confined(self) -> io::Result<Child> {
        let Some(shown) = self.shown else { return Ok(self.child) };
        let on = shown.written.first().or(shown.read.first()).cloned().unwrap_or_default();
        let view = on_storage(&on, STORAGE, move || View::of(&shown, Tcp::None)).await?;
        Ok(self.child.within(Cell { view: Some(view), ..Cell::default() }))
    }

    /// # Errors
    /// qemu-img's own words.
    pub async fn finish(self) -> Result<(), String> {
        let deadline = self.deadline.as_secs();
        let output = self.output().await.ok_or_else(|| format!("qemu-img did not end within {deadline} s"))?;
        let output = output.map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.trim().trim_start_matches("qemu-img: ");
        Err(if words.is_empty() { format!("qemu-img ended with {}", output.status) } else { words.to_owned() })
    }
}

/// An open file by a name of this process.
fn as_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Runs it in a thread of its own: its program may lie on storage that hangs, and the kernel ends the child with the thread
/// that started it.
pub(super) async fn apart(child: Child, copied: Arc<Copied>) -> io::Result<Output> {
    let leash = Leash::default();
    let (held, (answer, output)) = (leash.0.clone(), oneshot::channel());
    let run = move || {
        let ended = child.piped().spawn().and_then(|child| {
            held.hold(child.pid())?;
            child.output_heard(|line| copied.hear(line))
        });
        // Nobody waits for one that was given up.
        let _ = answer.send(ended);
    };
    thread::Builder::new().name("qemu-img".to_owned()).spawn(run)?;
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
        let running = || process::find(&["/bin/sleep", long]);
        let begin = || apart(Child::new(QEMU_IMG, program).arg(long), Arc::default());
        tokio::select! {
            ended = begin() => panic!("{ended:?}"),
            () = async { while running().is_empty() { tokio::task::yield_now().await } } => {}
        }
        // Given up before it has begun, too.
        drop(tokio::time::timeout(Duration::ZERO, begin()).await);
        while !running().is_empty() {
            tokio::task::yield_now().await;
        }
        let done = apart(Child::new(QEMU_IMG, program).arg("0"), Arc::default()).await.unwrap();
        assert!(done.status.success());
    }
}
