//! The process of dnsmasq beside a switch, supervised: it outlives the daemon and is found again; it is started anew when
//! it ends or its configuration changes, and reads its lists again when these change. What its files say is `dhcp`'s
//! knowledge.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

mod group;
mod supervisor;
mod view;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};

use super::{
    NetError,
    dhcp::{self, Files, Host},
    runtime,
};
use crate::host::{
    fail_point::step,
    process::{self, Process},
};
pub use group::sweep;
use supervisor::{Shared, supervise};

const PROGRAM: &str = "dnsmasq";
const FOREGROUND: &str = "--keep-in-foreground";
const LOG: &str = "dnsmasq.log";
/// What it has to end in when asked.
const GRACE: Duration = Duration::from_secs(2);
/// Told of every change of what is wrong with it.
pub type Report = Box<dyn Fn(Option<String>) + Send + Sync>;

/// What it works by.
#[derive(Clone)]
pub struct Orders {
    pub files: Files,
    /// Who has an address; a lease in their way is taken back.
    pub hosts: Vec<Host>,
}

/// Where a switch's files are.
#[derive(Clone)]
pub struct Folders {
    pub own: PathBuf,
    /// Of lists that dnsmasq reads while it runs.
    pub public: PathBuf,
}

/// The dnsmasq of a switch.
pub struct Companion {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

impl Companion {
    /// Takes over the process of an earlier daemon, or starts one. On a bridge that is `new` an earlier one is deaf.
    ///
    /// # Errors
    /// When it cannot be started now; one that ends later is started again.
    pub async fn start(folders: Folders, orders: Orders, new: bool, report: Report) -> Result<Self, NetError> {
        let folder = folders.own.clone();
        let failed = |error: io::Error| NetError::failed(format!("start dnsmasq in {}", folder.display()), error);
        let mut running = if folder.exists() { running(&folder).map_err(failed)? } else { Vec::new() };
        let first = if new { None } else { running.pop() };
        // One is enough.
        running.iter().for_each(Process::kill);
        let shared = Arc::new(Shared::new(folders, orders, report));
        let process = match first {
            Some(process) => {
                // It may serve something else, or not have been told of what is written.
                shared.unread.store(true, Ordering::Relaxed);
                shared.changed.notify_one();
                process
            }
            None => shared.begin().await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    NetError::Program { feature: "A switch with a subnet", program: PROGRAM, package: "dnsmasq-base" }
                }
                _ => failed(error),
            })?,
        };
        let supervisor = tokio::spawn(supervise(shared.clone(), process));
        Ok(Self { shared, supervisor })
    }

    /// From now on it works by these.
    pub fn want(&self, orders: Orders) {
        *self.shared.orders() = orders;
        if !self.shared.is_written() || self.shared.stale().is_some() {
            self.shared.changed.notify_one();
        }
    }

    /// Whether it reads lists of its own, as far as is known.
    pub fn reads_lists(&self) -> bool {
        !self.shared.kept_out.load(Ordering::Relaxed)
    }

    /// Starts it anew, on a bridge that is a new one.
    pub fn restart(&self) {
        let _ = step(|| fs::remove_file(self.shared.folders.own.join(dhcp::CONFIG)));
        self.shared.changed.notify_one();
    }

    /// Whether its files are as they are to be.
    pub fn is_written(&self) -> bool {
        self.shared.is_written()
    }

    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Relaxed)
    }

    /// Ends it for good, and removes what it kept.
    pub async fn stop(mut self) -> Result<(), NetError> {
        self.supervisor.abort();
        let _ = (&mut self.supervisor).await;
        // One that is just being started is seen below.
        let _forked = self.shared.forking.lock().await;
        remove(&self.shared.folders).await
    }
}

impl Drop for Companion {
    /// Nobody looks after it any more; dnsmasq itself goes on.
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Whether a dnsmasq of an earlier daemon answers for names.
pub fn serves_names(folder: &Path) -> bool {
    let config = fs::read_to_string(folder.join(dhcp::CONFIG)).unwrap_or_default();
    !config.is_empty()
        && !config.lines().any(|line| line == "port=0")
        && running(folder).is_ok_and(|running| !running.is_empty())
}

/// Ends the dnsmasq of a switch, whoever started it, and removes its folders.
pub async fn remove(folders: &Folders) -> Result<(), NetError> {
    let Folders { own, public } = folders;
    let failed = |folder: &Path, error: io::Error| NetError::failed(format!("remove {}", folder.display()), error);
    // Looking for its process means looking at all of the host's.
    if own.exists() {
        for process in running(own).map_err(|error| failed(own, error))? {
            end(folders, &process).await;
        }
    }
    // First: as long as it is there, a folder of the switch's own is.
    step(|| runtime::remove(public, &dhcp::LISTS)).map_err(|error| failed(public, error))?;
    match step(|| fs::remove_dir_all(own)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(own, error)),
        _ => Ok(()),
    }
}

async fn end(folders: &Folders, process: &Process) {
    let group = group::of(folders, process);
    step(|| process.terminate());
    if timeout(GRACE, process.exited()).await.is_err() {
        process.kill();
        let _ = timeout(GRACE, process.exited()).await;
    }
    group::end(group).await;
}

fn is(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|there| there == text.as_bytes())
}

/// Those that write the log of this very folder, whatever its path was when they were started: a command line is no proof.
fn running(folder: &Path) -> io::Result<Vec<Process>> {
    process::with_open(process::find(&[FOREGROUND])?, &[folder.join(LOG)])
}

fn marker(folder: &Path) -> String {
    format!("--conf-file={}", folder.join(dhcp::CONFIG).display())
}
