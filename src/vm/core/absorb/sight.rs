//! What comes by itself: the end of the process, the monitor's events, the end of the daemon.

use super::{EXIT_GRACE, RETRY, device, power, take_back};
use crate::{
    model::{Conflict, Error, Incident, Operation},
    vm::core::{
        facts::Facts,
        goal::Goal,
        lane::Lane,
        record::Run,
        seen::{Device, Monitor, Sight},
    },
};

/// Between two tries at a monitor that does not keep to the protocol.
const LONGEST_RETRY: u64 = 30_000;

pub(super) fn see(facts: &mut Facts, sight: Sight) {
    match sight {
        Sight::Time => {}
        Sight::Exited(how) => exited(facts, &how),
        Sight::Closed { reason, misconduct, brief } => closed(facts, &reason, misconduct, brief),
        Sight::Reset => reset(facts),
        Sight::IoError { disk, operation, no_space } => facts.notice(Incident::IoError { disk, operation, no_space }),
        Sight::Watchdog(action) => facts.notice(Incident::Watchdog { action }),
        Sight::Halted => facts.seen.look = true,
        // That a guest runs for the first time is told by the start itself.
        Sight::Resumed if facts.up().is_none() => {}
        Sight::Resumed => {
            facts.seen.look = true;
            ask_again(facts);
        }
        Sight::Agent(open) => {
            facts.seen.agent = open;
            // One that comes up while the guest is to stop is the better way to ask.
            if open {
                facts.seen.requested = None;
                ask_again(facts);
            }
        }
        Sight::Deleted(device) => {
            facts.seen.releases.entry(device).or_default().gone = true;
            facts.stuck.remove(&device.lane());
        }
        Sight::Kept(device) => kept(facts, device),
        Sight::VcpuDeleted => facts.seen.look_at_devices = true,
        Sight::MemoryMoved => facts.seen.look_at_memory = facts.up().is_some(),
        Sight::Memory(memory) => device::memory_is(facts, memory),
        Sight::Vcpus { present, used } => device::vcpus_are(facts, present, used),
        Sight::TapGone(nic) => {
            if facts.up().is_some_and(|up| up.in_effect.nic(nic).is_some()) {
                facts.seen.lost_taps.insert(nic);
                facts.stuck.remove(&Lane::Nic(nic));
            }
        }
        Sight::Closing { vms } => (facts.bounds.closing, facts.bounds.ends_vms) = (true, vms),
    }
}

/// The one way out for every process, however it came to its end.
fn exited(facts: &mut Facts, how: &str) {
    facts.seen.process = false;
    facts.seen.monitor = Monitor::None;
    match &facts.record.run.state {
        Run::Starting { .. } => {
            let error = Error::failed(Operation::Start, how);
            power::fail_launch(facts, error);
        }
        Run::Up(_) => power::end_run(facts, how),
        Run::Making { .. } | Run::Down { .. } => {}
    }
}

fn closed(facts: &mut Facts, reason: &str, misconduct: bool, brief: bool) {
    if facts.up().is_none() {
        return;
    }
    let seen = &mut facts.seen;
    seen.devices_known = false;
    seen.misconduct = if misconduct && brief { seen.misconduct.saturating_add(1) } else { misconduct.into() };
    let pause = RETRY.saturating_mul(1 << seen.misconduct.min(8)).min(LONGEST_RETRY);
    let what = if misconduct { "its monitor was dropped" } else { "its monitor does not answer" };
    let now = facts.now.monotonic;
    seen.monitor =
        Monitor::Away { reason: format!("{what}: {reason}"), tells_at: now + EXIT_GRACE, next_try: now + pause };
}

fn reset(facts: &mut Facts) {
    let Some(_) = facts.up() else { return };
    facts.notice(Incident::Reset);
    // The agent went with its guest; the port's own event is held back by QEMU for up to a second.
    facts.seen.agent = false;
    facts.seen.requested = None;
    (facts.seen.look, facts.seen.look_at_devices, facts.seen.was_reset) = (true, true, true);
    // What was frozen was the guest's that is gone, most likely: the one that comes is asked once.
    facts.record.run.frozen = facts.record.run.frozen.map(|at| at.min(facts.now.monotonic));
    ask_again(facts);
    if let Goal::Reboot(_) | Goal::Reset = facts.goal() {
        facts.seen.powered_off = false;
        facts.set_goal(Goal::Rest);
    }
}

/// Something has happened to the guest: what it would not do before it may do now.
fn ask_again(facts: &mut Facts) {
    for release in facts.seen.releases.values_mut() {
        (release.requested, release.times, release.refused) = (None, 0, false);
    }
    facts.stuck.retain(|lane, stuck| stuck.again.is_some() || !matches!(lane, Lane::Disk(_) | Lane::Nic(_)));
}

/// The guest has said that it does not let go: there is no use in waiting for it.
fn kept(facts: &mut Facts, device: Device) {
    // Said of a request that nobody has made, it says nothing.
    let Some(release) = facts.seen.releases.get_mut(&device).filter(|release| release.requested.is_some()) else {
        return;
    };
    release.refused = true;
    take_back(facts, device.lane(), &Conflict::DiskInUse.into());
}
