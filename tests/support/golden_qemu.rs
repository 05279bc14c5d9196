//! The QEMU of this host, started with the arguments of a golden file and asked where it put what they name.

#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Command,
    time::Duration,
};

use qherd::{
    host::{
        Access,
        launcher::{Child, QEMU},
        open_within,
        process::Process,
    },
    model::Disk,
    qemu::{
        Accelerator,
        devices::{FileUse, HostFile},
    },
    qmp::{Session, socket},
};
use serde_json::{Value, json};

use crate::cases::{Case, ID, ROOT, files, tap_fds};

const PATIENCE: Duration = Duration::from_secs(120);

/// Real files under the names of the golden ones.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
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
    /// What carries a NIC is to connect to.
    fn listener(golden: i32, socket: OwnedFd) -> Self {
        let word = |fd: i32| format!("\"str\":\"{fd}\"");
        Self { golden: word(golden), real: word(socket.as_raw_fd()), fds: vec![socket] }
    }

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
pub struct Qemu {
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
    pub async fn start(place: &Place, case: &Case, args: impl Iterator<Item = &str>) -> Self {
        let name = case.name;
        let root = place.path().display().to_string();
        let path = |name: &str| place.path().join("run/0a1b2c3d4e5f").join(name);
        let listen = |name: &str| socket::listen(&path(name)).unwrap();
        let (qmp, agent, serial) = (listen("qmp.sock"), listen("agent.sock"), listen("serial.sock"));
        let fds = BTreeMap::from([(10, qmp.as_raw_fd()), (11, agent.as_raw_fd()), (12, serial.as_raw_fd())]);
        let mut golden: Vec<_> = tap_fds(&case.spec, case.carried).into_values().collect();
        golden.sort();
        let tap = |fds: &Vec<i32>| {
            if case.carried { Tap::listener(fds[0], listen("user1.sock").into()) } else { Tap::new(fds) }
        };
        let taps: Vec<Tap> = golden.iter().map(tap).collect();
        // Opened as the daemon does, with the access that QEMU wants.
        let open = |(file, golden): (HostFile, i32)| {
            let mut path = file.path.display().to_string().replace(ROOT, &root);
            if let FileUse::Seed(id) = file.used {
                // It is made for each start, and has no path.
                path = format!("{root}/{id}");
                std::fs::write(&path, vec![0; 64 << 10]).unwrap();
            }
            let access = match file.used {
                FileUse::Log => Access::Append,
                FileUse::Disk(_) => Access::ReadWrite,
                FileUse::Medium | FileUse::Seed(_) | FileUse::Base(_) | FileUse::Overlay(_) => Access::Read,
            };
            (format!("fd={golden},set="), open_within(&[], path.as_ref(), access).unwrap())
        };
        let opened: Vec<(String, std::fs::File)> = files(&case.spec).into_iter().map(open).collect();
        let args: Vec<String> = args
            .map(|arg| match arg {
                // KVM does not work on every host that tests run on.
                "kvm" => Accelerator::Tcg.argument().to_owned(),
                "host" => Accelerator::Tcg.cpu_model().to_owned(),
                _ if arg.starts_with("host,") => arg.replacen("host", Accelerator::Tcg.cpu_model(), 1),
                _ => arg.replace(ROOT, &root),
            })
            .map(|arg| {
                let golden = fds.keys().find(|golden| arg.contains(&format!(",fd={golden},")));
                golden.map_or(arg.clone(), |golden| {
                    arg.replace(&format!(",fd={golden},"), &format!(",fd={},", fds[golden]))
                })
            })
            .map(|arg| match opened.iter().find(|(golden, _)| arg.starts_with(golden)) {
                Some((golden, file)) => arg.replacen(golden, &format!("fd={},set=", file.as_raw_fd()), 1),
                None => arg,
            })
            .map(|arg| taps.iter().fold(arg, |arg, tap| arg.replace(&tap.golden, &tap.real)))
            .collect();
        let log = std::fs::File::create(path("qemu.log")).unwrap();
        let tap_fds = taps.iter().flat_map(|tap| &tap.fds).map(AsRawFd::as_raw_fd);
        let file_fds = opened.iter().map(|(_, file)| file.as_raw_fd());
        let inherit: Vec<i32> = fds.into_values().chain(tap_fds).chain(file_fds).collect();
        let qemu = Child::new(QEMU, Path::new("qemu-system-x86_64"));
        let process = Process::spawn(qemu.args(&args).inherit(inherit).stderr(log)).unwrap();
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

    pub async fn examine(&self, case: &Case) {
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
        let depth = disk.lies_on().len();
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
