//! What was acknowledged, and so must be so; and what was asked without an answer, and so may be so.

use super::{
    operation::{Definition, Operation, Power},
    plan::Deed,
};
use crate::support::outside::Identity;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// A definite no.
    Refused,
    /// The connection broke over it.
    Unanswered,
}

/// A VM as it may be now.
#[derive(Clone, Debug)]
pub struct Vm {
    /// No other VM of the run has it.
    pub name: String,
    /// Unknown while its creation was not answered.
    pub id: Option<String>,
    pub may_be_absent: bool,
    pub definitions: Vec<Definition>,
    /// Statuses that it may come to rest in.
    pub statuses: Vec<&'static str>,
    /// The process that it must still have, if it runs.
    pub process: Option<Identity>,
    /// The process at the last look.
    pub seen: Option<Identity>,
    /// Boots that were asked for and that the guest has not told of: it takes its time to.
    pub boots_due: usize,
    /// Its QEMU was killed or stopped: requests may fail.
    pub mistreated: bool,
    /// Its QEMU was killed while it was asked for this and that: who was first is not known.
    killed: bool,
    /// The last boot that its guest told of.
    pub boot: Option<String>,
}

impl Vm {
    /// One whose creation is asked for.
    pub fn asked_for(name: String) -> Self {
        Self {
            name,
            id: None,
            may_be_absent: true,
            definitions: Vec::new(),
            statuses: Vec::new(),
            process: None,
            seen: None,
            boots_due: 0,
            mistreated: false,
            killed: false,
            boot: None,
        }
    }

    /// The definition; a lane ends with the first request that is not answered, so there is one.
    pub fn definition(&self) -> Definition {
        self.definitions.last().cloned().unwrap_or(Definition {
            vcpus: 0,
            memory: 0,
            size: 0,
            iops: None,
            core: None,
            disks: Default::default(),
            nics: Default::default(),
            iso: None,
            machine: None,
        })
    }

    /// Nothing but what is seen now.
    pub fn observe(&mut self, id: &str, definition: Definition, status: &'static str, process: Option<Identity>) {
        self.id = Some(id.to_owned());
        self.may_be_absent = false;
        self.definitions = vec![definition];
        self.statuses = vec![status];
        self.process = process;
        if process.is_some() && process != self.seen {
            self.boots_due += 1;
        }
        self.seen = process;
        self.mistreated = false;
        self.killed = false;
    }

    /// What an operation's outcome means.
    pub fn learn(&mut self, operation: &Operation, outcome: Outcome) {
        let now = self.definition();
        let created = matches!(operation, Operation::Create { .. });
        self.boots_due += usize::from(operation.boots_the_guest());
        match outcome {
            Outcome::Refused => self.refused(operation, created),
            Outcome::Acknowledged => {
                self.definitions = vec![operation.defines(now)];
                if created {
                    self.may_be_absent = false;
                }
                match operation.power() {
                    Power::AsItWas => {}
                    Power::Running => {
                        self.process = self.process.filter(|_| self.is_live());
                        self.statuses = vec!["running"];
                    }
                    Power::Resumed => self.statuses = vec!["running"],
                    Power::Paused => self.statuses = vec!["paused"],
                    Power::Stopped => self.statuses = vec!["stopped"],
                    Power::Gone => self.statuses = vec![],
                }
            }
            Outcome::Unanswered => {
                if created {
                    self.definitions = vec![operation.defines(now)];
                } else {
                    self.definitions.push(operation.defines(now));
                }
                match operation.power() {
                    Power::AsItWas => {}
                    Power::Running => {
                        self.process = self.process.filter(|_| self.is_live());
                        self.may_be("running");
                        // A crash is forgotten when it is started.
                        if self.statuses.contains(&"crashed") {
                            self.may_be("stopped");
                        }
                    }
                    Power::Resumed => self.may_be_woken(),
                    Power::Paused => {
                        if self.statuses.contains(&"running") {
                            self.may_be("paused");
                        }
                    }
                    Power::Stopped => {
                        self.may_be_woken();
                        self.may_be("stopped");
                        if *operation == Operation::ForceOff {
                            // The kill does not wait for the store, so the daemon may have died between the two.
                            self.may_be("crashed");
                        }
                    }
                    Power::Gone => self.may_be_absent = true,
                }
            }
        }
        if self.killed && !self.is_gone() {
            self.may_be_anything();
        }
    }

    fn refused(&mut self, operation: &Operation, created: bool) {
        if created {
            self.statuses = vec![];
        } else if operation.power() == Power::Stopped {
            self.may_be_woken();
            self.may_be("stopped");
        } else if operation.power() == Power::Resumed {
            self.may_be_woken();
        }
    }

    /// Surely with the process that it had.
    fn is_live(&self) -> bool {
        self.statuses.iter().all(|status| ["running", "paused"].contains(status))
    }

    fn may_be_woken(&mut self) {
        if self.statuses.contains(&"paused") {
            self.may_be("running");
        }
    }

    /// Its QEMU, which is there, is killed or stopped; `busy` says that it is also asked for something.
    pub fn mistreat(&mut self, deed: Deed, busy: bool) {
        self.mistreated = true;
        if deed != Deed::Kill {
            return;
        }
        if busy || self.killed {
            self.killed = true;
            self.may_be_anything();
        } else {
            self.statuses = vec!["crashed"];
        }
    }

    fn may_be_anything(&mut self) {
        for status in ["running", "stopped", "crashed", "paused"] {
            self.may_be(status);
        }
        self.process = None;
    }

    fn may_be(&mut self, status: &'static str) {
        if !self.statuses.contains(&status) {
            self.statuses.push(status);
        }
    }

    /// Whether it has been deleted for certain, or never came to be.
    pub fn is_gone(&self) -> bool {
        self.statuses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defined(vcpus: u64) -> Definition {
        let (disks, nics) = Default::default();
        Definition { vcpus, memory: 16, size: 1, iops: None, core: None, disks, nics, iso: None, machine: None }
    }

    fn running() -> Vm {
        let mut vm = Vm::asked_for("one".into());
        vm.observe("id", defined(1), "running", Some(Identity { pid: 7, starttime: 7 }));
        vm
    }

    #[test]
    fn what_was_acknowledged_must_be_so() {
        let mut vm = running();
        vm.learn(&Operation::Vcpus(3), Outcome::Acknowledged);
        assert_eq!((vm.definitions.clone(), vm.statuses.clone()), (vec![defined(3)], vec!["running"]));
        vm.learn(&Operation::Start, Outcome::Acknowledged);
        assert!(vm.process.is_some() && !vm.may_be_absent, "it ran already");
        vm.learn(&Operation::ForceOff, Outcome::Acknowledged);
        assert_eq!(vm.statuses, ["stopped"]);
        vm.learn(&Operation::Start, Outcome::Acknowledged);
        assert_eq!((vm.statuses.clone(), vm.process), (vec!["running"], None));
        vm.learn(&Operation::Delete, Outcome::Acknowledged);
        assert!(vm.is_gone());
    }

    #[test]
    fn what_was_not_answered_may_be_so_and_what_was_refused_is_not() {
        let mut vm = running();
        vm.learn(&Operation::Vcpus(3), Outcome::Refused);
        assert_eq!(vm.definitions, [defined(1)]);
        vm.learn(&Operation::Vcpus(3), Outcome::Unanswered);
        assert_eq!(vm.definitions, [defined(1), defined(3)]);
        let mut vm = running();
        vm.learn(&Operation::Delete, Outcome::Unanswered);
        assert!(vm.may_be_absent && !vm.is_gone());
        assert!(vm.statuses == ["running"] && vm.process.is_some(), "it is there as it was, or not at all");
    }

    #[test]
    fn a_killed_vm_that_nobody_asked_for_anything_has_crashed() {
        let mut vm = running();
        vm.mistreat(Deed::Hang(1), false);
        assert!(vm.statuses == ["running"] && vm.process.is_some());
        vm.mistreat(Deed::Kill, false);
        assert_eq!(vm.statuses, ["crashed"]);
        let mut vm = running();
        vm.mistreat(Deed::Kill, true);
        assert_eq!((vm.statuses, vm.process), (vec!["running", "stopped", "crashed", "paused"], None));
    }

    #[test]
    fn a_paused_vm_keeps_its_process_and_a_stop_may_wake_it_first() {
        let mut vm = running();
        vm.learn(&Operation::Suspend, Outcome::Acknowledged);
        assert_eq!(vm.statuses, ["paused"]);
        vm.learn(&Operation::Start, Outcome::Acknowledged);
        assert!(vm.statuses == ["running"] && vm.process.is_some());
        vm.learn(&Operation::Suspend, Outcome::Acknowledged);
        vm.learn(&Operation::Stop(1), Outcome::Unanswered);
        assert_eq!(vm.statuses, ["paused", "running", "stopped"]);
        vm.learn(&Operation::ForceOff, Outcome::Unanswered);
        assert_eq!(vm.statuses, ["paused", "running", "stopped", "crashed"]);
    }
}
