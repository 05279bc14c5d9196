//! Looks at the host from outside, by /proc and the file system: which processes and files belong to no VM, and which
//! VM lacks its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Daemon;

/// A VM as the API tells it.
#[derive(Clone, Debug)]
pub struct Known {
    pub id: String,
    pub name: String,
    pub status: String,
    /// Files of the disks that it is defined with.
    pub disks: BTreeSet<PathBuf>,
    /// Files of disks that only its QEMU still has.
    pub held: BTreeSet<PathBuf>,
}

impl Known {
    pub fn has_process(&self) -> bool {
        !["stopped", "crashed"].contains(&self.status.as_str())
    }
}

/// A process, told from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub pid: i32,
    pub starttime: u64,
}

/// A QEMU, with the VM that it was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    pub vm: String,
    pub process: Identity,
}

impl Daemon {
    pub async fn known(&self) -> Vec<Known> {
        let mut known = Vec::new();
        for vm in self.get("/vms").await.expect(200).as_array().unwrap() {
            let id = vm["id"].as_str().unwrap().to_owned();
            let files = |disks: &serde_json::Value| -> BTreeSet<PathBuf> {
                let disks = disks.as_array().map(Vec::as_slice).unwrap_or_default();
                disks.iter().map(|disk| disk["disk_file"].as_str().unwrap().into()).collect()
            };
            let disks = files(&self.get(&format!("/vms/{id}/disks")).await.expect(200));
            let config = self.get(&format!("/vms/{id}/config")).await.expect(200);
            let held = files(&config["pending"]["disks"]["in_effect"]).difference(&disks).cloned().collect();
            let text = |field: &str| vm[field].as_str().unwrap().to_owned();
            known.push(Known { id, name: text("name"), status: text("status"), disks, held });
        }
        known
    }

    /// Files of volumes.
    async fn volumes(&self) -> BTreeSet<PathBuf> {
        let volumes = self.get("/volumes").await.expect(200);
        volumes.as_array().unwrap().iter().map(|volume| volume["disk_file"].as_str().unwrap().into()).collect()
    }

    /// What is wrong on this host, as far as this daemon's VMs go; empty when all is well. Nothing may be under way.
    pub async fn complaints(&self) -> Vec<String> {
        let mut wrong = self.complaints_about(&self.known().await, &self.volumes().await);
        wrong.extend(dnsmasqs(&self.state(), self.get("/switches").await.expect(200).as_array().unwrap()));
        wrong
    }

    /// What is still wrong after a while: what a VM lacks is made up for meanwhile, and a disk may come or go between
    /// two looks.
    pub async fn lasting_complaints(&self) -> Vec<String> {
        for _ in 0..100 {
            if self.complaints().await.is_empty() {
                return Vec::new();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.complaints().await
    }

    /// As `complaints`, if the VMs and the files of volumes are these.
    pub fn complaints_about(&self, known: &[Known], volumes: &BTreeSet<PathBuf>) -> Vec<String> {
        let mut wrong = processes(&self.state(), self.pid(), known);
        wrong.extend(born_in(self.dir.path(), self.pid(), &qemus(&self.state())));
        wrong.extend(images(&self.state().join("images"), known, volumes));
        wrong.extend(runs(&self.state().join("run"), known, self));
        wrong
    }

    /// Fails when anything on this host belongs to no VM, or a VM lacks what is its own.
    #[track_caller]
    pub fn assert_in_order(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let wrong = self.lasting_complaints().await;
            assert!(wrong.is_empty(), "at {caller}:\n  {}", wrong.join("\n  "));
        }
    }
}

/// The QEMUs of a state directory.
pub fn qemus(state: &Path) -> Vec<Qemu> {
    let of = |(process, line): (Identity, Vec<String>)| {
        let vm = line.iter().skip_while(|word| *word != "-uuid").nth(1)?.clone();
        Some(Qemu { vm, process })
    };
    naming(state).into_iter().filter_map(of).collect()
}

/// Every process with a word on its command line that names something in `folder`.
fn naming(folder: &Path) -> Vec<(Identity, Vec<String>)> {
    let folder = folder.display().to_string();
    let processes = procfs::process::all_processes().unwrap().flatten();
    let found = processes.filter_map(|process| {
        let line = process.cmdline().ok().filter(|line| line.iter().any(|word| word.contains(&folder)))?;
        let starttime = process.stat().ok()?.starttime;
        Some((Identity { pid: process.pid(), starttime }, line))
    });
    found.collect()
}

fn processes(state: &Path, daemon: i32, known: &[Known]) -> Vec<String> {
    let mut wrong = Vec::new();
    let qemus = qemus(state);
    for (process, line) in naming(state) {
        if process.pid != daemon && !is_dnsmasq(&line) && qemus.iter().all(|qemu| qemu.process != process) {
            wrong.push(format!("a process that belongs to nobody: {} {}", process.pid, line.join(" ")));
        }
    }
    for vm in known {
        let own: Vec<i32> = qemus.iter().filter(|qemu| qemu.vm == vm.id).map(|qemu| qemu.process.pid).collect();
        if own.len() != usize::from(vm.has_process()) {
            wrong.push(format!("{} {} is {} and has the processes {own:?}", vm.name, vm.id, vm.status));
        }
    }
    for qemu in qemus.iter().filter(|qemu| known.iter().all(|vm| vm.id != qemu.vm)) {
        wrong.push(format!("a QEMU of a VM that does not exist: {} {}", qemu.process.pid, qemu.vm));
    }
    wrong
}

fn is_dnsmasq(line: &[String]) -> bool {
    line.first().is_some_and(|program| program.ends_with("dnsmasq"))
}

/// One for each switch with a subnet, and no other.
fn dnsmasqs(state: &Path, switches: &[serde_json::Value]) -> Vec<String> {
    let mut running = naming(state);
    running.retain(|(_, line)| is_dnsmasq(line));
    let mut wrong = Vec::new();
    for switch in switches.iter().filter(|switch| !switch["subnet"].is_null()) {
        let short = &switch["id"].as_str().unwrap().replace('-', "")[..12];
        let before = running.len();
        running.retain(|(_, line)| !line.iter().any(|word| word.contains(short)));
        if running.len() + 1 != before {
            wrong.push(format!("the switch {switch} has {} dnsmasqs", before - running.len()));
        }
    }
    wrong.extend(running.iter().map(|(process, line)| format!("a dnsmasq of no switch: {} {line:?}", process.pid)));
    wrong
}

/// What the daemon started without telling it of the state directory: it is in the folder that the daemon was started in.
fn born_in(folder: &Path, daemon: i32, qemus: &[Qemu]) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let processes = procfs::process::all_processes().unwrap().flatten();
    let found = processes.filter(|process| process.cwd().is_ok_and(|cwd| cwd == folder));
    let owned = |pid: i32| pid == daemon || qemus.iter().any(|qemu| qemu.process.pid == pid);
    let orphans = found.filter(|process| !owned(process.pid()));
    let reported = orphans.map(|process| {
        let line = process.cmdline().unwrap_or_default().join(" ");
        format!("a process that belongs to nobody in the daemon's folder: {} {line}", process.pid())
    });
    reported.collect()
}

fn images(folder: &Path, known: &[Known], volumes: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut wrong = Vec::new();
    let there: BTreeSet<PathBuf> = names(folder).iter().flat_map(|vm| files(&folder.join(vm))).collect();
    // A volume stays where the VM was that it was made for.
    let is_of_a_volume = |name: &String| volumes.iter().any(|file| file.starts_with(folder.join(name)));
    let empty = names(folder).into_iter().filter(|vm| known.iter().all(|known| known.id != *vm) && !is_of_a_volume(vm));
    wrong.extend(empty.map(|vm| format!("an image folder of a VM that does not exist: {vm}")));
    let needed: BTreeSet<PathBuf> = known.iter().flat_map(|vm| vm.disks.clone()).chain(volumes.clone()).collect();
    let held: BTreeSet<PathBuf> = known.iter().flat_map(|vm| vm.held.clone()).collect();
    // An attached disk lies elsewhere, among files that are nobody's business.
    let missing = needed.difference(&there).filter(|file| file.starts_with(folder) || !file.exists());
    wrong.extend(missing.map(|file| format!("a disk without its image: {}", file.display())));
    let orphans = there.difference(&needed).filter(|file| !held.contains(*file));
    wrong.extend(orphans.map(|file| format!("an image that no disk uses: {}", file.display())));
    wrong
}

const SOCKETS: [&str; 3] = ["qmp.sock", "agent.sock", "serial.sock"];
const LOGS: [&str; 4] = ["qemu.log", "qemu.log.times", "console.log", "console.log.times"];

fn runs(folder: &Path, known: &[Known], daemon: &Daemon) -> Vec<String> {
    let mut wrong = Vec::new();
    for run in names(folder) {
        let Some(vm) = known.iter().find(|vm| daemon.run_dir(&vm.id) == folder.join(&run)) else {
            wrong.push(format!("a run folder of a VM that does not exist: {run}"));
            continue;
        };
        let there = names(&folder.join(&run));
        for file in &there {
            // Where QEMU listens for what carries a NIC.
            let socket = SOCKETS.contains(&file.as_str()) || file.starts_with("user") && file.ends_with(".sock");
            if !(LOGS.contains(&file.as_str()) || socket && vm.has_process()) {
                wrong.push(format!("{} {} is {} and has {run}/{file}", vm.name, vm.id, vm.status));
            }
        }
        let missing = SOCKETS.iter().filter(|file| vm.has_process() && there.iter().all(|there| there != *file));
        wrong.extend(missing.map(|file| format!("{} {} is {} and lacks {run}/{file}", vm.name, vm.id, vm.status)));
    }
    wrong
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    // Says that the storage is mounted.
    names.filter(|name| name != ".qherd-storage").collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    names(folder).into_iter().map(|name| folder.join(name)).collect()
}
