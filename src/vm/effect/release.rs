//! Taking a device out of a running VM: QEMU asks the guest, and the guest lets go of it in its own time. A guest that does
//! not run is not asked: QEMU would keep the request, and the device would go when the guest goes on, whatever was
//! answered meanwhile.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Setback;
use crate::{
    model::{Conflict, Disk, Nic},
    qemu::devices,
    qmp::{QmpError, Session},
    vm::actor::Actor,
};

/// For the guest to let go of a device. One in its firmware never does.
const RELEASE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// A guest that was just busy booting may have missed the request.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// A device that comes and goes.
#[derive(Clone, Copy)]
pub(super) enum Device<'a> {
    Disk(&'a Disk),
    Nic(&'a Nic),
}

impl Device<'_> {
    fn id(self) -> String {
        match self {
            Self::Disk(disk) => devices::device_id(disk),
            Self::Nic(nic) => nic.name.clone(),
        }
    }

    /// Whether QEMU has it: a daemon may have died after it came or went and before that was stored.
    pub async fn is_plugged(self, session: &Session) -> Result<bool, QmpError> {
        match self {
            // Not before the disk has let go of its node, which comes after the device is out of the tree.
            Self::Disk(_) => {
                let id = format!("/{}/", self.id());
                let blocks = session.query_block().await?;
                Ok(blocks.iter().any(|block| block.qdev.as_ref().is_some_and(|qdev| qdev.contains(&id))))
            }
            Self::Nic(nic) => Ok(session.peripherals().await?.contains(&nic.name)),
        }
    }

    /// Has QEMU ask the guest, where that runs: whether it does. "Already in the process of unplug" is an answer too.
    pub async fn ask(self, session: &Session) -> Result<bool, QmpError> {
        if !session.query_status().await?.running {
            return Ok(false);
        }
        match session.execute_raw("device_del", Some(json!({ "id": self.id() }))).await {
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// What a client is told who wants a device out of a guest that does not run.
pub(super) fn halted() -> Setback {
    Setback::Reported(Conflict::Halted.into())
}

impl Actor {
    /// Returns when the device is gone.
    ///
    /// # Errors
    /// [`Setback::InUse`] when the guest has not let go of it in time; it may still do so later. [`Conflict::Halted`] when
    /// the guest does not run.
    pub(super) async fn release(&mut self, device: Device<'_>) -> Result<(), Setback> {
        let session = self.session()?;
        let begin = Instant::now();
        let mut last_request: Option<Instant> = None;
        while self.guarded(device.is_plugged(&session)).await? {
            if begin.elapsed() > RELEASE {
                return Err(Setback::InUse);
            }
            if last_request.is_none_or(|at| at.elapsed() > ASK_AGAIN) {
                let before = last_request.replace(Instant::now());
                if !self.guarded(device.ask(&session)).await? {
                    // Asked before, it may let go of it when it runs again.
                    return Err(if before.is_none() { halted() } else { Setback::InUse });
                }
            }
            self.guarded(async {
                sleep(LOOK).await;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
