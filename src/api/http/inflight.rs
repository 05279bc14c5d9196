//! Counts the operations under way, so that a server that goes down can wait for them.
//!
//! Connections are no substitute: a client that hangs up takes its connection along, but not its operation.

use std::sync::Arc;

use tokio::sync::watch;

/// A counter to be shared. The server puts it into each request's extensions; `dispatch` takes a guard per handler.
#[derive(Debug, Clone)]
pub struct InFlight(Arc<watch::Sender<usize>>);

impl Default for InFlight {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl InFlight {
    pub fn enter(&self) -> Guard {
        self.0.send_modify(|count| *count += 1);
        Guard(self.clone())
    }

    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns when nothing is under way.
    pub async fn idle(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One operation under way, until dropped.
#[derive(Debug)]
pub struct Guard(InFlight);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_the_last_guard() {
        let counter = InFlight::default();
        counter.idle().await;
        let (a, b) = (counter.enter(), counter.enter());
        assert_eq!(counter.count(), 2);
        let waiting = tokio::spawn({
            let counter = counter.clone();
            async move { counter.idle().await }
        });
        drop(a);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(b);
        waiting.await.unwrap();
    }
}
