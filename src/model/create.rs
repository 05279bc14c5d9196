//! The wish for a new VM, as a dialect hands it over: decoded, not yet checked.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{
    Alias, CloneMode, CloudInit, CpuPinning, Disk, ForeignFile, Forward, GuestCpu, ImageFormat, IoLimits, LayerId,
    MacAddr, MetadataWish, Nic, NicId, PolicyWish, PortWish, Sent, SwitchId, SwitchPort, SwitchRef, VmId,
};

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
    /// A root disk that is there already, in the place of one that is made.
    pub root: Option<DiskWish>,
    /// The folder that the root disk is made in, as `<folder>/<id>.qcow2`; without one, the VM's own.
    pub disk_folder: Option<PathBuf>,
    /// An ISO image in its CD drive.
    pub iso: Option<PathBuf>,
    pub cloud_init: Option<CloudInit>,
    pub clone: CloneMode,
    pub cpu_pinning: Option<CpuPinning>,
    pub cpu: Option<GuestCpu>,
    pub io_limits: Option<IoLimits>,
    /// Beside the root disk.
    pub disks: Vec<DiskWish>,
    pub policy: PolicyWish,
    pub metadata: MetadataWish,
    /// Its lists in the client's words, where its dialect tells them.
    pub sent: Sent,
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
    /// One that is there already; nothing is made then.
    pub existing: Option<ExistingDisk>,
    /// The volume that it is to be in; nothing is made then either.
    pub volume: Option<LayerId>,
    /// GiB. One that is there already has its size.
    pub size: Option<i64>,
    /// Empty without one.
    pub base_image: Option<PathBuf>,
    pub clone: CloneMode,
    pub io_limits: Option<IoLimits>,
}

/// A disk image that is to be attached as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingDisk {
    /// In the client's words.
    pub path: PathBuf,
    pub format: ImageFormat,
}

/// What people call a NIC that nobody has named.
pub const DEFAULT_LABEL: &str = "Network Adapter";

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

impl DiskWish {
    /// The file that is named: the disk itself, or what it is to be cloned from.
    pub fn names(&self) -> Option<&Path> {
        self.existing.as_ref().map(|existing| &*existing.path).or(self.base_image.as_deref())
    }

    /// Nothing is made for it.
    pub fn is_there(&self) -> bool {
        self.existing.is_some() || self.volume.is_some()
    }

    /// Whether a disk is as is wished here, as far as can be told without a look at its files, which may be `called` in other
    /// words.
    pub fn is(&self, disk: &Disk, called: &[Alias]) -> bool {
        if let Some(existing) = &self.existing {
            let same = |there: &ForeignFile| {
                Alias::means(called, &existing.path, &there.path) && there.format == existing.format
            };
            let size = self.size.is_none_or(|size| u64::try_from(size) == Ok(disk.size));
            return disk.file.foreign().is_some_and(same) && size && self.io_limits == disk.io_limits;
        }
        if let Some(volume) = self.volume {
            let size = self.size.is_none_or(|size| u64::try_from(size) == Ok(disk.size));
            return disk.file.volume().is_some() && disk.layer == volume && size && self.io_limits == disk.io_limits;
        }
        let from = match (&self.base_image, &disk.base) {
            (None, None) => true,
            // What an earlier qherd has stored has no names beside it.
            (Some(named), Some(base)) => {
                (base.path.ends_with(named) || Alias::means(called, named, &base.path)) && self.clone == disk.clone
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        let size = self.size.and_then(|size| u64::try_from(size).ok());
        disk.file.own().is_some() && from && size == Some(disk.size) && self.io_limits == disk.io_limits
    }
}

impl NicWish {
    /// Whether a NIC is as is wished here; `switch` is the one that is.
    pub fn is(&self, nic: &Nic, switch: Option<SwitchId>) -> bool {
        let port_is = |port: &SwitchPort| {
            let mut wished = port.clone();
            self.port.whole().apply(&mut wished).is_ok() && wished == *port
        };
        self.fixed_difference(nic, switch).is_none() && nic.port().is_none_or(port_is)
    }

    /// In what a NIC is not as is wished here that only another NIC can have; and how it is.
    pub fn fixed_difference(&self, nic: &Nic, switch: Option<SwitchId>) -> Option<(&'static str, String)> {
        if nic.switch() != switch {
            let is = nic.switch().map_or("none, but the user-mode network".to_owned(), |switch| switch.to_string());
            return Some(("switch", is));
        }
        if let NetworkWish::User { forwards } = &self.network
            && forwards != nic.backend.forwards()
        {
            return Some(("user.forwards", "decided when the NIC was added".to_owned()));
        }
        if self.label.as_deref().unwrap_or(DEFAULT_LABEL) != nic.label {
            return Some(("name", nic.label.clone()));
        }
        if self.mac.is_some_and(|mac| mac != nic.mac) {
            return Some(("mac", nic.mac.to_string()));
        }
        let queues = u8::try_from(self.queues.unwrap_or(1)).ok();
        (queues != Some(nic.queues)).then(|| ("queues", nic.queues.to_string()))
    }

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
