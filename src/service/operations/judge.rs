//! What has become of an operation whose daemon died over it: found by what that daemon had stored of its VM, before the next one
//! does anything about it. Pure.

use uuid::Uuid;

use super::record::{OperationRecord, Work};
use crate::{
    model::{SwitchRecord, SwitchState, VmSpec},
    vm::core::{Cause, DiskNo, Goal, Guest, Record, Run},
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

/// `stored` is the VM as the daemon left it.
pub fn judge(operation: &OperationRecord, stored: Option<&Record>) -> Verdict {
    use Verdict::{Done, GoesOn, Interrupted};
    let Some(Record { definition, run }) = stored else {
        return match operation.work {
            Work::Delete => Done,
            Work::Create => Interrupted(NOTHING_LEFT),
            _ => Interrupted(NO_VM),
        };
    };
    let up = run.up();
    match operation.work {
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
        Work::Suspend => match up {
            Some(up) if run.goal == Goal::Pause || matches!(up.guest, Guest::Paused { critical: false, .. }) => Done,
            _ => Interrupted("The VM is not suspended; look at it and ask again."),
        },
        Work::Resume => match up {
            Some(up) if run.goal == Goal::Resume || matches!(up.guest, Guest::Running) => Done,
            _ => Interrupted("The VM does not run; look at it and ask again."),
        },
        Work::Reboot => match run.goal {
            Goal::Reboot(_) => Done,
            _ => Interrupted("Whether the guest has rebooted is not known; look at it before you ask again."),
        },
        Work::Add => match definition.disk_of(operation.makes) {
            Some(disk) if DiskNo::of(&disk.name).is_none_or(|no| !run.unmade.contains(&no)) => Done,
            Some(_) => Interrupted("The disk was half made and is taken back; ask again."),
            None if operation.makes.is_some_and(|id| definition.nic(id.into()).is_some()) => Done,
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
        Work::AskGuest => {
            Interrupted("Whether the guest has done it is not known; look at the guest before you ask again.")
        }
        // Those of switches, images and volumes are judged by them.
        Work::Change
        | Work::MakeSwitch
        | Work::ChangeSwitch
        | Work::DeleteSwitch
        | Work::AddForward
        | Work::RemoveForward
        | Work::ImportImage
        | Work::ChangeImage
        | Work::DeleteImage
        | Work::MakeVolume
        | Work::DeleteVolume => Interrupted(
            "What was stored of the change holds and goes on, as the VM and what is pending of it show; the same may be asked again.",
        ),
    }
}

/// The same, of one that is about a switch.
pub fn judge_of_switch(operation: &OperationRecord, stored: Option<&SwitchRecord>) -> Verdict {
    use Verdict::{Done, Interrupted};
    let switch = stored.filter(|record| record.state == SwitchState::Ready).map(|record| &record.switch);
    match (operation.work, switch) {
        (Work::MakeSwitch, Some(_)) => Done,
        (Work::MakeSwitch, None) => Interrupted(NOTHING_LEFT),
        // The next daemon goes on with it.
        (Work::DeleteSwitch, None) => Done,
        (Work::DeleteSwitch, Some(_)) => Interrupted("The switch is still there; ask again."),
        (_, None) => Interrupted("There is no such switch any more."),
        (Work::AddForward, Some(switch)) => {
            match operation.makes.is_some_and(|id| switch.forwards.iter().any(|forward| Uuid::from(forward.id) == id)) {
                true => Done,
                false => Interrupted("The port forward is not there; ask again."),
            }
        }
        (Work::RemoveForward, Some(switch)) => {
            let named = operation.device.as_deref().unwrap_or_default();
            match switch.forwards.iter().any(|forward| same_id(&forward.id.to_string(), named)) {
                false => Done,
                true => Interrupted("The port forward is still there; ask again."),
            }
        }
        (_, Some(_)) => Interrupted(
            "What was stored of the change holds and goes on, as the switch shows; the same may be asked again.",
        ),
    }
}

/// The same, of one that is about an image, which is stored or is not.
pub fn judge_of_image(work: Work, is_stored: bool) -> Verdict {
    use Verdict::{Done, Interrupted};
    match (work, is_stored) {
        (Work::ImportImage, true) | (Work::DeleteImage, false) => Done,
        (Work::ImportImage, false) => Interrupted(NOTHING_LEFT),
        (Work::DeleteImage, true) => Interrupted("The image is still there; ask again."),
        (_, true) => Interrupted("Whether the change was stored the image shows; the same may be asked again."),
        (_, false) => Interrupted("There is no such image any more."),
    }
}

/// The same, of one that is about a volume, which is stored or is not.
pub fn judge_of_volume(work: Work, is_stored: bool) -> Verdict {
    use Verdict::{Done, Interrupted};
    match (work == Work::MakeVolume, is_stored) {
        (true, true) | (false, false) => Done,
        (true, false) => Interrupted(NOTHING_LEFT),
        (false, true) => Interrupted("The volume is still there; ask again."),
    }
}

fn bears(spec: &VmSpec, device: &str) -> bool {
    spec.disk(device).is_some()
        || spec.nics.iter().any(|nic| nic.name == device || same_id(&nic.id.to_string(), device))
}

/// In any notation of a GUID.
fn same_id(id: &str, named: &str) -> bool {
    Uuid::try_parse(named.trim()).is_ok_and(|named| named.to_string() == id)
}
