//! The definition of a virtual machine, as stored: everything that was decided when it was created or updated.
//! What depends on the host of the moment (accelerator, process, sockets) is not in here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    BaseImage, Conflict, DiskFile, Error, GuestCpu, IoLimits, LayerId, Metadata, Named, Nic, Policy, Result, Seed, VmId,
};

/// vCPUs that any machine type here takes (ruling 12).
pub const MAX_VCPUS: usize = 255;
/// GiB (ruling 12).
const MAX_DISK_SIZE: i64 = 65_536;
/// Slots of conventional PCI that are kept for hot-plug.
const PCI_SLOTS: u8 = 15;
/// MiB; less and not even the firmware comes up.
const MIN_MEMORY: i64 = 16;
/// MiB; smaller VMs do not grow live unless their creator says so.
const GROWS_FROM: u64 = 2048;

/// A VM's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    pub id: VmId,
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
    pub machine: Machine,
    pub vcpus: u32,
    /// Upper bound for vCPUs added live; slots for them exist from the boot on.
    pub max_vcpus: u32,
    /// The creator set that bound: nothing goes beyond it. One that was assumed rises at the next start.
    pub max_vcpus_given: bool,
    /// MiB.
    pub memory: u64,
    /// MiB; upper bound for memory added live.
    pub max_memory: u64,
    /// The creator set that bound: nothing goes beyond it. One that was assumed follows `memory` at the next start. Of a
    /// record that does not say it is not known, and it holds.
    #[serde(default = "holds")]
    pub max_memory_given: bool,
    pub cpu_pinning: Option<CpuPinning>,
    /// None for the richest that the accelerator offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<GuestCpu>,
    /// The first one is the root disk.
    pub disks: Vec<Disk>,
    /// Disks added so far, the root disk not counted: names are never used again.
    #[serde(default)]
    pub disks_added: u32,
    pub nics: Vec<Nic>,
    /// NICs added so far: names are never used again.
    pub nics_added: u32,
    #[serde(default)]
    pub policy: Policy,
    /// The ISO image in its CD drive, canonical; without one there is no drive.
    #[serde(default)]
    pub iso: Option<PathBuf>,
    /// What its guest's cloud-init is given, which is in a file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub named: Named,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

fn holds() -> bool {
    true
}

/// A disk as wished for, checked, before it has a name and a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    pub request: Option<Uuid>,
    pub layer: LayerId,
    /// One that is there already, in the place of one that is made.
    pub file: Option<DiskFile>,
    /// GiB.
    pub size: u64,
    pub base: Option<BaseImage>,
    pub clone: CloneMode,
    pub io_limits: Option<IoLimits>,
}

impl VmSpec {
    /// The first hot-plug slot that no disk and no NIC has, neither here nor in what QEMU has right now.
    pub(super) fn free_slot(&self, in_effect: Option<&Self>) -> Result<u8> {
        let slots = match self.machine.bus {
            Bus::Pcie { hotplug_ports } => hotplug_ports,
            Bus::Pci => PCI_SLOTS,
        };
        let occupies = |spec: &Self, slot| {
            spec.disks.iter().any(|d| d.slot == Some(slot)) || spec.nics.iter().any(|n| n.slot == Some(slot))
        };
        let taken = |slot: &u8| occupies(self, *slot) || in_effect.is_some_and(|now| occupies(now, *slot));
        (1..=slots).find(|slot| !taken(slot)).ok_or(Error::Conflict(Conflict::NoFreeSlot))
    }

    /// Adds a disk in the first free hot-plug slot, with its image in `folder`. What QEMU has right now is `in_effect`.
    ///
    /// # Errors
    /// [`Conflict::NoFreeSlot`].
    pub fn add_disk(&mut self, disk: NewDisk, folder: &Path, in_effect: Option<&Self>) -> Result<()> {
        let slot = self.free_slot(in_effect)?;
        self.disks_added += 1;
        let name = format!("disk{}", self.disks_added);
        self.disks.push(Disk {
            layer: disk.layer,
            file: disk.file.unwrap_or_else(|| folder.join(Self::image_name(self.disks_added)).into()),
            name,
            size: disk.size,
            clone: disk.clone,
            base: disk.base,
            io_limits: disk.io_limits,
            slot: Some(slot),
            request: disk.request,
        });
        Ok(())
    }

    /// File name of the image of the `number`th disk that was added.
    fn image_name(number: u32) -> String {
        format!("disk{number}.qcow2")
    }

    /// Which disk that was added an image of this name belongs to.
    pub fn image_number(name: &str) -> Option<u32> {
        let number = name.strip_prefix("disk")?.strip_suffix(".qcow2")?.parse().ok()?;
        // As it is written above, and not +1 or 01.
        (Self::image_name(number) == name && number > 0).then_some(number)
    }

    /// Lists that grow, or are read, have room for more: there is one of these for each VM.
    pub fn without_spare_room(mut self) -> Self {
        self.disks.shrink_to_fit();
        self.nics.shrink_to_fit();
        self
    }

    pub fn disk(&self, name: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.name == name)
    }

    pub fn disk_mut(&mut self, name: &str) -> Option<&mut Disk> {
        self.disks.iter_mut().find(|disk| disk.name == name)
    }

    /// The disk that a request has made already.
    pub fn disk_of(&self, request: Option<Uuid>) -> Option<&Disk> {
        self.disks.iter().find(|disk| request.is_some() && disk.request == request)
    }

    /// The disks as lists of them have them: all beside a root disk that was made, for what that is stands beside the list.
    pub fn listed_disks(&self) -> &[Disk] {
        let made = self.root().is_some_and(|root| root.file.own().is_some());
        self.disks.get(usize::from(made)..).unwrap_or_default()
    }

    /// The disk that the VM boots from. Every VM of today has one; `None` only for a record made by hand.
    pub fn root(&self) -> Option<&Disk> {
        self.disks.first()
    }
}

/// A machine profile, resolved once when the VM is created, so that a changed template or a newer QEMU
/// never changes the hardware that a guest was installed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the profile it came from: `q35`.
    pub profile: String,
    /// QEMU's versioned machine type: `pc-q35-7.2`.
    pub machine_type: String,
    pub bus: Bus,
    /// A virtio-rng fed from the host.
    pub rng: bool,
    /// A virtio balloon (statistics; later also memory below the boot size).
    pub balloon: bool,
    /// Lets a panicking guest say so.
    pub pvpanic: bool,
    /// A virtio-mem that memory is added through live.
    #[serde(default)]
    pub virtio_mem: bool,
}

/// Where devices are plugged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Bus {
    /// `pcie.0` with this many spare root ports for hot-plug.
    Pcie { hotplug_ports: u8 },
    /// Conventional PCI: every free slot of `pci.0` takes a hot-plugged device.
    Pci,
}

/// Which host cores QEMU's threads may run on (ruling 15). What is empty binds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuPinning {
    /// For the vCPUs: one each where there are as many cores as vCPUs, else the set for all.
    #[serde(default)]
    pub cores: Vec<u32>,
    /// For the vCPUs, a set each; those beyond the list may run anywhere. Never together with `cores`.
    #[serde(default)]
    pub vcpus: Vec<Vec<u32>>,
    /// For QEMU's other threads.
    #[serde(default)]
    pub emulator: Vec<u32>,
}

impl CpuPinning {
    /// The cores for vCPU `index` of `vcpus`; empty where it may run anywhere.
    pub fn cores_for(&self, index: usize, vcpus: u32) -> &[u32] {
        if let Some(own) = self.vcpus.get(index) {
            own
        } else if self.cores.len() == vcpus as usize {
            self.cores.get(index..=index).unwrap_or(&self.cores)
        } else {
            &self.cores
        }
    }

    /// Every set of cores, with the field that names it.
    pub fn named(&self) -> impl Iterator<Item = (String, &[u32])> {
        let vcpus = self.vcpus.iter().enumerate();
        let vcpus = vcpus.map(|(index, cores)| (format!("cpu_pinning.vcpus[{index}]"), cores.as_slice()));
        let whole = [("cpu_pinning.cores", &self.cores), ("cpu_pinning.emulator", &self.emulator)];
        whole.into_iter().map(|(field, cores)| (field.to_owned(), cores.as_slice())).chain(vcpus)
    }

    /// # Errors
    /// [`Error::Invalid`] for more sets than there are vCPUs.
    pub fn check_sets(&self, vcpus: u32) -> Result<()> {
        if self.vcpus.len() > vcpus as usize {
            let must = format!("have at most as many entries as there are vCPUs ({vcpus})");
            return Err(Error::invalid("cpu_pinning.vcpus", must));
        }
        Ok(())
    }
}

/// A disk. What its layer says is a record of that one's own, which is read and written together with the
/// one that names it (`vm::records`): as JSON, a disk does not repeat it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `root`, and `disk1`… for further ones; QEMU's device and node names derive from it.
    pub name: String,
    /// What the guest writes to.
    pub layer: LayerId,
    /// The file of its layer.
    #[serde(default, skip_serializing)]
    pub file: DiskFile,
    /// GiB.
    pub size: u64,
    pub clone: CloneMode,
    /// What its layer was cloned from, and the backing file where `clone` is linked, also of one that was attached with it;
    /// none for a disk that began empty.
    #[serde(default, skip_serializing)]
    pub base: Option<BaseImage>,
    pub io_limits: Option<IoLimits>,
    /// The hot-plug slot it sits in, from 1; none for the root disk, which has a place of its own.
    #[serde(default)]
    pub slot: Option<u8>,
    /// What the request that added it is known by, if it came with an idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
}

impl Disk {
    /// Bytes that its guest is to see.
    pub fn bytes(&self) -> u64 {
        self.file.bytes(self.size)
    }

    /// The image that must be there for this disk to work.
    pub fn backing_file(&self) -> Option<&BaseImage> {
        self.base.as_ref().filter(|_| self.clone == CloneMode::Linked)
    }
}

/// How a disk depends on its base image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloneMode {
    /// A qcow2 overlay: made in milliseconds, needs the base image for as long as it lives.
    #[default]
    Linked,
    /// A copy that stands alone.
    Full,
}

fn whole(param: &'static str, value: i64, min: i64, max: i64, unit: &str) -> Result<u64> {
    if value <= 0 {
        return Err(Error::invalid(param, "be greater than 0"));
    }
    if value < min {
        return Err(Error::invalid(param, format!("be at least {min}{unit}")));
    }
    if value > max {
        return Err(Error::invalid(param, format!("be at most {max}{unit}")));
    }
    Ok(value as u64)
}

/// 1 to 255.
pub fn check_vcpus(value: i64) -> Result<u32> {
    whole("vcpus", value, 1, MAX_VCPUS as i64, "").map(|n| n as u32)
}

/// From `vcpus` to 255.
pub fn check_max_vcpus(value: i64, vcpus: u32) -> Result<u32> {
    whole("max_vcpus", value, 1, MAX_VCPUS as i64, "")?;
    if value < i64::from(vcpus) {
        return Err(Error::invalid("max_vcpus", format!("be at least vcpus ({vcpus})")));
    }
    Ok(value as u32)
}

/// MiB, 16 to the host's memory.
pub fn check_memory(value: i64, host_memory: u64) -> Result<u64> {
    whole("memory", value, MIN_MEMORY, host_memory as i64, " MiB, the memory of this host")
        .map_err(|e| if value < MIN_MEMORY && value > 0 { Error::invalid("memory", "be at least 16 MiB") } else { e })
}

/// MiB, from `memory` to the host's memory.
pub fn check_max_memory(value: i64, memory: u64, host_memory: u64) -> Result<u64> {
    whole("max_memory", value, 1, host_memory as i64, " MiB, the memory of this host")?;
    if (value as u64) < memory {
        return Err(Error::invalid("max_memory", format!("be at least memory ({memory} MiB)")));
    }
    Ok(value as u64)
}

/// MiB; the bound of a VM whose creator does not say (ruling 12). QEMU announces memory above 4 GiB to the guest of any VM
/// that can grow, and Linux sets 64 MiB aside for it (swiotlb): a guest of 128 MiB does not boot then.
pub fn default_max_memory(memory: u64, host_memory: u64) -> u64 {
    if memory < GROWS_FROM { memory } else { host_memory.max(memory) }
}

/// GiB, 1 to 65,536.
pub fn check_disk_size(value: i64) -> Result<u64> {
    whole("disk_size", value, 1, MAX_DISK_SIZE, " GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_said_in_words() {
        let text = |e: Result<u64>| e.unwrap_err().to_string();
        assert_eq!(check_vcpus(0).unwrap_err().to_string(), "Invalid parameter: vcpus must be greater than 0.");
        assert_eq!(check_vcpus(256).unwrap_err().to_string(), "Invalid parameter: vcpus must be at most 255.");
        assert_eq!(text(check_memory(-1, 100)), "Invalid parameter: memory must be greater than 0.");
        assert_eq!(text(check_memory(15, 100)), "Invalid parameter: memory must be at least 16 MiB.");
        assert_eq!(
            text(check_memory(101, 100)),
            "Invalid parameter: memory must be at most 100 MiB, the memory of this host."
        );
        assert_eq!(text(check_disk_size(i64::MAX)), "Invalid parameter: disk_size must be at most 65536 GiB.");
        assert_eq!(
            text(check_max_memory(20, 30, 100)),
            "Invalid parameter: max_memory must be at least memory (30 MiB)."
        );
        assert!(check_max_vcpus(4, 4).is_ok() && check_max_vcpus(3, 4).is_err());
        assert_eq!([128, 2047, 2048].map(|memory| default_max_memory(memory, 9000)), [128, 2047, 9000]);
    }

    #[test]
    fn as_many_cores_as_vcpus_means_one_each() {
        let pinning = CpuPinning { cores: vec![4, 7], ..CpuPinning::default() };
        assert_eq!(pinning.cores_for(1, 2), [7]);
        assert_eq!(pinning.cores_for(1, 3), [4, 7]);
        let each = CpuPinning { vcpus: vec![vec![1], vec![2, 3]], ..CpuPinning::default() };
        assert_eq!(each.cores_for(1, 3), [2, 3]);
        assert_eq!(each.cores_for(2, 3), [] as [u32; 0]);
    }
}
