//! Changes of a VM's definition: what a client may ask for, and the definition that follows from it. Bringing it into
//! effect on a running VM is not done here.

use std::{path::PathBuf, sync::Arc};

use super::{
    Alias, BaseContent, Conflict, CpuPinning, Error, GuestCpu, IoLimits, MetadataWish, NewDisk, NewNic, NicId,
    PolicyWish, PortWish, Result, Seed, SeedId, SwitchId, VmSpec, Volume, Words, check_definition, check_disk_size,
    check_memory, check_name, check_vcpus, default_max_memory,
};

/// One change, as a dialect hands it over: decoded, not yet checked.
#[derive(Clone, Debug)]
pub enum Change {
    Cpu {
        vcpus: Option<i64>,
        /// `Some(None)` removes it.
        pinning: Option<Option<CpuPinning>>,
    },
    /// The CPU that its guest sees, from the next start on; `None` for the richest.
    GuestCpu(Option<Box<GuestCpu>>),
    /// MiB.
    Memory(i64),
    Disk {
        name: String,
        /// GiB.
        size: Option<i64>,
        /// `Some(None)` removes them.
        io_limits: Option<Option<Box<IoLimits>>>,
    },
    /// What the base image of a disk has in it by now is what the disk lies on.
    Base {
        name: String,
        content: Arc<BaseContent>,
    },
    /// The file of a disk is a volume from now on, and stays when the disk goes.
    Keep {
        name: String,
        volume: Arc<Volume>,
    },
    AddDisk {
        disk: Box<NewDisk>,
        /// Where its image is made.
        folder: PathBuf,
    },
    /// By its name.
    RemoveDisk(String),
    Policy(PolicyWish),
    /// The ISO image in the CD drive; `None` takes it out.
    Medium(Option<Alias>),
    /// What its guest's cloud-init is given, from the next start on; none is made where it had another than `over` before.
    Seed {
        seed: Option<Seed>,
        over: Option<SeedId>,
    },
    AddNic(Box<NewNic>),
    RemoveNic(NicId),
    /// Of a NIC on that switch.
    Port {
        nic: NicId,
        switch: SwitchId,
        wish: Box<PortWish>,
    },
    /// What the VM is called. QEMU keeps the name that it was started with until the next start.
    Name(String),
    Metadata(Box<MetadataWish>),
    /// The words that it is asked for in.
    Sent(Box<Words>),
    /// The disks and NICs that a list of changes was worked out from: where it has others, none is made.
    Over {
        disks: Vec<String>,
        nics: Vec<NicId>,
    },
    /// All of them, or none; none of them is such a list.
    Several(Vec<Change>),
}

/// A change that only a VM without a process takes: what is given replaces what is there (ruling 30).
#[derive(Clone, Debug, Default)]
pub struct Redefinition {
    pub name: Option<String>,
    /// GiB, of the root disk.
    pub disk_size: Option<i64>,
    /// In the client's words, where it is the folder that the root disk lies in.
    pub disk_folder: Option<PathBuf>,
    pub vcpus: Option<i64>,
    /// MiB.
    pub memory: Option<i64>,
    /// `Some(None)` takes it out.
    pub iso: Option<Option<Alias>>,
    pub nics: Option<NewNics>,
    pub metadata: MetadataWish,
    /// A version of the same hardware.
    pub machine_type: Option<String>,
}

/// NICs as wished for, checked.
#[derive(Clone, Debug)]
pub enum NewNics {
    /// The whole list, by label.
    All(Vec<NewNic>),
    /// Where the first one is plugged in; it is added where there is none.
    First(Box<NewNic>),
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It is in effect.
    Live,
    /// It is stored; wholly or in part it waits for the next start.
    NextStart,
}

impl Change {
    /// What it is made of: itself, where it is not several.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several(changes) => changes,
            one => std::slice::from_ref(one),
        }
    }

    /// The definition with this change in it. What QEMU has right now is `in_effect`, what the host has is in
    /// `host_memory` (MiB).
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is out of range, beyond a bound that the creator set, or would shrink a disk.
    pub fn apply(self, spec: &VmSpec, in_effect: Option<&VmSpec>, host_memory: u64) -> Result<VmSpec> {
        let mut wanted = spec.clone();
        match self {
            Self::Cpu { vcpus, pinning } => {
                if let Some(vcpus) = vcpus {
                    wanted.vcpus = bounded_vcpus(vcpus, spec)?;
                    wanted.max_vcpus = wanted.max_vcpus.max(wanted.vcpus);
                }
                match pinning {
                    Some(pinning) => {
                        pinning.iter().try_for_each(|pinning| pinning.check_sets(wanted.vcpus))?;
                        wanted.cpu_pinning = pinning;
                    }
                    // The field that was sent is the other one.
                    None => {
                        let sets = wanted.cpu_pinning.as_ref().map_or(0, |pinning| pinning.vcpus.len());
                        if sets > wanted.vcpus as usize {
                            let must = format!(
                                "be at least {sets}, for cpu_pinning.vcpus has so many sets; change that first"
                            );
                            return Err(Error::invalid("vcpus", must));
                        }
                    }
                }
            }
            Self::GuestCpu(cpu) => {
                cpu.iter().try_for_each(|cpu| cpu.check())?;
                wanted.cpu = cpu.map(|cpu| *cpu);
            }
            Self::Memory(memory) => {
                wanted.memory = check_memory(memory, host_memory)?;
                if !spec.max_memory_given {
                    wanted.max_memory = default_max_memory(wanted.memory, host_memory);
                } else if wanted.memory > spec.max_memory {
                    let must = format!("be at most max_memory ({} MiB) of this VM", spec.max_memory);
                    return Err(Error::invalid("memory", must));
                }
            }
            Self::Disk { name, size, io_limits } => {
                let Some(disk) = wanted.disk_mut(&name) else { return Err(Error::DiskNotFound { name }) };
                if let Some(size) = size {
                    let size = check_disk_size(size)?;
                    if size < disk.size {
                        let must = format!("not be less than the current size ({} GiB): a disk only grows", disk.size);
                        return Err(Error::invalid("disk_size", must));
                    }
                    disk.size = size;
                }
                if let Some(limits) = io_limits {
                    if let Some(limits) = &limits {
                        limits.check()?;
                    }
                    disk.io_limits = limits.map(|limits| *limits);
                }
            }
            Self::Base { name, content } => {
                let base = wanted.disk_mut(&name).and_then(|disk| disk.base.as_mut());
                base.ok_or(Error::DiskNotFound { name })?.content = Some(content);
            }
            Self::Keep { name, volume } => wanted.keep_disk(name, volume)?,
            Self::AddDisk { disk, folder } => {
                wanted.add_disk(*disk, &folder, in_effect)?;
            }
            Self::RemoveDisk(name) => {
                wanted.check_comes_out(&name)?;
                wanted.disks.retain(|disk| disk.name != name);
            }
            Self::Medium(iso) => {
                wanted.iso = iso.as_ref().map(|alias| alias.file.clone());
                wanted.named.iso = iso;
            }
            Self::Seed { seed, over } => {
                if spec.seed.as_ref().map(|seed| seed.id) != over {
                    return Err(Conflict::Outdated.into());
                }
                wanted.seed = seed;
            }
            Self::Policy(wish) => wish.apply(&mut wanted.policy)?,
            Self::AddNic(nic) => wanted.add_nic(*nic, in_effect)?,
            Self::RemoveNic(id) => {
                // One that the guest has not let go of is asked for again.
                if wanted.nic(id).is_none() && in_effect.is_none_or(|now| now.nic(id).is_none()) {
                    return Err(Error::NicNotFound { name: id.to_string() });
                }
                wanted.nics.retain(|nic| nic.id != id);
            }
            Self::Port { nic: id, switch, wish } => {
                let found = wanted.nics.iter_mut().find(|nic| nic.id == id);
                let port = found.and_then(|nic| nic.backend.port_mut()).filter(|port| port.switch == switch);
                let port = port.ok_or_else(|| Error::NicNotFound { name: id.to_string() })?;
                wish.apply(port)?;
            }
            Self::Name(name) => wanted.name = check_name(&name)?,
            Self::Metadata(wish) => wish.apply(&mut wanted.metadata)?,
            Self::Sent(mut words) => {
                if let Some(sent) = words.base_image.take() {
                    let base = wanted.root().and_then(|root| root.base.as_ref());
                    wanted.named.base_image = base.and_then(|base| Alias::new(base.path.clone(), sent));
                }
                wanted.named.sent.say(*words);
            }
            Self::Over { disks, nics } => {
                let same = spec.disks.iter().map(|disk| &disk.name).eq(&disks)
                    && spec.nics.iter().map(|nic| &nic.id).eq(&nics);
                if !same {
                    return Err(Conflict::Outdated.into());
                }
            }
            Self::Several(changes) => {
                for change in changes {
                    wanted = change.apply(&wanted, in_effect, host_memory)?;
                }
            }
        }
        check_definition(&wanted, Some(spec))?;
        Ok(wanted)
    }
}

impl Redefinition {
    /// The definition with all of it. What the host has is in `host_memory` (MiB).
    ///
    /// # Errors
    /// As [`Change::apply`].
    pub fn apply(self, spec: &VmSpec, host_memory: u64) -> Result<VmSpec> {
        let mut wanted = spec.clone();
        if let Some(vcpus) = self.vcpus {
            wanted = Change::Cpu { vcpus: Some(vcpus), pinning: None }.apply(&wanted, None, host_memory)?;
        }
        if let Some(memory) = self.memory {
            wanted = Change::Memory(memory).apply(&wanted, None, host_memory)?;
        }
        if let Some(iso) = self.iso {
            wanted.iso = iso.as_ref().map(|alias| alias.file.clone());
            wanted.named.iso = iso;
        }
        self.metadata.apply(&mut wanted.metadata)?;
        if let Some(name) = self.name {
            wanted.name = check_name(&name)?;
        }
        if self.disk_folder.is_some() {
            wanted.named.disk_folder = self.disk_folder;
        }
        if let Some(size) = self.disk_size {
            let size = check_disk_size(size)?;
            if let Some(root) = wanted.disks.first_mut() {
                if size < root.size {
                    let is = format!("{} GiB, and a disk only grows", root.size);
                    return Err(Error::Fixed { param: "disk_size".into(), is });
                }
                root.size = size;
            }
        }
        if let Some(machine_type) = self.machine_type {
            wanted.machine.machine_type = machine_type;
        }
        match self.nics {
            Some(NewNics::All(nics)) => wanted.set_nics(nics)?,
            Some(NewNics::First(nic)) => match wanted.nics.first_mut() {
                Some(first) => first.plug_into(nic.backend),
                None => wanted.add_nic(*nic, None)?,
            },
            None => {}
        }
        check_definition(&wanted, Some(spec))?;
        Ok(wanted)
    }
}

fn bounded_vcpus(vcpus: i64, spec: &VmSpec) -> Result<u32> {
    // The narrower bound first: whoever keeps to the one that is told is not told of another.
    if spec.max_vcpus_given && vcpus > i64::from(spec.max_vcpus) {
        return Err(Error::invalid("vcpus", format!("be at most max_vcpus ({}) of this VM", spec.max_vcpus)));
    }
    check_vcpus(vcpus)
}
