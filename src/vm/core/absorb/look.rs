//! What the monitor said when it was connected to, or looked at.

use super::power::{panicked, powered_off};
use crate::{
    model::{Disk, Nic, NicId, OnIoError},
    vm::core::{
        facts::Facts,
        lane::{DiskNo, Lane},
        record::Guest,
        seen::{Device, Monitor, Trouble},
        step::{Look, Outcome, Report, Setback, Step},
    },
};

/// Before the first try after an I/O error; each further one in a row waits twice as long.
const FIRST_WAIT: u64 = 1_000;
const LONGEST_WAIT: u64 = 30_000;
/// A guest that went on for so long is over it.
const PROVEN: u64 = 120_000;
/// Between two tries at a monitor.
const RETRY: u64 = 250;

/// A look that is under way saw what is there when it began. A step of this lane has ended since: what it is about has to
/// be looked at again.
pub(super) fn overtake(facts: &mut Facts, lane: Lane) {
    let Some(Step::Look { devices }) = facts.in_flight.get(&Lane::Look) else { return };
    match lane {
        Lane::Power => facts.seen.look = true,
        Lane::Disk(_) | Lane::Nic(_) | Lane::Vcpus => facts.seen.look_at_devices |= *devices,
        _ => {}
    }
}

pub(super) fn looked(facts: &mut Facts, step: &Step, outcome: Outcome) {
    if facts.up().is_none() {
        return;
    }
    match (step, outcome) {
        (Step::Connect, Outcome::Done(Report::Connected { agent })) => connected(facts, agent),
        (Step::Connect, Outcome::Failed(setback)) => not_connected(facts, &setback),
        (_, Outcome::Done(Report::Guest(look))) if facts.is_open() => guest_is(facts, look),
        (_, Outcome::Done(Report::Devices { look, disks, nics, vcpus })) if facts.is_open() => {
            devices_are(facts, &disks, &nics, vcpus);
            guest_is(facts, look);
        }
        // A monitor that does not answer is looked at when it is back.
        (Step::Look { .. }, Outcome::Failed(Setback::Lost(_)) | Outcome::Cut | Outcome::Done(_)) => {}
        (Step::Look { devices }, Outcome::Failed(setback)) => {
            facts.seen.look = true;
            facts.seen.look_at_devices |= devices;
            super::again(facts, Lane::Look, format!("{setback:?}"));
        }
        (_, Outcome::Done(_) | Outcome::Failed(_) | Outcome::Cut) => {}
    }
}

/// What was begun before is taken up: the guest is asked anew, and what differs is tried again.
fn connected(facts: &mut Facts, agent: bool) {
    facts.seen.monitor = Monitor::Open;
    facts.seen.agent = agent;
    facts.seen.requested = None;
    facts.seen.look = true;
    facts.seen.look_at_devices = true;
    facts.seen.look_at_memory = true;
    for release in facts.seen.releases.values_mut() {
        release.requested = None;
    }
    facts.stuck.retain(|_, stuck| stuck.again.is_some());
}

fn not_connected(facts: &mut Facts, setback: &Setback) {
    let now = facts.now.monotonic;
    if let Monitor::Away { reason, next_try, .. } = &mut facts.seen.monitor {
        *next_try = now + RETRY;
        if let Setback::Host(why) | Setback::Lost(why) = setback {
            *reason = format!("its monitor does not answer: {why}");
        }
    }
}

/// A daemon may have died, or a monitor, after a device came and before that was noted.
fn find_unnoted(facts: &mut Facts, disks: &[DiskNo], nics: &[NicId]) {
    // A step that is under way says so itself.
    let busy = |lane| facts.in_flight.contains_key(&lane);
    let held = facts.record.run.held.clone();
    let bears = |no: &DiskNo| facts.up().is_some_and(|up| up.in_effect.disk(&no.name()).is_some());
    let disks = disks.iter().filter(|no| !bears(no) && !busy(Lane::Disk(**no)));
    let disks: Vec<Disk> = disks.filter_map(|no| held.images.get(no).map(|disk| (**disk).clone())).collect();
    let bears = |nic: &NicId| facts.up().is_some_and(|up| up.in_effect.nic(*nic).is_some());
    let nics = nics.iter().filter(|nic| !bears(nic) && !busy(Lane::Nic(**nic)));
    let nics: Vec<Nic> = nics.filter_map(|nic| held.ports.get(nic).map(|nic| (**nic).clone())).collect();
    if !disks.is_empty() || !nics.is_empty() {
        let disks = disks.into_iter().map(|disk| Disk { io_limits: None, ..disk });
        facts.note_effect(|spec| {
            spec.disks.extend(disks);
            spec.nics.extend(nics);
        });
    }
    facts.seen.devices_known = true;
}

/// A look that something has overtaken says how the guest was, and not how it is: a guest that was reset since is not off.
fn guest_is(facts: &mut Facts, look: Look) {
    facts.seen.look |= facts.in_flight.contains_key(&Lane::Power);
    if facts.seen.look {
        return;
    }
    let guest = match look {
        Look::PoweredOff => return powered_off(facts),
        Look::Panicked => return panicked(facts),
        Look::IoError(error) => return halted(facts, &error),
        Look::Is(guest) => guest,
    };
    // It was said to be off, and something has let it go on.
    facts.seen.powered_off &= guest != Guest::Running;
    if guest == Guest::Running {
        facts.seen.trouble.next = None;
    }
    if let Some(up) = facts.up_mut() {
        up.guest = guest;
    }
}

/// QEMU says that the guest is halted by an I/O error. Where it goes on by itself QEMU repeats the request, so the guest
/// notices a pause and nothing else.
fn halted(facts: &mut Facts, error: &str) {
    let now = facts.now.monotonic;
    let policy = facts.record.definition.policy.on_io_error;
    let trouble = &mut facts.seen.trouble;
    let then = match policy {
        OnIoError::Retry => "the guest goes on by itself as soon as it can",
        OnIoError::Pause | OnIoError::Report => "once that is mended, start lets the guest go on",
    };
    match policy {
        OnIoError::Retry if trouble.next.is_none() => {
            if trouble.last_try.is_some_and(|at| now.saturating_sub(at) > PROVEN) {
                *trouble = Trouble::default();
            }
            let wait = FIRST_WAIT.saturating_mul(1 << trouble.tries.min(8)).min(LONGEST_WAIT);
            trouble.next = Some(now + wait);
        }
        OnIoError::Retry => {}
        OnIoError::Pause | OnIoError::Report => trouble.next = None,
    }
    if let Some(up) = facts.up_mut() {
        up.guest = Guest::Paused { reason: Some(format!("{error}; {then}")), critical: true };
    }
}

/// What QEMU has, against what it is known to have: a daemon may have died, or a guest let go of something, in between.
fn devices_are(facts: &mut Facts, disks: &[DiskNo], nics: &[NicId], vcpus: u32) {
    let Some(up) = facts.up().filter(|_| !facts.seen.look_at_devices) else { return };
    let in_effect = up.in_effect.clone();
    for no in in_effect.disks.iter().filter(|disk| disk.slot.is_some()).filter_map(|disk| DiskNo::of(&disk.name)) {
        if !disks.contains(&no) {
            facts.seen.releases.entry(Device::Disk(no)).or_default().gone = true;
        }
    }
    for nic in in_effect.nics.iter().filter(|nic| nic.slot.is_some()) {
        if !nics.contains(&nic.id) {
            facts.seen.releases.entry(Device::Nic(nic.id)).or_default().gone = true;
        }
    }
    find_unnoted(facts, disks, nics);
    let was_reset = std::mem::take(&mut facts.seen.was_reset);
    let (wanted, agent) = (facts.record.definition.vcpus, facts.seen.agent);
    facts.seen.vcpus = Some(vcpus);
    if facts.in_flight.contains_key(&Lane::Vcpus) {
        return;
    }
    let used = in_effect.vcpus;
    let count = if was_reset {
        // The firmware hands every vCPU to the guest, those too that the agent had taken offline.
        vcpus
    } else {
        // Those that came before that was noted would pass for some that the agent holds offline; where there is no agent,
        // nobody does.
        let added = if agent { 0 } else { wanted.min(vcpus) };
        used.max(added).min(vcpus)
    };
    if count != used {
        facts.note_effect(|spec| spec.vcpus = count);
    }
    if vcpus > used {
        // Whoever made those may have died before it bound them.
        facts.note_effect(|spec| spec.cpu_pinning = None);
    }
}
