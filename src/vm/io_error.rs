//! A guest that QEMU halted because the host could not read or write one of its disks: why, and when it goes on by itself
//! (`on_io_error: retry`). QEMU repeats the request then, so the guest notices a pause and nothing else.

use std::{path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    actor::Actor,
    live::{Guest, Instance, under_way},
};
use crate::{
    host::free_space,
    model::{Disk, OnIoError},
};

/// Before the first try; each further one in a row waits twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A guest that went on for so long is over it.
const PROVEN: Duration = Duration::from_secs(120);
/// How often the free space is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Bytes; with less QEMU would halt the guest again at once.
const ENOUGH: u64 = 1 << 20;

/// What one VM has of it.
#[derive(Default)]
pub(super) struct Trouble {
    /// The last error, which a halt that follows is explained with.
    error: Option<IoError>,
    /// Returns when the guest may go on.
    waiting: Option<BoxFuture<'static, ()>>,
    tries: u32,
    last_try: Option<Instant>,
}

struct IoError {
    /// As in `root`.
    disk: String,
    nospace: bool,
}

impl Trouble {
    pub fn note(&mut self, node: &str, nospace: bool) {
        let disk = node.strip_suffix("-node").unwrap_or(node).to_owned();
        self.error = Some(IoError { disk, nospace });
    }

    /// The guest runs.
    pub fn is_over(&mut self) {
        (self.error, self.waiting) = (None, None);
    }

    /// Returns when the guest may go on. May be dropped and called again.
    pub async fn wait(&mut self) {
        under_way(&mut self.waiting).await;
    }

    fn reason(&self, policy: OnIoError) -> String {
        let error = match &self.error {
            Some(IoError { disk, nospace: true }) => format!("I/O error on {disk}: no space left on the host"),
            Some(IoError { disk, nospace: false }) => format!("I/O error on {disk}: the host's storage failed"),
            None => "I/O error".to_owned(),
        };
        match policy {
            OnIoError::Retry => format!("{error}; the guest goes on by itself as soon as it can"),
            OnIoError::Pause | OnIoError::Report => format!("{error}; once that is mended, start lets the guest go on"),
        }
    }

    /// Waits for its time and, where it was space that was missing, for space where `files` are.
    fn retry(&mut self, files: Vec<PathBuf>) {
        if self.waiting.is_some() {
            return;
        }
        if self.last_try.is_some_and(|at| at.elapsed() > PROVEN) {
            self.tries = 0;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(8)).min(LONGEST_WAIT);
        let nospace = self.error.as_ref().is_some_and(|error| error.nospace);
        self.waiting = Some(Box::pin(async move {
            sleep(wait).await;
            while nospace && !is_room(files.clone()).await {
                sleep(LOOK).await;
            }
        }));
    }
}

/// What cannot be looked at does not keep the guest from a try.
async fn is_room(files: Vec<PathBuf>) -> bool {
    // Storage that hangs holds this one thread, and this VM alone.
    let look = move || files.iter().all(|file| free_space(file).map_or(true, |free| free >= ENOUGH));
    spawn_blocking(look).await.unwrap_or(true)
}

impl Actor {
    /// QEMU says that the guest is halted by an I/O error.
    pub(super) async fn halted(&mut self) {
        let Instance::Live(live) = &self.instance else { return };
        if live.trouble.error.is_none() {
            // It was told to an earlier daemon.
            let session = live.session.clone();
            let Ok(blocks) = self.guarded(session.query_block()).await else { return };
            let Instance::Live(live) = &mut self.instance else { return };
            for block in blocks {
                let node = block.inserted.and_then(|medium| medium.node_name).unwrap_or_default();
                match block.io_status.as_deref() {
                    Some("nospace") => live.trouble.note(&node, true),
                    Some("failed") => live.trouble.note(&node, false),
                    _ => {}
                }
            }
        }
        let (spec, Instance::Live(live)) = (&self.record.spec, &mut self.instance) else { return };
        let policy = spec.policy.on_io_error;
        live.guest = Guest::Paused { reason: Some(live.trouble.reason(policy)), critical: true };
        match policy {
            OnIoError::Retry => {
                let named = live.trouble.error.as_ref().and_then(|error| spec.disk(&error.disk));
                let files = |disk: &Disk| disk.file.clone();
                live.trouble
                    .retry(named.map_or_else(|| spec.disks.iter().map(files).collect(), |disk| vec![files(disk)]));
            }
            OnIoError::Pause | OnIoError::Report => live.trouble.waiting = None,
        }
    }

    /// Has QEMU try again.
    pub(super) async fn go_on(&mut self) {
        let Instance::Live(live) = &mut self.instance else { return };
        live.trouble.tries += 1;
        live.trouble.last_try = Some(Instant::now());
        tracing::info!(vm = %self.record.spec.id, tries = live.trouble.tries, "the guest goes on after an I/O error");
        let session = live.session.clone();
        // What comes of it is an event.
        let _ = self.guarded(session.execute(qapi::qmp::cont {})).await;
    }
}
