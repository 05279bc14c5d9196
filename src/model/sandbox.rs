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
    /// A network without a way out, unless QEMU itself carries a NIC on the user-mode network.
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
    /// No connections by TCP, unless QEMU itself carries a NIC on the user-mode network.
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

/// What carries NICs on the user-mode network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// A process beside QEMU for each, so that QEMU itself has no network.
    Passt,
    /// QEMU itself, which has the host's network then.
    Slirp,
}

impl Carrier {
    pub fn name(self) -> &'static str {
        match self {
            Self::Passt => "passt",
            Self::Slirp => "slirp",
        }
    }
}

/// What carries NICs on the user-mode network of VMs that are started from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNetwork {
    pub carrier: Carrier,
    /// Why this one, for people.
    pub reason: String,
    /// What guests on it are not kept from, for people; none where they are kept from this host.
    pub exposure: Option<String>,
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
    /// What carries its NICs on the user-mode network until it ends; none of one that an earlier version started, which is `slirp`.
    #[serde(default)]
    pub carrier: Option<Carrier>,
}

impl Sandbox {
    /// Whether a process beside QEMU carries its NICs on the user-mode network.
    pub fn has_passt(&self) -> bool {
        self.carrier == Some(Carrier::Passt)
    }

    /// Whether it has no way to the host's network, so that QEMU's own user-mode network leads nowhere.
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
