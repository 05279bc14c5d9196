//! The medium in the CD drive of a running VM: exchanged, taken out, put in. The drive itself does not come and go: IDE
//! takes no hot-plug, so a VM that was started without one has it from the next start on.

use std::path::{Path, PathBuf};

use qapi::qmp::{blockdev_del, blockdev_insert_medium, blockdev_remove_medium};
use serde_json::json;

use super::{Done, Hands, host_files};
use crate::{
    qemu::devices::{self, CDROM_ID},
    qmp::{QmpError, Session},
    vm::core::{Setback, StepReport as Report},
};

/// Has the drive hold `iso`, or nothing. Repeated from any point it comes to the same: what is in the drive is asked of
/// QEMU. A file that cannot be opened is found out before the present one is taken out.
pub(super) async fn exchange(hands: &Hands, iso: Option<PathBuf>) -> Done {
    let session = hands.session()?;
    let is_drive = |qdev: &String| qdev == CDROM_ID || qdev.ends_with(&format!("/{CDROM_ID}"));
    let drives = session.query_block().await?;
    let Some(drive) = drives.iter().find(|block| block.qdev.as_ref().is_some_and(is_drive)) else {
        return Err(Setback::NotNow("it was started without a CD drive".to_owned()));
    };
    let present = drive.inserted.as_ref().and_then(|medium| medium.node_name.as_deref());
    let [fresh, other] = devices::cdrom_nodes(present);
    // From an exchange that was cut short.
    forget(&session, fresh).await?;
    let held = match &drive.inserted {
        Some(medium) => Some(host_files::path_of(&session, &medium.file).await?),
        None => None,
    };
    if drive.tray_open != Some(true) && held == iso {
        return Ok(Report::Done);
    }
    if let Some(iso) = &iso {
        let file = devices::cdrom_file(iso, fresh);
        host_files::give(hands, &session, std::slice::from_ref(&file)).await?;
        // Raw, as `qemu::devices` states it for the command line too.
        session.execute_raw("blockdev-add", Some(devices::cdrom_blockdev(&file, fresh))).await?;
    }
    let drive = || CDROM_ID.to_owned();
    // The tray by raw calls: qapi's types are not made without a field that is deprecated.
    let on_drive = json!({ "id": CDROM_ID });
    match session.execute_raw("blockdev-open-tray", Some(on_drive.clone())).await {
        Ok(_) => {}
        Err(QmpError::Refused { desc, .. }) => {
            // The guest has the medium in use.
            forget(&session, fresh).await?;
            return Err(Setback::NotNow(desc));
        }
        Err(error) => return Err(error.into()),
    }
    session.execute(blockdev_remove_medium { id: drive() }).await?;
    if iso.is_some() {
        session.execute(blockdev_insert_medium { id: drive(), node_name: fresh.to_owned() }).await?;
    }
    session.execute_raw("blockdev-close-tray", Some(on_drive)).await?;
    forget(&session, other).await?;
    Ok(Report::Done)
}

/// Closes the file of a node that is in no drive; there may be none.
async fn forget(session: &Session, node: &str) -> Result<(), QmpError> {
    match session.execute(blockdev_del { node_name: node.to_owned() }).await {
        Ok(_) | Err(QmpError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    // The set is the node's, whatever is in it.
    host_files::take_back(session, &[devices::cdrom_file(Path::new(""), node)]).await
}
