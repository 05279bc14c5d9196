//! The dnsmasq of a switch, supervised. Like QEMU it outlives the daemon and is found again; it is started anew when it
//! ends or when what it is to give out changes.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{CONFIG, Facts, Files, Host, LEASES, files, resolvers, stale};
use crate::{
    host::process::{self, Process},
    model::Switch,
    net::NetError,
};

/// Before one that ended is started again; doubles up to the longest, and begins anew after a long life.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Reservations that come together cost one restart.
const GATHER: Duration = Duration::from_millis(100);
const FOREGROUND: &str = "--keep-in-foreground";

/// The dnsmasq of a switch.
pub struct Dhcp {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

struct Shared {
    folder: PathBuf,
    bridge: String,
    /// What it is to give out.
    wanted: Mutex<(Switch, Vec<Host>)>,
    changed: Notify,
}

impl Dhcp {
    /// Takes over the dnsmasq of an earlier daemon, or starts one. On a bridge that is `new` an earlier one is deaf.
    ///
    /// # Errors
    /// When it cannot be started now; one that ends later is started again.
    pub fn start(folder: PathBuf, switch: &Switch, hosts: Vec<Host>, new: bool) -> Result<Self, NetError> {
        let bridge = switch.bridge();
        let failed = |error: io::Error| NetError::failed(format!("start dnsmasq on {bridge}"), error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let before = folder.join(CONFIG).exists();
        let wanted = Mutex::new((switch.clone(), hosts));
        let shared = Arc::new(Shared { folder, bridge: bridge.clone(), wanted, changed: Notify::new() });
        let mut running = if before { running(&shared.folder) } else { Vec::new() };
        if new {
            running.drain(..).for_each(|process| process.kill());
        }
        let process = match running.pop() {
            Some(process) => process,
            None => shared.spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    NetError::Program { feature: "A switch with a subnet", program: "dnsmasq", package: "dnsmasq-base" }
                }
                _ => failed(error),
            })?,
        };
        let supervisor = tokio::spawn(supervise(shared.clone(), process));
        Ok(Self { shared, supervisor })
    }

    /// From now on this is what it is to give out.
    pub fn put(&self, switch: &Switch, hosts: Vec<Host>) {
        let mut wanted = self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.0 != *switch || wanted.1 != hosts {
            *wanted = (switch.clone(), hosts);
            self.shared.changed.notify_one();
        }
    }

    /// Starts it anew, on a bridge that is a new one.
    pub fn restart(&self) {
        self.shared.changed.notify_one();
    }

    /// Ends it for good, and removes what it kept.
    pub async fn stop(mut self) -> Result<(), NetError> {
        self.supervisor.abort();
        let _ = (&mut self.supervisor).await;
        remove(&self.shared.folder).await
    }
}

impl Drop for Dhcp {
    /// Nobody looks after it any more; dnsmasq itself goes on.
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Ends the dnsmasq of a switch, whoever started it, and removes its folder.
pub async fn remove(folder: &Path) -> Result<(), NetError> {
    // Looking for its process means looking at all of the host's.
    if !folder.exists() {
        return Ok(());
    }
    for process in running(folder) {
        process.kill();
        let _ = tokio::time::timeout(Duration::from_secs(5), process.exited()).await;
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
        if let Some(process) = process.take() {
            let born = Instant::now();
            tokio::select! {
                _ = process.exited() => {
                    tracing::warn!(bridge = shared.bridge, "dnsmasq has ended; starting it again");
                    if born.elapsed() > LONG_LIFE {
                        pause = FIRST_PAUSE;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                () = shared.changed.notified() => {
                    tokio::time::sleep(GATHER).await;
                    process.kill();
                    process.exited().await;
                }
            }
        }
        match shared.spawn() {
            Ok(spawned) => process = Some(spawned),
            Err(error) => {
                tracing::warn!(bridge = shared.bridge, %error, "cannot start dnsmasq; trying again");
                tokio::time::sleep(LONGEST_PAUSE).await;
            }
        }
    }
}

impl Shared {
    fn spawn(&self) -> io::Result<Process> {
        let (files, leases) = {
            let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let (switch, hosts) = &*wanted;
            let dns = switch.subnet().is_some_and(|subnet| free((subnet.gateway(), 53).into()));
            let facts = Facts { dns, resolvers: resolvers(), mtu: switch.mtu };
            let leases = fs::read_to_string(self.folder.join(LEASES)).unwrap_or_default();
            (files(&self.folder, switch, hosts, &facts), stale(&leases, hosts))
        };
        self.write(files)?;
        if let Some(leases) = leases {
            fs::write(self.folder.join(LEASES), leases)?;
        }
        let log = fs::File::options().create(true).write(true).truncate(true).open(self.folder.join("dnsmasq.log"))?;
        Process::spawn(Path::new("dnsmasq"), &[FOREGROUND.to_owned(), marker(&self.folder)], &[], log)
    }

    fn write(&self, files: Files) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        files.into_iter().try_for_each(|(name, file)| fs::write(self.folder.join(name), file.text))
    }
}

/// Whether nobody listens there.
fn free(address: SocketAddr) -> bool {
    UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
}

fn running(folder: &Path) -> Vec<Process> {
    process::find(FOREGROUND, &marker(folder)).into_iter().filter_map(|pid| process::open(pid).ok()).collect()
}

fn marker(folder: &Path) -> String {
    format!("--conf-file={}", folder.join(CONFIG).display())
}
