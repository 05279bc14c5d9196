//! What can go wrong on the host's side of a switch, in words for people.

/// Why the host's network does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The daemon may not change the network.
    #[error(
        "qherd lacks the capability {capability}, which switches need; run it as root, or give it the capability (AmbientCapabilities={capability} in its unit)"
    )]
    Missing { capability: &'static str },
    /// A program that this needs is not on the host.
    #[error("{feature} needs the program {program}, which is not on this host; install the package {package}")]
    Program { feature: &'static str, program: &'static str, package: &'static str },
    /// There is no such adapter, or it cannot be part of a bridge: completes "adapter must …".
    #[error("adapter must {0}")]
    Adapter(String),
    /// The adapter carries no frames as large as the switch is to: completes "mtu must …".
    #[error(
        "mtu must be at most {most} bytes, which is what the adapter {adapter} has; raise that of the adapter first"
    )]
    Mtu { adapter: String, most: u32 },
    /// The adapter carries addresses or routes of the host (ruling 33).
    #[error(
        "The adapter {adapter} carries addresses or routes of the host ({what}); with allow_management_os they move to the switch while it is there."
    )]
    Carries { adapter: String, what: String },
    /// An address of the adapter goes by itself, unless the DHCP client that got it renews it; on an adapter in a bridge
    /// it cannot.
    #[error(
        "The adapter {adapter} has an address that a DHCP server gave it ({what}), and on a switch nobody would renew it; give the host a static address there, or leave allow_management_os out and use another adapter for the host."
    )]
    Leased { adapter: String, what: String },
    /// The subnet meets an address or route of the host.
    #[error("The subnet {subnet} overlaps {with} of the host; choose another.")]
    Overlap { subnet: String, with: String },
    /// The kernel was built without what keeps them apart.
    #[error(
        "The kernel of this host cannot keep the VLANs of a switch apart: its bridges have no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING). Boot a kernel that has it, as those of the distributions do, or take vlan and trunk off."
    )]
    Vlans,
    /// The kernel or a program said no.
    #[error("cannot {what}: {why}")]
    Failed { what: String, why: String },
}

impl NetError {
    pub(super) fn failed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Failed { what: what.into(), why: why.to_string() }
    }
}
