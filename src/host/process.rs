//! A process that outlives the daemon: spawned into its own session, held by a pidfd, found again after a restart.
//! The pidfd decides death, nothing else (design.md, decision 2); there is no kill on drop.

#![allow(unsafe_code, reason = "an AsyncFd on a pidfd")]
#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{is_gone, launcher::Child, listed};
use crate::model::ProcessId;

/// A live process, or one that has just ended.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: AsyncFd<OwnedFd>,
    exit: OnceLock<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It was not our child (adopted after a restart), so the kernel does not tell.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "QEMU ended with exit status {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "QEMU was ended by {name}"),
                Err(_) => write!(f, "QEMU was ended by signal {signal}"),
            },
            Self::Unknown => write!(f, "QEMU ended"),
        }
    }
}

impl Process {
    /// Starts a program that is known by its pid from then on. Not from a blocking task where it is to end with the daemon:
    /// what counts is the thread that calls.
    ///
    /// # Errors
    /// When the program cannot be executed, or the kernel has no process or descriptor left.
    pub fn spawn(child: Child) -> io::Result<Self> {
        let child = child.spawn()?;
        // The child is not reaped yet, so its pid cannot mean another process.
        let pid = child.pid().as_raw_pid();
        let identity = start_time(pid).and_then(|starttime| Ok(ProcessId { pid, starttime, boot_id: boot_id()? }));
        identity.and_then(Self::open).inspect_err(|_| {
            child.kill();
            let _ = child.output();
        })
    }

    /// Takes over a process that an earlier daemon started, or says `None` when it is gone. `marker` must stand in
    /// its command line: a pid alone proves nothing.
    pub fn adopt(id: &ProcessId, marker: &str) -> Option<Self> {
        if boot_id().ok()? != id.boot_id {
            return None;
        }
        // First the handle, then the checks: what was checked is what is held.
        let process = Self::open(id.clone()).ok()?;
        (start_time(id.pid).ok()? == id.starttime && command_line(id.pid).is_ok_and(|c| c.iter().any(|a| a == marker)))
            .then_some(process)
    }

    fn open(id: ProcessId) -> io::Result<Self> {
        let pid = Pid::from_raw(id.pid).ok_or_else(|| io::Error::other("pid 0"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by the AsyncFd and stays the same open file for as long as it lives.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { id, pidfd, exit: OnceLock::new() })
    }

    pub fn id(&self) -> &ProcessId {
        &self.id
    }

    pub fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Whether somebody has stopped it (SIGSTOP, a debugger): it is there, and does nothing.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Behind its name, which may have anything in it.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }

    /// Whether something waits in one of its UDP sockets: one that takes nothing of it is not at work.
    pub fn has_unread(&self) -> bool {
        let waiting = ["udp", "udp6"].into_iter().flat_map(|table| {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid())).unwrap_or_default();
            text.lines().filter_map(unread).collect::<Vec<_>>()
        });
        // Of every process in its network namespace; mostly there is none.
        waiting.into_iter().any(|socket| self.number_of(&socket).is_ok_and(|found| found.is_some()))
    }

    /// Whether a thread is one of its.
    pub fn has_thread(&self, thread: i32) -> bool {
        Path::new(&format!("/proc/{}/task/{thread}", self.pid())).exists()
    }

    /// The open file that it knows by the first descriptor that leads to `target`.
    ///
    /// # Errors
    /// When the kernel does not let this user look at its descriptors, or have one.
    pub fn descriptor(&self, target: &str) -> io::Result<Option<OwnedFd>> {
        let Some(number) = self.number_of(target)? else { return Ok(None) };
        // By the handle: the number of a process that has ended may be another's by now.
        Ok(Some(pidfd_getfd(self.pidfd.get_ref(), number, PidfdGetfdFlags::empty())?))
    }

    /// The number of its first descriptor that leads to `target`.
    ///
    /// # Errors
    /// When the kernel does not let this user look at its descriptors.
    pub fn number_of(&self, target: &str) -> io::Result<Option<i32>> {
        for descriptor in fs::read_dir(format!("/proc/{}/fd", self.pid()))?.flatten() {
            // One that is closed meanwhile.
            let Ok(leads_to) = fs::read_link(descriptor.path()) else { continue };
            if leads_to.as_os_str() == target
                && let Some(number) = descriptor.file_name().to_str().and_then(|name| name.parse().ok())
            {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Returns when the process has ended, reaped where it was our child. May be dropped and called again.
    pub async fn exited(&self) -> Exit {
        // A pidfd becomes readable when the process ends and stays so.
        if let Err(error) = self.pidfd.readable().await {
            // Only at the end of the runtime: no more events will come, and nobody is left to act on one.
            tracing::debug!(%error, "pidfd");
            std::future::pending::<()>().await;
        }
        *self.exit.get_or_init(|| self.reap())
    }

    fn reap(&self) -> Exit {
        match waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(self.pidfd.get_ref())),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (_, Some(signal)) => Exit::Signal(signal),
                _ => Exit::Unknown,
            },
            _ => Exit::Unknown,
        }
    }

    /// SIGKILL; a process that is gone already is no error.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGTERM: asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP: has it read what it reads again while it runs.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.id.pid, ?signal, %error, "cannot send a signal");
        }
    }
}

/// The socket that a line of /proc/net/udp tells of, as descriptors lead to it, if something waits in it.
fn unread(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, waits) = words.get(4)?.split_once(':')?;
    (u64::from_str_radix(waits, 16).ok()? > 0).then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
}

/// The processes whose command line holds all these words.
///
/// # Errors
/// When they cannot be looked at, which says nothing of whether there are any.
pub fn find(words: &[&str]) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for pid in listed(Path::new("/proc"))?.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        match command_line(pid) {
            Ok(line) if holds(&line, words) => found.push(pid),
            Err(error) if !is_gone(&error) && error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(found)
}

/// Of these, those that [`has_open`] says have one of `files`; not those that end meanwhile, or may not be looked at.
///
/// # Errors
/// When that cannot be seen otherwise.
pub fn with_open(pids: Vec<i32>, files: &[PathBuf]) -> io::Result<Vec<Process>> {
    let lost = |error: &io::Error| is_gone(error) || error.kind() == io::ErrorKind::PermissionDenied;
    let mut found = Vec::new();
    for pid in pids {
        // First the handle, then the check: what was checked is what is held.
        let checked = open(pid).and_then(|process| Ok(has_open(pid, files)?.then_some(process)));
        match checked {
            Ok(process) => found.extend(process),
            Err(error) if lost(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether a process has one of `files` open, whatever they are called by now. The command line names paths, and a state
/// directory may have been moved, or another one put in its place: only the open file proves whose a process is.
///
/// # Errors
/// When its descriptors may not be looked at.
pub fn has_open(pid: i32, files: &[PathBuf]) -> io::Result<bool> {
    let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let wanted: Vec<_> = files.iter().filter_map(|path| Some((path.file_name()?, file(path)?))).collect();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // By the name first: what else it has open may be on storage that hangs.
        let Ok(leads_to) = fs::read_link(descriptor.path()) else { continue };
        let Some(name) = leads_to.file_name() else { continue };
        if let Some((_, known)) = wanted.iter().find(|(wanted, _)| *wanted == name)
            && file(&descriptor.path()) == Some(*known)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Of these processes, those whose command line holds all these words.
pub fn among(pids: &[i32], words: &[&str]) -> Vec<Process> {
    // First the handle, then the check: what was checked is what is held.
    let opened = pids.iter().filter_map(|pid| open(*pid).ok());
    opened.filter(|process| command_line(process.pid()).is_ok_and(|line| holds(&line, words))).collect()
}

/// Takes over a process by its pid alone, for one that [`find`] has just found.
///
/// # Errors
/// When it is gone.
pub fn open(pid: i32) -> io::Result<Process> {
    Process::open(ProcessId { pid, starttime: start_time(pid)?, boot_id: boot_id()? })
}

/// The user that a process runs as, while it is there.
pub fn user(pid: i32) -> Option<u32> {
    let status = procfs::process::Process::new(pid).and_then(|process| process.status());
    Some(status.ok()?.ruid)
}

fn command_line(pid: i32) -> io::Result<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))?;
    Ok(bytes.split(|&b| b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect())
}

fn holds(line: &[String], words: &[&str]) -> bool {
    words.iter().all(|word| line.iter().any(|found| found == word))
}

fn start_time(pid: i32) -> io::Result<u64> {
    let stat = procfs::process::Process::new(pid).and_then(|p| p.stat());
    stat.map(|stat| stat.starttime).map_err(|error| match error {
        procfs::ProcError::NotFound(_) => io::Error::from_raw_os_error(nix::libc::ENOENT),
        procfs::ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    })
}

/// Every running VM holds six descriptors; the usual soft limit of 1,024 would end at some 170 VMs.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// The kernel's id of this boot.
///
/// # Errors
/// When /proc cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Tells one life of this system, or of this container, from the next on the same boot of the host: its process namespace
/// and when the first process in it began. `None` where that is not to be seen.
pub fn init() -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", namespace.display(), start_time(1).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::launcher::QEMU_PROBE;

    fn run(program: &str, args: &[&str]) -> io::Result<Process> {
        Process::spawn(Child::new(QEMU_PROBE, Path::new(program)).args(args))
    }

    #[tokio::test]
    async fn an_exit_is_seen_through_the_pidfd_with_its_status() {
        let process = run("/bin/sh", &["-c", "exit 3"]).unwrap();
        assert_eq!(process.exited().await, Exit::Code(3));
        assert_eq!(process.exited().await, Exit::Code(3));
        assert!(!Path::new(&format!("/proc/{}", process.pid())).exists(), "reaped");
    }

    #[tokio::test]
    async fn a_process_is_adopted_only_with_its_own_start_time_and_marker() {
        let process = run("/bin/sleep", &["1000"]).unwrap();
        // The command line is the program's own only after exec.
        while command_line(process.pid()).map_or(true, |c| !c.contains(&"1000".to_owned())) {
            tokio::task::yield_now().await;
        }
        let id = process.id().clone();
        assert!(Process::adopt(&id, "1000").is_some());
        assert!(Process::adopt(&id, "another").is_none());
        assert!(Process::adopt(&ProcessId { starttime: id.starttime + 1, ..id.clone() }, "1000").is_none());
        assert!(Process::adopt(&ProcessId { boot_id: "x".into(), ..id.clone() }, "1000").is_none());
        process.kill();
        assert_eq!(process.exited().await, Exit::Signal(9));
        assert!(Process::adopt(&id, "1000").is_none());
        process.kill();
    }

    #[tokio::test]
    async fn a_process_is_known_by_the_file_that_it_has_open_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let (log, copy) = (dir.path().join("a/qemu.log"), dir.path().join("b/qemu.log"));
        fs::create_dir(dir.path().join("a")).unwrap();
        let stderr = fs::File::create(&log).unwrap();
        let sleep = Child::new(QEMU_PROBE, Path::new("/bin/sleep")).arg("1000").stderr(stderr);
        let process = Process::spawn(sleep).unwrap();
        assert!(has_open(process.pid(), std::slice::from_ref(&log)).unwrap());
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::copy(&log, &copy).unwrap();
        assert!(!has_open(process.pid(), std::slice::from_ref(&copy)).unwrap());
        fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
        fs::rename(dir.path().join("b"), dir.path().join("a")).unwrap();
        assert!(!has_open(process.pid(), &[log]).unwrap(), "another file by the name of old");
        assert!(has_open(process.pid(), &[dir.path().join("c/qemu.log")]).unwrap());
        process.kill();
        process.exited().await;
        assert!(has_open(process.pid(), &[copy]).is_err());
    }

    #[tokio::test]
    async fn what_waits_in_a_socket_of_a_process_is_seen_until_it_is_read() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = open(std::process::id().cast_signed()).unwrap();
        assert!(!own.has_unread());
        socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
        assert!(own.has_unread());
        socket.recv(&mut [0; 8]).unwrap();
        assert!(!own.has_unread());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error_and_leaves_no_process() {
        assert!(run("/nonexistent", &[]).is_err());
    }
}
