//! The daemon's start: one daemon per state directory, and every record met with what is really there.

use std::{
    fs::{DirBuilder, File},
    io::{Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};

use super::Service;
use crate::{
    model::{Status, VmRecord},
    vm,
};

/// Adopting a VM whose monitor answers takes milliseconds; one that is mute must not hold the daemon's start.
const ADOPTION: Duration = Duration::from_secs(1);

/// How long a state directory may still be held by what is left of a daemon that was killed.
const HANDOVER: Duration = Duration::from_secs(2);

/// The claim on a state directory; the kernel takes it back when the daemon ends, however it ends.
pub(super) struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// # Errors
    /// When the directory cannot be made or another daemon has it, with its pid.
    pub fn take(state_dir: &Path) -> anyhow::Result<Self> {
        // For nobody else: it holds the guests' disks and consoles. One that is there keeps its mode.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
        let path = state_dir.join("lock");
        let open = File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let deadline = Instant::now() + HANDOVER;
        let mut locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        loop {
            match locked {
                // A daemon that was killed while it started a program leaves a copy of itself that lives until that
                // program takes its place.
                Err((file, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                    locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
                }
                _ => break,
            }
        }
        match locked {
            Ok(mut file) => {
                // The pid is only for the message below.
                let _ =
                    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                bail!(
                    "another qherd (pid {}) already uses the state directory {}; stop it, or give this one a directory of its own with --state-dir",
                    pid.trim(),
                    state_dir.display()
                )
            }
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

impl Service {
    /// Has every recorded VM taken over, finished or unwound by its own task (`vm::adopt`), all at once, and waits a
    /// moment for those whose process and storage answer.
    pub(super) async fn recover(&self) -> anyhow::Result<()> {
        let records = self.ctx.store.scan::<VmRecord>().context("cannot read the definitions of the VMs")?;
        for (_, record) in records {
            self.registry.insert(vm::spawn(self.ctx.clone(), record));
        }
        let settled = self.registry.handles().into_iter().map(|handle| async move { handle.settled().await });
        let _ = tokio::time::timeout(ADOPTION, futures_util::future::join_all(settled)).await;
        let count = |status| self.registry.views().iter().filter(|view| view.status == status).count();
        tracing::info!(
            running = count(Status::Running),
            unresponsive = count(Status::Unresponsive),
            "took over the recorded VMs"
        );
        Ok(())
    }
}
