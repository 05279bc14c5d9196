//! Who waits, and who is answered. An answer says only what is stored: it is found in `stored`, or it waits for the commit
//! that was due when it was found.

use super::{
    Ms,
    answer::{Answer, Effects, OfStart, Ticket, Until, Waiting},
    difference::{differs, disk},
    facts::Facts,
    lane::Lane,
    plan::{image_is_left, waits_for_start},
    record::Record,
    seen::Device,
};
use crate::model::{Applied, Error, Result, VmSpec};

/// The commit that is due when the facts have come to rest: only then is it known what it holds.
const AT_REST: u64 = u64::MAX;

impl Facts {
    /// Has a request wait.
    pub fn wait(&mut self, ticket: Ticket, until: Until) {
        let commit = self.due_commit();
        self.waiting.push(Waiting { ticket, until, commit });
    }

    /// A refusal holds whatever is stored.
    pub(super) fn refuse(&mut self, ticket: Ticket, error: Error) {
        self.waiting.push(Waiting { ticket, until: Until::Stored(Err(error)), commit: 0 });
    }

    /// The commit that holds what is known now.
    pub(super) fn due_commit(&self) -> u64 {
        // The one under way may hold it, and may hold what was before.
        let under_way = self.in_flight.contains_key(&Lane::Store);
        if under_way || self.seen.unsure || self.record != self.stored { self.commits + 1 } else { 0 }
    }

    /// Gives those that wait for something `concerned` another answer than they hoped for. What else follows from what has
    /// happened is stored first, whatever is noted first.
    pub fn answer_instead(&mut self, concerned: impl Fn(&Until) -> bool, answer: &Result<Answer>) {
        for waiting in self.waiting.iter_mut().filter(|waiting| concerned(&waiting.until)) {
            (waiting.until, waiting.commit) = (Until::Stored(answer.clone()), AT_REST);
        }
    }

    /// The same of one request.
    pub(super) fn answer_one_instead(&mut self, ticket: Ticket, answer: Result<Answer>) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.ticket == ticket) {
            (waiting.until, waiting.commit) = (Until::Stored(answer), AT_REST);
        }
    }

    /// Those that wait for a start that is being taken back.
    pub fn fail_starts(&mut self, error: &Error) {
        for waiting in &mut self.waiting {
            if let Until::Up | Until::Made = waiting.until {
                waiting.until = Until::TakenBack(error.clone());
            }
        }
    }

    /// Its client does not wait any more. Not of one that something is done for, or taken back, as long as it waits.
    pub fn forget(&mut self, ticket: Ticket) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| {
            waiting.ticket != ticket
                || !matches!(waiting.until, Until::Off(_) | Until::Up | Until::Stored(_) | Until::TakenBack(_))
        });
        self.waiting.len() < before
    }

    /// Takes out the requests whose answer is known, and stored. The facts are at rest.
    pub fn take_answers(&mut self) -> Effects {
        let due = self.due_commit();
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.commit == AT_REST) {
            waiting.commit = due;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let mut effects = Effects::default();
        for waiting in waiting {
            let Some(answer) = self.answer(&waiting) else {
                self.waiting.push(waiting);
                continue;
            };
            match (waiting.until, &answer) {
                // Who is told that a disk is gone finds its image gone, and its room free; and who is told how far a change has
                // come finds it stored.
                (Until::Applied { lanes, after, .. }, Ok(Answer::Applied(applied)))
                    if self.clears(&lanes) || !self.effect_is_stored() =>
                {
                    let until = Until::Cleared { lanes, applied: *applied, after };
                    self.waiting.push(Waiting { until, commit: due, ..waiting });
                    continue;
                }
                (Until::Applied { after, .. } | Until::Cleared { after, .. }, _) => {
                    effects.left.insert(waiting.ticket, after);
                }
                _ => {}
            }
            effects.answers.push((waiting.ticket, answer));
        }
        effects
    }

    pub(super) fn answer(&self, waiting: &Waiting) -> Option<Result<Answer>> {
        let is_through = self.gone || self.is_through(waiting.commit);
        match &waiting.until {
            Until::Stored(answer) => is_through.then(|| answer.clone()),
            Until::Applied { lanes, of_start, pending_at, after, .. } => {
                let applied = if is_through { self.applied(lanes, *of_start, *pending_at, after) } else { None };
                applied.map(|applied| Ok(Answer::Applied(applied)))
            }
            Until::Cleared { lanes, applied, .. } => {
                (is_through && !self.clears(lanes)).then_some(Ok(Answer::Applied(*applied)))
            }
            Until::Grown { lanes, before, after } => {
                let changed = !after.is_same_but_for_names(before) || after.metadata != before.metadata;
                (is_through && !lanes.iter().any(|lane| self.grows(*lane))).then_some(Ok(Answer::Redefined(changed)))
            }
            // What they wait for gives them their answer.
            Until::Made
            | Until::Up
            | Until::TakenBack(_)
            | Until::Off(_)
            | Until::OffThenGone(_)
            | Until::Gone
            | Until::Halted
            | Until::GoesOn
            | Until::WasReset
            | Until::Requested
            | Until::Frozen
            | Until::Thawed
            | Until::Turn => None,
        }
    }

    /// Whether a commit, and every one before it, is through.
    fn is_through(&self, commit: u64) -> bool {
        if commit > 0 && self.in_flight.contains_key(&Lane::RunFiles) {
            // Who is told of an end finds nothing of the run.
            return false;
        }
        let under_way = self.in_flight.contains_key(&Lane::Store);
        commit <= self.done || (!under_way && !self.seen.unsure && self.record == self.stored)
    }

    /// When a stored change takes effect, where that is known by now.
    fn applied(&self, lanes: &[Lane], of_start: OfStart, pending_at: Option<Ms>, after: &VmSpec) -> Option<Applied> {
        let unmade = |lane: &Lane| match lane {
            Lane::Disk(no) => {
                let unmade = |record: &Record| record.run.unmade.contains(no);
                let is_defined = disk(&self.record.definition, *no).is_some();
                is_defined && (unmade(&self.record) || !self.is_stored(|record| !unmade(record)))
            }
            _ => false,
        };
        if lanes.iter().any(|lane| unmade(lane) || self.grows(*lane)) {
            return None;
        }
        let live = self.up().is_some() && self.is_open() && !self.goal().ends_run();
        if !live || lanes.iter().any(|lane| self.stuck.contains_key(lane) || self.waits_for_start(*lane)) {
            return Some(Applied::NextStart);
        }
        let (wanted, live) = (&self.record.definition, self.up().map(|up| &up.in_effect));
        if live.is_some_and(|live| of_start.cpu && live.cpu != wanted.cpu || of_start.seed && live.seed != wanted.seed)
        {
            return Some(Applied::NextStart);
        }
        if lanes.is_empty() && self.up().is_some_and(|up| up.in_effect.policy != self.record.definition.policy) {
            // A disk is told at its start what it does with an error.
            return Some(Applied::NextStart);
        }
        // What the change was about is to go since.
        let is_removed = |lane: &&Lane| match lane {
            Lane::Disk(no) => disk(after, *no).is_some() && disk(&self.record.definition, *no).is_none(),
            Lane::Nic(id) => after.nic(*id).is_some() && self.record.definition.nic(*id).is_none(),
            _ => false,
        };
        if lanes.iter().any(|lane| is_removed(&lane)) {
            return Some(Applied::NextStart);
        }
        let open = |lane: &&Lane| differs(&self.record, **lane) || differs(&self.stored, **lane);
        match lanes.iter().find(open) {
            None => Some(Applied::Live),
            Some(_) if pending_at.is_some_and(|at| at <= self.now.monotonic) => Some(Applied::NextStart),
            Some(_) => None,
        }
    }

    /// Part of a change may have come, and be seen, before the rest is given up.
    fn effect_is_stored(&self) -> bool {
        let in_effect = |record: &Record| record.run.up().map(|up| up.in_effect.clone());
        in_effect(&self.record) == in_effect(&self.stored)
    }

    fn waits_for_start(&self, lane: Lane) -> bool {
        match lane {
            Lane::Disk(no) => waits_for_start(self, Device::Disk(no)),
            Lane::Nic(nic) => waits_for_start(self, Device::Nic(nic)),
            _ => false,
        }
    }

    /// An image is being removed. What the host fails at is tried again later, and nobody waits for that.
    fn clears(&self, lanes: &[Lane]) -> bool {
        lanes.iter().any(|lane| matches!(lane, Lane::Disk(no) if image_is_left(self, *no) && !self.is_stuck(*lane)))
    }

    fn grows(&self, lane: Lane) -> bool {
        matches!(lane, Lane::Disk(no) if self.seen.grow.contains(&no))
    }
}
