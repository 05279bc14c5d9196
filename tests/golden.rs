//! The arguments that a VM's QEMU is started with: exact, in tests/golden/*.args, one per line. And valid: the QEMU of
//! this host is started with each file and asked where it put what we named.

#[path = "support/golden.rs"]
mod golden;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Command,
    time::Duration,
};

use qherd::{
    host::process::Process,
    model::{
        BaseImage, Bus, CloneMode, Disk, Forward, ImageFormat, MacAddr, Machine, NewDisk, NewNic, NicBackend, NicId,
        OnIoError, Policy, SwitchId, SwitchPort, VmId, VmSpec,
    },
    qemu::{Accelerator, ChardevFds, CommandLine, RunPaths},
    qmp::{Session, socket},
};
use serde_json::{Value, json};

/// Stands for the state directory and the image directory in the files.
const ROOT: &str = "/golden";
const ID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-8e9fa0b1c2d3";
const FDS: ChardevFds = ChardevFds { qmp: 10, agent: 11, serial: 12 };
const PATIENCE: Duration = Duration::from_secs(120);

struct Case {
    name: &'static str,
    accelerator: Accelerator,
    spec: VmSpec,
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
        disks: vec![Disk {
            name: "root".into(),
            file: format!("{ROOT}/images/{ID}/root.qcow2").into(),
            size: 1,
            clone: CloneMode::Linked,
            base: Some(BaseImage { path: format!("{ROOT}/bases/base.qcow2").into(), format: ImageFormat::Qcow2 }),
            io_limits: None,
            slot: None,
            request: None,
            in_making: false,
        }],
        disks_added: 0,
        nics: Vec::new(),
        nics_added: 0,
        policy: Policy::default(),
        iso: None,
        named: Default::default(),
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
    spec.disks[0].base = Some(BaseImage { path: format!("{ROOT}/bases/base.raw").into(), format: ImageFormat::Raw });
}

fn further_disks(spec: &mut VmSpec) {
    let folder = format!("{ROOT}/images/{ID}");
    let clone = spec.disks[0].base.clone();
    for base in [None, clone] {
        let disk = NewDisk { request: None, size: 2, base, clone: CloneMode::Linked, io_limits: None };
        spec.add_disk(disk, folder.as_ref(), None).unwrap();
    }
}

fn iso(spec: &mut VmSpec) {
    spec.iso = Some(format!("{ROOT}/bases/disc.iso").into());
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

/// The descriptors of the taps of a VM's NICs, as the files have them: from 13 on.
fn tap_fds(spec: &VmSpec) -> HashMap<NicId, Vec<i32>> {
    let mut next = 13..;
    let on_switch = spec.nics.iter().filter(|nic| nic.switch().is_some());
    on_switch.map(|nic| (nic.id, next.by_ref().take(nic.queues.into()).collect())).collect()
}

fn bare(spec: &mut VmSpec) {
    spec.machine = Machine { rng: false, balloon: false, pvpanic: false, virtio_mem: false, ..spec.machine.clone() };
    spec.nics.clear();
}

fn many_vcpus(spec: &mut VmSpec) {
    (spec.vcpus, spec.max_vcpus) = (64, 255);
}

fn cases() -> Vec<Case> {
    let case = |name, base: fn() -> VmSpec, change: &dyn Fn(&mut VmSpec)| {
        let mut spec = base();
        change(&mut spec);
        Case { name, accelerator: Accelerator::Tcg, spec }
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
        case("q35-without-hotplug", q35, &without_hotplug),
        case("q35-forwards", q35, &forwards),
        case("q35-hotplug-17", q35, &|spec| spec.machine.bus = Bus::Pcie { hotplug_ports: 17 }),
        case("q35-odd-name", q35, &|spec| spec.name = "größe 1,debug-threads=off,,\"x\" %s $HOME".into()),
        case("q35-disks", q35, &further_disks),
        case("q35-iso", q35, &iso),
        case("pc-iso", pc, &iso),
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

#[test]
fn the_arguments_are_those_of_the_golden_files() {
    let paths = RunPaths::new(format!("{ROOT}/run/0a1b2c3d4e5f").into());
    for Case { name, accelerator, spec } in cases() {
        let args = CommandLine { spec: &spec, paths: &paths, fds: FDS, taps: &tap_fds(&spec), accelerator }.render();
        assert!(args.iter().all(|argument| !argument.contains('\n')), "{name}");
        golden::compare(&format!("{name}.args"), &(args.join("\n") + "\n"));
    }
}

#[test]
fn every_golden_file_has_its_case() {
    let cases: BTreeSet<String> = cases().iter().map(|case| format!("{}.args", case.name)).collect();
    let files = std::fs::read_dir(golden::path("")).unwrap();
    let files =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name.ends_with(".args"));
    assert_eq!(files.collect::<BTreeSet<_>>(), cases);
}

#[tokio::test]
async fn qemu_takes_every_golden_file_and_has_the_devices_where_it_says() {
    for case in cases() {
        let text = std::fs::read_to_string(golden::path(&format!("{}.args", case.name))).unwrap();
        let place = Place::new();
        let qemu = Qemu::start(&place, &case, text.lines()).await;
        qemu.examine(&case).await;
    }
}

/// Real files under the names of the golden ones.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("qherd-golden-").tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["bases", "run/0a1b2c3d4e5f", &format!("images/{ID}")] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for image in ["bases/base.raw", "bases/disc.iso"] {
            std::fs::File::create(at(image)).unwrap().set_len(1 << 20).unwrap();
        }
        let disks = ["root", "disk1", "disk2"].map(|disk| format!("images/{ID}/{disk}.qcow2"));
        for image in disks.iter().map(String::as_str).chain(["bases/base.qcow2"]) {
            let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(at(image)).arg("1G").status();
            assert!(made.unwrap().success());
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

nix::ioctl_write_int!(tun_set_iff, b'T', 202);

/// A tap in a network namespace of its own, which goes with its last descriptor.
struct Tap {
    fds: Vec<OwnedFd>,
    /// What stands in a file, and what takes its place.
    golden: String,
    real: String,
}

impl Tap {
    fn new(golden: &[i32]) -> Self {
        use nix::libc;
        let queues = golden.len();
        let made = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            let multi = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
            let queue = |_| {
                let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
                // SAFETY: an all-zero ifreq is a valid one.
                let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
                request.ifr_name[0] = b't' as libc::c_char;
                request.ifr_ifru.ifru_flags =
                    (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi) as libc::c_short;
                // SAFETY: TUNSETIFF takes a pointer to an ifreq, which lives until the call returns.
                unsafe { tun_set_iff(file.as_raw_fd(), &raw const request as libc::c_ulong) }.unwrap();
                file.into()
            };
            (0..queues).map(queue).collect::<Vec<OwnedFd>>()
        });
        let fds = made.join().unwrap();
        let joined = |fds: Vec<String>| {
            let word = if queues > 1 { "fds" } else { "fd" };
            format!("\"{word}\":\"{}\"", fds.join(":"))
        };
        let real = joined(fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect());
        Self { golden: joined(golden.iter().map(i32::to_string).collect()), real, fds }
    }
}

/// Killed when dropped; the runtime that reaps it goes after it.
struct Qemu {
    process: Process,
    session: Session,
    args: Vec<String>,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Qemu {
    async fn start(place: &Place, case: &Case, args: impl Iterator<Item = &str>) -> Self {
        let name = case.name;
        let root = place.path().display().to_string();
        let path = |name: &str| place.path().join("run/0a1b2c3d4e5f").join(name);
        let listen = |name: &str| socket::listen(&path(name)).unwrap();
        let (qmp, agent, serial) = (listen("qmp.sock"), listen("agent.sock"), listen("serial.sock"));
        let fds = BTreeMap::from([(10, qmp.as_raw_fd()), (11, agent.as_raw_fd()), (12, serial.as_raw_fd())]);
        let mut golden: Vec<_> = tap_fds(&case.spec).into_values().collect();
        golden.sort();
        let taps: Vec<Tap> = golden.iter().map(|fds| Tap::new(fds)).collect();
        let args: Vec<String> = args
            .map(|arg| match arg {
                // KVM does not work on every host that tests run on.
                "kvm" => Accelerator::Tcg.argument().to_owned(),
                "host" => Accelerator::Tcg.cpu_model().to_owned(),
                _ => arg.replace(ROOT, &root),
            })
            .map(|arg| {
                let golden = fds.keys().find(|golden| arg.contains(&format!(",fd={golden},")));
                golden.map_or(arg.clone(), |golden| {
                    arg.replace(&format!(",fd={golden},"), &format!(",fd={},", fds[golden]))
                })
            })
            .map(|arg| taps.iter().fold(arg, |arg, tap| arg.replace(&tap.golden, &tap.real)))
            .collect();
        let log = std::fs::File::create(path("qemu.log")).unwrap();
        let tap_fds = taps.iter().flat_map(|tap| &tap.fds).map(AsRawFd::as_raw_fd);
        let inherit: Vec<i32> = fds.into_values().chain(tap_fds).collect();
        let process = Process::spawn(Path::new("qemu-system-x86_64"), &args, &inherit, log).unwrap();
        drop((qmp, agent, serial));
        let opened = async {
            let stream = socket::connect(&path("qmp.sock"), PATIENCE).await.map_err(|e| e.to_string())?;
            Session::open(stream, PATIENCE).await.map_err(|e| e.to_string())
        };
        match opened.await {
            Ok((session, _)) => Self { process, session, args },
            Err(error) => {
                process.kill();
                panic!("{name}: {error}: {}", std::fs::read_to_string(path("qemu.log")).unwrap())
            }
        }
    }

    async fn ask(&self, command: &str) -> Value {
        self.session.execute_raw(command, None).await.unwrap()
    }

    /// The JSON values behind every `-device`.
    fn devices(&self) -> Vec<Value> {
        let values = self.args.iter().zip(self.args.iter().skip(1)).filter(|(flag, _)| *flag == "-device");
        values.map(|(_, value)| serde_json::from_str(value).unwrap()).collect()
    }

    async fn examine(&self, case: &Case) {
        let Case { name, spec, .. } = case;
        let status = self.ask("query-status").await;
        assert_eq!((&status["status"], &status["running"]), (&json!("prelaunch"), &json!(false)), "{name}");
        assert_eq!(self.ask("query-uuid").await["UUID"], ID, "{name}");
        assert_eq!(self.ask("query-name").await["name"], spec.name.as_str(), "{name}");
        assert_eq!(self.ask("query-cpus-fast").await.as_array().unwrap().len(), spec.vcpus as usize, "{name}");
        let slots = self.ask("query-hotpluggable-cpus").await;
        assert_eq!(slots.as_array().unwrap().len(), spec.max_vcpus as usize, "{name}");
        assert_eq!(self.ask("query-memory-size-summary").await["base-memory"], spec.memory << 20, "{name}");
        self.examine_devices(name).await;
        self.examine_disk(name, &spec.disks[0]).await;
    }

    /// Each device is there under its id, and each on the root bus at its address.
    async fn examine_devices(&self, name: &str) {
        let listed =
            self.session.execute_raw("qom-list", Some(json!({ "path": "/machine/peripheral" }))).await.unwrap();
        let listed: BTreeMap<&str, &str> =
            listed.as_array().unwrap().iter().map(|d| (text(d, "name"), text(d, "type"))).collect();
        let pci = self.ask("query-pci").await;
        let on_bus: BTreeMap<&str, String> = pci[0]["devices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|device| {
                (
                    text(device, "qdev_id"),
                    format!("{:#x}.{:#x}", device["slot"].as_u64().unwrap(), device["function"].as_u64().unwrap()),
                )
            })
            .collect();
        for device in self.devices() {
            let id = text(&device, "id");
            let kind = format!("child<{}>", text(&device, "driver"));
            assert_eq!(listed.get(id).copied(), Some(kind.as_str()), "{name}: {id}");
            let bus = text(&device, "bus");
            if bus.starts_with("rp") {
                // Behind a port; what is there has no address on the root bus.
                let property = json!({ "path": format!("/machine/peripheral/{id}"), "property": "parent_bus" });
                let parent = self.session.execute_raw("qom-get", Some(property)).await.unwrap();
                assert_eq!(parent, format!("/machine/peripheral/{bus}/{bus}"), "{name}: {id}");
            } else if let Some(address) = device["addr"].as_str() {
                let whole = if address.contains('.') { address.to_owned() } else { format!("{address}.0x0") };
                assert_eq!(on_bus.get(id), Some(&whole), "{name}: {id}");
            }
            if let Some(mac) = device["mac"].as_str() {
                let property = json!({ "path": format!("/machine/peripheral/{id}"), "property": "mac" });
                assert_eq!(self.session.execute_raw("qom-get", Some(property)).await.unwrap(), mac, "{name}");
            }
        }
    }

    /// The block graph is the one we drew, whatever the headers of the files say.
    async fn examine_disk(&self, name: &str, disk: &Disk) {
        let blocks = self.ask("query-block").await;
        let root = |block: &&Value| block["qdev"] == "/machine/peripheral/disk-root/virtio-backend";
        let Some(block) = blocks.as_array().unwrap().iter().find(root) else { panic!("{name}: {blocks}") };
        assert_eq!(
            (&block["inserted"]["node-name"], &block["inserted"]["drv"]),
            (&json!("root-node"), &json!("qcow2")),
            "{name}"
        );
        let depth = u8::from(disk.clone == CloneMode::Linked);
        assert_eq!(block["inserted"]["backing_file_depth"], depth, "{name}");
        let nodes = self.ask("query-named-block-nodes").await;
        let base = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "root-base");
        let wanted = disk.backing_file().map(|base| (json!(base.format.driver()), json!(true)));
        assert_eq!(base.map(|node| (node["drv"].clone(), node["ro"].clone())), wanted, "{name}");
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
