//! The daemon's start: one daemon per state directory, and every record met with what is really there.

use std::{
    fs::{DirBuilder, File},
    io::{Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{Service, autostart};
use crate::{
    model::{Due, Status, VmRecord},
    vm,
};

/// Adopting a VM whose monitor answers takes milliseconds; one that is mute must not hold the daemon's start.
const ADOPTION: Duration = Duration::from_secs(1);

/// A child of a killed daemon holds its files, this claim among them, until it has become another program; recovery then
/// sees which.
const REMNANT: Duration = Duration::from_secs(5);

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
        let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
        let patience = Instant::now() + REMNANT;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    // The pid is only for the message below.
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
                        bail!(
                            "another qherd (pid {}) already uses the state directory {}; stop it, or give this one a directory of its own with --state-dir",
                            pid.trim(),
                            state_dir.display()
                        )
                    }
                    // It was killed while it started a program, which is about to let go of it.
                    std::thread::sleep(Duration::from_millis(10));
                    file = taken;
                }
                Err((_, error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
        }
    }
}

/// Whether there is such a process, and not only its remains.
fn lives(pid: &str) -> bool {
    !pid.is_empty() && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

impl Service {
    /// Has every recorded VM taken over, finished or unwound by its own task (`vm::adopt`), all at once. Until that is done
    /// for a VM it shows as unresponsive, connecting.
    pub(super) async fn recover(&self) -> anyhow::Result<()> {
        let records = self.ctx.store.scan::<VmRecord>().context("cannot read the definitions of the VMs")?;
        let mut records: Vec<VmRecord> = records.into_iter().map(|(_, record)| record).collect();
        if let Err(error) = autostart::mark(&self.ctx.store, &mut records).await {
            tracing::error!(%error, "cannot store that the host has booted");
        }
        let mut owed = Vec::new();
        for record in records {
            let due = record.upkeep.due == Some(Due::Boot);
            let handle = vm::adopt(self.ctx.clone(), record);
            owed.extend(due.then(|| handle.clone()));
            self.registry.insert(handle);
        }
        tokio::spawn(autostart::run(owed));
        Ok(())
    }

    /// Waits a moment for the VMs whose process and storage answer to be taken over. Reads need not wait for it.
    pub async fn settled(&self) {
        let settled = self.registry.handles().into_iter().map(|handle| async move { handle.settled().await });
        let _ = tokio::time::timeout(ADOPTION, futures_util::future::join_all(settled)).await;
        let count = |status| self.registry.views().iter().filter(|view| view.status == status).count();
        tracing::info!(
            running = count(Status::Running),
            unresponsive = count(Status::Unresponsive),
            "took over the recorded VMs"
        );
    }
}
