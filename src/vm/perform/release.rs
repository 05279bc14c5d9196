//! A device on its way out of a running VM: QEMU asks the guest, and the guest lets go of it in its own time, which is an
//! event.

use qapi::qmp::device_del;

use super::Done;
use crate::{
    model::Conflict,
    qmp::{QmpError, Session},
    vm::core::{Setback, StepReport as Report},
};

/// Has QEMU ask the guest. One that does not run is not asked: QEMU would keep the request, and the device would go when
/// the guest goes on, whatever was answered meanwhile.
pub(super) async fn ask(session: &Session, device: &str) -> Done {
    if !session.query_status().await?.running {
        return Err(Setback::Reported(Conflict::Halted.into()));
    }
    match session.execute(device_del { id: device.to_owned() }).await {
        // "Already in the process of unplug" is an answer too, and a guest that is busy is asked again.
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(Report::Done),
        Err(error) => Err(error.into()),
    }
}
