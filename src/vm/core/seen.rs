//! What was seen of a VM and is not stored: a daemon that comes later looks anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Ms,
    lane::{DiskNo, Lane},
    step::StartedWith,
};
use crate::model::{Ending, Error, NicId};

/// What was seen of a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// A process of ours lives.
    pub process: bool,
    /// SIGKILL was sent, and the kernel still holds the process: the pidfd alone ends that.
    pub kernel_holds: bool,
    /// Somebody wants it ended once more.
    pub kill_again: bool,
    pub monitor: Monitor,
    /// The guest agent has opened its port.
    pub agent: bool,
    /// The guest has powered off, and QEMU waits.
    pub powered_off: bool,
    /// How the guest is has to be looked at.
    pub look: bool,
    /// What QEMU has has to be looked at: it may have changed unseen.
    pub look_at_devices: bool,
    /// What QEMU has is what is noted of it.
    pub devices_known: bool,
    /// The guest was reset since QEMU was last looked at.
    pub was_reset: bool,
    /// MiB that the guest was last asked to come to: it may follow late.
    pub memory_requested: Option<u64>,
    /// How much memory the guest has has to be looked at.
    pub look_at_memory: bool,
    /// When its file systems are to be thawed, after that came to nothing.
    pub thaw_next: Option<Ms>,
    /// When the guest was last asked to power off or reboot.
    pub requested: Option<Ms>,
    /// Since when QEMU is to quit.
    pub quitting: Option<Ms>,
    pub launch: Launch,
    /// Devices that the guest is to let go of, or has.
    pub releases: BTreeMap<Device, Release>,
    /// NICs whose tap is ready for a start.
    pub taps: BTreeSet<NicId>,
    /// NICs whose tap somebody removed.
    pub lost_taps: BTreeSet<NicId>,
    /// Images to be grown while there is no process.
    pub grow: BTreeSet<DiskNo>,
    /// vCPUs that QEMU has.
    pub vcpus: Option<u32>,
    /// The number of vCPUs that `vcpus_made` has been raised for.
    pub vcpus_noted: Option<u32>,
    /// vCPUs that an emulating QEMU could still make before that.
    pub vcpu_room: u32,
    /// vCPUs came: their threads are to be pinned as well.
    pub pin_again: bool,
    pub trouble: Trouble,
    /// A file that the next start would not find.
    pub missing: Option<String>,
    /// Files have to be looked for.
    pub look_for_files: bool,
    /// The end of the last run was none that the guest had a part in.
    pub was_cut: bool,
    /// Sessions in a row that its monitor has spoilt.
    pub misconduct: u32,
    /// What is to be stored next is what a client wants anew.
    pub wish: bool,
    /// Whether the last commit is stored is not known.
    pub unsure: bool,
    /// NICs whose host's side is to be taken over from the daemon before.
    pub adopt: BTreeSet<NicId>,
    /// Everything but the record is removed.
    pub erased: bool,
}

/// The monitor of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Monitor {
    /// There is no process, or it has not greeted yet.
    #[default]
    None,
    Open,
    /// It does not answer.
    Away {
        reason: String,
        /// From then on it counts as unresponsive: until then it has its time.
        tells_at: Ms,
        /// It is not connected to before.
        next_try: Ms,
    },
}

/// How far a start has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launch {
    pub prepared: bool,
    /// Pinned, throttled, sized: the guest may run.
    pub tuned: bool,
    pub with: Option<StartedWith>,
    /// It is being taken back, for this reason.
    pub failed: Option<Error>,
    /// A client has come in between.
    pub was_cut: bool,
    /// How it ends where that is no client's doing.
    pub ending: Option<Ending>,
    /// Nobody waits for it: it comes by the policy or after a boot of the host.
    pub unattended: bool,
}

/// A device that comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    Disk(DiskNo),
    Nic(NicId),
}

impl Device {
    pub fn lane(self) -> Lane {
        match self {
            Self::Disk(no) => Lane::Disk(no),
            Self::Nic(nic) => Lane::Nic(nic),
        }
    }
}

/// The way of a device out of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// When QEMU last asked the guest.
    pub requested: Option<Ms>,
    /// How often it has asked.
    pub times: u32,
    /// The guest has said no; it is asked again when something has happened to it.
    pub refused: bool,
    /// QEMU says that it is out.
    pub gone: bool,
}

/// After an I/O error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// When the guest may go on by itself.
    pub next: Option<Ms>,
    pub tries: u32,
    pub last_try: Option<Ms>,
}

/// What may happen to a VM by itself, as its task sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// Time has passed, and nothing else.
    Time,
    /// The process has ended; how, in words.
    Exited(String),
    /// The monitor's session has ended.
    Closed {
        reason: String,
        /// It did not keep to the protocol.
        misconduct: bool,
        /// The session was too short to be a good one.
        brief: bool,
    },
    Reset,
    /// The host could not read or write what the guest wanted.
    IoError {
        disk: String,
        operation: String,
        no_space: bool,
    },
    /// The guest did not feed its watchdog, and QEMU did this about it.
    Watchdog(String),
    /// The guest does not execute any more, for whatever reason.
    Halted,
    Resumed,
    /// The agent opened or closed its port.
    Agent(bool),
    /// The guest has let go of a device.
    Deleted(Device),
    /// The guest does not let go of a device.
    Kept(Device),
    /// A vCPU has gone, maybe later than anybody waited for it.
    VcpuDeleted,
    /// The guest has moved memory.
    MemoryMoved,
    /// How far the guest has followed, in MiB.
    Memory(u64),
    /// How far vCPUs have come or gone.
    Vcpus {
        present: u32,
        used: u32,
    },
    /// Somebody removed the tap of a NIC.
    TapGone(NicId),
    /// The daemon ends; its VMs too, where `vms`.
    Closing {
        vms: bool,
    },
}
