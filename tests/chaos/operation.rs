//! What the chaos asks of a VM: how it is chosen, what is sent, and what follows from it. A new operation is a value
//! here, with an arm in each of the functions below it, and nothing anywhere else.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

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
        nat: bool,
    },
    /// Where there is none, one is made.
    RemoveSwitch,
    /// On the place's switch, which is made where there is none; by a number that no other NIC has.
    AddNic(u64),
    /// Of those on the switch the one with the lowest number.
    RemoveNic,
    /// Of the place's switch, in place.
    ChangeSwitch(SwitchChange),
    /// From this port of the host to the NIC with the lowest number.
    AddForward(u64),
    /// The one with the lowest port.
    RemoveForward,
    /// Exchanges the CD, or ejects it.
    Medium(Option<u64>),
    /// Another version of its machine type, or the latest.
    Machine(Option<u64>),
    /// Several settings in one update.
    Whole {
        vcpus: u64,
        memory: u64,
        iops: Option<u64>,
        core: Option<u64>,
        iso: Option<u64>,
    },
    Suspend,
    Resume,
    /// Of the place's own, with the data that all have.
    ImportImage,
    DeleteImage,
    /// Of a size that no other disk has, on the place's image, if there is one.
    CloneDisk(u64),
    /// One that is there already, of a size that no other disk has.
    AttachDisk(u64),
    /// The smallest one, which becomes a volume.
    KeepDisk,
    /// Of this size, that nobody has.
    AttachVolume(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchChange {
    Mtu(Option<u64>),
    /// The first or the second of the place's.
    Subnet(usize),
    Nat(bool),
}

/// What an operation meets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Around {
    pub switch: bool,
    /// It has no subnet.
    pub private: bool,
    /// Of the VM, on the switch.
    pub nic: bool,
    pub forward: bool,
    /// The size of a volume that nobody has.
    pub volume: Option<u64>,
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
    pub subnets: [String; 2],
    /// The forward that is to go.
    pub forward: String,
    /// Where the disks are that are there already.
    pub theirs: PathBuf,
    /// The id of the volume that is wanted.
    pub volume: String,
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
    /// The CD in its drive.
    pub iso: Option<u64>,
    /// The version of its machine type, of those that are asked for here.
    pub machine: Option<u64>,
}

/// The images of CDs, by their numbers.
pub const DISCS: [u64; 2] = [1, 2];

pub fn disc(number: u64) -> String {
    format!("disc{number}.iso")
}

/// Machine types that every QEMU knows which these tests run with.
fn machine_type(version: u64) -> String {
    format!("pc-q35-7.{version}")
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

/// What a disk that was there already begins with.
const THEIRS: &[u8] = b"precious\n";

/// The disk of this size that was there already; it is made where it is asked for first.
fn attached(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join(format!("{size}.raw"));
    if !path.exists() {
        std::fs::write(&path, THEIRS).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(size << 30).unwrap();
    }
    path
}

/// Those that are not what they were.
pub fn spoilt(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let is_spoilt = |path: &PathBuf| {
        let mut begins = vec![0; THEIRS.len()];
        File::open(path).unwrap().read_exact(&mut begins).is_err() || begins != THEIRS
    };
    files.filter(is_spoilt).collect()
}

/// Numbers of NICs, and sizes of further disks: none is used twice.
fn size(rng: &mut Rng) -> u64 {
    rng.u64(1..60_000)
}

fn medium(rng: &mut Rng) -> Option<u64> {
    rng.bool().then(|| DISCS[rng.usize(0..2)])
}

fn switch_change(rng: &mut Rng) -> SwitchChange {
    match rng.u8(0..3) {
        0 => SwitchChange::Mtu(rng.bool().then(|| rng.u64(1280..9000))),
        1 => SwitchChange::Subnet(rng.usize(0..2)),
        _ => SwitchChange::Nat(rng.bool()),
    }
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
            iso: medium(rng),
            machine: None,
        };
        Self::Create { start: rng.u8(0..3) > 0, definition }
    }

    /// For a VM that is there.
    pub fn pick(rng: &mut Rng) -> Self {
        match rng.u8(0..207) {
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
            100..102 => Self::MakeSwitch { private: rng.bool(), nat: rng.bool() },
            102..106 => Self::RemoveSwitch,
            106..120 => Self::AddNic(size(rng)),
            120..126 => Self::RemoveNic,
            126..131 => Self::Suspend,
            131..135 => Self::Resume,
            135..142 => Self::ChangeSwitch(switch_change(rng)),
            142..150 => Self::AddForward(size(rng)),
            150..153 => Self::RemoveForward,
            153..160 => Self::Medium(medium(rng)),
            160..165 => Self::Machine(rng.bool().then(|| rng.u64(0..2))),
            165..171 => Self::ImportImage,
            171..177 => Self::DeleteImage,
            177..183 => Self::CloneDisk(size(rng)),
            // As large as a file may be on most file systems.
            183..190 => Self::AttachDisk(rng.u64(1..4_000)),
            190..195 => Self::KeepDisk,
            195..200 => Self::AttachVolume(0),
            _ => Self::Whole {
                vcpus: rng.u64(1..5),
                memory: rng.u64(16..32),
                iops: rng.bool().then(|| rng.u64(100..1000)),
                core: rng.bool().then_some(0),
                iso: medium(rng),
            },
        }
    }

    /// What a VM with a guest in it is asked now and then, so that it comes to boot.
    pub fn pick_gentle(rng: &mut Rng) -> Self {
        match rng.u8(0..20) {
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
            13 => Self::Medium(medium(rng)),
            14 => Self::ChangeSwitch(switch_change(rng)),
            15 | 16 => Self::AddForward(size(rng)),
            _ => Self::Start,
        }
    }

    /// What it comes to where it is asked for.
    pub fn meeting(&self, around: Around) -> Self {
        let Around { switch, private, nic, forward, volume } = around;
        match self.clone() {
            Self::MakeSwitch { .. } if switch => Self::RemoveSwitch,
            Self::RemoveSwitch if !switch => Self::MakeSwitch { private: true, nat: false },
            Self::AddNic(_) | Self::AddForward(_) | Self::RemoveForward | Self::ChangeSwitch(_) if !switch => {
                Self::MakeSwitch { private: false, nat: true }
            }
            Self::ChangeSwitch(SwitchChange::Subnet(_) | SwitchChange::Nat(_)) if private => {
                Self::ChangeSwitch(SwitchChange::Mtu(None))
            }
            Self::AttachVolume(_) => volume.map_or(Self::KeepDisk, Self::AttachVolume),
            Self::AddForward(number) if !nic => Self::AddNic(number),
            Self::RemoveForward if !forward => Self::ChangeSwitch(SwitchChange::Mtu(Some(1400))),
            Self::Create { start, mut definition } if !switch => {
                definition.nics.clear();
                Self::Create { start, definition }
            }
            same => same,
        }
    }

    /// Within its process; a new process is a boot anyway.
    pub fn boots_the_guest(&self) -> bool {
        matches!(self, Self::Reboot(_))
    }

    pub fn request(&self, target: &Target<'_>) -> (Method, String, Value) {
        let Target { base, name, now, disk, nic, switch, switch_id, subnets, forward, .. } = target;
        let on_the_switch = format!("/switches/{switch_id}");
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
                    "iso": definition.iso.map(disc),
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
            Self::KeepDisk => (Method::DELETE, format!("{vm}/disks/{disk}?keep=true"), json!({})),
            Self::AttachVolume(_) => (Method::POST, format!("{vm}/disks"), json!({ "volume": target.volume })),
            Self::MakeSwitch { private: true, .. } => {
                (Method::POST, "/switches".into(), json!({ "name": switch, "type": "private" }))
            }
            Self::MakeSwitch { private: false, nat } => {
                let wish = json!({ "name": switch, "type": "internal", "subnet": subnets[0], "nat": nat });
                (Method::POST, "/switches".into(), wish)
            }
            Self::RemoveSwitch => (Method::DELETE, on_the_switch, json!({})),
            Self::ChangeSwitch(SwitchChange::Mtu(mtu)) => (Method::PUT, on_the_switch, json!({ "mtu": mtu })),
            Self::ChangeSwitch(SwitchChange::Subnet(which)) => {
                (Method::PUT, on_the_switch, json!({ "subnet": subnets[*which] }))
            }
            Self::ChangeSwitch(SwitchChange::Nat(nat)) => (Method::PUT, on_the_switch, json!({ "nat": nat })),
            Self::AddForward(port) => {
                let wish = json!({ "host_port": port, "vm": target.id, "network": nic, "guest_port": 22 });
                (Method::POST, format!("{on_the_switch}/forwards"), wish)
            }
            Self::RemoveForward => (Method::DELETE, format!("{on_the_switch}/forwards/{forward}"), json!({})),
            Self::Medium(iso) => (Method::PUT, format!("{vm}/iso"), json!({ "iso": iso.map(disc) })),
            Self::Machine(None) => (Method::PUT, format!("{vm}/machine"), json!({})),
            Self::Machine(Some(version)) => {
                (Method::PUT, format!("{vm}/machine"), json!({ "type": machine_type(*version) }))
            }
            Self::Whole { vcpus, memory, iops, core, iso } => {
                let wish = json!({
                    "vcpus": vcpus, "memory": memory, "io_limits": limits(iops), "cpu_pinning": pinning(core), "iso": iso.map(disc),
                    "labels": { "vcpus": vcpus.to_string() },
                });
                (Method::PUT, vm, wish)
            }
            Self::AddNic(nic) => (Method::POST, format!("{vm}/networks"), on_switch(nic)),
            Self::RemoveNic => (Method::DELETE, format!("{vm}/networks/{nic}"), json!({})),
            Self::Suspend => (Method::POST, format!("{vm}/suspend"), json!({})),
            Self::ImportImage => (Method::POST, "/images".into(), json!({ "name": name, "path": "blank.raw" })),
            Self::DeleteImage => (Method::DELETE, format!("/images/{name}"), json!({})),
            Self::CloneDisk(size) => (
                Method::POST,
                format!("{vm}/disks"),
                json!({ "disk_size": size, "base_image": format!("{name}:latest") }),
            ),
            Self::AttachDisk(size) => {
                let disk = json!({ "path": attached(&target.theirs, *size), "format": "raw" });
                (Method::POST, format!("{vm}/disks"), disk)
            }
            Self::Resume => (Method::POST, format!("{vm}/resume"), json!({})),
        }
    }

    /// The definition once it is done.
    pub fn defines(&self, mut now: Definition) -> Definition {
        match self {
            Self::Create { definition, .. } => return definition.clone(),
            Self::Start | Self::Stop(_) | Self::ForceOff | Self::Reboot(_) | Self::Delete => {}
            Self::MakeSwitch { .. } | Self::RemoveSwitch | Self::Suspend | Self::Resume => {}
            Self::ImportImage | Self::DeleteImage => {}
            Self::ChangeSwitch(_) | Self::AddForward(_) | Self::RemoveForward => {}
            Self::Medium(iso) => now.iso = *iso,
            Self::Machine(machine) => now.machine = *machine,
            Self::Whole { vcpus, memory, iops, core, iso } => {
                (now.vcpus, now.memory, now.iops, now.core, now.iso) = (*vcpus, *memory, *iops, *core, *iso);
            }
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
            Self::AddDisk(size) | Self::CloneDisk(size) | Self::AttachDisk(size) | Self::AttachVolume(size) => {
                now.disks.insert(*size);
            }
            Self::RemoveDisk | Self::KeepDisk => {
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
            | Self::RemoveNic
            | Self::ChangeSwitch(_)
            | Self::AddForward(_)
            | Self::RemoveForward
            | Self::Medium(_)
            | Self::Machine(_)
            | Self::ImportImage
            | Self::DeleteImage
            | Self::CloneDisk(_)
            | Self::AttachDisk(_)
            | Self::KeepDisk
            | Self::AttachVolume(_)
            | Self::Whole { .. } => Power::AsItWas,
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
            iso: DISCS
                .into_iter()
                .find(|number| config["iso"].as_str().is_some_and(|iso| Path::new(iso).ends_with(disc(*number)))),
            machine: (0..2).find(|version| config["machine_type"] == machine_type(*version)),
        }
    }
}

/// Numbers and QEMU's names of the NICs on a switch that a VM is defined with.
pub fn nics(networks: &Value) -> impl Iterator<Item = (u64, &str)> {
    let defined = networks.as_array().unwrap().iter().filter(|nic| nic["status"] != "removing");
    let number = |nic: &Value| nic["name"].as_str()?.strip_prefix("nic-")?.parse().ok();
    defined.filter_map(move |nic| Some((number(nic)?, nic["device"].as_str()?)))
}
