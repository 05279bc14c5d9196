//! The process of dnsmasq beside a switch, supervised: it outlives the daemon and is found again; it is started anew when
//! it ends, and reads anew what changes. What its files say is `dhcp`'s knowledge.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    NetError,
    dhcp::{self, Files, Host},
};
use crate::host::process::{self, Process};

const PROGRAM: &str = "dnsmasq";
const FOREGROUND: &str = "--keep-in-foreground";
const LOG: &str = "dnsmasq.log";
/// Before one that ended is started again; doubles up to the longest, and begins anew after a long life.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Changes that come together cost one reading.
const GATHER: Duration = Duration::from_millis(20);
/// One that cannot begin ends at once; one that is still there after this has begun.
const BEGUN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
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

/// The dnsmasq of a switch.
pub struct Companion {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

struct Shared {
    folder: PathBuf,
    orders: Mutex<Orders>,
    changed: Notify,
    alive: AtomicBool,
    report: Report,
}

impl Companion {
    /// Takes over the process of an earlier daemon, or starts one. On a bridge that is `new` an earlier one is deaf.
    ///
    /// # Errors
    /// When it cannot be started now; one that ends later is started again.
    pub fn start(folder: PathBuf, orders: Orders, new: bool, report: Report) -> Result<Self, NetError> {
        let failed = |error: io::Error| NetError::failed(format!("start dnsmasq in {}", folder.display()), error);
        let mut running = if folder.exists() { running(&folder) } else { Vec::new() };
        if new {
            running.drain(..).for_each(|process| process.kill());
        }
        let (changed, alive) = (Notify::new(), AtomicBool::new(true));
        let shared = Shared { folder: folder.clone(), orders: Mutex::new(orders), changed, alive, report };
        let process = match running.pop() {
            Some(process) => {
                // It may serve something else.
                if !shared.is_written() {
                    shared.changed.notify_one();
                }
                process
            }
            None => shared.write().and_then(|()| shared.spawn()).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    NetError::Program { feature: "A switch with a subnet", program: PROGRAM, package: "dnsmasq-base" }
                }
                _ => failed(error),
            })?,
        };
        let shared = Arc::new(shared);
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

    /// Starts it anew, on a bridge that is a new one.
    pub fn restart(&self) {
        let _ = fs::remove_file(self.shared.folder.join(dhcp::CONFIG));
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
        remove(&self.shared.folder).await
    }
}

impl Drop for Companion {
    /// Nobody looks after it any more; dnsmasq itself goes on.
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// The files as an earlier daemon left them, where it did.
pub fn as_left(folder: &Path, mut orders: Orders) -> Orders {
    orders.hosts.clear();
    for (name, text) in &mut orders.files {
        if let Ok(there) = fs::read_to_string(folder.join(name)) {
            *text = there;
        }
    }
    orders
}

/// Whether a dnsmasq of an earlier daemon answers for names.
pub fn serves_names(folder: &Path) -> bool {
    let config = fs::read_to_string(folder.join(dhcp::CONFIG)).unwrap_or_default();
    !config.is_empty() && !config.lines().any(|line| line == "port=0") && !running(folder).is_empty()
}

/// Ends the dnsmasq of a switch, whoever started it, and removes its folder.
pub async fn remove(folder: &Path) -> Result<(), NetError> {
    // Looking for its process means looking at all of the host's.
    if !folder.exists() {
        return Ok(());
    }
    for process in running(folder) {
        end(&process).await;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetError::failed(format!("remove {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

async fn supervise(shared: Arc<Shared>, first: Process) {
    let mut process = Some(first);
    let mut pause = FIRST_PAUSE;
    loop {
        let born = Instant::now();
        shared.alive.store(process.is_some(), Ordering::Relaxed);
        let on_purpose = match &process {
            Some(process) => shared.serve(process).await,
            None => false,
        };
        if born.elapsed() > LONG_LIFE {
            pause = FIRST_PAUSE;
        }
        shared.alive.store(false, Ordering::Relaxed);
        if !on_purpose {
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = shared.changed.notified() => pause = FIRST_PAUSE,
            }
        }
        let spawned = shared.write().and_then(|()| shared.spawn());
        process =
            spawned.inspect_err(|error| (shared.report)(Some(format!("dnsmasq cannot be started: {error}")))).ok();
    }
}

impl Shared {
    /// Returns when the process has ended; says whether it was asked to, for another to follow at once.
    async fn serve(&self, process: &Process) -> bool {
        let begun = Instant::now() + BEGUN;
        let mut well = false;
        loop {
            tokio::select! {
                _ = process.exited() => {
                    self.alive.store(false, Ordering::Relaxed);
                    (self.report)(Some(format!("dnsmasq has ended: {}", self.last_words())));
                    return false;
                }
                () = self.changed.notified() => {
                    sleep(GATHER).await;
                    match self.prepare() {
                        Ok(false) => {}
                        // It ends before its files change: one that is found beside the new ones works by them.
                        Ok(true) => {
                            end(process).await;
                            return true;
                        }
                        Err(error) => {
                            well = false;
                            (self.report)(Some(format!("dnsmasq's files cannot be written: {error}")));
                        }
                    }
                }
                () = sleep(LOOK), if !well => {
                    if Instant::now() >= begun || self.log().contains(" started, version ") {
                        well = true;
                        (self.report)(None);
                    }
                }
            }
        }
    }

    fn spawn(&self) -> io::Result<Process> {
        // It reads them when it begins, and writes them at any time while it lives.
        if let Some(leases) = self.stale() {
            fs::write(self.folder.join(dhcp::LEASES), leases)?;
        }
        let log = File::options().create(true).write(true).truncate(true).open(self.folder.join(LOG))?;
        // It begins in its folder, whose path may have any characters in it: the configuration has words of its own for some.
        Process::spawn_in(&self.folder, Path::new(PROGRAM), &[FOREGROUND.to_owned(), marker(&self.folder)], log)
    }

    fn is_written(&self) -> bool {
        self.orders().files.iter().all(|(name, text)| is(&self.folder.join(name), text))
    }

    /// Writes the files that are to be others beside those that are there; says whether there is anything to be changed.
    fn prepare(&self) -> io::Result<bool> {
        let files = self.orders().files.clone();
        fs::create_dir_all(&self.folder)?;
        let mut changed = self.stale().is_some();
        for (name, text) in files.iter().filter(|(name, text)| !is(&self.folder.join(name), text)) {
            fs::write(self.folder.join(format!("{name}.new")), text)?;
            changed = true;
        }
        Ok(changed)
    }

    /// Brings the files to what is wanted, each in one step.
    fn write(&self) -> io::Result<()> {
        self.prepare()?;
        let files = self.orders().files.clone();
        for (name, text) in &files {
            let (path, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
            if !is(&path, text) {
                // What is wanted may have changed since it was prepared.
                fs::write(&new, text)?;
                fs::rename(&new, &path)?;
            }
        }
        Ok(())
    }

    /// Its leases without those that are in somebody's way, where there are such.
    fn stale(&self) -> Option<String> {
        let leases = fs::read_to_string(self.folder.join(dhcp::LEASES)).ok()?;
        dhcp::stale(&leases, &self.orders().hosts)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join(LOG)).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why");
        last.trim_start_matches("dnsmasq: ").trim().to_owned()
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn end(process: &Process) {
    process.terminate();
    if timeout(GRACE, process.exited()).await.is_err() {
        process.kill();
        let _ = timeout(GRACE, process.exited()).await;
    }
}

fn is(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|there| there == text.as_bytes())
}

/// Those that write the log of this very folder, whatever its path was when they were started: a command line is no proof.
fn running(folder: &Path) -> Vec<Process> {
    let log = [folder.join(LOG)];
    let ours = |pid: i32| process::has_open(pid, &log).unwrap_or(false);
    let found = process::find(&[FOREGROUND]).into_iter().filter(|pid| ours(*pid));
    // Once more with the handle: what was checked is what is held.
    found.filter_map(|pid| process::open(pid).ok().filter(|_| ours(pid))).collect()
}

fn marker(folder: &Path) -> String {
    format!("--conf-file={}", folder.join(dhcp::CONFIG).display())
}
