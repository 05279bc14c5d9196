//! Steps on a real QEMU, each performed twice: whatever a crash or a cut has left of the first time, the second comes to the
//! same. The guest is its firmware.

mod media;
mod power;
mod shared;
mod users;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use serde_json::json;

use super::*;
use crate::{
    config::{Accel, Settings},
    host::{
        cpus::Host,
        image::{Folders, Keep, QemuImg},
        launcher::User,
        sandbox::Sandbox,
    },
    model::{Conflict, CpuPinning, Disk, Ending, Error, IoLimits, LayerId, Nic, NicBackend, NicId, VmSpec},
    net::Network,
    qemu::{Accelerator, Caps, devices},
    store::Store,
    vm::{
        Closing, Context,
        core::{DiskNo, Goal, Guest, Record, Run, RunRecord, Sight, StartedWith, Up},
        records::Known,
    },
};

/// A VM that is taken through its steps by hand.
struct Vm {
    dir: tempfile::TempDir,
    hands: Hands,
    record: Record,
}

impl Vm {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("qherd-steps-").tempdir().unwrap();
        let settings = Settings {
            state_dir: Some(dir.path().join("state")),
            accel: Some(Accel::Tcg),
            balloon_floor: Some(16),
            ..Settings::default()
        };
        let empty = dir.path().join("empty.toml");
        std::fs::write(&empty, "").unwrap();
        let config = settings.resolve(Some(&empty)).unwrap();
        std::fs::create_dir_all(config.state_dir.join("images")).unwrap();
        let cache = config.state_dir.join("accelerator.json");
        let caps = Caps::detect(&config.qemu, Some(Accelerator::Tcg), &cache).await.unwrap();
        let programs = users::programs(&caps);
        let keep = Keep { uids: config.vm_uids.clone(), mark: "steps".to_owned() };
        let ctx = Context {
            reports: Default::default(),
            host: Host::read().unwrap(),
            sandbox: Sandbox::find(programs, config.vm_uids.clone(), "steps").await.into(),
            images: QemuImg::find(&config.qemu_img, Folders::default(), &keep).await.unwrap(),
            caps,
            store: Store::open(&config.state_dir.join("db")).unwrap(),
            riders: Arc::default(),
            census: Arc::default(),
            net: Network::open(&config.state_dir).await,
            original: None,
            closing: Closing::default(),
            user_network: users::user_network(),
            carriers: Default::default(),
            config,
        };
        let definition: VmSpec = serde_json::from_value(json!({
            "id": uuid::Uuid::new_v4(), "name": "steps", "created_at": 0,
            "machine": {
                "profile": "q35", "machine_type": ctx.caps.versioned_machine("q35").unwrap(),
                "bus": { "kind": "pcie", "hotplug_ports": 4 }, "rng": true, "balloon": true, "pvpanic": true,
                "virtio_mem": true },
            "vcpus": 1, "max_vcpus": 4, "max_vcpus_given": true, "memory": 64, "max_memory": 128, "max_memory_given": true,
            "cpu_pinning": null, "disks": [], "disks_added": 0, "nics": [], "nics_added": 0
        }))
        .unwrap();
        let hands = Hands::new(Arc::new(ctx), definition.id, Known::default());
        let state = Run::Starting { process: None, new: false, last: Ending::Clean };
        let run = RunRecord::new(state, Goal::Rest);
        Self { dir, hands, record: Record { definition: Arc::new(definition), run } }
    }

    fn define(&mut self, change: impl FnOnce(&mut VmSpec)) {
        change(Arc::make_mut(&mut self.record.definition));
    }

    fn in_effect(&mut self, change: impl FnOnce(&mut VmSpec)) {
        let Run::Up(up) = &mut self.record.run.state else { panic!("it is not up") };
        change(Arc::make_mut(&mut up.in_effect));
    }

    async fn once(&self, step: Step) -> Outcome {
        let brief = Brief { record: self.record.clone(), agent: false, vcpu_room: 3, copied: Default::default() };
        perform(&self.hands, brief, step).await
    }

    #[track_caller]
    fn check(step: &Step, outcome: Outcome, wanted: &Report) {
        assert_eq!(outcome, Outcome::Done(wanted.clone()), "{step:?}");
    }

    /// Twice, with the same report.
    async fn twice(&self, step: Step, wanted: Report) {
        for _ in 0..2 {
            let outcome = self.once(step.clone()).await;
            Self::check(&step, outcome, &wanted);
        }
    }

    async fn refuses(&self, step: Step) -> Setback {
        match self.once(step.clone()).await {
            Outcome::Failed(setback) => setback,
            other => panic!("{step:?}: {other:?}"),
        }
    }

    fn disk(&self, no: u32, slot: Option<u8>) -> Disk {
        let name = DiskNo(no).name();
        let file = self.hands.ctx.image_folder(&self.hands.id).join(format!("{name}.qcow2"));
        serde_json::from_value(json!({
            "name": name, "layer": LayerId::random(), "file": file, "size": 1, "clone": "full", "base": null, "io_limits": null, "slot": slot
        }))
        .unwrap()
    }

    /// Its disk, as a plan has it made.
    async fn make(&mut self, disk: &Disk) {
        let no = DiskNo::of(&disk.name).unwrap();
        self.define(|spec| spec.disks.push(disk.clone()));
        self.record.run.unmade.insert(no);
        self.twice(Step::CheckImage(no), Report::Done).await;
        // What is not noted may be anybody's.
        assert!(matches!(self.refuses(Step::MakeImage(no, 1)).await, Setback::Host(_)));
        self.record.run.held.images.insert(no, disk.clone().into());
        self.twice(Step::MakeImage(no, 1), Report::Done).await;
        self.record.run.unmade.remove(&no);
        assert!(matches!(self.refuses(Step::CheckImage(no)).await, Setback::Foreign(_)));
    }

    /// With its root disk, its guest running.
    async fn started() -> Self {
        Self::new().await.start().await
    }

    async fn start(self) -> Self {
        let mut vm = self;
        let root = vm.disk(0, None);
        vm.make(&root).await;
        vm.twice(Step::Prepare, Report::Done).await;
        let Outcome::Done(Report::Spawned { process, with }) = vm.once(Step::Spawn).await else {
            panic!("it does not start");
        };
        let StartedWith { fitted, hotplug_memory, sandbox } = with;
        vm.record.run.state = Run::Up(Box::new(Up {
            process,
            started_at: 0,
            boot_memory: fitted.memory,
            in_effect: fitted,
            hotplug_memory,
            sandbox: Some(sandbox),
            vcpus_made: 0,
            guest: Guest::Running,
        }));
        for step in [Step::Greet, Step::Tune, Step::Continue] {
            Self::check(&step, vm.once(step.clone()).await, &Report::Done);
        }
        vm
    }

    async fn devices(&self) -> (Vec<DiskNo>, Vec<NicId>, u32) {
        match self.once(Step::Look { devices: true }).await {
            Outcome::Done(Report::Devices { disks, nics, vcpus, .. }) => (disks, nics, vcpus),
            other => panic!("{other:?}"),
        }
    }

    /// Bytes that the guest sees of a node.
    async fn size_of(&self, node: &str) -> Option<u64> {
        let nodes = self.hands.session().unwrap().query_named_block_nodes().await.unwrap();
        nodes.iter().find(|found| found.node_name.as_deref() == Some(node)).map(|found| found.image.virtual_size)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Some(process) = self.hands.process() {
            process.kill();
        }
        let kept_in = self.hands.take_kept_in();
        kept_in.group.iter().for_each(|group| group.end());
        let _ = kept_in.uid.map(User::forget);
    }
}

fn size(file: &Path) -> u64 {
    crate::host::image::check_disk(&std::fs::File::open(file).unwrap(), crate::model::ImageFormat::Qcow2).unwrap() >> 30
}

#[tokio::test]
async fn images_are_made_grown_and_removed() {
    let mut vm = Vm::new().await;
    let disk = vm.disk(1, Some(1));
    vm.make(&disk).await;
    // Half made by a try that was cut short.
    std::fs::write(&disk.file, "half").unwrap();
    vm.twice(Step::MakeImage(DiskNo(1), 2), Report::Done).await;
    vm.twice(Step::GrowImage(DiskNo(1), 3), Report::Done).await;
    // It never shrinks.
    vm.twice(Step::GrowImage(DiskNo(1), 1), Report::Done).await;
    assert_eq!(size(&disk.file), 3);

    let other = vm.disk(2, Some(2));
    vm.make(&other).await;
    vm.define(|spec| spec.disks.retain(|disk| disk.name == "disk2"));
    // A folder in which a disk of the record is missing is not the one that the record tells of.
    let away = vm.dir.path().join("away");
    std::fs::rename(&other.file, &away).unwrap();
    assert!(matches!(vm.refuses(Step::RemoveImage(DiskNo(1))).await, Setback::Host(why) if why.contains("is missing")));
    std::fs::rename(&away, &other.file).unwrap();
    vm.twice(Step::RemoveImage(DiskNo(1)), Report::Done).await;
    assert!(!disk.file.exists() && other.file.exists());

    // What somebody has put beside it stays, also with a VM that was never whole.
    let foreign = vm.disk(3, Some(3));
    std::fs::write(&foreign.file, "precious").unwrap();
    vm.define(|spec| {
        spec.disks.push(foreign.clone());
        spec.disks_added = 3;
    });
    vm.record.run.unmade.insert(DiskNo(3));
    assert!(matches!(vm.refuses(Step::CheckImage(DiskNo(3))).await, Setback::Foreign(_)));
    vm.twice(Step::Erase { half_made: true }, Report::Done).await;
    assert!(foreign.file.exists() && !other.file.exists());
}

#[tokio::test]
async fn what_is_missing_is_told_and_keeps_a_vm_from_being_removed() {
    let mut vm = Vm::new().await;
    let root = vm.disk(0, None);
    vm.make(&root).await;
    vm.twice(Step::FindFiles, Report::Missing(None)).await;
    vm.twice(Step::CheckRemovable, Report::Done).await;
    let mark = root.file.parent().unwrap().with_file_name(".qherd-storage");
    let away = vm.dir.path().join("away");
    std::fs::rename(&root.file, &away).unwrap();
    let Outcome::Done(Report::Missing(Some(missing))) = vm.once(Step::FindFiles).await else { panic!("nothing") };
    assert!(missing.contains("root.qcow2 cannot be used"), "{missing}");
    // Beside its mark it is gone; without it, its storage is away.
    vm.twice(Step::CheckRemovable, Report::Done).await;
    std::fs::remove_file(&mark).unwrap();
    for step in [Step::CheckRemovable, Step::Erase { half_made: false }] {
        assert!(matches!(vm.refuses(step).await, Setback::Reported(Error::Storage(_))));
    }
    std::fs::rename(&away, &root.file).unwrap();
    vm.twice(Step::Prepare, Report::Done).await;
    assert!(vm.hands.paths.dir().exists());
    vm.once(Step::Erase { half_made: false }).await;
    assert!(!root.file.parent().unwrap().exists() && !vm.hands.paths.dir().exists());
}

#[tokio::test]
async fn disks_come_and_go_and_follow_their_definition() {
    let mut vm = Vm::started().await;
    let disk = vm.disk(1, Some(1));
    vm.make(&disk).await;
    // Of a plugging that was cut short: its node alone.
    let session = vm.hands.session().unwrap();
    disks::open_node(&vm.hands, &session, &disk).await.unwrap();
    assert_eq!(vm.devices().await.0, [DiskNo(0)]);
    let larger = Disk { size: 2, ..disk.clone() };
    vm.twice(Step::PlugDisk(Box::new(larger.clone())), Report::Done).await;
    vm.in_effect(|spec| spec.disks.push(larger));
    assert_eq!(vm.devices().await.0, [DiskNo(0), DiskNo(1)]);
    assert_eq!(vm.size_of("disk1-node").await, Some(2 << 30));

    vm.twice(Step::ResizeDisk(DiskNo(1), 3), Report::Done).await;
    vm.twice(Step::ResizeDisk(DiskNo(1), 1), Report::Done).await;
    assert_eq!(vm.size_of("disk1-node").await, Some(3 << 30));
    let limits = IoLimits { iops: Some(100), ..IoLimits::default() };
    vm.twice(Step::ThrottleDisk(DiskNo(1), Some(Box::new(limits))), Report::Done).await;
    vm.twice(Step::ThrottleDisk(DiskNo(1), None), Report::Done).await;

    // It is there: news of its end are old.
    vm.twice(Step::CloseDisk(DiskNo(1)), Report::StillThere).await;
    // Nor is its image removed under it.
    vm.define(|spec| spec.disks.retain(|disk| disk.name == "root"));
    assert!(matches!(vm.refuses(Step::RemoveImage(DiskNo(1))).await, Setback::Host(_)));
    assert!(disk.file.exists());

    Vm::check(&Step::Pause, vm.once(Step::Pause).await, &Report::Done);
    assert_eq!(vm.refuses(Step::ReleaseDisk(DiskNo(1))).await, Setback::Reported(Conflict::Halted.into()));
    Vm::check(&Step::Continue, vm.once(Step::Continue).await, &Report::Done);
    // The firmware does not let go of it, however often it is asked.
    vm.twice(Step::ReleaseDisk(DiskNo(1)), Report::Done).await;
    assert_eq!(vm.devices().await.0, [DiskNo(0), DiskNo(1)]);

    // As it is when a guest has let go of a disk.
    let released = vm.disk(2, Some(2));
    vm.make(&released).await;
    disks::open_node(&vm.hands, &session, &released).await.unwrap();
    vm.in_effect(|spec| spec.disks.push(released.clone()));
    vm.twice(Step::ReleaseDisk(DiskNo(2)), Report::Out).await;
    assert!(vm.size_of("disk2-node").await.is_some());
    vm.twice(Step::CloseDisk(DiskNo(2)), Report::Done).await;
    assert_eq!(vm.size_of("disk2-node").await, None);
    vm.define(|spec| spec.disks.retain(|disk| disk.name == "root"));
    vm.twice(Step::RemoveImage(DiskNo(2)), Report::Done).await;
    assert!(!released.file.exists() && disk.file.exists());
}

/// The user-mode network, to which nothing leads.
fn nobody() -> NicBackend {
    NicBackend::User { forwards: Vec::new() }
}

#[tokio::test]
async fn a_nic_comes_once_and_its_port_is_looked_at() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let nic: Nic = serde_json::from_value(json!({
        "id": uuid::Uuid::new_v4(), "name": "net0", "label": "a", "mac": "52:54:00:12:34:56", "slot": 2, "queues": 1,
        "backend": { "user": { "forwards": [{
            "protocol": "tcp", "host_address": "127.0.0.1", "host_port": port, "guest_port": 22
        }] } }
    }))
    .unwrap();
    let id = || -> NicId { serde_json::from_value(json!(uuid::Uuid::new_v4())).unwrap() };
    let (other, front) = (id(), Nic { id: id(), name: "net2".into(), backend: nobody(), slot: None, ..nic.clone() });
    let plug = Step::PlugNic(Box::new(nic.clone()));
    // A QEMU that has none on the user-mode network has no way out.
    let closed = Vm::started().await.refuses(Step::PlugNic(Box::new(front.clone()))).await;
    assert_eq!(closed, Setback::Reported(Conflict::NoWayOut.into()));
    let mut vm = Vm::new().await;
    vm.define(|spec| spec.nics.push(front.clone()));
    let mut vm = vm.start().await;
    let taken = vm.refuses(plug.clone()).await;
    assert!(matches!(&taken, Setback::Reported(Error::PortTaken { .. })), "{taken:?}");
    drop(listener);
    // Of a plugging that was cut short: its host's side alone, which has the port.
    let session = vm.hands.session().unwrap();
    let netdev = devices::netdev(&nic, &[]);
    session.execute_raw("netdev_add", Some(netdev.clone())).await.unwrap();
    vm.twice(Step::DisconnectNic(Box::new(nic.clone())), Report::Done).await;
    session.execute_raw("netdev_add", Some(netdev)).await.unwrap();
    vm.twice(plug, Report::Done).await;
    vm.define(|spec| spec.nics.push(nic.clone()));
    vm.in_effect(|spec| spec.nics.push(nic.clone()));
    assert_eq!(vm.devices().await.1.into_iter().collect::<BTreeSet<_>>(), [front.id, nic.id].into());
    vm.twice(Step::CloseNic(nic.id), Report::StillThere).await;
    vm.twice(Step::ReleaseNic(nic.id), Report::Done).await;

    // As it is when a guest has let go of a NIC.
    let released = Nic { id: other, name: "net1".into(), backend: nobody(), ..nic };
    let netdev = devices::netdev(&released, &[]);
    session.execute_raw("netdev_add", Some(netdev.clone())).await.unwrap();
    vm.in_effect(|spec| spec.nics.push(released));
    vm.twice(Step::ReleaseNic(other), Report::Out).await;
    vm.twice(Step::CloseNic(other), Report::Done).await;
    session.execute_raw("netdev_add", Some(netdev)).await.expect("its name is free");
}

#[tokio::test]
async fn sizes_come_as_far_as_the_guest_follows() {
    let mut vm = Vm::started().await;
    vm.define(|spec| spec.vcpus = 3);
    Vm::check(&Step::SetVcpus(3), vm.once(Step::SetVcpus(3)).await, &Report::Done);
    assert_eq!(vm.devices().await.2, 3);
    let seen: Vec<Sight> = std::iter::from_fn(|| vm.hands.take_sight()).collect();
    assert_eq!(seen, [Sight::Vcpus { present: 2, used: 2 }, Sight::Vcpus { present: 3, used: 3 }]);
    vm.in_effect(|spec| spec.vcpus = 3);
    vm.twice(Step::SetVcpus(3), Report::Done).await;
    let core = vm.hands.ctx.host.allowed[0];
    let pinning = CpuPinning { cores: vec![core], ..CpuPinning::default() };
    vm.twice(Step::Pin(Some(Box::new(pinning))), Report::Done).await;
    assert_eq!(vm.hands.threads().len(), 3);
    vm.twice(Step::Pin(None), Report::Done).await;

    vm.twice(Step::ReadMemory, Report::Memory(64)).await;
    vm.twice(Step::SetMemory(64), Report::Done).await;
    // The firmware has no driver for it.
    assert!(matches!(vm.refuses(Step::SetMemory(96)).await, Setback::NotNow(_)));
    assert!(
        matches!(vm.refuses(Step::SetMemory(200)).await, Setback::NotNow(why) if why.contains("only come with a start"))
    );
    // It was started without a drive.
    assert!(matches!(vm.refuses(Step::ExchangeMedium(None)).await, Setback::NotNow(_)));
}
