//! What can be done about a VM: one exchange with the host each. A step looks first, so it may be repeated from any point;
//! how it is performed is `vm::perform`'s business, or the simulation's.

use std::{path::PathBuf, sync::Arc};

use super::{
    Ms,
    lane::{DiskNo, Lane},
    record::{Guest, Record},
    telling::Tells,
};
use crate::model::{CpuPinning, Disk, Error, IoLimits, Nic, NicId, ProcessId, Sandbox, VmSpec};

/// How a guest is asked to power off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    PowerOff,
    Reboot,
}

/// One exchange with the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Commit(Box<Txn>),
    /// SIGKILL; it reports when the process has ended, or after a while that the kernel holds it.
    Kill,
    /// Ends every QEMU of this VM that no record tells of.
    EndStrays,

    /// The run directory, and a look at what QEMU would not find.
    Prepare,
    Spawn,
    Greet,
    /// Pins, throttles and sizes before the guest runs.
    Tune,
    Continue,
    Pause,
    Reset,
    Quit,
    /// Lets a guest go on after an I/O error, where there is room.
    GoOn,
    Connect,
    Look {
        devices: bool,
    },
    /// The agent where it answers, else the power button.
    AskGuest {
        mode: Mode,
        by_agent: bool,
        agent_only: bool,
    },
    /// A guest in its firmware did not notice, and one on its way down does not mind.
    PressButton,
    /// The guest's file systems, by its agent.
    Freeze,
    Thaw,

    /// Looks for what the next start would not find.
    FindFiles,
    /// Whether a deletion could remove what it is to remove.
    CheckRemovable,
    /// Removes everything but the record. Of a VM that was never whole, what is not there is no matter.
    Erase {
        half_made: bool,
    },
    RemoveRunFiles,

    /// Whether a new image's place is free.
    CheckImage(DiskNo),
    MakeImage(DiskNo, u64),
    RemoveImage(DiskNo),
    /// Of a VM without a process.
    GrowImage(DiskNo, u64),
    PlugDisk(Box<Disk>),
    /// Has QEMU ask the guest to let go of it.
    ReleaseDisk(DiskNo),
    /// The device is out: its node is closed.
    CloseDisk(DiskNo),
    ResizeDisk(DiskNo, u64),
    ThrottleDisk(DiskNo, Option<Box<IoLimits>>),

    /// The host's side of a NIC, before a start.
    ConnectNic(Box<Nic>),
    /// After a restart of the daemon.
    AdoptNic(Box<Nic>),
    DisconnectNic(Box<Nic>),
    PlugNic(Box<Nic>),
    ReleaseNic(NicId),
    CloseNic(NicId),
    PutPort(Box<Nic>),

    SetVcpus(u32),
    Pin(Option<Box<CpuPinning>>),
    SetMemory(u64),
    ReadMemory,
    ExchangeMedium(Option<PathBuf>),
}

/// One batch of the store, over all kinds: all or nothing, on stable storage, and then it is what others see.
#[derive(Clone, Debug, PartialEq)]
pub struct Txn {
    pub number: u64,
    /// None removes it.
    pub record: Option<Record>,
    /// What a client wants anew, which a full disk refuses; everything else may use the reserve.
    pub is_wish: bool,
    /// What follows what with it.
    pub tells: Tells,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done(Report),
    Failed(Setback),
    /// It was cut short; how far it had come is not known.
    Cut,
}

/// What a QEMU was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartedWith {
    /// What can be had of the definition on this host.
    pub fitted: Arc<VmSpec>,
    /// MiB that its virtio-mem can add.
    pub hotplug_memory: u64,
    pub sandbox: Sandbox,
}

/// What a step found.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    Done,
    /// With what QEMU was started for.
    Spawned {
        process: ProcessId,
        with: StartedWith,
    },
    Connected {
        agent: bool,
    },
    Guest(Look),
    Devices {
        look: Look,
        /// By QEMU's ids.
        disks: Vec<DiskNo>,
        nics: Vec<NicId>,
        vcpus: u32,
    },
    /// The device is there, after all.
    StillThere,
    /// The device is out.
    Out,
    /// MiB that the guest has.
    Memory(u64),
    Missing(Option<String>),
    /// So many were frozen or thawed.
    FileSystems(u64),
}

/// How QEMU says that the guest is.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    Is(Guest),
    /// It is halted by an I/O error: in words.
    IoError(String),
    PoweredOff,
    Panicked,
}

/// Why a step was not made.
#[derive(Clone, Debug, PartialEq)]
pub enum Setback {
    /// The guest, or QEMU in its state of the moment, does not follow; the next start will.
    NotNow(String),
    /// QEMU refuses what it should take: what a client wants so is taken back.
    Refused(String),
    /// In words of our own; as with `Refused`.
    Reported(Error),
    /// The host failed; it may do better later.
    Host(String),
    /// The monitor did not answer.
    Lost(String),
    /// The kernel does not let go of the process.
    Held,
    /// The store has not done it, and nothing of it is there.
    NotStored(String),
    /// Whether the store has done it is not known.
    StoreSilent(String),
    /// A file is there that is not ours.
    Foreign(Error),
}

impl Step {
    pub fn lane(&self) -> Lane {
        match self {
            Self::Commit(_) => Lane::Store,
            Self::Kill => Lane::Kill,
            Self::EndStrays => Lane::Strays,
            Self::Prepare
            | Self::Spawn
            | Self::Greet
            | Self::Tune
            | Self::Continue
            | Self::Pause
            | Self::Reset
            | Self::Quit
            | Self::GoOn => Lane::Power,
            Self::Connect => Lane::Monitor,
            Self::Look { .. } => Lane::Look,
            Self::AskGuest { .. } | Self::PressButton | Self::Freeze | Self::Thaw => Lane::Agent,
            Self::FindFiles | Self::CheckRemovable | Self::Erase { .. } => Lane::Files,
            Self::RemoveRunFiles => Lane::RunFiles,
            Self::CheckImage(disk)
            | Self::MakeImage(disk, _)
            | Self::RemoveImage(disk)
            | Self::GrowImage(disk, _)
            | Self::ReleaseDisk(disk)
            | Self::CloseDisk(disk)
            | Self::ResizeDisk(disk, _)
            | Self::ThrottleDisk(disk, _) => Lane::Disk(*disk),
            // A disk without a number is none that was ever made.
            Self::PlugDisk(disk) => Lane::Disk(DiskNo::of(&disk.name).unwrap_or(DiskNo(0))),
            Self::ConnectNic(nic)
            | Self::AdoptNic(nic)
            | Self::DisconnectNic(nic)
            | Self::PlugNic(nic)
            | Self::PutPort(nic) => Lane::Nic(nic.id),
            Self::ReleaseNic(nic) | Self::CloseNic(nic) => Lane::Nic(*nic),
            Self::SetVcpus(_) => Lane::Vcpus,
            Self::Pin(_) => Lane::Pin,
            Self::SetMemory(_) => Lane::Memory,
            Self::ReadMemory => Lane::MemoryLook,
            Self::ExchangeMedium(_) => Lane::Medium,
        }
    }

    /// The longest that it may take before it has to report. A connection waits for as long as its process lives.
    pub fn deadline(&self) -> Option<Ms> {
        Some(match self {
            Self::Kill => 800,
            Self::Quit => 2_000,
            Self::CheckRemovable => 1_000,
            Self::PressButton | Self::Look { .. } | Self::ReadMemory => 5_000,
            Self::AskGuest { .. } | Self::Thaw => 11_000,
            Self::Prepare | Self::FindFiles | Self::GoOn | Self::CheckImage(_) | Self::RemoveRunFiles => 10_000,
            Self::Continue | Self::Pause | Self::Reset | Self::EndStrays => 10_000,
            Self::Commit(_) | Self::Spawn | Self::Greet | Self::Tune => 30_000,
            Self::ConnectNic(_) | Self::AdoptNic(_) | Self::DisconnectNic(_) | Self::PutPort(_) => 30_000,
            Self::SetVcpus(_) | Self::SetMemory(_) | Self::Freeze => 30_000,
            Self::Erase { .. } | Self::RemoveImage(_) => 60_000,
            Self::PlugDisk(_)
            | Self::ReleaseDisk(_)
            | Self::CloseDisk(_)
            | Self::ResizeDisk(..)
            | Self::ThrottleDisk(..)
            | Self::PlugNic(_)
            | Self::ReleaseNic(_)
            | Self::CloseNic(_)
            | Self::Pin(_)
            | Self::ExchangeMedium(_) => 60_000,
            // A copy of a large image takes as long as it takes.
            Self::MakeImage(..) | Self::GrowImage(..) | Self::Connect => return None,
        })
    }

    /// It waits for the guest or for something large, and may be dropped half-way when it is no longer wanted.
    pub fn may_be_cut(&self) -> bool {
        match self {
            Self::Prepare
            | Self::Greet
            | Self::Connect
            | Self::AskGuest { .. }
            | Self::Freeze
            | Self::Thaw
            | Self::MakeImage(..)
            | Self::SetVcpus(_)
            | Self::SetMemory(_) => true,
            Self::Commit(_)
            | Self::Kill
            | Self::EndStrays
            | Self::Spawn
            | Self::Tune
            | Self::Continue
            | Self::Pause
            | Self::Reset
            | Self::Quit
            | Self::GoOn
            | Self::Look { .. }
            | Self::PressButton
            | Self::FindFiles
            | Self::CheckRemovable
            | Self::Erase { .. }
            | Self::RemoveRunFiles
            | Self::CheckImage(_)
            | Self::RemoveImage(_)
            | Self::GrowImage(..)
            | Self::PlugDisk(_)
            | Self::ReleaseDisk(_)
            | Self::CloseDisk(_)
            | Self::ResizeDisk(..)
            | Self::ThrottleDisk(..)
            | Self::ConnectNic(_)
            | Self::AdoptNic(_)
            | Self::DisconnectNic(_)
            | Self::PlugNic(_)
            | Self::ReleaseNic(_)
            | Self::CloseNic(_)
            | Self::PutPort(_)
            | Self::Pin(_)
            | Self::ReadMemory
            | Self::ExchangeMedium(_) => false,
        }
    }
}
