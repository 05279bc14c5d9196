//! One virtual machine is one task. It alone owns the QMP session, the process and the record of its VM; everybody
//! else holds a [`VmHandle`] to send it requests and to read what it last published.
//!
//! ```text
//!                start                       cont
//!   Stopped ───────────────▶ Starting ───────────────▶ Running ◀──── resume ──── Paused
//!      ▲                        │ failure: undo           │  │ stop   I/O error ──▶
//!      │◀───────────────────────┘                         │  └──▶ Stopping ──▶ Stopped
//!      │◀── guest powers off ─────────────────────────────┤
//!   Crashed ◀── process ends unasked, guest panics ───────┤ reboot
//!   Unresponsive ◀── monitor mute ── any live state       └──▶ Rebooting ── reset ──▶ Running
//! ```
//!
//! A process that SIGKILL does not end (the kernel holds it) is `Killed`; its VM is `Stopping` until the pidfd fires.
//!
//! `lifecycle` decides what a request means in a state, `launch` starts, `actor` is the task, `overtaken` sees to those
//! that came too early, `live` and `power` are its work on a running VM, `suspend` what only the Hyper-V dialect asks for,
//! `heartbeat` sees that its monitor answers, `adopt` takes a VM over from an earlier daemon, `removal` removes what goes with
//! it, `lookout` sees what a stopped one lacks, `sampler` measures.

mod actor;
mod adopt;
mod console;
pub mod core;
mod effect;
mod handle;
mod heartbeat;
mod intent;
mod interfaces;
mod io_error;
mod launch;
pub mod lifecycle;
mod live;
mod lookout;
mod migrate;
mod overtaken;
#[allow(dead_code, unused_imports, clippy::unused_async)] // until the task performs by it
mod perform;
mod power;
mod publish;
mod removal;
mod sampler;
mod storage;
mod suspend;
mod undo;
mod upkeep;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

pub use actor::{adopt, create};
pub(crate) use console::tail as console_tail;
pub use handle::{RebootMode, Start, StopMode, Stopped, VmHandle};
pub(crate) use interfaces::{GuestInterface, ask as guest_interfaces};
pub use launch::LaunchStep;
pub(crate) use storage::{Original, check_mounted, is_marked, mark as mark_storage, storage_of};
pub(crate) use upkeep::Turn;

use crate::{
    config::Config,
    host::{cpus::Host, image::QemuImg},
    model::{Boot, MAX_DEFINITION, VmId, VmRecord},
    net::Network,
    qemu::{Caps, RunPaths},
    store::{Batch, MAX_RECORD_BYTES, Record, Store, StoreError},
};

impl Record for VmRecord {
    const KIND: &'static str = "vm";
    const VERSION: u32 = 2;

    fn migrate(from: u32, data: Value) -> Result<Value, String> {
        migrate::record(from, data)
    }
}

/// Whatever definition is accepted can be started, changed and stopped: it stands twice in the record of a VM that runs,
/// beside what is known of the run.
const _: () = assert!(2 * MAX_DEFINITION + 2048 <= MAX_RECORD_BYTES);

impl Record for Boot {
    const KIND: &'static str = "host";
    const VERSION: u32 = 1;
}

/// What every VM's task needs of the daemon.
pub struct Context {
    pub config: Config,
    pub host: Host,
    pub caps: Caps,
    pub images: QemuImg,
    pub store: Store,
    pub net: Network,
    /// What the state directory was copied from.
    pub(crate) original: Option<Original>,
    pub closing: Closing,
    /// For tests: every launch fails after this step.
    pub fail_launch_after: Option<LaunchStep>,
}

/// The end of the daemon, as VMs' tasks know of it: nothing starts any more.
#[derive(Debug, Default)]
pub struct Closing(AtomicBool);

impl Closing {
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Context {
    /// The daemon is ending, and its VMs are to end with it.
    fn ends_vms(&self) -> bool {
        self.closing.has_begun() && self.config.stop_vms_on_exit
    }

    /// `<state-dir>/run/<short id>`.
    pub fn run_paths(&self, id: &VmId) -> RunPaths {
        RunPaths::new(self.config.state_dir.join("run").join(id.short()))
    }

    /// `<state-dir>/images/<vm id>`: the disks that qherd made for a VM.
    pub fn image_folder(&self, id: &VmId) -> PathBuf {
        self.config.state_dir.join("images").join(id.to_string())
    }

    /// Writes what has become of a VM; it is on stable storage when this returns. Also possible while the disk is full.
    pub(crate) async fn persist(&self, record: &VmRecord) -> Result<(), StoreError> {
        let batch = Batch::new().put(&record.spec.id.to_string(), record)?;
        self.store.commit(batch.from_reserve()).await
    }

    /// As [`Self::persist`], for what a client wants anew, which a full disk refuses.
    pub(crate) async fn persist_wish(&self, record: &VmRecord) -> Result<(), StoreError> {
        let batch = Batch::new().put(&record.spec.id.to_string(), record)?;
        self.store.commit(batch).await
    }
}

pub type SharedContext = Arc<Context>;
