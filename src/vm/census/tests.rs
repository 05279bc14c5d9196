//! The census against a look at every VM, after histories of what tasks publish.

use std::{collections::BTreeMap, path::PathBuf};

use fastrand::Rng;
use serde_json::json;

use super::*;
use crate::model::{Disk, Forward, Nic, NicBackend, Status, SwitchPort, Upkeep};

fn number(n: u8) -> Uuid {
    Uuid::from_u128(n.into())
}

fn disk(n: u8) -> Disk {
    let disk = json!({ "name": format!("d{n}"), "layer": number(n), "file": format!("/i/{n}"), "size": n + 1, "clone": "linked",
                       "base": { "path": format!("/b/{}", n % 2), "format": "raw" }, "io_limits": null, "slot": null });
    serde_json::from_value(disk).unwrap()
}

fn nic(random: &mut Rng) -> Nic {
    let n = random.u8(..5);
    let backend = match random.bool() {
        true => {
            let host_port = 80 + u16::from(n);
            let host_address = Ipv4Addr::UNSPECIFIED;
            NicBackend::User {
                forwards: vec![Forward { protocol: Protocol::Tcp, host_address, host_port, guest_port: 80 }],
            }
        }
        false => NicBackend::Switch(SwitchPort {
            address: random.bool().then(|| Ipv4Addr::new(10, 0, 0, n)),
            ..SwitchPort::on(number(n % 2).into())
        }),
    };
    let mac = MacAddr::parse(&format!("52:54:00:00:00:0{}", n % 3)).unwrap();
    Nic { id: number(n).into(), name: "n".into(), label: "l".into(), mac, slot: None, queues: 1, backend }
}

/// A handful of values each, so that they meet.
fn spec(random: &mut Rng, id: VmId) -> Arc<VmSpec> {
    let machine = json!({ "profile": "q35", "machine_type": "q", "bus": { "kind": "pcie", "hotplug_ports": 8 },
                          "rng": true, "balloon": true, "pvpanic": true, "virtio_mem": true });
    let spec = json!({
        "id": id, "name": "a", "created_at": 0, "machine": machine, "vcpus": 1 + random.u8(..4), "max_vcpus": 4,
        "max_vcpus_given": false, "memory": 64 + random.u64(..64), "max_memory": 512, "max_memory_given": true,
        "cpu_pinning": null, "disks": [], "disks_added": 0, "nics": [], "nics_added": 0
    });
    let mut spec: VmSpec = serde_json::from_value(spec).unwrap();
    spec.disks = (0..random.u8(..3)).map(|_| disk(random.u8(..4))).collect();
    spec.nics = (0..random.u8(..3)).map(|_| nic(random)).collect();
    Arc::new(spec)
}

fn view(spec: Arc<VmSpec>) -> VmView {
    VmView {
        failed_start: None,
        spec,
        in_effect: None,
        status: Status::Stopped,
        why: None,
        missing: None,
        critical: false,
        pid: None,
        sandbox: None,
        started_on_the_wall: None,
        started: None,
        upkeep: Upkeep::default(),
        agent: false,
        taken_over: true,
        gone: false,
    }
}

fn change(random: &mut Rng, view: &mut VmView) {
    match random.u8(..6) {
        0 | 1 => view.spec = spec(random, view.spec.id),
        2 => view.in_effect = Some(view.spec.clone()),
        3 => view.in_effect = None,
        4 => view.pid = random.bool().then_some(7),
        _ => view.gone = random.u8(..4) == 0,
    }
}

/// What stood here before: a look at each.
fn share(view: &VmView) -> Share {
    let running = view.in_effect.as_deref().or_else(|| view.pid.is_some().then_some(view.spec.as_ref()));
    Share { defined: Figures::of(&view.spec), running: running.map_or_else(Figures::default, Figures::of) }
}

fn bears(view: &VmView, mark: Mark) -> bool {
    let specs = [Some(&view.spec), view.in_effect.as_ref()];
    specs.into_iter().flatten().any(|spec| {
        let nics = || spec.nics.iter();
        match mark {
            Mark::Mac(mac) => nics().any(|nic| nic.mac == mac),
            Mark::Nic(id) => nics().any(|nic| nic.id == id),
            Mark::Switch(id) => nics().any(|nic| nic.switch() == Some(id)),
            Mark::Address(id, address) => {
                nics().any(|nic| nic.port().is_some_and(|port| (port.switch, port.address) == (id, Some(address))))
            }
            Mark::HostPort(protocol, port) => {
                nics().flat_map(|nic| nic.backend.forwards()).any(|to| (to.protocol, to.host_port) == (protocol, port))
            }
            Mark::Disk(_) => spec.disks.iter().any(|disk| Mark::disk(&disk.file) == mark),
            Mark::Image(_) => {
                spec.disks.iter().any(|disk| disk.base.as_ref().is_some_and(|base| Mark::image(&base.path) == mark))
            }
            Mark::Folder(_) => spec.named.folders.iter().any(|folder| Mark::folder(&folder.path) == mark),
            Mark::Attached => spec.disks.iter().any(|disk| disk.file.foreign().is_some()),
            Mark::Base(layer) => {
                spec.disks.iter().any(|disk| disk.backing_file().and_then(|base| base.layer) == Some(layer))
            }
        }
    })
}

fn marks() -> Vec<Mark> {
    let numbers = 0..5_u8;
    let of_number = |n: u8| {
        let id = number(n);
        let address = Ipv4Addr::new(10, 0, 0, n);
        let switch = |n: u8| SwitchId::from(number(n));
        [
            Mark::Mac(MacAddr::parse(&format!("52:54:00:00:00:0{n}")).unwrap()),
            Mark::Nic(id.into()),
            Mark::Switch(id.into()),
            Mark::Address(switch(0), address),
            Mark::Address(switch(1), address),
            Mark::HostPort(Protocol::Tcp, 80 + u16::from(n)),
            Mark::disk(&PathBuf::from(format!("/i/{n}"))),
            Mark::image(&PathBuf::from(format!("/b/{n}"))),
        ]
    };
    numbers.flat_map(of_number).collect()
}

#[test]
fn what_it_says_is_what_a_look_at_every_vm_says() {
    let marks = marks();
    let mut found = 0;
    for seed in 0..100 {
        let mut random = Rng::with_seed(seed);
        let census = Census::default();
        let mut vms: BTreeMap<VmId, VmView> = BTreeMap::new();
        for _ in 0..60 {
            let id = VmId::from(number(random.u8(..6)));
            let now = vms.entry(id).or_insert_with(|| view(spec(&mut random, id)));
            change(&mut random, now);
            census.publish(now);
            // Nothing comes after the end of a VM.
            if now.gone {
                vms.remove(&id);
            }
            let (sum, each) = census.sum((0..6).map(|n| VmId::from(number(n))));
            let scanned = vms.values().map(share).fold(Share::default(), |sum, one| sum.with(one, Figures::plus));
            assert_eq!(sum, scanned, "seed {seed}");
            for (id, found) in each {
                assert_eq!(found, vms.get(&id).map_or_else(Share::default, share), "seed {seed}");
            }
            for mark in &marks {
                let bearing: Vec<VmId> =
                    vms.values().filter(|view| bears(view, *mark)).map(|view| view.spec.id).collect();
                found += bearing.len();
                assert_eq!(census.bearing(*mark), bearing, "seed {seed}, {mark:?}");
            }
            let processes = vms.values().filter(|view| view.pid.is_some()).count();
            assert_eq!(census.processes().len(), processes, "seed {seed}");
        }
    }
    assert!(found > 1_000, "the histories show nothing: {found}");
}

#[test]
fn a_file_is_a_disk_while_the_vm_or_its_qemu_has_it() {
    let census = Census::default();
    let id = VmId::random();
    let with = |files: &[&str]| {
        let mut spec = VmSpec::clone(&spec(&mut Rng::with_seed(1), id));
        spec.disks = files.iter().map(|file| Disk { file: (*file).into(), ..disk(1) }).collect();
        Arc::new(spec)
    };
    let mut now = view(with(&["/i/a", "/i/b"]));
    now.in_effect = Some(now.spec.clone());
    census.publish(&now);
    now.spec = with(&["/i/a"]);
    census.publish(&now);
    let bears_disk = |file: &str| census.has_disk(Path::new(file));
    assert_eq!((bears_disk("/i/a"), bears_disk("/i/b"), bears_disk("/i/c")), (true, true, false));
    now.in_effect = None;
    census.publish(&now);
    assert_eq!((bears_disk("/i/a"), bears_disk("/i/b")), (true, false));
}

#[test]
fn who_looks_for_a_disk_does_not_look_at_each_clone_of_an_image() {
    let census = Census::default();
    for _ in 0..3 {
        let id = VmId::random();
        let mut spec = VmSpec::clone(&spec(&mut Rng::with_seed(1), id));
        spec.disks = vec![disk(1)];
        census.publish(&view(Arc::new(spec)));
    }
    let image = Path::new("/b/1");
    assert_eq!(census.bearing(Mark::image(image)).len(), 3);
    assert_eq!((census.bearing(Mark::disk(image)), census.has_disk(image)), (vec![], false));
}
