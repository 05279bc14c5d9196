//! Everything that is known of one VM. What is stored of it is [`Record`]; what was only seen is in [`Seen`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Ms,
    answer::{Answer, Ticket, Until, Waiting},
    goal::Goal,
    lane::{DiskNo, Lane},
    record::{Guest, Record, Run, Up},
    request::Request,
    seen::Seen,
    step::Step,
    telling::News,
};
use crate::model::{Disk, VmSpec};

/// Everything that is known of one VM.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What is to be stored.
    pub record: Record,
    /// What is stored. Clients and other tasks see this one.
    pub stored: Record,
    pub seen: Seen,
    /// One step a lane.
    pub in_flight: BTreeMap<Lane, Step>,
    /// Lanes whose step is being cut short: it has yet to report.
    pub cut: BTreeSet<Lane>,
    /// Lanes that are not tried again for now.
    pub stuck: BTreeMap<Lane, Stuck>,
    /// Requests that were admitted and have no answer yet.
    pub waiting: Vec<Waiting>,
    /// Requests that are judged when the start is over, in their order.
    pub later: Vec<(Ticket, Request)>,
    /// Those of them whose clients do not wait on the line: they are told of an end, however long it takes.
    pub patient: Vec<Ticket>,
    pub news: News,
    /// Commits that were begun, and the last of them that went through.
    pub commits: u64,
    pub done: u64,
    /// Its record is removed: nothing follows any more.
    pub gone: bool,
    pub now: Now,
    pub bounds: Bounds,
}

/// Why a lane is not tried again for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub why: String,
    /// When it is tried again by itself; never where only a change, the guest or a start can help.
    pub again: Option<Ms>,
    /// Times in a row.
    pub times: u32,
}

/// Both clocks, as they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970: for people, and for what holds over a boot of the host.
    pub wall: u64,
    pub monotonic: Ms,
    /// As `monotonic`, the host's sleep included: what the kernel dates processes by.
    pub uptime: Ms,
}

/// What the daemon and the host set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// MiB.
    pub memory: u64,
    /// The daemon ends: nothing starts any more.
    pub closing: bool,
    /// And its VMs end with it.
    pub ends_vms: bool,
}

impl Facts {
    /// The step that a lane had under way is over.
    pub(super) fn end_step(&mut self, lane: Lane) -> Option<Step> {
        self.cut.remove(&lane);
        let step = self.in_flight.remove(&lane);
        if self.in_flight.is_empty() {
            // A map that is emptied keeps its room.
            self.in_flight = BTreeMap::new();
        }
        step
    }

    pub fn up(&self) -> Option<&Up> {
        self.record.run.up()
    }

    pub fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.record.run.state {
            Run::Up(up) => Some(up),
            Run::Making { .. } | Run::Down { .. } | Run::Starting { .. } => None,
        }
    }

    /// Notes what QEMU has come to have.
    pub fn note_effect(&mut self, change: impl FnOnce(&mut VmSpec)) {
        if let Some(up) = self.up_mut() {
            change(Arc::make_mut(&mut up.in_effect));
        }
    }

    pub fn goal(&self) -> Goal {
        self.record.run.goal
    }

    /// Those that waited for the goal before have what they wanted, or what was wanted after it.
    pub fn set_goal(&mut self, goal: Goal) {
        let before = std::mem::replace(&mut self.record.run.goal, goal);
        if before == goal {
            return;
        }
        let done = Ok(Answer::Done);
        match before {
            Goal::Pause => self.answer_instead(|until| *until == Until::Halted, &done),
            Goal::Resume => self.answer_instead(|until| *until == Until::GoesOn, &done),
            Goal::Reset => self.answer_instead(|until| *until == Until::WasReset, &done),
            Goal::Reboot(_) => self.answer_instead(|until| *until == Until::Requested, &done),
            Goal::Rest | Goal::Stop(_) | Goal::Off { .. } | Goal::Gone => {}
        }
    }

    /// Whether it is so on stable storage, whatever the commit that is under way comes to.
    pub fn is_stored(&self, so: impl Fn(&Record) -> bool) -> bool {
        let under_way = match self.in_flight.get(&Lane::Store) {
            Some(Step::Commit(txn)) => txn.record.as_ref().is_some_and(&so),
            Some(_) | None => true,
        };
        !self.seen.unsure && under_way && so(&self.stored)
    }

    pub fn goal_is_stored(&self) -> bool {
        self.is_stored(|record| record.run.goal == self.goal())
    }

    /// The monitor answers.
    pub fn is_open(&self) -> bool {
        self.seen.monitor == super::seen::Monitor::Open
    }

    /// What QEMU has is what is noted. Where a step was lost with its monitor, or its daemon, that has to be looked at first.
    pub fn devices_are_known(&self) -> bool {
        self.up().is_none() || self.seen.devices_known
    }

    /// A disk that is not there yet, for nobody.
    pub fn is_unmade(&self, disk: &Disk) -> bool {
        DiskNo::of(&disk.name).is_some_and(|no| self.record.run.unmade.contains(&no))
    }

    pub fn runs(&self) -> bool {
        self.up().is_some_and(|up| up.guest == Guest::Running)
    }

    /// A lane is not to be tried at this time.
    pub fn is_stuck(&self, lane: Lane) -> bool {
        self.stuck.get(&lane).is_some_and(|stuck| stuck.again.is_none_or(|at| at > self.now.monotonic))
    }
}
