//! How a child comes to be: it shares the daemon's memory until it executes its program, and the thread that starts it waits
//! for that. A copy of the memory would cost more the more VMs there are, and so would every page that the daemon writes next.
//!
//! So the child must not leave a trace in that memory: everything is made before, on its own stack it makes system calls
//! only, and what it writes is the number of the error that it ends with.

#![allow(unsafe_code, reason = "a child on the daemon's memory")]

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString, c_char, c_int, c_void},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::{ExitStatus, Output},
    ptr, thread,
};

use nix::{
    libc,
    sys::signal::{SigSet, SigmaskHow},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid},
};

use super::{
    Confinement,
    clone::{clone, clone_into},
    handed::Questions,
};
use crate::host::cgroups::Group;

/// More than the child's few calls take, in a debug build too. Pages that are not touched cost nothing.
const STACK: usize = 256 << 10;
/// Bytes of what a child says that are kept; far more than people read.
const MOST_SAID: usize = 64 << 10;
/// Of the child that does not come to its program.
const NOT_EXECUTED: c_int = 127;

/// Which program, and where it begins.
pub(super) struct Program<'a> {
    /// Looked for on `path`, unless it is a path itself.
    pub name: &'a Path,
    pub path: Option<&'a OsStr>,
    pub folder: Option<&'a Path>,
}

/// What a child executes, whole.
pub(super) struct Plan {
    /// Where the program may be; the first that can be executed is.
    programs: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    folder: Option<CString>,
    /// Its standard input, output and error.
    standard: [OwnedFd; 3],
    confinement: Confinement,
    begun_in_group: bool,
    /// Why it was not executed; the child's one word.
    error: c_int,
}

/// Strings as `execve` takes them.
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

/// A child that has begun to execute its program. Nobody has waited for it yet, so that its number means no other.
#[derive(Debug)]
pub struct Spawned {
    pub(super) pid: Pid,
    /// Where they were asked for.
    pub(super) stdout: Option<File>,
    pub(super) stderr: Option<File>,
    /// About what it opens.
    pub(super) questions: Option<Questions>,
}

impl Plan {
    /// # Errors
    /// For what has a NUL in it.
    pub fn new(
        program: Program,
        arguments: &[OsString],
        environment: BTreeMap<OsString, OsString>,
        standard: [OwnedFd; 3],
        confinement: Confinement,
    ) -> io::Result<Self> {
        let Program { name, path, folder } = program;
        let folders = path.filter(|_| !name.as_os_str().as_bytes().contains(&b'/')).map(std::env::split_paths);
        let programs = match folders {
            Some(folders) => folders.map(|folder| text(folder.join(name))).collect::<io::Result<_>>()?,
            None => vec![text(name)?],
        };
        let environment = environment.into_iter().map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            text(variable)
        });
        Ok(Self {
            programs,
            arguments: Strings::new([text(name)].into_iter().chain(arguments.iter().map(text)))?,
            environment: Strings::new(environment)?,
            folder: folder.map(text).transpose()?,
            standard,
            confinement,
            begun_in_group: false,
            error: 0,
        })
    }

    /// # Errors
    /// Why it does not execute; there is no child then.
    pub fn spawn(mut self) -> io::Result<Pid> {
        let mut stack = Vec::<u8>::with_capacity(STACK);
        // No handler of the daemon's may run in the child: its memory is not the child's to write to.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the stack grows down from its end, which is aligned to 16 bytes, and outlives the child's use of it, as the plan does:
        // this thread goes on when the child has executed its program or ended.
        let child = unsafe {
            let end = stack.as_mut_ptr().add(STACK);
            let slack = end as usize % 16;
            self.clone(end.sub(slack), STACK - slack)
        };
        before.thread_set_mask()?;
        if self.confinement.cell.user.is_some() {
            // Whoever changes its user takes the right to a dump from the memory that it is on.
            let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
        }
        let pid = Pid::from_raw(child?).ok_or_else(|| io::Error::other("a child without a number"))?;
        // SAFETY: the child has written it, on this memory.
        match unsafe { ptr::read_volatile(&raw const self.error) } {
            0 => Ok(pid),
            error => {
                let _ = waitpid(Some(pid), WaitOptions::empty());
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }

    /// # Safety
    /// As of [`clone`].
    unsafe fn clone(&mut self, stack_end: *mut u8, size: usize) -> io::Result<c_int> {
        let plan = ptr::from_mut(self).cast::<c_void>();
        if let Some(group) = self.confinement.begins_in().map(|group| group.as_raw_fd()) {
            self.begun_in_group = true;
            // SAFETY: as promised. Nothing of the plan is written to from here on but by the child.
            let child = unsafe { clone_into(group, begin, stack_end, size, plan) };
            if child.is_ok() {
                return child;
            }
            // It is moved there instead.
            self.begun_in_group = false;
        }
        // SAFETY: as above.
        unsafe { clone(begin, stack_end, plan) }
    }

    /// In the child. Returns only with an error.
    fn execute(&self) -> io::Error {
        match self.prepare() {
            Ok(()) => {}
            Err(error) => return error,
        }
        let mut refused = None;
        for program in &self.programs {
            // SAFETY: all strings end with a NUL and live, and so do the lists of them.
            unsafe { libc::execve(program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                // There may be another behind it.
                Some(libc::EACCES) => refused = Some(error),
                _ => return error,
            }
        }
        refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn prepare(&self) -> io::Result<()> {
        for (number, standard) in (0..).zip(&self.standard) {
            // SAFETY: numbers only.
            if unsafe { libc::dup2(standard.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.confinement.enter(self.begun_in_group)?;
        // Who enters another root begins at the top of it.
        if let Some(folder) = &self.folder {
            rustix::process::chdir(folder.as_c_str())?;
        }
        handle_no_signals();
        // SAFETY: an empty set, which is initialised before it is used.
        unsafe {
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        }
        Ok(())
    }
}

/// From here on in the child.
extern "C" fn begin(plan: *mut c_void) -> c_int {
    // SAFETY: the one plan; whoever made it waits.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    let error = plan.execute().raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut plan.error, error) };
    // SAFETY: ends the child, without what the daemon has to do at its own end.
    unsafe { libc::_exit(NOT_EXECUTED) }
}

/// The table of handlers is the child's own, and a program begins without any.
fn handle_no_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: all zeroes is the default, and numbers that cannot be set are refused.
        unsafe {
            let by_default = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(signal, &raw const by_default, ptr::null_mut());
        }
    }
}

impl Strings {
    fn new(all: impl Iterator<Item = io::Result<CString>>) -> io::Result<Self> {
        let owned: Vec<CString> = all.collect::<io::Result<_>>()?;
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { _owned: owned, pointers })
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

fn text(words: impl AsRef<OsStr>) -> io::Result<CString> {
    Ok(CString::new(words.as_ref().as_bytes())?)
}

impl Spawned {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// SIGKILL.
    pub fn kill(&self) {
        // It may have ended, but its number is its own until somebody waits for it.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Blocks until it has ended, and returns what it has said where that was asked for.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn output(self) -> io::Result<Output> {
        self.output_heard(None, |_| ())
    }

    /// The same, and `hear` is told of its standard output as it comes: what of it there is since the last line began. Whatever it
    /// leaves in its group ends with it. Of what it says the end is kept: what strangers wrote may have it complain for ever.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn output_heard(mut self, group: Option<&Group>, hear: impl FnMut(&[u8])) -> io::Result<Output> {
        let (stdout, stderr, questions) = (self.stdout.take(), self.stderr.take(), self.questions.take());
        let is_watched = questions.is_some() || group.is_some();
        let child = is_watched.then(|| pidfd_open(self.pid, PidfdFlags::empty())).transpose();
        if child.is_err() {
            self.kill();
        }
        let (stdout, stderr) = thread::scope(|scope| {
            if let Ok(Some(child)) = &child {
                scope.spawn(move || {
                    until_it_ends(questions, child.as_fd());
                    // Before its words end: others may hold on to where they go.
                    group.into_iter().for_each(Group::end);
                });
            }
            let stderr = scope.spawn(|| said(stderr, |_| ()));
            (said(stdout, hear), stderr.join().unwrap_or_else(|_| Err(io::Error::other("a reader has panicked"))))
        });
        let status = loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => break ExitStatus::from_raw(status.as_raw()),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        child?;
        Ok(Output { status, stdout: stdout?, stderr: stderr? })
    }
}

/// Answers what it asks meanwhile.
fn until_it_ends(questions: Option<Questions>, child: BorrowedFd) {
    if let Some(Err(error)) = questions.map(|questions| questions.answer_all(child)) {
        tracing::warn!(%error, "a program is not answered any more when it opens what it was handed");
    }
    // Where nobody asks any more it may still work.
    while let Err(rustix::io::Errno::INTR) = poll(&mut [PollFd::new(&child, PollFlags::IN)], None) {}
}

fn said(pipe: Option<File>, mut hear: impl FnMut(&[u8])) -> io::Result<Vec<u8>> {
    let mut words = Vec::new();
    let Some(mut pipe) = pipe else { return Ok(words) };
    let (mut piece, mut line) = ([0; 4096], 0);
    loop {
        let came = match io::Read::read(&mut pipe, &mut piece) {
            Ok(0) => break,
            Ok(count) => &piece[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        words.extend_from_slice(came);
        hear(&words[line..]);
        line = came.iter().rposition(|byte| *byte == b'\n').map_or(line, |at| words.len() - came.len() + at + 1);
        if words.len() > 2 * MOST_SAID {
            let dropped = words.len() - MOST_SAID;
            words.drain(..dropped);
            line = line.saturating_sub(dropped);
        }
    }
    words.drain(..words.len().saturating_sub(MOST_SAID));
    Ok(words)
}
