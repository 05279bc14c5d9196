//! DHCP and, where there is NAT, DNS on an Internal switch: one dnsmasq for each, supervised. Like QEMU it outlives the
//! daemon and is found again; it is started anew when it ends or when what it is to give out changes.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{Lease, NetError};
use crate::{
    host::process::{self, Process},
    model::{MacAddr, Subnet},
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
    subnet: Subnet,
    /// What it is to give out; the configuration holds the same.
    hosts: Mutex<BTreeMap<Ipv4Addr, String>>,
    changed: Notify,
}

impl Dhcp {
    /// Takes over the dnsmasq of an earlier daemon, or starts one. On a bridge that is `new` an earlier one is deaf.
    ///
    /// # Errors
    /// When it cannot be started now; one that ends later is started again.
    pub fn start(folder: PathBuf, bridge: String, subnet: Subnet, new: bool) -> Result<Self, NetError> {
        let failed = |error: io::Error| NetError::failed(format!("start dnsmasq on {bridge}"), error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let before = fs::read_to_string(folder.join("dnsmasq.conf")).ok();
        let hosts = before.as_deref().map(reservations).unwrap_or_default();
        let bridge_name = bridge.clone();
        let shared =
            Arc::new(Shared { folder, bridge: bridge_name, subnet, hosts: Mutex::new(hosts), changed: Notify::new() });
        let mut running = if before.is_some() { running(&shared.folder) } else { Vec::new() };
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

    /// From now on `mac` is given `address`.
    pub fn reserve(&self, mac: MacAddr, address: Ipv4Addr) {
        let mac = mac.to_string();
        {
            let mut hosts = self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.get(&address) == Some(&mac) {
                return;
            }
            hosts.retain(|_, other| *other != mac);
            hosts.insert(address, mac);
        }
        self.shared.changed.notify_one();
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

/// What it has given out.
pub fn leases(folder: &Path) -> Vec<Lease> {
    let text = fs::read_to_string(folder.join("leases")).unwrap_or_default();
    let lease = |line: &str| {
        let mut words = line.split_whitespace();
        let expires = words.next()?.parse::<u64>().ok()?;
        let mac = words.next()?.to_lowercase();
        let address = words.next()?.parse().ok()?;
        let hostname = words.next().filter(|name| *name != "*").map(str::to_owned);
        Some(Lease { mac, address, hostname, expires: (expires != 0).then_some(expires) })
    };
    text.lines().filter_map(lease).collect()
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
        let config = self.folder.join("dnsmasq.conf");
        fs::write(&config, self.config())?;
        let log = File::options().create(true).write(true).truncate(true).open(self.folder.join("dnsmasq.log"))?;
        // It begins in its folder, whose path may have any characters in it: the configuration has words of its own for some.
        Process::spawn_in(&self.folder, Path::new("dnsmasq"), &[FOREGROUND.to_owned(), marker(&self.folder)], log)
    }

    fn config(&self) -> String {
        let Self { bridge, subnet, .. } = self;
        let mut text = format!(
            "interface={bridge}\nexcept-interface=lo\nbind-interfaces\nno-hosts\nlog-facility=-\npid-file\n\
             dhcp-authoritative\ndhcp-range={},static,{},12h\ndhcp-leasefile=leases\n",
            subnet.network,
            subnet.netmask(),
        );
        // Without NAT there is nothing behind the host to be reached, and no names to be resolved.
        text += if subnet.nat { "domain-needed\nbogus-priv\n" } else { "port=0\ndhcp-option=3\ndhcp-option=6\n" };
        for (address, mac) in self.hosts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "dhcp-host={mac},{address}");
        }
        text
    }
}

/// Those that write the log of this very folder, whatever its path was when they were started: a command line is no proof.
fn running(folder: &Path) -> Vec<Process> {
    let log = [folder.join("dnsmasq.log")];
    let ours = |pid: &i32| process::has_open(*pid, &log).unwrap_or(false);
    let found = process::find(&[FOREGROUND]).into_iter().filter(ours);
    found.filter_map(|pid| process::open(pid).ok()).collect()
}

fn marker(folder: &Path) -> String {
    format!("--conf-file={}", folder.join("dnsmasq.conf").display())
}

fn reservations(config: &str) -> BTreeMap<Ipv4Addr, String> {
    let hosts = config.lines().filter_map(|line| line.strip_prefix("dhcp-host=")?.split_once(','));
    hosts.filter_map(|(mac, address)| Some((address.parse().ok()?, mac.to_owned()))).collect()
}
