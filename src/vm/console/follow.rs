//! Waits for more of a log, over all runs of its VM, and over what moves it from memory to the disk.

use std::{io, sync::Arc};

use tokio::sync::watch;

use super::{Console, Source};
use crate::host::{Spill, Writes};

/// Whoever wants to know when there is more.
#[derive(Debug)]
pub(crate) struct Follower {
    console: Arc<Console>,
    source: Source,
    turn: watch::Receiver<u64>,
    /// Of the run that there is.
    writes: Option<(Arc<Spill>, Writes)>,
}

impl Follower {
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(console: Arc<Console>, source: Source) -> io::Result<Self> {
        let turn = console.turn.subscribe();
        let mut follower = Self { console, source, turn, writes: None };
        follower.attach()?;
        Ok(follower)
    }

    /// To what is written to now.
    fn attach(&mut self) -> io::Result<()> {
        let held = self.console.held(self.source);
        let known = self.writes.as_ref().map(|(spill, _)| spill);
        let same = match (&held, known) {
            (Some(held), Some(known)) => Arc::ptr_eq(held, known),
            (held, known) => held.is_none() && known.is_none(),
        };
        if !same {
            self.writes = held.map(|spill| spill.writes().map(|writes| (spill, writes))).transpose()?;
        }
        Ok(())
    }

    /// Returns when there may be more than at the last call. May be dropped and called again.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) async fn more(&mut self) -> io::Result<()> {
        let written = async {
            match &mut self.writes {
                Some((_, writes)) => writes.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = written => Ok(()),
            // Its sender is the console's.
            _ = self.turn.changed() => self.attach(),
        }
    }
}
