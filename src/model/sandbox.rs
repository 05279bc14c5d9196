//! What keeps a VM's QEMU from the host, by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One layer between a child and the host, in the order in which a child puts them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Nothing of the daemon's environment.
    Environment,
    /// No open files but those that it was handed.
    Descriptors,
    /// A bound on its memory and processes together, which ends whatever it leaves behind.
    Cgroup,
    /// A root that has little but the system's programs in it.
    Mounts,
    /// A network without a way out, unless it has a NIC on QEMU's user-mode network.
    Network,
    /// No shared memory or queues of anybody.
    Ipc,
    /// Limits of resources.
    Limits,
    /// No capabilities.
    Capabilities,
    /// A user of the host that is its own.
    User,
    /// Nothing that it executes gives it rights.
    NoNewPrivileges,
    /// No files of anybody, signals or abstract sockets.
    Landlock,
    /// No connections by TCP, unless it has a NIC on QEMU's user-mode network.
    Tcp,
    /// No system calls that it has no use for.
    Filter,
}

impl Layer {
    pub const ALL: [Self; 13] = [
        Self::Environment,
        Self::Descriptors,
        Self::Cgroup,
        Self::Mounts,
        Self::Network,
        Self::Ipc,
        Self::Limits,
        Self::Capabilities,
        Self::User,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Tcp,
        Self::Filter,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Descriptors => "descriptors",
            Self::Cgroup => "cgroup",
            Self::Mounts => "mounts",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Limits => "limits",
            Self::Capabilities => "capabilities",
            Self::User => "user",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Landlock => "landlock",
            Self::Tcp => "tcp",
            Self::Filter => "filter",
        }
    }
}

/// What one VM's QEMU was started in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    /// The user of the host that it runs as, which no other live VM has; none where it runs as the daemon's.
    pub uid: Option<u32>,
    pub layers: Vec<Layer>,
    /// The control group that it is alone in, below each hierarchy's root; none where the host gives none.
    #[serde(default)]
    pub cgroup: Option<String>,
}

impl Sandbox {
    /// Whether it has no way to the host's network, so that QEMU's user-mode network leads nowhere.
    pub fn has_no_network(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer, Layer::Network | Layer::Tcp))
    }
}

/// A layer that a host has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingLayer {
    pub layer: Layer,
    /// For people.
    pub why: String,
}
