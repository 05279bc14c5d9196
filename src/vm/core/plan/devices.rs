//! Disks and NICs that come and go, and the host's side of NICs.

use super::{
    Wants,
    power::{start_is_stored, takes_changes},
};
use crate::{
    model::{Nic, NicId},
    vm::core::{
        difference::{disk, port_differs, resized, throttled},
        facts::Facts,
        lane::DiskNo,
        record::{Run, Up},
        seen::{Device, Release},
        step::Step,
    },
};

/// A guest that was just busy booting may have missed that it was asked to let go.
const ASK_AGAIN: u64 = 3_000;
const LONGEST_PAUSE: u64 = 60_000;

pub(super) fn plan(wants: &mut Wants) {
    let facts = wants.facts;
    ports(wants);
    match &facts.record.run.state {
        Run::Making { .. } | Run::Down { .. } => {}
        Run::Starting { .. } => connect(wants),
        Run::Up(up) => {
            adopt(wants, up);
            if takes_changes(facts) {
                disks(wants, up);
                nics(wants, up);
            }
        }
    }
}

/// The host's side of NICs that neither the definition nor QEMU has, or of a VM that is down.
fn ports(wants: &mut Wants) {
    let facts = wants.facts;
    for nic in facts.record.run.held.ports.values() {
        if !port_is_needed(facts, nic.id) && facts.devices_are_known() {
            wants.step(Step::DisconnectNic(Box::new((**nic).clone())));
        }
    }
}

pub(in crate::vm::core) fn port_is_needed(facts: &Facts, nic: NicId) -> bool {
    match &facts.record.run.state {
        // A VM that is on its way to a start has them stored before it has them.
        Run::Making { .. } | Run::Down { .. } => false,
        Run::Starting { .. } => true,
        Run::Up(up) => up.in_effect.nic(nic).is_some() || facts.record.definition.nic(nic).is_some(),
    }
}

/// Taps for a start, side by side.
fn connect(wants: &mut Wants) {
    let facts = wants.facts;
    if !start_is_stored(facts) || facts.seen.launch.failed.is_some() {
        return;
    }
    for nic in facts.record.definition.nics.iter().filter(|nic| nic.switch().is_some()) {
        if !facts.seen.taps.contains(&nic.id) {
            wants.step(Step::ConnectNic(Box::new(nic.clone())));
        }
    }
}

fn adopt(wants: &mut Wants, up: &Up) {
    for nic in up.in_effect.nics.iter().filter(|nic| wants.facts.seen.adopt.contains(&nic.id)) {
        wants.step(Step::AdoptNic(Box::new(nic.clone())));
    }
}

fn disks(wants: &mut Wants, up: &Up) {
    let definition = &wants.facts.record.definition;
    for live in &up.in_effect.disks {
        let Some(no) = DiskNo::of(&live.name) else { continue };
        let release = wants.facts.seen.releases.get(&Device::Disk(no)).copied().unwrap_or_default();
        match disk(definition, no) {
            _ if release.gone => wants.step(Step::CloseDisk(no)),
            None if live.slot.is_some() => let_go(wants, release, Step::ReleaseDisk(no)),
            None => {}
            Some(wanted) if resized(wanted, live) => wants.step(Step::ResizeDisk(no, wanted.size)),
            Some(wanted) if throttled(wanted, live) => {
                wants.step(Step::ThrottleDisk(no, wanted.io_limits.map(Box::new)))
            }
            Some(_) => {}
        }
    }
    for wanted in definition.disks.iter().filter(|disk| disk.slot.is_some() && !wants.facts.is_unmade(disk)) {
        if up.in_effect.disk(&wanted.name).is_none() {
            wants.step(Step::PlugDisk(Box::new(wanted.clone())));
        }
    }
}

fn nics(wants: &mut Wants, up: &Up) {
    let facts = wants.facts;
    let definition = &facts.record.definition;
    for live in &up.in_effect.nics {
        let release = facts.seen.releases.get(&Device::Nic(live.id)).copied().unwrap_or_default();
        let lost = facts.seen.lost_taps.contains(&live.id);
        // QEMU aborts when a NIC of several queues is unplugged whose tap is gone.
        let comes_out = live.slot.is_some() && !(lost && live.queues > 1);
        match definition.nic(live.id) {
            _ if release.gone => wants.step(Step::CloseNic(live.id)),
            None if comes_out => let_go(wants, release, Step::ReleaseNic(live.id)),
            // A tap cannot come back under a live guest: the NIC comes out and goes in again.
            Some(_) if lost && comes_out => let_go(wants, release, Step::ReleaseNic(live.id)),
            Some(wanted) if port_differs(wanted, live) => {
                let put = Nic { backend: wanted.backend.clone(), ..live.clone() };
                wants.step(Step::PutPort(Box::new(put)));
            }
            None | Some(_) => {}
        }
    }
    for wanted in definition.nics.iter().filter(|nic| nic.slot.is_some()) {
        let known = facts.is_stored(|record| record.run.held.ports.contains_key(&wanted.id));
        if up.in_effect.nic(wanted.id).is_none() && known {
            wants.step(Step::PlugNic(Box::new(wanted.clone())));
        }
    }
}

/// Has QEMU ask the guest, and ask it again: a guest in its firmware hears nothing.
fn let_go(wants: &mut Wants, release: Release, step: Step) {
    match release.requested {
        _ if release.refused => {}
        None => wants.step(step),
        Some(at) => wants.step_at(at + (ASK_AGAIN << release.times.min(8)).min(LONGEST_PAUSE), step),
    }
}

/// Nobody but a start can bring it about: its place is none that a device comes into or out of while the VM runs.
pub(in crate::vm::core) fn waits_for_start(facts: &Facts, device: Device) -> bool {
    let (Some(up), definition) = (facts.up(), &facts.record.definition) else { return false };
    let fixed = |wanted: Option<Option<u8>>, live: Option<Option<u8>>| match (wanted, live) {
        (Some(slot), None) | (None, Some(slot)) => slot.is_none(),
        (None, None) | (Some(_), Some(_)) => false,
    };
    match device {
        Device::Disk(no) => {
            fixed(disk(definition, no).map(|disk| disk.slot), disk(&up.in_effect, no).map(|disk| disk.slot))
        }
        Device::Nic(id) => {
            let (wanted, live) = (definition.nic(id), up.in_effect.nic(id));
            let lost =
                live.is_some_and(|live| live.queues > 1) && facts.seen.lost_taps.contains(&id) && wanted.is_none();
            let moved = |a: &Nic, b: &Nic| a.backend != b.backend && !port_differs(a, b);
            lost || fixed(wanted.map(|nic| nic.slot), live.map(|nic| nic.slot))
                || wanted.zip(live).is_some_and(|(wanted, live)| moved(wanted, live))
        }
    }
}
