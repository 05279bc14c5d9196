//! Who asks, carried along with the work that is done for a request, as its span is: whatever layer it goes through, what is
//! asked of a VM or changed about a switch is told with it (docs/adr/0035). Nothing is decided by it.

use std::future::Future;

use crate::model::Asker;

tokio::task_local! {
    static ASKER: Asker;
}

/// Works for somebody.
pub async fn asked_by<T>(asker: Asker, work: impl Future<Output = T>) -> T {
    ASKER.scope(asker, work).await
}

/// Whom this task works for; nobody where the daemon does something by itself.
pub fn asker() -> Option<Asker> {
    ASKER.try_with(Clone::clone).ok()
}
