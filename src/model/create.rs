//! The wish for a new VM, as a dialect hands it over: decoded, not yet checked.

use std::path::PathBuf;

use uuid::Uuid;

use super::{CloneMode, CpuPinning, Forward, IoLimits, MacAddr, NicId, PolicyWish, PortWish, SwitchRef, VmId};

/// What a client asked for. Numbers are as wide as JSON's so that a negative or huge one gets a sentence, not a decode error.
#[derive(Clone, Debug, Default)]
pub struct CreateVm {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<VmId>,
    pub name: Option<String>,
    pub profile: Option<String>,
    pub vcpus: i64,
    pub max_vcpus: Option<i64>,
    /// MiB.
    pub memory: i64,
    /// MiB.
    pub max_memory: Option<i64>,
    /// GiB.
    pub disk_size: i64,
    /// What the root disk is cloned from; it is empty without one.
    pub base_image: Option<PathBuf>,
    /// The folder that the root disk is made in, as `<folder>/<id>.qcow2`; without one, the VM's own.
    pub disk_folder: Option<PathBuf>,
    /// An ISO image in its CD drive.
    pub iso: Option<PathBuf>,
    pub clone: CloneMode,
    pub cpu_pinning: Option<CpuPinning>,
    pub io_limits: Option<IoLimits>,
    /// Beside the root disk.
    pub disks: Vec<DiskWish>,
    pub policy: PolicyWish,
    /// None for one NIC on the user-mode network.
    pub networks: Option<Vec<NicWish>>,
    /// Start it as well, all or nothing.
    pub start: bool,
}

/// A disk beside the root disk.
#[derive(Clone, Debug, Default)]
pub struct DiskWish {
    /// What the request is known by, where it may be one that was made before.
    pub request: Option<Uuid>,
    /// GiB.
    pub size: i64,
    /// Empty without one.
    pub base_image: Option<PathBuf>,
    pub clone: CloneMode,
    pub io_limits: Option<IoLimits>,
}

/// A NIC.
#[derive(Clone, Debug)]
pub struct NicWish {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<NicId>,
    /// What people call it.
    pub label: Option<String>,
    pub network: NetworkWish,
    /// Pairs of queues; 1 when not said.
    pub queues: Option<i64>,
    /// A random one when not said.
    pub mac: Option<MacAddr>,
    /// Of a NIC on a switch.
    pub port: PortWish,
}

impl NicWish {
    /// A NIC that nothing special is wished of.
    pub fn on(network: NetworkWish) -> Self {
        Self { id: None, label: None, network, queues: None, mac: None, port: PortWish::default() }
    }
}

/// What a NIC is to be plugged into.
#[derive(Clone, Debug)]
pub enum NetworkWish {
    User { forwards: Vec<Forward> },
    Switch(SwitchRef),
}
