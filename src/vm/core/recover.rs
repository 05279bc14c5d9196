//! Where the facts of a VM begin: a record that a daemon left, met with what is there; or a VM that is to be made. What was
//! begun is finished or unwound by the same plan as ever.

use std::sync::Arc;

use super::{
    absorb::end_run_as,
    answer::{Ticket, Until},
    due::dated,
    facts::{Bounds, Facts, Now},
    goal::{Cause, Goal},
    held::Held,
    lane::DiskNo,
    news::begin_with,
    record::{Record, Run, RunRecord},
    seen::{Monitor, Seen},
    view::status,
};
use crate::model::{Disk, Due, Ending, Error, LONGEST_WAIT, Operation, Upkeep, VmSpec};

/// A live VM keeps its last known status until its monitor has had this time.
const ADOPTION: u64 = 5_000;

/// What there is of the process that a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Alive,
    Nothing,
    /// The host was booted since.
    AnotherBoot,
    /// It is another state directory's: this one was copied.
    Elsewhere,
}

/// The facts of a VM that an earlier daemon left.
pub fn recover(record: Record, found: Found, now: Now, bounds: Bounds) -> Facts {
    let mut facts = facts(record.clone(), record, now, bounds);
    let status = status(&facts);
    for record in [&mut facts.record, &mut facts.stored] {
        begin_with(record, status);
    }
    let run = &mut facts.record.run;
    run.upkeep.due = run.upkeep.due.map(|due| fixed(due, now));
    drop_unmade_disks(&mut facts);
    match &facts.record.run.state {
        // Nobody was told that it exists, or that it runs: it never did.
        Run::Making { .. } | Run::Starting { .. } => {
            facts.seen.launch.failed = Some(Error::failed(Operation::Start, "qherd ended before it was done"));
            facts.seen.launch.was_cut = true;
        }
        Run::Up(up) => {
            let nics = up.in_effect.nics.iter().filter(|nic| nic.switch().is_some()).map(|nic| nic.id).collect();
            let pid = up.process.pid;
            match found {
                Found::Alive => {
                    facts.seen.process = true;
                    facts.seen.adopt = nics;
                    facts.seen.monitor = Monitor::Away {
                        reason: "qherd is connecting to its monitor".to_owned(),
                        tells_at: now.monotonic + ADOPTION,
                        next_try: now.monotonic,
                    };
                }
                Found::Nothing => crashed(&mut facts, "QEMU ended while qherd was not running".to_owned()),
                Found::AnotherBoot => {
                    crashed(&mut facts, "the host was restarted while the VM was running".to_owned());
                }
                Found::Elsewhere => {
                    let reason = format!(
                        "its QEMU (process {pid}) runs on other files than those of this state directory, which was \
                         copied or restored; it is left alone"
                    );
                    // Nobody wants two of it at once: it is not started again by itself.
                    crashed(&mut facts, reason);
                    facts.record.run.upkeep = Upkeep::default();
                }
            }
        }
        Run::Down { .. } => {
            if facts.goal() != Goal::Gone {
                facts.set_goal(Goal::Rest);
            }
            facts.seen.look_for_files = true;
        }
    }
    facts
}

/// What is known of a VM that is to be made.
pub fn unmade(definition: Arc<VmSpec>) -> Record {
    let unmade = definition.disks.iter().filter_map(|disk| DiskNo::of(&disk.name)).collect();
    let state = Run::Making { start: false };
    let run = RunRecord {
        state,
        goal: Goal::Rest,
        upkeep: Upkeep::default(),
        held: Held::default(),
        unmade,
        reported: Default::default(),
        frozen: None,
        failed_start: None,
    };
    Record { definition, run }
}

/// The facts of a VM that is to be made: `ticket` waits for it.
pub fn create(definition: Arc<VmSpec>, start: bool, ticket: Ticket, now: Now, bounds: Bounds) -> Facts {
    let mut record = unmade(definition);
    record.run.state = Run::Making { start };
    // What is not stored is what would be gone after a crash.
    let nothing = Record { run: RunRecord { goal: Goal::Gone, ..record.run.clone() }, ..record.clone() };
    let mut facts = facts(record, nothing, now, bounds);
    facts.seen.wish = true;
    facts.wait(ticket, Until::Made);
    facts
}

fn facts(record: Record, stored: Record, now: Now, bounds: Bounds) -> Facts {
    Facts {
        record,
        stored,
        seen: Seen::default(),
        in_flight: Default::default(),
        cut: Default::default(),
        stuck: Default::default(),
        waiting: Vec::new(),
        later: Vec::new(),
        patient: Vec::new(),
        news: Default::default(),
        commits: 0,
        done: 0,
        gone: false,
        now,
        bounds,
    }
}

fn crashed(facts: &mut Facts, reason: String) {
    let ending = match facts.goal() {
        Goal::Stop(_) | Goal::Off { cause: Cause::Cut | Cause::Guest } | Goal::Gone => Ending::Clean,
        Goal::Rest | Goal::Reboot(_) | Goal::Pause | Goal::Resume | Goal::Reset => Ending::Crashed { reason },
        Goal::Off { cause: Cause::Panic } => {
            Ending::Crashed { reason: "the guest panicked; its console log may say why".to_owned() }
        }
    };
    end_run_as(facts, ending);
    facts.seen.look_for_files = true;
}

/// Disks whose image an earlier daemon did not finish: nobody was told of them. Of a VM in the making none was.
fn drop_unmade_disks(facts: &mut Facts) {
    let unmade = std::mem::take(&mut facts.record.run.unmade);
    if matches!(facts.record.run.state, Run::Making { .. }) {
        facts.record.run.unmade = unmade;
    } else if !unmade.is_empty() {
        let is_made = |disk: &Disk| DiskNo::of(&disk.name).is_none_or(|no| !unmade.contains(&no));
        Arc::make_mut(&mut facts.record.definition).disks.retain(is_made);
    }
}

/// A moment of another boot of the host means nothing on this one.
fn fixed(due: Due, now: Now) -> Due {
    match due {
        Due::Restart { at, monotonic: Some(monotonic) } => {
            Due::Restart { at, monotonic: Some(monotonic.min(now.monotonic + LONGEST_WAIT)) }
        }
        due => dated(due, now.wall, now.monotonic),
    }
}
