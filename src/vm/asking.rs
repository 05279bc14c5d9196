//! Who asks, carried along with the work that is done for a request, as its span is: whatever layer it goes through, what is
//! asked of a VM or changed about a switch is told with it (docs/adr/0035). Nothing is decided by it. How far the work has come
//! is noted in what is carried with it too, where somebody looks.

use std::{future::Future, sync::Arc};

use super::{core::Lane, progress::Progress};
use crate::{
    host::image::Copied,
    model::{Asker, Conflict, Result},
};

tokio::task_local! {
    static ASKER: Asker;
    static PROGRESS: Arc<Progress>;
}

/// Works for somebody.
pub async fn asked_by<T>(asker: Asker, work: impl Future<Output = T>) -> T {
    ASKER.scope(asker, work).await
}

/// Whom this task works for; nobody where the daemon does something by itself.
pub fn asker() -> Option<Asker> {
    ASKER.try_with(Clone::clone).ok()
}

/// Works for somebody who does not wait on the line, but looks how far it has come.
pub async fn shown_in<T>(progress: Arc<Progress>, work: impl Future<Output = T>) -> T {
    PROGRESS.scope(progress, work).await
}

/// Where this task's work is shown.
pub fn progress() -> Option<Arc<Progress>> {
    PROGRESS.try_with(Clone::clone).ok()
}

/// What may take long before a VM is asked, and makes nothing that is left: it is given up when nobody wants it any more.
///
/// # Errors
/// [`Conflict::Cancelled`], and its own.
pub async fn while_wanted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(progress) = progress() else { return work.await };
    tokio::select! {
        biased;
        () = progress.is_unwanted() => Err(Conflict::Cancelled.into()),
        done = work => done,
    }
}

/// What this task works for is about something of this name, and of no VM.
pub(crate) fn is_about(name: &str) {
    if let Some(progress) = progress() {
        progress.is_about(name);
    }
}

/// A part of work that no VM's task does, as it is shown; `copied` tells how far it has come.
pub(crate) async fn in_phase<T>(name: &'static str, copied: &Arc<Copied>, work: impl Future<Output = T>) -> T {
    let Some(progress) = progress() else { return work.await };
    progress.begin(name, Lane::Files, copied);
    let done = work.await;
    progress.end(name, Lane::Files);
    done
}
