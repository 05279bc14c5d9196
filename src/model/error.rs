//! What can go wrong, as one closed set. Each dialect renders it in one exhaustive match; the texts here are for
//! people and say what was attempted, why it failed and what to do. No HTTP in here.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use super::{ForwardId, Status, SwitchId, VmId};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The closed domain error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Asked again under its idempotency key, after somebody has deleted it.
    #[error(
        "What this request made under its Idempotency-Key has been deleted since; to make another one, ask under another key."
    )]
    MadeAndDeleted,
    /// The caller's mistake: `param` is the KVM dialect's name of the field, `must` completes "<param> must …".
    #[error("Invalid parameter: {param} must {must}.")]
    Invalid { param: Cow<'static, str>, must: String },
    /// A field that cannot be changed, or not in this way, was given another value; `is` completes "it is …".
    #[error("{param} cannot be changed to that: it is {is}.")]
    Fixed { param: Cow<'static, str>, is: String },
    #[error("VM not found: {0}.")]
    VmNotFound(VmId),
    #[error("Disk not found: {name}.")]
    DiskNotFound { name: String },
    /// In the words of the client: an id or QEMU's name.
    #[error("NIC not found: {name}.")]
    NicNotFound { name: String },
    /// A forward of a user-mode NIC needs a port of the host that it cannot have.
    #[error("The port {port} of the host cannot be forwarded to the guest: {why}. Choose another.")]
    PortTaken { port: String, why: String },
    #[error("Base image not found: {}.", .path.display())]
    BaseImageNotFound { path: PathBuf },
    /// A clone of it would be a snapshot of something half-written.
    #[error("The base image {} is in use by {by}, which may write to it; end that first, or give a copy of the image.", .path.display())]
    BaseImageInUse { path: PathBuf, by: String },
    /// It is so large that it is not done yet.
    #[error("The base image {} is still being checked; try again later.", .path.display())]
    BaseImageUnchecked { path: PathBuf },
    /// In the words of the client: an id or a name.
    #[error("Switch not found: {0}.")]
    SwitchNotFound(String),
    #[error("Invalid parameter: {param} must be one switch; {} bear the name {name:?}: {}. Name it by its id.", .ids.len(), .ids.iter().map(SwitchId::to_string).collect::<Vec<_>>().join(", "))]
    AmbiguousSwitch { param: Cow<'static, str>, name: String, ids: Vec<SwitchId> },
    /// In the words of the client: an id or a name.
    #[error("Image not found: {0}.")]
    ImageNotFound(String),
    #[error("Upload not found: {0}. It may have been finished, or taken back; begin another one.")]
    UploadNotFound(String),
    /// In the words of the client.
    #[error("Volume not found: {0}.")]
    VolumeNotFound(String),
    /// Who has a volume, or what is being done with it, does not allow it, in words.
    #[error("{0}")]
    VolumeConflict(String),
    #[error("There is an image {0} already; take another name or tag, or remove that one first.")]
    ImageExists(String),
    /// What hangs on an image, or is being done with it, does not allow it, in words.
    #[error("{0}")]
    ImageConflict(String),
    /// A server elsewhere, or the way to it, keeps what is to come from there.
    #[error("The image does not come: {0}. Try again later, or give another URL.")]
    Elsewhere(String),
    /// In the words of the client: the name of a well-known image.
    #[error(
        "There is no image {0} here yet, but it is a well-known one: pull it first, with qherd image pull {0}, or POST /images {{\"name\": \"{0}\"}}."
    )]
    NotPulled(String),
    /// What is to be written does not fit; told before anything is, where that can be known. `what` has its figure.
    #[error("There is no room in {} for {what}: {free} bytes may be used there. Free some, and try again.", .place.display())]
    NoRoom { what: String, free: u64, place: PathBuf },
    #[error("Port forward not found: {0}.")]
    ForwardNotFound(ForwardId),
    /// The state of the host's network or of a switch does not allow it, in words.
    #[error("{0}")]
    SwitchConflict(String),
    /// A disk of the VM is not where its record says, or is not the VM's to change, in words.
    #[error("{0}")]
    Storage(String),
    /// The state of the VM does not allow it now.
    #[error("{0}")]
    Conflict(Conflict),
    /// The VM's process lives but its monitor does not answer.
    #[error("VM {0} does not answer on its monitor; try again later, or stop it with force=true.")]
    Unresponsive(VmId),
    /// More requests wait for this VM than its queue holds.
    #[error("VM {0} has too many requests waiting; try again later.")]
    Busy(VmId),
    #[error("qherd is shutting down; try again when it is back.")]
    ShuttingDown,
    /// The guest's agent was to do something, and nobody else; `why` it did not.
    #[error("The guest agent does not do it: {why}")]
    NoAgent { why: String },
    /// What its agent does not know, or was told not to do.
    #[error(
        "The guest agent (version {version}) has no {command}, or it is switched off there; a newer agent, or another setting of it, has it."
    )]
    AgentLacks { command: String, version: String },
    /// It does not answer, or not as an agent does; whether it has done what it was asked for is not known.
    #[error("The guest agent does not answer as it should: {why}")]
    AgentFails { why: String },
    /// In the words of the guest.
    #[error("The guest refuses {command}: {why}")]
    GuestRefuses { command: String, why: String },
    #[error("File not found in the guest: {path}.")]
    GuestFileNotFound { path: String },
    /// Asked again under its idempotency key, and it is nothing that may be done twice.
    #[error(
        "This request was carried out under its Idempotency-Key before, and its answer is lost or was too long to be kept; it is not          carried out again."
    )]
    AnswerLost,
    /// The definition names something that this host no longer has, and a change of it mends that.
    #[error("The VM cannot be started: {why}.")]
    Unstartable { why: String },
    /// The settings let VMs have no more of this host.
    #[error("{0}")]
    BeyondBounds(String),
    /// The host failed at something.
    #[error("{operation}: {why}")]
    Failed { operation: Operation, why: String },
}

/// What was under way when the host failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Operation {
    #[error("create the VM")]
    Create,
    #[error("clone the base image {}", .base.display())]
    Clone { base: PathBuf },
    #[error("start the VM")]
    Start,
    #[error("stop the VM")]
    Stop,
    #[error("reboot the VM")]
    Reboot,
    #[error("suspend the VM")]
    Suspend,
    #[error("resume the VM")]
    Resume,
    #[error("delete the VM")]
    Delete,
    #[error("change the VM")]
    Change,
    #[error("read the console log")]
    ConsoleLog,
    #[error("create the switch")]
    CreateSwitch,
    #[error("change the switch")]
    ChangeSwitch,
    #[error("delete the switch")]
    DeleteSwitch,
    #[error("connect the NIC")]
    Plug,
    #[error("import the image")]
    Import,
    #[error("read the image")]
    Export,
    #[error("make the volume")]
    MakeVolume,
    #[error("delete the volume")]
    DeleteVolume,
    #[error("look at the volumes")]
    Volumes,
    #[error("change the image")]
    ChangeImage,
    #[error("delete the image")]
    DeleteImage,
    #[error("look at the host")]
    Host,
    #[error("ask the guest agent")]
    AskGuest,
    #[error("read the VM's record")]
    ReadRecord,
}

/// Why a request does not fit the state that the VM is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("VM is not running, cannot reboot.")]
    NotRunning,
    #[error("VM is not running; start it first.")]
    Off,
    #[error("VM is already suspended")]
    AlreadySuspended,
    #[error("VM is already running")]
    AlreadyRunning,
    /// It has the status given.
    #[error("VM must be Off to update")]
    MustBeOff(Status),
    #[error("VM is stopping; wait until it has stopped.")]
    Stopping,
    #[error("VM is rebooting; wait until it is running.")]
    Rebooting,
    #[error(
        "The VM has no free slot for another disk or NIC; remove one, or create the VM with a profile that has more hotplug_ports."
    )]
    NoFreeSlot,
    #[error("The guest does not let go of the disk; unmount it there and try again, or stop the VM first.")]
    DiskInUse,
    #[error("VM is paused, and a guest that does not run lets go of no device; resume it, or stop it first.")]
    Halted,
    #[error("VM is paused, and its guest answers nobody; resume it first.")]
    Suspended,
    #[error("The guest keeps its file systems frozen, and does nothing else until they are thawed.")]
    Frozen,
    /// A NIC on the user-mode network, for a QEMU that was started without one.
    #[error(
        "The VM was started without a NIC on QEMU's user-mode network, so its QEMU has no way to the host's network; stop the VM, \
         add the NIC, and start it, or give it a NIC on a switch."
    )]
    NoWayOut,
    /// Against a deletion and a forced stop.
    #[error(
        "VM is protected against deletion, forced stops and the removal of its disks; update it with protected=false first."
    )]
    Protected,
    /// An update had been worked out from lists that are others by now.
    #[error("The VM's disks or NICs were changed meanwhile; read them, and ask again.")]
    Outdated,
    #[error("VM is being deleted.")]
    Deleting,
    #[error("The request was overtaken by a forced stop or a delete of the VM.")]
    Overtaken,
    #[error("The operation was cancelled; what it had begun is taken back.")]
    Cancelled,
}

impl Error {
    pub fn invalid(param: impl Into<Cow<'static, str>>, must: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), must: must.into() }
    }

    /// The same about the field of something that is itself at `place`, such as `disks[1]`.
    pub fn within(self, place: &str) -> Self {
        let inside = |param: Cow<'static, str>| Cow::from(format!("{place}.{param}"));
        match self {
            Self::Invalid { param, must } => Self::Invalid { param: inside(param), must },
            Self::Fixed { param, is } => Self::Fixed { param: inside(param), is },
            Self::AmbiguousSwitch { param, name, ids } => Self::AmbiguousSwitch { param: inside(param), name, ids },
            other => other,
        }
    }

    pub fn failed(operation: Operation, why: impl ToString) -> Self {
        Self::Failed { operation, why: why.to_string() }
    }
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}

/// "5 s" or "250 ms", for messages.
pub fn human(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}
