//! The medium in the CD drive of a running VM: exchanged, taken out, put in. The drive itself does not come and go: IDE
//! takes no hot-plug, so a VM that was started without one has it from the next start on.

use std::path::Path;

use serde_json::json;

use super::Setback;
use crate::{
    qemu::devices::{self, CDROM_ID},
    qmp::{QmpError, Session},
    vm::actor::Actor,
};

/// What became of an exchange.
enum Outcome {
    Done,
    NoDrive,
    /// The guest has the medium in use.
    Locked(String),
}

impl Actor {
    /// Has the drive hold what is defined.
    pub(super) async fn adjust_medium(&mut self) -> Result<(), Setback> {
        let wanted = self.record.spec.iso.clone();
        let Some(run) = self.live_run() else { return Ok(()) };
        if run.in_effect.iso == wanted {
            return Ok(());
        }
        let session = self.session()?;
        match self.guarded(exchange(&session, wanted.as_deref())).await? {
            Outcome::Done => self.record_in_effect(|spec| spec.iso = wanted).await,
            Outcome::NoDrive => Err(Setback::NotNow("it was started without a CD drive".into())),
            Outcome::Locked(why) => Err(Setback::NotNow(why)),
        }
    }
}

/// Repeated from any point it comes to the same: what is in the drive is asked of QEMU. A file that cannot be opened is
/// found out before the present one is taken out.
async fn exchange(session: &Session, iso: Option<&Path>) -> Result<Outcome, QmpError> {
    let is_drive = |qdev: &String| qdev == CDROM_ID || qdev.ends_with(&format!("/{CDROM_ID}"));
    let drives = session.query_block().await?;
    let Some(drive) = drives.iter().find(|block| block.qdev.as_ref().is_some_and(is_drive)) else {
        return Ok(Outcome::NoDrive);
    };
    let present = drive.inserted.as_ref().and_then(|medium| medium.node_name.as_deref());
    let [fresh, other] = devices::cdrom_nodes(present);
    // From an exchange that was cut short.
    forget(session, fresh).await?;
    if let Some(iso) = iso {
        session.execute_raw("blockdev-add", Some(devices::cdrom_blockdev(iso, fresh))).await?;
    }
    let on_drive = json!({ "id": CDROM_ID });
    match session.execute_raw("blockdev-open-tray", Some(on_drive.clone())).await {
        Ok(_) => {}
        Err(QmpError::Refused { desc, .. }) => {
            forget(session, fresh).await?;
            return Ok(Outcome::Locked(desc));
        }
        Err(error) => return Err(error),
    }
    session.execute_raw("blockdev-remove-medium", Some(on_drive.clone())).await?;
    if iso.is_some() {
        let medium = json!({ "id": CDROM_ID, "node-name": fresh });
        session.execute_raw("blockdev-insert-medium", Some(medium)).await?;
    }
    session.execute_raw("blockdev-close-tray", Some(on_drive)).await?;
    forget(session, other).await?;
    Ok(Outcome::Done)
}

/// Closes the file of a node that is in no drive; there may be none.
async fn forget(session: &Session, node: &str) -> Result<(), QmpError> {
    match session.execute_raw("blockdev-del", Some(json!({ "node-name": node }))).await {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
