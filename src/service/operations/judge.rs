//! What has become of an operation whose daemon died over it: found by what that daemon had stored of its VM, before the next one
//! does anything about it. Pure.

use super::record::{OperationRecord, Work};
use crate::{
    model::VmSpec,
    vm::core::{Cause, DiskNo, Goal, Record, Run},
};

/// What is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was wanted was stored; only its answer is lost.
    Done,
    /// The VM goes on with it: the same is asked again, and joins that.
    GoesOn,
    /// Nobody goes on with it. What is left of it, and what to do.
    Interrupted(&'static str),
}

const NOTHING_LEFT: &str = "What it had made is taken back; ask again.";
const NO_VM: &str = "There is no such VM any more.";

/// Of an import: whether its image is stored.
pub fn judge_import(is_stored: bool) -> Verdict {
    if is_stored { Verdict::Done } else { Verdict::Interrupted(NOTHING_LEFT) }
}

/// `stored` is the VM as the daemon left it.
pub fn judge(operation: &OperationRecord, stored: Option<&Record>) -> Verdict {
    use Verdict::{Done, GoesOn, Interrupted};
    let Some(Record { definition, run }) = stored else {
        return match operation.work {
            Work::Delete => Done,
            Work::Create | Work::Import => Interrupted(NOTHING_LEFT),
            Work::Start | Work::Stop | Work::Reboot | Work::Add | Work::Remove | Work::Change => Interrupted(NO_VM),
        };
    };
    let up = run.up();
    match operation.work {
        // It is about no VM.
        Work::Import => Interrupted(NOTHING_LEFT),
        Work::Create => match &run.state {
            Run::Making { .. } | Run::Starting { new: true, .. } => Interrupted(NOTHING_LEFT),
            Run::Starting { .. } | Run::Down { .. } | Run::Up(_) => Done,
        },
        Work::Start => match &run.state {
            Run::Up(_) => Done,
            Run::Starting { .. } | Run::Making { .. } => Interrupted("The start is taken back; ask again."),
            Run::Down { .. } => Interrupted("The VM is off; ask again."),
        },
        Work::Stop => match (run.goal, &run.state) {
            (_, Run::Down { .. }) => Done,
            (Goal::Stop(_) | Goal::Off { cause: Cause::Cut } | Goal::Gone, _) => GoesOn,
            _ => Interrupted("The guest was not asked to power off, or left running; ask again."),
        },
        Work::Delete => match run.goal {
            // A graceful one; a forced stop since would have overtaken it.
            Goal::Gone | Goal::Stop(_) => GoesOn,
            _ => Interrupted("The VM is still there; look at it and ask again."),
        },
        Work::Reboot => match run.goal {
            Goal::Reboot(_) => Done,
            _ => Interrupted("Whether the guest has rebooted is not known; look at it before you ask again."),
        },
        Work::Add => match definition.disk_of(operation.makes) {
            Some(disk) if DiskNo::of(&disk.name).is_none_or(|no| !run.unmade.contains(&no)) => Done,
            Some(_) => Interrupted("The disk was half made and is taken back; ask again."),
            None => Interrupted("Whether it was added is not known; look at the VM before you ask again."),
        },
        Work::Remove => {
            let device = operation.device.as_deref().unwrap_or_default();
            match (bears(definition, device), up.is_some_and(|up| bears(&up.in_effect, device))) {
                (false, false) => Done,
                (false, true) => Interrupted("The removal is stored, and goes on when the guest lets go of it."),
                (true, _) => Interrupted("The device is still there; ask again."),
            }
        }
        Work::Change => Interrupted(
            "What was stored of the change holds and goes on, as the VM and what is pending of it show; the same may be asked again.",
        ),
    }
}

fn bears(spec: &VmSpec, device: &str) -> bool {
    spec.disk(device).is_some()
        || spec.nics.iter().any(|nic| nic.name == device || same_id(&nic.id.to_string(), device))
}

/// In any notation of a GUID.
fn same_id(id: &str, named: &str) -> bool {
    uuid::Uuid::try_parse(named.trim()).is_ok_and(|named| named.to_string() == id)
}
