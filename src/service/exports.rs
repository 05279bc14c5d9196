//! Exports that the daemon makes of itself: once a day, and at its end. A disk that is full costs the export, nothing
//! else.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::store::{Store, exports};

/// How many are kept.
const KEEP: usize = 7;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether one is due; a host that sleeps, or whose clock is set, gets it soon all the same.
const LOOK: Duration = Duration::from_secs(600);

/// `<state-dir>/exports`.
pub(super) fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("exports")
}

/// The newest export, if there is one.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn newest(state_dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(exports(&folder(state_dir))?.pop().map(|(_, path)| path))
}

/// Writes one whenever the newest is a day old, for as long as the runtime lives.
pub(super) fn keep_daily(store: Store, state_dir: &Path) {
    let state_dir = state_dir.to_owned();
    tokio::spawn(async move {
        loop {
            if is_due(&state_dir) {
                write(store.clone(), folder(&state_dir)).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
}

/// A date in the future is no reason to wait for it.
fn is_due(state_dir: &Path) -> bool {
    // Where they cannot be listed, who writes one says so.
    let written = newest(state_dir).ok().flatten().and_then(|path| path.metadata().ok()?.modified().ok());
    written.and_then(|at| SystemTime::now().duration_since(at).ok()).is_none_or(|age| age >= DAY)
}

/// Writes one now.
pub(super) async fn write(store: Store, folder: PathBuf) {
    match tokio::task::spawn_blocking(move || store.export_into(&folder, KEEP)).await {
        Ok(Ok(path)) => tracing::info!(file = %path.display(), "exported the definitions of the VMs"),
        Ok(Err(error)) => tracing::warn!(%error, "no export of the definitions of the VMs"),
        Err(error) => tracing::warn!(%error, "no export of the definitions of the VMs"),
    }
}
