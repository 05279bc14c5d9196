//! What clients asked and were told, and what they may therefore rely on.

use std::collections::{BTreeMap, BTreeSet};

use qherd::{
    model::{Result, VmSpec},
    vm::core::{Answer, Record, Run, Ticket},
};

use super::vm;

/// What a request wanted, as far as it can be relied on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Promise {
    Create,
    /// It may bring the VM up.
    Start,
    Stop,
    Memory(u64),
    AddDisk,
    RemoveDisk,
    Delete,
    Other,
}

/// The clients' side.
#[derive(Debug)]
pub struct Ledger {
    open: BTreeMap<Ticket, (Promise, Option<String>)>,
    next: Ticket,
    last_start: Ticket,
    /// The latest that has set its memory.
    last_memory: Ticket,
    /// Nobody was told that it is off, or somebody has asked for a start since.
    may_run: bool,
    exists: bool,
    /// Somebody has asked for its end.
    may_be_gone: bool,
    /// What its memory may be.
    memory: BTreeSet<u64>,
    /// Names of disks that are there, and of those that are not.
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
    asked_to_remove: BTreeSet<String>,
    /// Those that were taken back.
    cancelled: BTreeSet<Ticket>,
    pub answered: u64,
}

impl Ledger {
    pub fn new(memory: u64) -> Self {
        Self {
            open: BTreeMap::new(),
            next: 100,
            last_start: 0,
            last_memory: 0,
            may_run: false,
            exists: false,
            may_be_gone: false,
            memory: [memory].into(),
            added: BTreeSet::new(),
            removed: BTreeSet::new(),
            asked_to_remove: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            answered: 0,
        }
    }

    /// A request is sent; `disk` is the one that it is about.
    pub fn send(&mut self, promise: Promise, disk: Option<String>) -> Ticket {
        self.next += 1;
        match promise {
            Promise::Start => (self.may_run, self.last_start) = (true, self.next),
            Promise::Delete => self.may_be_gone = true,
            Promise::Memory(memory) => drop(self.memory.insert(memory)),
            Promise::RemoveDisk => self.asked_to_remove.extend(disk.clone()),
            Promise::Create | Promise::Stop | Promise::AddDisk | Promise::Other => {}
        }
        self.open.insert(self.next, (promise, disk));
        self.next
    }

    /// It is to be answered so, and to leave nothing.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.cancelled.insert(ticket);
    }

    /// The host starts it by itself.
    pub fn will_start(&mut self) {
        self.may_run = true;
    }

    pub fn answer(&mut self, ticket: Ticket, answer: &Result<Answer>, stored: Option<&VmSpec>) -> Result<(), String> {
        let Some((promise, disk)) = self.open.remove(&ticket) else {
            return Err(format!("the request {ticket} was answered twice: {answer:?}"));
        };
        self.answered += 1;
        if self.cancelled.remove(&ticket) {
            let added = stored.is_some_and(|spec| spec.disk_of(Some(vm::request(ticket))).is_some());
            if added && promise == Promise::AddDisk {
                return Err(format!("the disk of the request {ticket}, which was cancelled, is there"));
            }
            if answer.is_ok() {
                return Err(format!("the request {ticket} was cancelled, and is answered {answer:?}"));
            }
        }
        match (promise, answer) {
            (Promise::Create, Ok(_)) => self.exists = true,
            (Promise::Stop, Ok(_)) if ticket > self.last_start => self.may_run = false,
            (Promise::Memory(memory), Ok(_)) => {
                // Of several at the same time the latest holds, whichever is answered first.
                if ticket > self.last_memory && !self.others_set_memory() {
                    self.memory = [memory].into();
                }
                self.last_memory = self.last_memory.max(ticket);
            }
            (Promise::AddDisk, Ok(_)) => {
                let disk = stored.and_then(|spec| spec.disk_of(Some(vm::request(ticket))));
                // It may have been removed since.
                match disk {
                    Some(disk) => drop(self.added.insert(disk.name.clone())),
                    None if self.asked_to_remove.is_empty() => return Err("an acknowledged disk is not stored".into()),
                    None => {}
                }
            }
            (Promise::RemoveDisk, Ok(_)) => self.removed.extend(disk),
            (Promise::Delete, Ok(_)) => self.exists = false,
            _ => {}
        }
        Ok(())
    }

    fn others_set_memory(&self) -> bool {
        self.open.values().any(|(promise, _)| matches!(promise, Promise::Memory(_)))
    }

    /// The daemon has died: nobody knows what became of the requests that it had.
    pub fn lose_connections(&mut self) {
        self.open.clear();
    }

    pub fn unanswered(&self) -> Vec<Ticket> {
        self.open.keys().copied().collect()
    }

    /// The store has not said whether it did what it was asked: what it holds is one of both.
    pub fn leave_open(&mut self, stored: Option<&Record>) {
        self.memory.extend(stored.map(|record| record.definition.memory));
    }

    /// What is stored, against what clients were told.
    pub fn check(&self, stored: Option<&Record>, processes: usize) -> Result<(), String> {
        let Some(record) = stored else {
            return if self.exists && !self.may_be_gone { Err("an acknowledged VM is gone".into()) } else { Ok(()) };
        };
        if !self.may_run && self.exists {
            if processes > 0 {
                return Err("a VM that was acknowledged as off has a process".into());
            }
            if matches!(record.run.state, Run::Starting { .. } | Run::Up(_)) {
                return Err("a VM that was acknowledged as off is stored as one that runs".into());
            }
        }
        self.check_definition(&record.definition)
    }

    fn check_definition(&self, definition: &VmSpec) -> Result<(), String> {
        if !self.memory.contains(&definition.memory) {
            return Err(format!("its memory is {}, of {:?}", definition.memory, self.memory));
        }
        let kept = self.added.iter().filter(|name| !self.asked_to_remove.contains(*name));
        if let Some(lost) = kept.into_iter().find(|name| definition.disk(name).is_none()) {
            return Err(format!("the acknowledged disk {lost} is gone"));
        }
        match definition.disks.iter().find(|disk| self.removed.contains(&disk.name)) {
            Some(disk) => Err(format!("the disk {} is back, whose removal was acknowledged", disk.name)),
            None => Ok(()),
        }
    }
}
