//! The guest's power, by QEMU: one command each.

use std::{path::PathBuf, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use super::{Brief, Done, Hands, LaunchStep, Report};
use crate::{
    host::free_space,
    vm::core::{Run, Setback},
};

/// QEMU closes its images and ends; it needs some 10 ms.
const QUIT: Duration = Duration::from_millis(1_900);
/// Bytes; with less QEMU would halt the guest again at once.
const ENOUGH: u64 = 1 << 20;

/// The guest runs from here on, for the first time or again.
pub(super) async fn go_on(hands: &Hands, brief: &Brief) -> Done {
    hands.session()?.execute(qapi::qmp::cont {}).await?;
    if let Run::Starting { .. } = brief.record.run.state {
        hands.reached(LaunchStep::Continue)?;
    }
    Ok(Report::Done)
}

/// QEMU keeps that state, so a daemon that comes later finds it paused.
pub(super) async fn pause(hands: &Hands) -> Done {
    hands.session()?.execute(qapi::qmp::stop {}).await?;
    Ok(Report::Done)
}

pub(super) async fn reset(hands: &Hands) -> Done {
    let session = hands.session()?;
    session.execute(qapi::qmp::system_reset {}).await?;
    session.execute(qapi::qmp::cont {}).await?;
    Ok(Report::Done)
}

/// Has QEMU close its images and end. Whether it answers or ends without an answer is the same.
pub(super) async fn quit(hands: &Hands) -> Done {
    let (session, process) = (hands.session()?, hands.process());
    let _ = timeout(QUIT, session.execute(qapi::qmp::quit {})).await;
    if let Some(process) = process {
        let _ = timeout(QUIT, process.exited()).await;
    }
    Ok(Report::Done)
}

/// After an I/O error QEMU repeats the request: the guest notices a pause and nothing else. What comes of it is an event.
pub(super) async fn go_on_after_error(hands: &Hands, brief: &Brief) -> Done {
    if let Some(error) = hands.io_error().filter(|error| error.nospace) {
        let spec = brief.definition();
        let named = spec.disk(&error.disk).map(|disk| vec![disk.file.to_path_buf()]);
        let files = named.unwrap_or_else(|| spec.disks.iter().map(|disk| disk.file.to_path_buf()).collect());
        if !is_room(files).await {
            return Err(Setback::NotNow("there is no room on the host".to_owned()));
        }
    }
    tracing::info!(vm = %hands.id, "the guest goes on after an I/O error");
    hands.session()?.execute(qapi::qmp::cont {}).await?;
    Ok(Report::Done)
}

/// What cannot be looked at does not keep the guest from a try.
async fn is_room(files: Vec<PathBuf>) -> bool {
    // Storage that hangs holds this one thread, and this VM alone.
    let look = move || files.iter().all(|file| free_space(file).map_or(true, |free| free >= ENOUGH));
    spawn_blocking(look).await.unwrap_or(true)
}
