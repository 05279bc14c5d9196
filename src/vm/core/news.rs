//! What is told of a VM: each batch tells what it changes, by the difference between what was stored and what it stores, and so
//! exactly once. What leaves no trace in a record, such as a reset, is counted there: a batch tells of those that the record
//! before had not counted (docs/adr/0035). How an event is stored is the store's business.

use std::mem;

use super::{
    Ms,
    answer::{Ticket, Until},
    difference,
    facts::Facts,
    goal::{Cause, Goal},
    lane::Lane,
    record::{Record, Run, RunRecord},
    request::Request,
    step::Txn,
    telling::{By, Tells},
    view::{reason_of, status_of},
};
use crate::model::{About, Asker, Disk, Event, GuestRequest, Incident, Status, VmSpec, Wanted, What, around};

/// Between two batches that are made for nothing but what a guest does: one that resets itself over and over is told of as often.
const PAUSE: u64 = 1_000;
/// Sorts of incidents that wait to be told; a guest has a few disks.
const MOST_SORTS: usize = 32;
/// Of words that come from QEMU.
const MOST_BYTES: usize = 64;

impl Facts {
    /// Who asks, of a request that is about to be admitted.
    pub fn note_asker(&mut self, ticket: Ticket, asker: Option<Asker>, request: &Request) {
        let changes = matches!(request, Request::Change(_) | Request::Redefine(_));
        self.news.requests.extend(asker.map(|asker| By { ticket, asker, changes, reported: false, sent: false }));
    }

    /// The same, of the one that makes it.
    pub fn note_maker(&mut self, ticket: Ticket, asker: Option<Asker>) {
        self.news.requests.extend(asker.map(|asker| By {
            ticket,
            asker,
            changes: false,
            reported: false,
            sent: false,
        }));
    }

    /// Something has happened to the guest.
    pub(super) fn notice(&mut self, incident: Incident) {
        let incident = bounded(incident);
        let noticed = &mut self.news.noticed;
        if let Some((_, times)) = noticed.iter_mut().find(|(known, _)| *known == incident) {
            *times = times.saturating_add(1);
        } else if noticed.len() < MOST_SORTS {
            noticed.push((incident, 1));
        }
    }

    /// The agent's port, where it is known: between two sessions of the monitor it is as it was.
    fn agent_now(&self) -> bool {
        match (self.up(), self.is_open()) {
            (None, _) => false,
            (Some(_), true) => self.seen.agent,
            (Some(_), false) => self.record.run.reported.agent,
        }
    }

    /// What is to be told goes into the record, and is stored with it.
    pub(super) fn note_news(&mut self) {
        if !exists(&self.record.run) {
            return;
        }
        let status = status_of(self, &self.record.run);
        self.record.run.reported.status = Some(status);
        let looked = !self.seen.look_for_files && !self.in_flight.contains_key(&Lane::Files);
        if looked {
            self.record.run.reported.missing = self.seen.missing.is_some();
        }
        if self.up().is_none() {
            // With the run.
            self.record.run.reported.agent = false;
        }
        let agent = self.agent_now();
        let differs = agent != self.record.run.reported.agent || !self.news.noticed.is_empty();
        if !differs || self.now.monotonic < self.news.next {
            return;
        }
        self.news.next = self.now.monotonic + PAUSE;
        self.record.run.reported.agent = agent;
        self.record.run.reported.incidents += self.news.noticed.len() as u64;
        self.news.counted.extend(mem::take(&mut self.news.noticed));
    }

    /// When there is something to tell that had to wait.
    pub(super) fn next_news(&self) -> Option<Ms> {
        let waits = !self.news.noticed.is_empty() || self.agent_now() != self.record.run.reported.agent;
        (waits && exists(&self.record.run)).then_some(self.news.next)
    }

    /// Nobody waits for an answer any more: who has asked is forgotten.
    pub(super) fn forget_askers(&mut self) {
        if self.news.requests.is_empty() && self.patient.is_empty() {
            return;
        }
        let waits = |ticket: Ticket| {
            self.waiting.iter().any(|waiting| waiting.ticket == ticket)
                || self.later.iter().any(|(later, _)| *later == ticket)
        };
        // Without the room that they had: there is one of each VM.
        let requests = self.news.requests.iter().filter(|by| waits(by.ticket)).cloned().collect();
        let patient = self.patient.iter().copied().filter(|ticket| waits(*ticket)).collect();
        (self.news.requests, self.patient) = (requests, patient);
    }

    /// What the batch that is due tells of.
    pub(super) fn tells(&self) -> Tells {
        let wants = |by: &&By| {
            let mut waiting = self.waiting.iter().filter(|waiting| waiting.ticket == by.ticket);
            waiting.any(|waiting| !matches!(waiting.until, Until::Stored(Err(_)) | Until::TakenBack(_)))
        };
        Tells {
            at: self.now.wall,
            before: (!self.seen.unsure).then(|| self.stored.clone()),
            known: Some(self.stored.definition.clone()),
            incidents: self.news.counted.clone(),
            by: self.news.requests.iter().filter(wants).cloned().collect(),
            reason: reason_of(self, &self.record.run),
            missing: self.seen.missing.clone(),
        }
    }

    /// Of a batch nobody knows whether it is stored, and whether what it tells is told.
    pub(super) fn may_be_told(&mut self, txn: &Txn) {
        for by in &mut self.news.requests {
            by.sent |= txn.tells.by.iter().any(|sent| sent.ticket == by.ticket);
        }
    }

    /// A batch is stored, and what it tells is told.
    pub(super) fn was_told(&mut self, txn: &Txn) {
        let Some(record) = &txn.record else { return };
        let left = self.record.run.reported.incidents.saturating_sub(record.run.reported.incidents);
        let reported = self.news.counted.len().saturating_sub(left as usize);
        self.news.counted.drain(..reported);
        // Of one before which nobody knew what was stored, the batch has found out itself.
        if self.stored.definition != record.definition || txn.tells.before.is_none() {
            for by in self.news.requests.iter_mut().filter(|by| by.changes) {
                by.reported |= txn.tells.by.iter().any(|reported| reported.ticket == by.ticket);
            }
        }
    }
}

/// A record of an earlier version: what it says is taken for told.
pub(super) fn begin_with(record: &mut Record, status: Status) {
    if exists(&record.run) && record.run.reported.status.is_none() {
        record.run.reported.status = Some(status);
    }
}

/// Somebody was told that it exists, or is about to be.
fn exists(run: &RunRecord) -> bool {
    !matches!(run.state, Run::Making { .. } | Run::Starting { new: true, .. })
}

/// What a batch tells, where `before` is stored when it has its turn.
pub fn tell(before: Option<&Record>, txn: &Txn) -> Vec<Event> {
    let tells = &txn.tells;
    let before = before.filter(|before| exists(&before.run));
    let after = txn.record.as_ref().filter(|record| exists(&record.run));
    let mut events = Vec::new();
    let Some(of) = after.or(before).map(|record| &record.definition) else { return events };
    let labels = around(&of.metadata.labels, before.map(|before| &before.definition.metadata.labels));
    let mut add = |what: What, by: Vec<Asker>| {
        let about = About::Vm { id: of.id, name: of.name.clone(), labels: labels.clone() };
        events.push(Event { at: tells.at, about, what, by });
    };
    let by = |wanted: fn(&&By) -> bool| tells.by.iter().filter(wanted).map(|by| by.asker.clone()).collect::<Vec<_>>();
    let by_power = || by(|by| !by.changes);
    let Some(after) = after else {
        add(What::Deleted, by_power());
        return events;
    };
    let Some(before) = before else {
        add(What::Created, by_power());
        add(What::Status { status: after.run.reported.status.unwrap_or(Status::Stopped), reason: None }, by_power());
        return events;
    };
    let fields = difference::fields(&before.definition, &after.definition);
    let kept = kept(&before.definition, &after.definition, tells.at, &by(|by| by.changes));
    if !fields.is_empty() {
        // The batch of which nobody knew what became of it has told of these.
        let has_landed = tells.known.as_ref() != Some(&before.definition);
        let new = tells.by.iter().filter(|by| by.changes && !by.reported && !(by.sent && has_landed));
        add(What::Changed { fields }, new.map(|by| by.asker.clone()).collect());
    }
    if let Some(goal) = wanted(before, after) {
        add(What::Goal { goal }, by_power());
    }
    let lives_on = before.run.up().zip(after.run.up()).is_some_and(|(then, now)| then.process == now.process);
    if lives_on && before.run.frozen.is_some() != after.run.frozen.is_some() {
        let request = if after.run.frozen.is_some() { GuestRequest::Freeze } else { GuestRequest::Thaw };
        add(What::Guest { request, target: None }, by_power());
    }
    let (reported, tell) = (&before.run.reported, &after.run.reported);
    let new = tell.incidents.saturating_sub(reported.incidents) as usize;
    for (incident, times) in tells.incidents.iter().skip(tells.incidents.len().saturating_sub(new)) {
        add(What::Incident { incident: incident.clone(), times: *times }, Vec::new());
    }
    if let (Some(then), Some(now)) = (before.run.up(), after.run.up())
        && then.process == now.process
        && let Some(what) = in_effect(&then.in_effect, &now.in_effect)
    {
        add(what, by(|by| by.changes));
    }
    // That of a run that is over went with it.
    let was_there = reported.agent && before.run.up().is_some();
    if after.run.up().is_some() && was_there != tell.agent {
        add(What::Agent { connected: tell.agent }, Vec::new());
    }
    if let Some(status) = tell.status.filter(|_| reported.status != tell.status) {
        add(What::Status { status, reason: tells.reason.clone() }, by_power());
    }
    if reported.missing != tell.missing {
        add(What::Problem { problem: tells.missing.clone().filter(|_| tell.missing) }, Vec::new());
    }
    events.extend(kept);
    events
}

/// The disks that have become volumes.
fn kept(before: &VmSpec, after: &VmSpec, at: Ms, by: &[Asker]) -> Vec<Event> {
    let became = |disk: &Disk| {
        let volume = disk.file.volume()?;
        before.disk(&disk.name).filter(|then| then.layer == disk.layer && then.file.volume().is_none())?;
        let about = About::Volume { id: disk.layer, name: volume.name.clone() };
        Some(Event { at, about, what: What::Created, by: by.to_vec() })
    };
    after.disks.iter().filter_map(became).collect()
}

fn wanted(before: &Record, after: &Record) -> Option<Wanted> {
    let (then, now) = (before.run.goal, after.run.goal);
    match now {
        Goal::Rest | Goal::Off { cause: Cause::Guest | Cause::Panic } => {
            let starts = matches!(after.run.state, Run::Starting { .. }) && before.run.is_down();
            starts.then_some(Wanted::Start)
        }
        _ if then == now => None,
        Goal::Stop(_) => Some(Wanted::Stop),
        Goal::Reboot(_) => Some(Wanted::Reboot),
        Goal::Pause => Some(Wanted::Suspend),
        Goal::Resume => Some(Wanted::Resume),
        Goal::Reset => Some(Wanted::Reset),
        Goal::Off { cause: Cause::Cut } => Some(Wanted::ForceOff),
        Goal::Gone => Some(Wanted::Delete),
    }
}

fn in_effect(then: &VmSpec, now: &VmSpec) -> Option<What> {
    let fields = difference::fields(then, now);
    let names = |spec: &VmSpec| {
        let disks = spec.disks.iter().map(|disk| disk.name.clone());
        disks.chain(spec.nics.iter().map(|nic| nic.name.clone())).collect::<Vec<_>>()
    };
    let without = |these: &VmSpec, those: &VmSpec| {
        let those = names(those);
        names(these).into_iter().filter(|name| !those.contains(name)).collect()
    };
    let (added, removed) = (without(now, then), without(then, now));
    (!fields.is_empty()).then_some(What::InEffect { fields, vcpus: now.vcpus, memory: now.memory, added, removed })
}

/// Names that QEMU gives are no longer than ours.
fn bounded(incident: Incident) -> Incident {
    let cut = |text: String| text.chars().filter(|c| !c.is_control()).take(MOST_BYTES).collect();
    match incident {
        Incident::IoError { disk, operation, no_space } => {
            Incident::IoError { disk: cut(disk), operation: cut(operation), no_space }
        }
        Incident::Watchdog { action } => Incident::Watchdog { action: cut(action) },
        Incident::Reset | Incident::PoweredOff | Incident::Panicked => incident,
    }
}
