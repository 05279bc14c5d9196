//! The host that does not exist: what steps do to it, and what it must never be made to do.

use std::collections::{BTreeSet, VecDeque};

use qherd::{
    model::{NicId, ProcessId, Sandbox, VmSpec},
    vm::core::{
        Device, DiskNo, Facts, Goal, Outcome, Record, Run, Setback, Sight, StartedWith, Step, StepReport as Report, Txn,
    },
};

use super::{history::Fate, monitor, subscriber::Subscriber};

/// How a guest is, in truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Halted,
    IoError,
    Off,
    Panicked,
}

/// A QEMU.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: ProcessId,
    pub disks: BTreeSet<DiskNo>,
    pub nics: BTreeSet<NicId>,
    pub vcpus: u32,
    pub memory: u64,
    pub state: State,
    pub agent: bool,
    /// Its file systems.
    pub frozen: bool,
    /// In the kernel: neither SIGKILL nor anything else gets through.
    pub held: bool,
    /// SIGKILL was sent.
    pub killed: bool,
}

#[derive(Debug, Default)]
pub struct World {
    pub store: Option<Record>,
    /// Of what is stored.
    pub subscriber: Subscriber,
    /// Those that live.
    pub processes: Vec<Process>,
    pub images: BTreeSet<DiskNo>,
    pub taps: BTreeSet<NicId>,
    /// A deletion has removed images and was not completed.
    pub half_erased: bool,
    pub run_files: bool,
    /// A disk of the host has no room.
    pub full: bool,
    /// Its guests do as they are asked.
    pub heeds: bool,
    /// QEMU has said something that is not so.
    pub lied: bool,
    /// The process that the daemon watches has ended, and it does not know yet.
    pub exit: bool,
    /// What QEMU has yet to tell.
    pub events: VecDeque<Sight>,
    /// What a look that is under way has seen: it reports later, and by then it may not be so any more.
    pub looked: Option<(ProcessId, Report)>,
    pub spawned: i32,
}

pub type Violation = String;

impl World {
    /// Ends a process, if the kernel lets it.
    pub fn kill(&mut self) -> bool {
        let held = self.processes.iter().any(|process| process.held);
        self.processes.iter_mut().for_each(|process| process.killed = true);
        if !held && !self.processes.is_empty() {
            self.processes.clear();
            self.exit = true;
        }
        !held
    }

    /// The kernel lets go of everything.
    pub fn let_go(&mut self) {
        self.processes.iter_mut().for_each(|process| process.held = false);
        if self.processes.iter().any(|process| process.killed) {
            self.kill();
        }
    }

    pub fn process(&mut self) -> Option<&mut Process> {
        self.processes.last_mut()
    }

    /// The daemon has died, or the host: what QEMU had to tell is lost.
    pub fn forget(&mut self) {
        self.exit = false;
        self.events.clear();
        self.looked = None;
    }

    /// Performs a step, as the fate wills.
    pub fn perform(&mut self, step: &Step, fate: Fate, facts: &Facts) -> Result<Outcome, Violation> {
        match step {
            Step::Commit(txn) => self.commit(txn, fate),
            Step::Prepare | Step::PlugDisk(_) if self.half_erased => Ok(failed("an image is not there")),
            Step::Kill => Ok(self.sigkill(fate)),
            Step::EndStrays => {
                let outcome = self.sigkill(fate);
                // Nobody watches them.
                self.exit = false;
                Ok(outcome)
            }
            _ if monitor::bears(step) => self.ask_monitor(step, fate, facts),
            _ => match fate {
                Fate::Well | Fate::Lie => self.on_host(step, facts).map(Outcome::Done),
                Fate::NotNow | Fate::Refused | Fate::Host => Ok(failed("the host does not do it")),
                Fate::Lost { effect } | Fate::Silent { effect } => {
                    if effect {
                        self.on_host(step, facts)?;
                    }
                    Ok(failed("it took too long"))
                }
            },
        }
    }

    fn commit(&mut self, txn: &Txn, fate: Fate) -> Result<Outcome, Violation> {
        let outcome = match fate {
            Fate::Well | Fate::Lie => Outcome::Done(Report::Done),
            Fate::NotNow | Fate::Refused | Fate::Host => {
                return Ok(Outcome::Failed(Setback::NotStored("no room".into())));
            }
            Fate::Lost { effect } | Fate::Silent { effect } => {
                let silent = Outcome::Failed(Setback::StoreSilent("it hangs".into()));
                if !effect {
                    return Ok(silent);
                }
                silent
            }
        };
        if txn.record.is_none() {
            let left = (&self.images, &self.taps, self.run_files, self.processes.len());
            if left != (&BTreeSet::new(), &BTreeSet::new(), false, 0) {
                return Err(format!("the record goes before what the VM has: {left:?}"));
            }
        }
        self.subscriber.hear(self.store.as_ref(), txn)?;
        self.store = txn.record.clone();
        Ok(outcome)
    }

    fn sigkill(&mut self, fate: Fate) -> Outcome {
        if fate == Fate::Host
            && let Some(process) = self.process()
        {
            process.held = true;
        }
        if self.kill() { Outcome::Done(Report::Done) } else { Outcome::Failed(Setback::Held) }
    }

    /// What needs no monitor.
    fn on_host(&mut self, step: &Step, facts: &Facts) -> Result<Report, Violation> {
        match step {
            Step::Prepare => {
                self.must_be_stored("prepared", |record| matches!(record.run.state, Run::Starting { .. }))?;
                self.run_files = true;
            }
            Step::Spawn => return self.spawn(facts),
            Step::FindFiles => return Ok(Report::Missing(None)),
            Step::CheckRemovable => {}
            Step::Erase { .. } => {
                if !self.processes.is_empty() {
                    return Err("a VM is erased that has a process".into());
                }
                self.must_be_stored("erased", |record| {
                    record.run.goal == Goal::Gone || matches!(record.run.state, Run::Making { .. })
                })
                .or_else(|why| if self.store.is_none() { Ok(()) } else { Err(why) })?;
                self.half_erased |= !self.images.is_empty();
                self.images.clear();
                self.run_files = false;
            }
            Step::RemoveRunFiles => {
                if !self.processes.is_empty() {
                    return Err("the sockets of a live process are removed".into());
                }
                self.run_files = false;
            }
            Step::CheckImage(_) => {}
            Step::MakeImage(no, _) => {
                // Defined it may be no longer: a copy that is cut short goes on for a moment.
                self.must_be_stored("made", |record| record.run.held.images.contains_key(no))?;
                if self.processes.iter().any(|process| process.disks.contains(no)) {
                    return Err(format!("the image of {no:?} is made anew under QEMU"));
                }
                self.images.insert(*no);
            }
            Step::RemoveImage(no) => {
                if self.processes.iter().any(|process| process.disks.contains(no)) {
                    return Err(format!("the image of {no:?} is removed under QEMU"));
                }
                if self.store.as_ref().is_some_and(|record| record.definition.disk(&no.name()).is_some()) {
                    return Err(format!("the image of {no:?} is removed, and a crash would bring the disk back"));
                }
                self.images.remove(no);
            }
            Step::GrowImage(no, _) => {
                if self.processes.iter().any(|process| process.disks.contains(no)) {
                    return Err(format!("the image of {no:?} is grown under QEMU"));
                }
            }
            Step::ConnectNic(nic) => {
                self.must_be_stored("connected", |record| record.run.held.ports.contains_key(&nic.id))?;
                self.taps.insert(nic.id);
            }
            Step::AdoptNic(_) => {}
            // There is nothing of it on the host.
            Step::DisconnectNic(nic) if nic.switch().is_none() => {}
            Step::DisconnectNic(nic) => {
                if self.processes.iter().any(|process| process.nics.contains(&nic.id)) {
                    return Err(format!("the tap of {} is removed under QEMU", nic.name));
                }
                self.taps.remove(&nic.id);
            }
            other => return Err(format!("{other:?} needs a monitor")),
        }
        Ok(Report::Done)
    }

    fn must_be_stored(&self, what: &str, is: impl Fn(&Record) -> bool) -> Result<(), Violation> {
        match &self.store {
            Some(record) if is(record) => Ok(()),
            _ => Err(format!("something is {what} before that is stored")),
        }
    }

    fn spawn(&mut self, facts: &Facts) -> Result<Report, Violation> {
        if !self.processes.is_empty() {
            return Err("a second process of one VM".into());
        }
        self.must_be_stored("spawned", |record| matches!(record.run.state, Run::Starting { .. }))?;
        let mut fitted: VmSpec = (*facts.record.definition).clone();
        fitted.disks.retain(|disk| !facts.is_unmade(disk));
        let nics: BTreeSet<NicId> = fitted.nics.iter().map(|nic| nic.id).collect();
        let disks: BTreeSet<DiskNo> = fitted.disks.iter().filter_map(|disk| DiskNo::of(&disk.name)).collect();
        let tap = |nic: &qherd::model::Nic| nic.switch().is_none() || self.taps.contains(&nic.id);
        if !fitted.nics.iter().all(tap) {
            return Err("QEMU is spawned without a tap".into());
        }
        if !disks.iter().all(|disk| self.images.contains(disk)) {
            return Err("QEMU is spawned without an image".into());
        }
        self.spawned += 1;
        let id = ProcessId { pid: self.spawned, starttime: facts.now.uptime / 10, boot_id: "boot".into() };
        self.processes.push(Process {
            id: id.clone(),
            disks,
            nics,
            vcpus: fitted.vcpus,
            memory: fitted.memory,
            state: State::Halted,
            agent: false,
            frozen: false,
            held: false,
            killed: false,
        });
        self.exit = false;
        self.events.clear();
        let with = StartedWith { fitted: fitted.into(), hotplug_memory: 448, sandbox: Sandbox::default() };
        Ok(Report::Spawned { process: id, with })
    }
}

pub fn failed(why: &str) -> Outcome {
    Outcome::Failed(Setback::Host(why.to_owned()))
}

impl Process {
    pub fn lose(&mut self, device: Device) {
        match device {
            Device::Disk(no) => self.disks.remove(&no),
            Device::Nic(nic) => self.nics.remove(&nic),
        };
    }
}
