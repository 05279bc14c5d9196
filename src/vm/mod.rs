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
//! A process that SIGKILL does not end is the kernel's; its VM is `Stopping` until the pidfd fires.
//!
//! `core` decides: values in, values out. `task` tells it what happens and has done what it plans; `perform` does that, and
//! is all that speaks to the host. `records` is how a VM is stored, with the `layers` of its disks, `handle` how others speak to its task, `publish` what
//! they see, `progress` how far the work for a request has come, `steps` what is made, `journal` what is logged, `seeds` what
//! cloud-init is given. `heartbeat` and `sampling` work beside the task.

mod asking;
mod begin;
mod carriers;
mod census;
mod console;
pub mod core;
mod events;
mod guest;
mod handle;
mod heartbeat;
mod journal;
pub(crate) mod layers;
mod mailbox;
mod migrate;
mod perform;
mod progress;
mod publish;
pub mod records;
mod sampler;
mod sampling;
pub(crate) mod seeds;
mod steps;
mod storage;
mod task;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub use asking::{asked_by, asker, shown_in};
pub(crate) use asking::{begins, copying, in_phase, while_wanted};
pub use begin::{adopt, create};
pub(crate) use census::{Census, Mark, Share};
pub(crate) use console::{Console, Extent, Follower, Piece, Refused, Source, Typed, Writer};
pub use guest::{
    AgentInfo, Command, Executed, FileSystem, Guest, GuestFile, GuestUser, Interface, MOST_OUTPUT, Os, Write,
};
pub(crate) use guest::{FRESH, GuestInterface, report as guest_report};
pub(crate) use handle::Turn;
pub use handle::{RebootMode, Start, StopMode, Stopped, VmHandle};
pub use perform::LaunchStep;
pub use progress::{Bytes, Phase, Progress};
pub(crate) use storage::{
    Original, check as check_removable, check_mounted, is_marked, mark as mark_storage, storage_of,
};

use carriers::Carriers;
use guest::Reports;
use seeds::Seeds;

use crate::{
    config::Config,
    host::{cpus::Host, image::QemuImg, sandbox::Sandbox},
    model::{UserNetwork, VmId},
    net::Network,
    qemu::{Caps, RunPaths},
    store::{Riders, Store},
};

/// What every VM's task needs of the daemon.
pub struct Context {
    pub config: Config,
    pub host: Host,
    pub caps: Caps,
    pub images: QemuImg,
    pub store: Store,
    /// What is stored together with the things that requests make.
    pub riders: Arc<Riders>,
    /// What all VMs have together.
    pub(crate) census: Arc<Census>,
    /// What their guests told of themselves.
    pub reports: Reports,
    pub net: Network,
    /// What VMs are kept in.
    pub sandbox: Arc<Sandbox>,
    /// What carries NICs on the user-mode network of VMs that are started now.
    pub user_network: UserNetwork,
    pub carriers: Carriers,
    /// What the state directory was copied from.
    pub(crate) original: Option<Original>,
    pub closing: Closing,
}

/// The end of the daemon, as VMs' tasks know of it: nothing starts any more.
#[derive(Debug, Default)]
pub struct Closing(AtomicBool);

impl Closing {
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Context {
    /// `<state-dir>/run/<short id>`.
    pub fn run_paths(&self, id: &VmId) -> RunPaths {
        RunPaths::new(self.config.state_dir.join("run").join(id.short()))
    }

    /// `<state-dir>/cloud-init/<vm id>`.
    pub fn seeds(&self, id: VmId) -> Seeds {
        Seeds::of(&self.config.state_dir, id)
    }

    /// `<state-dir>/images/<vm id>`: the disks that qherd made for a VM.
    pub fn image_folder(&self, id: &VmId) -> PathBuf {
        self.config.state_dir.join("images").join(id.to_string())
    }
}

pub type SharedContext = Arc<Context>;
