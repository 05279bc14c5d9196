//! Events: what has happened, as it is stored in the batch of the change that it tells of, and read by whoever follows
//! (docs/adr/0035). How a dialect writes one is not known here.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ImageId, Labels, LayerId, Role, Status, SwitchId, VmId};

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at: u64,
    pub about: About,
    pub what: What,
    /// Who asked for it, where anybody did: several, where one batch carries what several wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Asker>,
}

/// What an event is about, by the name that it had then; and the labels by which it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    Vm {
        id: VmId,
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        labels: Vec<Labels>,
    },
    Switch {
        id: SwitchId,
        name: String,
    },
    Image {
        id: ImageId,
        /// With its tag.
        name: String,
    },
    Volume {
        id: LayerId,
        name: String,
    },
    /// This host, and this daemon on it.
    Host,
    /// Work that nobody waits for on the line: of a request of this kind, about this VM or this switch.
    Operation {
        id: Uuid,
        kind: String,
        vm: Option<VmId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        switch: Option<SwitchId>,
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        labels: Vec<Labels>,
    },
}

/// Who asks, and by which request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asker {
    pub caller: String,
    pub request: String,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum What {
    /// It exists from now on.
    Created,
    /// It is defined otherwise.
    Changed {
        /// The fields of its definition, by their names in the KVM dialect.
        fields: Vec<String>,
    },
    /// There is nothing left of it.
    Deleted,
    /// What is wanted of it from now on.
    Goal { goal: Wanted },
    /// What it does from now on.
    Status { status: Status, reason: Option<String> },
    /// The guest's agent came or went.
    Agent { connected: bool },
    /// What the running VM has is another: a change has come into effect, or the guest has let go of a device.
    InEffect {
        fields: Vec<String>,
        vcpus: u32,
        /// MiB.
        memory: u64,
        /// Devices by name.
        added: Vec<String>,
        removed: Vec<String>,
    },
    /// Something happened to the guest, so many times since that was told last.
    Incident {
        #[serde(flatten)]
        incident: Incident,
        times: u32,
    },
    /// Its guest was told to do something, and on what: a command, or a path.
    Guest { request: GuestRequest, target: Option<String> },
    /// The host's side of it is not as it should be, or, without a problem, is again.
    Problem { problem: Option<String> },
    /// What somebody should see to, all of it; empty where there is nothing any more.
    Warnings { warnings: Vec<String> },
    /// Of an operation.
    Operation(OperationNews),
}

impl What {
    /// As this role may read it.
    #[must_use]
    pub fn shown_to(self, role: Role) -> Self {
        let shown = |said: Option<String>| said.map(|said| role.shown(said));
        match self {
            Self::Status { status, reason } => Self::Status { status, reason: shown(reason) },
            Self::Problem { problem } => Self::Problem { problem: shown(problem) },
            other => other,
        }
    }
}

/// What a guest is told to do by its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestRequest {
    Exec,
    WriteFile,
    SetTime,
    Freeze,
    Thaw,
}

impl GuestRequest {
    /// As it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::WriteFile => "write_file",
            Self::SetTime => "set_time",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

/// What is told of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "news")]
pub enum OperationNews {
    /// It is acknowledged.
    Begun,
    /// How far it has come; bytes where some are copied.
    Progress {
        phase: String,
        device: Option<String>,
        bytes: Option<(u64, u64)>,
    },
    Ended {
        outcome: Outcome,
    },
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Failed,
    Cancelled,
}

impl Outcome {
    /// As it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is wanted of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    Start,
    Stop,
    Reboot,
    Suspend,
    Resume,
    Reset,
    /// At once, without asking the guest.
    ForceOff,
    Delete,
}

/// What happens to a guest by itself, and leaves nothing that is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "incident")]
pub enum Incident {
    /// It began anew, whoever had it do so.
    Reset,
    /// It has powered off by itself.
    PoweredOff,
    Panicked,
    /// The host could not read or write what it wanted.
    IoError {
        disk: String,
        /// `read` or `write`.
        operation: String,
        no_space: bool,
    },
    /// It did not feed its watchdog; `action` is what QEMU did about it.
    Watchdog {
        action: String,
    },
}

impl Event {
    /// As it is written in the API, and filtered by: what it is about, a point, and what has happened.
    pub fn kind(&self) -> &'static str {
        match (&self.about, &self.what) {
            (_, What::Operation(news)) => news.kind(),
            (About::Host, _) | (_, What::Warnings { .. }) => "host.warnings",
            (About::Vm { .. } | About::Operation { .. }, what) => what.of_vm(),
            (About::Switch { .. }, what) => what.of_switch(),
            (About::Image { .. }, what) => what.of_image(),
            (About::Volume { .. }, What::Deleted) => "volume.deleted",
            // A volume has none of the others.
            (About::Volume { .. }, _) => "volume.created",
        }
    }

    pub fn vm(&self) -> Option<VmId> {
        match self.about {
            About::Vm { id, .. } => Some(id),
            About::Operation { vm, .. } => vm,
            About::Switch { .. } | About::Image { .. } | About::Volume { .. } | About::Host => None,
        }
    }

    /// Those that its VM had then.
    pub fn labels(&self) -> &[Labels] {
        match &self.about {
            About::Vm { labels, .. } | About::Operation { labels, .. } => labels,
            About::Switch { .. } | About::Image { .. } | About::Volume { .. } | About::Host => &[],
        }
    }
}

impl What {
    fn of_vm(&self) -> &'static str {
        match self {
            Self::Created => "vm.created",
            Self::Changed { .. } => "vm.changed",
            Self::Deleted => "vm.deleted",
            Self::Goal { .. } => "vm.goal",
            Self::Status { .. } => "vm.status",
            Self::Agent { .. } => "vm.agent",
            Self::InEffect { .. } => "vm.in_effect",
            Self::Incident { incident, .. } => match incident {
                Incident::Reset => "vm.reset",
                Incident::PoweredOff => "vm.powered_off",
                Incident::Panicked => "vm.panicked",
                Incident::IoError { .. } => "vm.io_error",
                Incident::Watchdog { .. } => "vm.watchdog",
            },
            Self::Guest { .. } => "vm.guest",
            Self::Problem { .. } => "vm.problem",
            Self::Warnings { .. } => "host.warnings",
            Self::Operation(news) => news.kind(),
        }
    }

    fn of_switch(&self) -> &'static str {
        match self {
            Self::Created => "switch.created",
            Self::Deleted => "switch.deleted",
            Self::Problem { .. } => "switch.problem",
            // A switch has none of the others.
            _ => "switch.changed",
        }
    }

    fn of_image(&self) -> &'static str {
        match self {
            Self::Created => "image.created",
            Self::Deleted => "image.deleted",
            // An image has none of the others.
            _ => "image.changed",
        }
    }
}

impl OperationNews {
    fn kind(&self) -> &'static str {
        match self {
            Self::Begun => "operation.begun",
            Self::Progress { .. } => "operation.progress",
            Self::Ended { .. } => "operation.ended",
        }
    }
}

/// Every type of event, as it is written in the API.
pub const EVENT_TYPES: [&str; 27] = [
    "vm.created",
    "vm.changed",
    "vm.deleted",
    "vm.goal",
    "vm.status",
    "vm.agent",
    "vm.in_effect",
    "vm.reset",
    "vm.powered_off",
    "vm.panicked",
    "vm.io_error",
    "vm.watchdog",
    "vm.guest",
    "vm.problem",
    "switch.created",
    "switch.changed",
    "switch.deleted",
    "switch.problem",
    "image.created",
    "image.changed",
    "image.deleted",
    "volume.created",
    "volume.deleted",
    "host.warnings",
    "operation.begun",
    "operation.progress",
    "operation.ended",
];

impl Wanted {
    /// As it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reboot => "reboot",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::ForceOff => "force_off",
            Self::Delete => "delete",
        }
    }
}
