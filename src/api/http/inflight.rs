//! Counts the operations under way, so that a server that goes down can wait for them, and tells them how far it has
//! come with that.
//!
//! Connections are no substitute: a client that hangs up takes its connection along, but not its operation.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// For a guest to finish what it was asked for, once the server goes down. What it was asked for goes on without us.
const GUEST_PATIENCE: Duration = Duration::from_secs(3);

/// How far a server has come on its way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// What is under way may finish, nothing new begins.
    Draining,
    /// Nobody is waited for any longer.
    Over,
    /// Connections that have nothing left to say are closed.
    Closing,
}

/// A counter to be shared. The server puts it into each request's extensions; `dispatch` takes a guard per request
/// and one per handler.
#[derive(Debug, Clone)]
pub struct InFlight {
    count: Arc<watch::Sender<usize>>,
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { count: Arc::new(watch::Sender::new(0)), phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }
}

impl InFlight {
    pub fn enter(&self) -> Guard {
        self.count.send_modify(|count| *count += 1);
        Guard(self.clone())
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Returns when nothing is under way.
    pub async fn idle(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// From now on requests are refused.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// From now on not even those that are under way are waited for.
    pub fn end(&self) {
        self.phase.send_replace(Phase::Over);
    }

    /// From now on connections are closed when what is asked on them has its answer.
    pub fn close(&self) {
        self.phase.send_replace(Phase::Closing);
    }

    /// Returns when they are.
    pub async fn closing(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Closing).await;
    }

    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    pub fn is_over(&self) -> bool {
        *self.phase.borrow() >= Phase::Over
    }

    /// Returns when nothing new begins any more, and what goes on without end is to end.
    pub async fn draining(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Returns when nobody waits for the end of a request any longer: for what a guest takes its time with only a moment.
    pub async fn given_up(&self, waits_for_guest: bool) {
        if waits_for_guest {
            self.draining().await;
            let _ = tokio::time::timeout(GUEST_PATIENCE, self.over()).await;
        } else {
            self.over().await;
        }
    }

    /// Returns when whoever still waits has to be told that the server does not.
    pub async fn over(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Over).await;
    }
}

/// One request or operation under way, until dropped.
#[derive(Debug)]
pub struct Guard(InFlight);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count = count.saturating_sub(1));
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
