//! Whether the files are there that the next start of a stopped VM needs. What it lacks stands in its status; storage that
//! is mounted later is noticed without anybody asking. A start looks for itself.

use std::{fs, future::pending, path::PathBuf, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};

use super::{
    actor::{Actor, Interrupted},
    live::Instance,
};
use crate::model::{Run, VmSpec};

/// How long anybody waits for a look, apart from a start after the boot of the host.
const LOOK: Duration = Duration::from_secs(1);
/// Before what was not there is looked for again; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What there is to say when nobody knows.
fn silent(patience: Duration) -> String {
    format!("its disks cannot be used: the storage has not answered for {} s", patience.as_secs())
}

pub(super) struct Lookout {
    /// What the last look did not find, with why.
    missing: Option<String>,
    /// The one under way. On storage that hangs it keeps its thread until that answers, so there is never a second one
    /// that nobody asked for.
    look: Option<JoinHandle<Option<String>>>,
    again: Instant,
    pause: Duration,
}

impl Lookout {
    pub fn new() -> Self {
        Self { missing: None, look: None, again: Instant::now(), pause: FIRST_PAUSE }
    }

    pub fn missing(&self) -> Option<&String> {
        self.missing.as_ref()
    }

    /// It runs, so it has all it needs.
    pub fn nothing_missing(&mut self) {
        self.found(None);
    }

    /// Notes what a look did not find, and when to look again.
    fn found(&mut self, missing: Option<String>) {
        self.pause = match (&self.missing, &missing) {
            (Some(_), Some(_)) => (self.pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.again = Instant::now() + self.pause;
        self.missing = missing;
    }

    /// Looks, and waits for it so long. May be dropped half-way.
    pub async fn look(&mut self, spec: &VmSpec, patience: Duration) {
        // An older one that nobody has waited for.
        self.look.take_if(|look| look.is_finished());
        let look = self.look.get_or_insert_with(|| begin(spec));
        let missing = match timeout(patience, look).await {
            Ok(done) => {
                self.look = None;
                done.unwrap_or_else(|_| Some(silent(patience)))
            }
            Err(_) => Some(silent(patience)),
        };
        self.found(missing);
    }

    /// Looks again for what was missing, when it is time. Waits for as long as nothing is missing, and may be dropped and
    /// called again.
    pub async fn look_again(&mut self, spec: &VmSpec) {
        if self.missing.is_none() {
            return pending().await;
        }
        if self.look.is_none() {
            sleep_until(self.again).await;
        }
        let done = self.look.get_or_insert_with(|| begin(spec)).await;
        self.look = None;
        self.found(done.unwrap_or_else(|_| Some(silent(LOOK))));
    }
}

fn begin(spec: &VmSpec) -> JoinHandle<Option<String>> {
    let disks = spec.disks.iter().filter(|disk| !disk.in_making);
    let bases = spec.disks.iter().filter_map(|disk| disk.backing_file()).map(|base| base.path.clone());
    let files: Vec<PathBuf> = disks.map(|disk| disk.file.clone()).chain(bases).chain(spec.iso.clone()).collect();
    spawn_blocking(move || {
        let missing =
            |file: PathBuf| Some(format!("{} cannot be used: {}", file.display(), fs::metadata(&file).err()?));
        files.into_iter().find_map(missing)
    })
}

impl Actor {
    /// What a stopped VM lacks, for its status.
    pub(super) async fn look_for_files(&mut self) {
        if let (Run::Down { .. }, Instance::Down) = (&self.record.run, &self.instance) {
            let looked = self.look(LOOK).await;
            if let (Ok(()), Some(missing)) = (looked, self.lookout.missing()) {
                let vm = self.record.spec.id;
                tracing::warn!(%vm, missing, "it cannot be started, and nothing of it is removed meanwhile");
            }
        }
    }

    /// A forced request does not wait for storage.
    pub(super) async fn look(&mut self, patience: Duration) -> Result<(), Interrupted> {
        let spec = self.record.spec.clone();
        let mut lookout = std::mem::replace(&mut self.lookout, Lookout::new());
        let look = async {
            lookout.look(&spec, patience).await;
            Ok(())
        };
        let looked = self.guarded(look).await;
        self.lookout = lookout;
        looked
    }

    /// After another look that nobody asked for.
    pub(super) fn looked_again(&self) {
        if self.lookout.missing().is_none() {
            tracing::info!(vm = %self.record.spec.id, "the files that were missing are there");
        }
    }

    /// After a change, which may have mended what it lacked: what an older look waits for may be no concern of it any more.
    pub(super) async fn look_again_for_files(&mut self) {
        if self.lookout.missing().is_some() {
            self.lookout.look = None;
            self.look_for_files().await;
        }
    }
}
