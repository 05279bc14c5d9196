//! What is to be done now: the difference between what is wanted and what is, lane by lane. Start, change, stop, deletion,
//! recovery and unwinding are all this one function; it knows no history but the facts.

mod devices;
mod files;
mod freeze;
mod power;
mod sizes;

pub(super) use devices::{port_is_needed, waits_for_start};
pub(super) use files::image_is_left;

use super::{
    Ms,
    due::next_wake,
    facts::Facts,
    lane::Lane,
    step::{Step, Txn},
};

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub start: Vec<Step>,
    /// Lanes whose step is no longer wanted; they report, and then have another one.
    pub cut: Vec<Lane>,
    /// When to plan again, where nothing happens before.
    pub wake: Option<Ms>,
}

/// What each lane would do, if it had nothing under way.
struct Wants<'a> {
    facts: &'a Facts,
    now: Vec<Step>,
    wake: Option<Ms>,
}

impl Wants<'_> {
    /// A step that may be tried: its lane is not stuck.
    fn step(&mut self, step: Step) {
        if !self.facts.is_stuck(step.lane()) {
            self.now.push(step);
        }
    }

    /// A step whose time comes.
    fn step_at(&mut self, at: Ms, step: Step) {
        if at <= self.facts.now.monotonic {
            self.step(step);
        } else {
            self.wake_at(at);
        }
    }

    fn wake_at(&mut self, at: Ms) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// What is to be done now.
pub fn plan(facts: &Facts) -> Plan {
    if facts.gone {
        return Plan::default();
    }
    let mut wants = Wants { facts, now: Vec::new(), wake: next_wake(facts) };
    store(&mut wants);
    if !facts.seen.erased {
        power::plan(&mut wants);
        files::plan(&mut wants);
        devices::plan(&mut wants);
        sizes::plan(&mut wants);
    }
    let Wants { now, wake, .. } = wants;
    let unwanted = facts
        .in_flight
        .iter()
        .filter(|(lane, step)| step.may_be_cut() && !facts.cut.contains(lane) && !now.contains(step));
    let cut = unwanted.map(|(lane, _)| *lane).collect();
    let start = now.into_iter().filter(|step| !facts.in_flight.contains_key(&step.lane())).collect();
    Plan { start, cut, wake }
}

/// What is known is stored, all of it in one batch.
fn store(wants: &mut Wants) {
    let facts = wants.facts;
    let differs = facts.seen.unsure || facts.record != facts.stored;
    if !differs && !facts.seen.erased {
        return;
    }
    let record = (!facts.seen.erased).then(|| facts.record.clone());
    let txn = Txn { number: facts.commits + 1, record, is_wish: facts.seen.wish, tells: facts.tells() };
    wants.step(Step::Commit(Box::new(txn)));
}

impl Facts {
    /// Steps are under way from now on, or are being cut short.
    pub fn begin(&mut self, plan: &Plan) {
        for step in &plan.start {
            match step {
                Step::Commit(_) => {
                    self.commits += 1;
                    self.seen.wish = false;
                }
                // What is seen from now on is a reason to look again.
                Step::Look { devices } => {
                    self.seen.look = false;
                    self.seen.look_at_devices &= !devices;
                }
                Step::SetMemory(memory) => self.seen.memory_requested = Some(*memory),
                Step::ReadMemory => self.seen.look_at_memory = false,
                Step::FindFiles => self.seen.look_for_files = false,
                Step::Pin(_) => self.seen.pin_again = false,
                Step::Kill => self.seen.kill_again = false,
                Step::Quit => self.seen.quitting = Some(self.now.monotonic),
                _ => {}
            }
            self.in_flight.insert(step.lane(), step.clone());
        }
        self.cut.extend(&plan.cut);
    }
}
