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
    /// No system calls that it has no use for.
    Filter,
}

impl Layer {
    pub const ALL: [Self; 8] = [
        Self::Environment,
        Self::Descriptors,
        Self::Limits,
        Self::Capabilities,
        Self::User,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Filter,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Descriptors => "descriptors",
            Self::Limits => "limits",
            Self::Capabilities => "capabilities",
            Self::User => "user",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Landlock => "landlock",
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
}

/// A layer that a host has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MissingLayer {
    pub layer: Layer,
    /// For people.
    pub why: String,
}
