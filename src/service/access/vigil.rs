//! Whether a token is still good, for what was begun with it and lasts: a stream, a console. One look at its file every other
//! second, for all that it has open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::tokens::{TokenError, Tokens};

const EVERY: Duration = Duration::from_secs(2);

/// The tokens that something is open with.
#[derive(Clone)]
pub(super) struct Vigils {
    tokens: Tokens,
    open: Arc<Mutex<HashMap<String, watch::Sender<bool>>>>,
}

/// What somebody has open with a token.
#[derive(Clone, Debug)]
pub struct Vigil(watch::Receiver<bool>);

impl Vigil {
    /// Returns when the token was revoked, or has expired.
    pub async fn is_over(mut self) {
        // One that nobody looks at any more says nothing.
        if self.0.wait_for(|over| *over).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Vigils {
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, open: Arc::default() }
    }

    // Every change under the lock is one insertion or removal.
    fn open(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<bool>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the token with this id is looked at.
    pub fn of(&self, id: &str) -> Vigil {
        let mut open = self.open();
        if let Some(known) = open.get(id) {
            return Vigil(known.subscribe());
        }
        let (over, vigil) = watch::channel(false);
        open.insert(id.to_owned(), over);
        tokio::spawn(self.clone().look(id.to_owned()));
        Vigil(vigil)
    }

    async fn look(self, id: String) {
        loop {
            sleep(EVERY).await;
            {
                let mut open = self.open();
                if open.get(&id).is_none_or(|over| over.receiver_count() == 0) {
                    open.remove(&id);
                    return;
                }
            }
            let (tokens, of) = (self.tokens.clone(), id.clone());
            let found = spawn_blocking(move || tokens.look_up(&of)).await;
            // One that cannot be read now is refused where it is shown, and may be read again.
            if let Ok(Err(TokenError::Unknown | TokenError::Expired)) = found {
                if let Some(over) = self.open().remove(&id) {
                    over.send_replace(true);
                }
                tracing::info!(token = id, "a token is not good any more; what was open with it is closed");
                return;
            }
        }
    }
}
