//! What became of a device, a size or a limit of a running VM.

use super::{
    again,
    power::{fail_launch, forget},
    set_back,
};
use crate::{
    model::{Error, Operation},
    vm::core::{
        difference,
        facts::Facts,
        lane::Lane,
        plan::port_is_needed,
        record::Run,
        seen::Device,
        step::{Outcome, Report, Setback, Step},
    },
};

/// virtio-mem may keep its last block (facts of QEMU 7.2).
const TOLERANCE: u64 = 2;

pub(super) fn concluded(facts: &mut Facts, step: Step, outcome: Outcome) {
    let lane = step.lane();
    match outcome {
        // It comes again where it is still wanted. How many vCPUs it has made is not known: their places are noted anew.
        Outcome::Cut => {
            if let Step::SetVcpus(_) = step {
                facts.seen.vcpus_noted = None;
            }
        }
        Outcome::Failed(setback) => failed(facts, &step, lane, setback),
        Outcome::Done(report) => {
            facts.stuck.remove(&lane);
            done(facts, step, report);
        }
    }
}

fn failed(facts: &mut Facts, step: &Step, lane: Lane, setback: Setback) {
    match step {
        Step::ConnectNic(nic) => {
            let why = format!("the NIC {}: {}", nic.name, words(&setback));
            fail_launch(facts, Error::failed(Operation::Start, why));
        }
        // What is left over goes, however often that has to be tried.
        Step::CloseDisk(_) | Step::CloseNic(_) if matches!(setback, Setback::Lost(_)) => {}
        Step::DisconnectNic(_) | Step::AdoptNic(_) | Step::CloseDisk(_) | Step::CloseNic(_) => {
            again(facts, lane, words(&setback));
        }
        Step::ReadMemory => {}
        Step::SetVcpus(_) => {
            facts.seen.vcpus_noted = None;
            set_back(facts, lane, setback);
        }
        _ => set_back(facts, lane, setback),
    }
}

fn words(setback: &Setback) -> String {
    match setback {
        Setback::NotNow(why)
        | Setback::Refused(why)
        | Setback::Host(why)
        | Setback::Lost(why)
        | Setback::NotStored(why)
        | Setback::StoreSilent(why) => why.clone(),
        Setback::Reported(error) | Setback::Foreign(error) => error.to_string(),
        Setback::Held => "the kernel holds the process".to_owned(),
    }
}

fn done(facts: &mut Facts, step: Step, report: Report) {
    let now = facts.now.monotonic;
    match step {
        Step::ConnectNic(nic) => {
            facts.seen.taps.insert(nic.id);
        }
        Step::AdoptNic(nic) => {
            facts.seen.adopt.remove(&nic.id);
        }
        Step::DisconnectNic(nic) => {
            // It may be needed again since.
            if !port_is_needed(facts, nic.id) {
                facts.record.run.held.ports.remove(&nic.id);
            }
            facts.seen.taps.remove(&nic.id);
        }
        Step::ReleaseDisk(no) => released(facts, Device::Disk(no), &report, now),
        Step::ReleaseNic(nic) => released(facts, Device::Nic(nic), &report, now),
        Step::CloseDisk(no) => {
            forget(facts, Device::Disk(no));
            if report != Report::StillThere {
                facts.note_effect(|spec| spec.disks.retain(|disk| disk.name != no.name()));
            }
        }
        Step::CloseNic(id) => {
            forget(facts, Device::Nic(id));
            if report != Report::StillThere {
                facts.seen.lost_taps.remove(&id);
                facts.note_effect(|spec| spec.nics.retain(|nic| nic.id != id));
            }
        }
        Step::PlugDisk(disk) => {
            // QEMU has it from here on, whatever comes of its limits.
            let mut disk = *disk;
            disk.io_limits = None;
            facts.note_effect(|spec| {
                spec.disks.retain(|there| there.name != disk.name);
                spec.disks.push(disk);
            });
        }
        Step::PlugNic(nic) => {
            facts.seen.lost_taps.remove(&nic.id);
            facts.note_effect(|spec| {
                spec.nics.retain(|there| there.id != nic.id);
                spec.nics.push(*nic);
            });
        }
        Step::PutPort(put) => facts.note_effect(|spec| {
            spec.nics.iter_mut().filter(|nic| nic.id == put.id).for_each(|nic| nic.backend = put.backend.clone());
        }),
        Step::ResizeDisk(no, size) => facts.note_effect(|spec| {
            if let Some(disk) = difference::disk_mut(spec, no) {
                disk.size = size;
            }
        }),
        Step::ThrottleDisk(no, limits) => facts.note_effect(|spec| {
            if let Some(disk) = difference::disk_mut(spec, no) {
                disk.io_limits = limits.map(|limits| *limits);
            }
        }),
        Step::SetVcpus(count) => {
            facts.seen.vcpus_noted = None;
            facts.seen.pin_again = true;
            facts.seen.vcpus = facts.seen.vcpus.map(|there| there.max(count));
            facts.note_effect(|spec| spec.vcpus = count);
        }
        Step::Pin(pinning) => facts.note_effect(|spec| spec.cpu_pinning = pinning.map(|pinning| *pinning)),
        Step::SetMemory(memory) => facts.note_effect(|spec| spec.memory = memory),
        Step::ReadMemory => {
            if let Report::Memory(memory) = report {
                memory_is(facts, memory);
            }
        }
        Step::ExchangeMedium(iso) => facts.note_effect(|spec| spec.iso = iso),
        _ => {}
    }
}

fn released(facts: &mut Facts, device: Device, report: &Report, now: u64) {
    let release = facts.seen.releases.entry(device).or_default();
    match report {
        Report::Out => release.gone = true,
        _ => (release.requested, release.times) = (Some(now), release.times.saturating_add(1)),
    }
}

/// How much memory the guest has, in MiB.
pub(super) fn memory_is(facts: &mut Facts, memory: u64) {
    let wanted = facts.record.definition.memory;
    let memory = if memory.abs_diff(wanted) <= TOLERANCE { wanted } else { memory };
    if facts.up().is_some_and(|up| up.in_effect.memory != memory) {
        facts.note_effect(|spec| spec.memory = memory);
    }
}

/// vCPUs came or went, on the way to a number.
pub(super) fn vcpus_are(facts: &mut Facts, present: u32, used: u32) {
    if let Run::Up(up) = &facts.record.run.state
        && up.in_effect.vcpus != used
    {
        facts.note_effect(|spec| spec.vcpus = used);
    }
    facts.seen.pin_again |= facts.seen.vcpus != Some(present);
    facts.seen.vcpus = Some(present);
}
