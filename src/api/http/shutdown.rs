//! The word to servers that they are to end: first in order, then at once. How they do it is `server`'s business.

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Nothing,
    Ending,
    Hurrying,
}

/// Clones speak and hear the same; every server of a process takes one.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<Stage>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Stage::Nothing)))
    }
}

impl Shutdown {
    /// The first time: end, and let what is under way finish. From then on: wait for nothing more.
    pub fn ask(&self) {
        self.0.send_modify(|stage| {
            *stage = if *stage == Stage::Nothing { Stage::Ending } else { Stage::Hurrying };
        });
    }

    /// Returns once it was asked.
    pub async fn begun(&self) {
        self.reached(Stage::Ending).await;
    }

    /// Returns once it was asked a second time.
    pub async fn hurried(&self) {
        self.reached(Stage::Hurrying).await;
    }

    async fn reached(&self, wanted: Stage) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|stage| *stage >= wanted).await;
    }
}
