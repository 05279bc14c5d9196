//! What the chaos asks of a VM: how it is chosen, what is sent, and what follows from it. A new operation is a value
//! here, with an arm in each of the functions below it, and nothing anywhere else.

use std::collections::BTreeSet;

use fastrand::Rng;
use reqwest::Method;
use serde_json::{Value, json};

/// Everything random about an operation is in it; what it meets is not.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// For a place without a VM.
    Create {
        start: bool,
        definition: Definition,
    },
    Start,
    /// Seconds that the guest is given.
    Stop(u64),
    ForceOff,
    Reboot(u64),
    Delete,
    Vcpus(u64),
    Pinning(Option<u64>),
    Memory(u64),
    /// By so many GiB.
    Grow(u64),
    Limit(Option<u64>),
    /// Of a size that no other disk has.
    AddDisk(u64),
    /// The smallest one.
    RemoveDisk,
    /// Of the place's own; where there is one already, it goes.
    MakeSwitch {
        private: bool,
    },
    /// Where there is none, one is made.
    RemoveSwitch,
    /// On the place's switch, which is made where there is none; by a number that no other NIC has.
    AddNic(u64),
    /// Of those on the switch the one with the lowest number.
    RemoveNic,
    Suspend,
    Resume,
}

/// What a request is about.
pub struct Target<'a> {
    pub base: Value,
    pub name: &'a str,
    /// Of the VM.
    pub id: &'a str,
    pub now: Definition,
    /// Name of the smallest further disk, where there is one.
    pub disk: String,
    /// The NIC that is to go.
    pub nic: String,
    /// The name, and the id where it is known, of the place's switch.
    pub switch: &'a str,
    pub switch_id: &'a str,
    pub subnet: String,
}

/// What of a VM's definition is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub vcpus: u64,
    pub memory: u64,
    pub size: u64,
    pub iops: Option<u64>,
    /// The core that all vCPUs are pinned to.
    pub core: Option<u64>,
    /// Sizes of the further disks, each of which is there once.
    pub disks: BTreeSet<u64>,
    /// Numbers of the NICs on the place's switch.
    pub nics: BTreeSet<u64>,
}

/// What an operation makes of a VM that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    AsItWas,
    Running,
    Stopped,
    Gone,
    /// Halted, if it ran.
    Paused,
    /// Running, if it was paused.
    Resumed,
}

/// Numbers of NICs, and sizes of further disks: none is used twice.
fn size(rng: &mut Rng) -> u64 {
    rng.u64(1..60_000)
}

impl Operation {
    pub fn create(rng: &mut Rng, memory: u64) -> Self {
        let disks = (0..rng.usize(0..3)).map(|_| size(rng)).collect();
        let definition = Definition {
            vcpus: rng.u64(1..3),
            memory,
            size: rng.u64(1..4),
            iops: rng.bool().then(|| rng.u64(100..1000)),
            core: rng.bool().then_some(0),
            disks,
            nics: (0..rng.usize(0..2)).map(|_| size(rng)).collect(),
        };
        Self::Create { start: rng.u8(0..3) > 0, definition }
    }

    /// For a VM that is there.
    pub fn pick(rng: &mut Rng) -> Self {
        match rng.u8(0..135) {
            0..25 => Self::Start,
            25..32 => Self::Stop(rng.u64(1..3)),
            32..42 => Self::ForceOff,
            42..48 => Self::Reboot(rng.u64(1..3)),
            48..58 => Self::Delete,
            58..66 => Self::Vcpus(rng.u64(1..5)),
            66..70 => Self::Pinning(rng.bool().then_some(0)),
            70..73 => Self::Memory(rng.u64(16..32)),
            73..80 => Self::Grow(rng.u64(1..3)),
            80..87 => Self::Limit(rng.bool().then(|| rng.u64(100..1000))),
            87..95 => Self::AddDisk(size(rng)),
            95..100 => Self::RemoveDisk,
            100..102 => Self::MakeSwitch { private: rng.bool() },
            102..106 => Self::RemoveSwitch,
            106..120 => Self::AddNic(size(rng)),
            120..126 => Self::RemoveNic,
            126..131 => Self::Suspend,
            _ => Self::Resume,
        }
    }

    /// What a VM with a guest in it is asked now and then, so that it comes to boot.
    pub fn pick_gentle(rng: &mut Rng) -> Self {
        match rng.u8(0..16) {
            0 => Self::Stop(rng.u64(2..6)),
            1 => Self::Reboot(rng.u64(2..6)),
            2 => Self::Vcpus(rng.u64(1..3)),
            3 => Self::RemoveDisk,
            4 | 5 => Self::AddDisk(size(rng)),
            6 => Self::Grow(1),
            7 => Self::Limit(rng.bool().then(|| rng.u64(1000..9000))),
            8 => Self::Pinning(rng.bool().then_some(0)),
            9 | 10 => Self::AddNic(size(rng)),
            11 => Self::RemoveNic,
            12 => Self::Suspend,
            _ => Self::Start,
        }
    }

    /// What it comes to in a place with a switch, or without one.
    pub fn meeting(&self, switch: bool) -> Self {
        match (self.clone(), switch) {
            (Self::MakeSwitch { .. }, true) => Self::RemoveSwitch,
            (Self::RemoveSwitch, false) => Self::MakeSwitch { private: true },
            (Self::AddNic(_), false) => Self::MakeSwitch { private: false },
            (Self::Create { start, mut definition }, false) => {
                definition.nics.clear();
                Self::Create { start, definition }
            }
            (same, _) => same,
        }
    }

    /// Within its process; a new process is a boot anyway.
    pub fn boots_the_guest(&self) -> bool {
        matches!(self, Self::Reboot(_))
    }

    pub fn request(&self, target: &Target<'_>) -> (Method, String, Value) {
        let Target { base, name, now, disk, nic, switch, switch_id, subnet, .. } = target;
        let vm = format!("/vms/{}", target.id);
        let on_switch = |nic: &u64| json!({ "switch": switch_id, "name": format!("nic-{nic}") });
        let limits = |iops: &Option<u64>| iops.map(|iops| json!({ "iops": iops }));
        let pinning = |core: &Option<u64>| core.map(|core| json!({ "cores": [core] }));
        match self {
            Self::Create { start, definition } => {
                let disks: Vec<Value> = definition.disks.iter().map(|size| json!({ "disk_size": size })).collect();
                let nics = definition.nics.iter().map(on_switch);
                let networks: Vec<Value> = std::iter::once(json!({ "user": {} })).chain(nics).collect();
                let wish = json!({
                    "name": name, "networks": networks, "start": start, "base_image": base, "disks": disks,
                    "vcpus": definition.vcpus, "memory": definition.memory, "disk_size": definition.size,
                    "io_limits": limits(&definition.iops), "cpu_pinning": pinning(&definition.core),
                });
                (Method::POST, "/vms".into(), wish)
            }
            Self::Start => (Method::POST, format!("{vm}/start"), json!({})),
            Self::Stop(timeout) => (Method::POST, format!("{vm}/stop"), json!({ "timeout": timeout })),
            Self::ForceOff => (Method::POST, format!("{vm}/stop"), json!({ "force": true })),
            Self::Reboot(timeout) => (Method::POST, format!("{vm}/reboot"), json!({ "timeout": timeout })),
            Self::Delete => (Method::DELETE, vm, json!({})),
            Self::Vcpus(vcpus) => (Method::PUT, format!("{vm}/cpu"), json!({ "vcpus": vcpus })),
            Self::Pinning(core) => (Method::PUT, format!("{vm}/cpu"), json!({ "cpu_pinning": pinning(core) })),
            Self::Memory(memory) => (Method::PUT, format!("{vm}/memory"), json!({ "memory": memory })),
            Self::Grow(by) => (Method::PUT, format!("{vm}/disk"), json!({ "disk_size": now.size + by })),
            Self::Limit(iops) => (Method::PUT, format!("{vm}/disk"), json!({ "io_limits": limits(iops) })),
            Self::AddDisk(size) => (Method::POST, format!("{vm}/disks"), json!({ "disk_size": size })),
            Self::RemoveDisk => (Method::DELETE, format!("{vm}/disks/{disk}"), json!({})),
            Self::MakeSwitch { private: true } => {
                (Method::POST, "/switches".into(), json!({ "name": switch, "type": "private" }))
            }
            Self::MakeSwitch { private: false } => {
                (Method::POST, "/switches".into(), json!({ "name": switch, "type": "internal", "subnet": subnet }))
            }
            Self::RemoveSwitch => (Method::DELETE, format!("/switches/{switch_id}"), json!({})),
            Self::AddNic(nic) => (Method::POST, format!("{vm}/networks"), on_switch(nic)),
            Self::RemoveNic => (Method::DELETE, format!("{vm}/networks/{nic}"), json!({})),
            Self::Suspend => (Method::POST, format!("{vm}/suspend"), json!({})),
            Self::Resume => (Method::POST, format!("{vm}/resume"), json!({})),
        }
    }

    /// The definition once it is done.
    pub fn defines(&self, mut now: Definition) -> Definition {
        match self {
            Self::Create { definition, .. } => return definition.clone(),
            Self::Start | Self::Stop(_) | Self::ForceOff | Self::Reboot(_) | Self::Delete => {}
            Self::MakeSwitch { .. } | Self::RemoveSwitch | Self::Suspend | Self::Resume => {}
            Self::AddNic(nic) => {
                now.nics.insert(*nic);
            }
            Self::RemoveNic => {
                now.nics.pop_first();
            }
            Self::Vcpus(vcpus) => now.vcpus = *vcpus,
            Self::Pinning(core) => now.core = *core,
            Self::Memory(memory) => now.memory = *memory,
            Self::Grow(by) => now.size += by,
            Self::Limit(iops) => now.iops = *iops,
            Self::AddDisk(size) => {
                now.disks.insert(*size);
            }
            Self::RemoveDisk => {
                now.disks.pop_first();
            }
        }
        now
    }

    /// The state once it is done.
    pub fn power(&self) -> Power {
        match self {
            Self::Create { start: true, .. } | Self::Start => Power::Running,
            Self::Create { start: false, .. } | Self::Stop(_) | Self::ForceOff => Power::Stopped,
            Self::Delete => Power::Gone,
            Self::Suspend => Power::Paused,
            // A guest that is paused is resumed first.
            Self::Resume | Self::Reboot(_) => Power::Resumed,
            Self::Vcpus(_)
            | Self::Pinning(_)
            | Self::Memory(_)
            | Self::Grow(_)
            | Self::Limit(_)
            | Self::AddDisk(_)
            | Self::RemoveDisk
            | Self::MakeSwitch { .. }
            | Self::RemoveSwitch
            | Self::AddNic(_)
            | Self::RemoveNic => Power::AsItWas,
        }
    }
}

impl Definition {
    /// As the API tells it.
    pub fn read(config: &Value, disks: &Value, networks: &Value) -> Self {
        let number = |value: &Value| value.as_u64();
        Self {
            vcpus: number(&config["vcpus"]).unwrap(),
            memory: number(&config["memory"]).unwrap(),
            size: number(&config["disk_size"]).unwrap(),
            iops: number(&config["io_limits"]["iops"]),
            core: number(&config["cpu_pinning"]["cores"][0]),
            disks: disks.as_array().unwrap().iter().skip(1).map(|disk| number(&disk["disk_size"]).unwrap()).collect(),
            nics: nics(networks).map(|(number, _)| number).collect(),
        }
    }
}

/// Numbers and QEMU's names of the NICs on a switch that a VM is defined with.
pub fn nics(networks: &Value) -> impl Iterator<Item = (u64, &str)> {
    let defined = networks.as_array().unwrap().iter().filter(|nic| nic["status"] != "removing");
    let number = |nic: &Value| nic["name"].as_str()?.strip_prefix("nic-")?.parse().ok();
    defined.filter_map(move |nic| Some((number(nic)?, nic["device"].as_str()?)))
}
