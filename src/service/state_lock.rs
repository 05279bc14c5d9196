//! The claim on a state directory, which one program has at a time: the daemon, or a command on the database.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    fs::{DirBuilder, File},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{private, state_dir};

/// A child of a killed daemon holds its files, this claim among them, until it has become another program; recovery then
/// sees which.
const REMNANT: Duration = Duration::from_secs(5);

/// The claim on a state directory; the kernel takes it back when the daemon ends, however it ends.
pub(super) struct StateLock {
    _file: Flock<File>,
}

/// Why a claim is not granted.
pub(super) enum Taken {
    /// By another process: its pid, in words.
    By(String),
    Failed(anyhow::Error),
}

impl StateLock {
    /// Makes the directory where it is not there yet.
    ///
    /// # Errors
    /// When the directory cannot be made or another daemon has it, with its pid.
    pub fn take(state_dir: &Path) -> Result<Self, Taken> {
        let failed = |error: anyhow::Error| Taken::Failed(error);
        state_dir::refuse_unmounted(state_dir).map_err(failed)?;
        // For nobody else: it holds the guests' disks and consoles. One that is there keeps its mode.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("cannot make the state directory {}", state_dir.display()))
            .map_err(failed)?;
        let path = state_dir.join("lock");
        let open = File::options().create(true).read(true).write(true).truncate(false).mode(0o600).open(&path);
        // Whoever may open it can hold it.
        let open = open.inspect(|_| drop(private::close_file(&path)));
        let mut file = open.with_context(|| format!("cannot open {}", path.display())).map_err(failed)?;
        let patience = Instant::now() + REMNANT;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    // The pid is only for messages.
                    let _ = file
                        .set_len(0)
                        .and_then(|()| file.rewind())
                        .and_then(|()| write!(file, "{}", std::process::id()));
                    return Ok(Self { _file: file });
                }
                Err((mut taken, Errno::EWOULDBLOCK)) => {
                    let mut pid = String::new();
                    let _ = taken.rewind().and_then(|()| taken.read_to_string(&mut pid));
                    if lives(pid.trim()) || Instant::now() > patience {
                        return Err(Taken::By(pid.trim().to_owned()));
                    }
                    // It was killed while it started a program, which is about to let go of it.
                    std::thread::sleep(Duration::from_millis(10));
                    file = taken;
                }
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display())).map_err(failed);
                }
            }
        }
    }

    /// For the daemon.
    ///
    /// # Errors
    /// As [`Self::take`], in words.
    pub fn for_daemon(state_dir: &Path) -> anyhow::Result<Self> {
        Self::take(state_dir).map_err(|taken| match taken {
            Taken::Failed(error) => error,
            Taken::By(pid) => anyhow::anyhow!(
                "another qherd (pid {pid}) already uses the state directory {}; stop it, or give this one a directory of its own with --state-dir",
                state_dir.display()
            ),
        })
    }
}

/// Whether there is such a process, and not only its remains. This one's own number is that of an earlier daemon in a
/// container, whose first process always has the same.
fn lives(pid: &str) -> bool {
    !pid.is_empty()
        && pid != std::process::id().to_string()
        && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
