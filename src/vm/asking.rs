//! Who asks, carried along with the work that is done for a request, as its span is: whatever layer it goes through, what is
//! asked of a VM or changed about a switch is told with it (docs/adr/0035). Nothing is decided by it. How far the work has come
//! is noted in what is carried with it too, where somebody looks.

use std::{future::Future, sync::Arc};

use super::progress::Progress;
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

/// Nothing is known any more that stands in the way of what is done to the host for this task's client, on what bears this
/// name: it has begun.
pub fn begins(name: &str) {
    if let Some(progress) = progress() {
        progress.begins(name);
    }
}

/// A part of that, as it is shown.
pub async fn in_phase<T>(title: &'static str, work: impl Future<Output = T>) -> T {
    copying(title, &Arc::default(), work).await
}

/// The same, of one that copies something: `copied` tells how far it has come.
pub async fn copying<T>(title: &'static str, copied: &Arc<Copied>, work: impl Future<Output = T>) -> T {
    let Some(progress) = progress() else { return work.await };
    progress.begin(title, None, copied);
    let done = work.await;
    progress.end(title, None);
    done
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
