//! The VMs whose arguments are kept in golden files.

use std::collections::{BTreeMap, HashMap};

use qherd::{
    model::{
        BaseImage, Below, Bus, CloneMode, CloudPart, Disk, DiskFile, ForeignFile, Forward, GuestCpu, ImageFormat,
        LayerId, MacAddr, Machine, NewDisk, NewNic, NicBackend, NicId, OnIoError, Policy, Seed, SeedId, SwitchId,
        SwitchPort, VmId, VmSpec,
    },
    qemu::{
        Accelerator, RunPaths,
        devices::{self, HostFile},
    },
};
use serde_json::json;

/// Stands for the state directory and the image directory in the files.
pub const ROOT: &str = "/golden";
pub const ID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-8e9fa0b1c2d3";

pub struct Case {
    pub name: &'static str,
    pub accelerator: Accelerator,
    pub spec: VmSpec,
    /// Its NICs on the user-mode network are carried beside QEMU.
    pub carried: bool,
}

fn q35() -> VmSpec {
    let id = VmId::parse(ID).unwrap();
    let mac = serde_json::from_value(json!("52:54:00:ab:cd:ef")).unwrap();
    let mut spec = VmSpec {
        id,
        name: "web-1".into(),
        created_at: 1_700_000_000_000,
        machine: Machine {
            profile: "q35".into(),
            machine_type: "pc-q35-7.2".into(),
            bus: Bus::Pcie { hotplug_ports: 8 },
            rng: true,
            balloon: true,
            pvpanic: true,
            virtio_mem: true,
        },
        vcpus: 2,
        max_vcpus: 16,
        max_vcpus_given: false,
        memory: 128,
        max_memory: 4096,
        max_memory_given: false,
        cpu_pinning: None,
        cpu: None,
        disks: vec![Disk {
            name: "root".into(),
            layer: LayerId::random(),
            file: format!("{ROOT}/images/{ID}/root.qcow2").into(),
            size: 1,
            clone: CloneMode::Linked,
            base: Some(BaseImage::at(format!("{ROOT}/bases/base.qcow2"), ImageFormat::Qcow2)),
            io_limits: None,
            slot: None,
            request: None,
        }],
        disks_added: 0,
        nics: Vec::new(),
        nics_added: 0,
        policy: Policy::default(),
        iso: None,
        seed: None,
        named: Default::default(),
        metadata: Default::default(),
    };
    spec.add_nic(nic(mac), None).unwrap();
    spec
}

fn nic(mac: MacAddr) -> NewNic {
    let id = NicId::parse("1b2c3d4e-5f60-4a6b-8c7d-8e9fa0b1c2d3").unwrap();
    let backend = NicBackend::User { forwards: Vec::new() };
    NewNic { id, label: "Network Adapter".into(), mac, queues: 1, backend }
}

fn pc() -> VmSpec {
    let mut spec = q35();
    spec.machine.profile = "pc".into();
    spec.machine.machine_type = "pc-i440fx-7.2".into();
    spec.machine.bus = Bus::Pci;
    spec
}

fn raw_base(spec: &mut VmSpec) {
    spec.disks[0].base = Some(BaseImage::at(format!("{ROOT}/bases/base.raw"), ImageFormat::Raw));
}

fn further_disks(spec: &mut VmSpec) {
    let folder = format!("{ROOT}/images/{ID}");
    let clone = spec.disks[0].base.clone();
    for base in [None, clone] {
        let layer = LayerId::random();
        let disk =
            NewDisk { request: None, layer, file: None, size: 2, base, clone: CloneMode::Linked, io_limits: None };
        spec.add_disk(disk, folder.as_ref(), None).unwrap();
    }
}

/// Attached as it was found: an overlay on an overlay on a raw image.
fn chain(spec: &mut VmSpec) {
    let below = vec![Below { path: format!("{ROOT}/bases/base.raw").into(), format: ImageFormat::Raw }];
    let disk = &mut spec.disks[0];
    disk.file = DiskFile::Foreign(ForeignFile {
        path: disk.file.to_path_buf(),
        format: ImageFormat::Qcow2,
        bytes: 1 << 30,
        below,
    });
}

fn iso(spec: &mut VmSpec) {
    spec.iso = Some(format!("{ROOT}/bases/disc.iso").into());
}

fn cloud_init(spec: &mut VmSpec) {
    let id = SeedId::parse("3b2c3d4e-5f60-4a6b-8c7d-8e9fa0b1c2d3").unwrap();
    spec.seed = Some(Seed { id, parts: vec![CloudPart::SshKeys] });
}

fn without_hotplug(spec: &mut VmSpec) {
    spec.machine.bus = Bus::Pcie { hotplug_ports: 0 };
    let mac = spec.nics[0].mac;
    (spec.nics, spec.nics_added) = (Vec::new(), 0);
    spec.add_nic(nic(mac), None).unwrap();
    assert_eq!(spec.nics[0].slot, None);
}

fn forwards(spec: &mut VmSpec) {
    let forward = |value| serde_json::from_value::<Forward>(value).unwrap();
    let forwards = vec![
        forward(json!({ "host_port": 20022, "guest_port": 22 })),
        forward(json!({ "protocol": "udp", "host_address": "127.0.0.2", "host_port": 20053, "guest_port": 53 })),
    ];
    spec.nics[0].backend = NicBackend::User { forwards };
}

/// On a switch, with one queue, and with three on another.
fn on_switches(spec: &mut VmSpec) {
    (spec.nics, spec.nics_added) = (Vec::new(), 0);
    let switch = SwitchId::parse("2b2c3d4e-5f60-4a6b-8c7d-8e9fa0b1c2d3").unwrap();
    for (index, queues) in [1, 3].into_iter().enumerate() {
        let mac = serde_json::from_value(json!(format!("52:54:00:ab:cd:e{index}"))).unwrap();
        let id = NicId::parse(&format!("1b2c3d4e-5f6{index}-4a6b-8c7d-8e9fa0b1c2d3")).unwrap();
        let backend = NicBackend::Switch(SwitchPort::on(switch));
        spec.add_nic(NewNic { id, queues, backend, ..nic(mac) }, None).unwrap();
    }
}

/// The descriptors of the taps of a VM's NICs, and of what carries them, as the files have them: from 13 on.
pub fn tap_fds(spec: &VmSpec, carried: bool) -> HashMap<NicId, Vec<i32>> {
    let mut next = 13..;
    let handed = spec.nics.iter().filter(|nic| carried || nic.switch().is_some());
    handed.map(|nic| (nic.id, next.by_ref().take(nic.queues.into()).collect())).collect()
}

fn bare(spec: &mut VmSpec) {
    spec.machine = Machine { rng: false, balloon: false, pvpanic: false, virtio_mem: false, ..spec.machine.clone() };
    spec.nics.clear();
}

fn another_cpu(spec: &mut VmSpec) {
    let features = [("aes", true), ("popcnt", false)].map(|(name, on)| (name.to_owned(), on)).into();
    spec.cpu = Some(GuestCpu { model: Some("Nehalem".into()), features });
}

fn many_vcpus(spec: &mut VmSpec) {
    (spec.vcpus, spec.max_vcpus) = (64, 255);
}

pub fn cases() -> Vec<Case> {
    let case = |name, base: fn() -> VmSpec, change: &dyn Fn(&mut VmSpec)| {
        let mut spec = base();
        change(&mut spec);
        Case { name, accelerator: Accelerator::Tcg, spec, carried: false }
    };
    let kvm = |case: Case| Case { accelerator: Accelerator::Kvm, ..case };
    let nothing = |_: &mut VmSpec| {};
    vec![
        case("q35", q35, &nothing),
        kvm(case("q35-kvm", q35, &nothing)),
        case("q35-raw-base", q35, &raw_base),
        case("q35-full-clone", q35, &|spec| spec.disks[0].clone = CloneMode::Full),
        case("q35-without-balloon", q35, &|spec| spec.machine.balloon = false),
        case("q35-without-rng", q35, &|spec| spec.machine.rng = false),
        case("q35-without-virtio-mem", q35, &|spec| spec.machine.virtio_mem = false),
        case("q35-without-pvpanic", q35, &|spec| spec.machine.pvpanic = false),
        case("q35-report-io-errors", q35, &|spec| spec.policy.on_io_error = OnIoError::Report),
        case("q35-without-nic", q35, &|spec| spec.nics.clear()),
        case("q35-bare", q35, &bare),
        case("q35-many-vcpus", q35, &many_vcpus),
        case("q35-cpu", q35, &another_cpu),
        kvm(case("pc-cpu", pc, &|spec| {
            another_cpu(spec);
            spec.cpu.as_mut().unwrap().model = None;
        })),
        case("q35-without-hotplug", q35, &without_hotplug),
        case("q35-forwards", q35, &forwards),
        Case { carried: true, ..case("q35-passt", q35, &forwards) },
        case("q35-hotplug-17", q35, &|spec| spec.machine.bus = Bus::Pcie { hotplug_ports: 17 }),
        case("q35-odd-name", q35, &|spec| spec.name = "größe 1,debug-threads=off,,\"x\" %s $HOME".into()),
        case("q35-disks", q35, &further_disks),
        case("q35-chain", q35, &chain),
        case("q35-iso", q35, &iso),
        case("pc-iso", pc, &iso),
        case("q35-cloud-init", q35, &cloud_init),
        case("pc-cloud-init", pc, &cloud_init),
        case("pc-disks", pc, &further_disks),
        case("q35-switches", q35, &on_switches),
        case("pc-switches", pc, &on_switches),
        case("pc", pc, &nothing),
        kvm(case("pc-kvm", pc, &nothing)),
        case("pc-raw-base", pc, &raw_base),
        case("pc-full-clone", pc, &|spec| spec.disks[0].clone = CloneMode::Full),
        case("pc-bare", pc, &bare),
        case("pc-many-vcpus", pc, &many_vcpus),
    ]
}

/// Run directory in the files.
pub fn paths() -> RunPaths {
    RunPaths::new(format!("{ROOT}/run/0a1b2c3d4e5f").into())
}

/// The files that a VM starts with, and their descriptors.
pub fn files(spec: &VmSpec) -> Vec<(HostFile, i32)> {
    let files = devices::files(spec, paths().console_log());
    files.into_iter().map(|file| (file.clone(), 100 + file.set as i32)).collect()
}

/// By the numbers of their sets.
pub fn file_fds(spec: &VmSpec) -> BTreeMap<u32, i32> {
    files(spec).into_iter().map(|(file, fd)| (file.set, fd)).collect()
}
