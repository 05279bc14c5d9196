//! The command line of a VM: `VmSpec` in, arguments out, no I/O. `tests/golden/` holds it to the letter, and a real
//! QEMU is started with each golden file.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use super::{Accelerator, devices};
use crate::model::{Bus, NicId, VmSpec};

/// What names of sockets for carriers begin with.
const CARRIER: &str = "user";

/// The files of one VM's run directory.
#[derive(Clone, Debug)]
pub struct RunPaths {
    dir: PathBuf,
}

impl RunPaths {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Monitor socket.
    pub fn qmp(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// Guest agent socket.
    pub fn agent(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// Serial console socket.
    pub fn serial(&self) -> PathBuf {
        self.dir.join("serial.sock")
    }

    /// Where QEMU listens for what carries a NIC on the user-mode network, by the place of the NIC.
    pub fn carrier(&self, slot: Option<u8>) -> PathBuf {
        self.dir.join(format!("{CARRIER}{}.sock", slot.unwrap_or_default()))
    }

    /// Whether a file of the directory is such a socket.
    pub fn is_carrier(name: &str) -> bool {
        let slot = name.strip_prefix(CARRIER).and_then(|rest| rest.strip_suffix(".sock"));
        slot.is_some_and(|slot| slot.parse::<u8>().is_ok())
    }

    /// What QEMUs that earlier versions started wrote.
    pub fn pid(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// QEMU's standard error, of the last run only.
    pub fn qemu_log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    /// The guest's serial output, over all runs.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Those that QEMU has open for as long as it runs, from the very first; it writes to neither.
    pub fn logs(&self) -> [PathBuf; 2] {
        [self.qemu_log(), self.console_log()]
    }

    /// Everything that a VM's runs may leave, its logs with their older halves.
    pub fn all(&self) -> Vec<PathBuf> {
        let mut all = vec![self.qmp(), self.agent(), self.serial(), self.pid()];
        for log in self.logs() {
            for suffix in ["", ".1", ".new", ".times", ".times.1", ".times.new", ".times.1.new"] {
                let mut name = log.as_os_str().to_owned();
                name.push(suffix);
                all.push(name.into());
            }
        }
        all
    }
}

/// The listening sockets as QEMU inherits them.
#[derive(Clone, Copy, Debug)]
pub struct ChardevFds {
    pub qmp: i32,
    pub agent: i32,
    pub serial: i32,
}

/// Everything that the command line of one start depends on.
pub struct CommandLine<'a> {
    pub spec: &'a VmSpec,
    pub paths: &'a RunPaths,
    pub fds: ChardevFds,
    /// Descriptors of the tap devices of the NICs that are on a switch, one for each queue; of a NIC on the user-mode network the socket
    /// that it listens on for who carries it, if anybody does.
    pub taps: &'a HashMap<NicId, Vec<i32>>,
    /// Descriptors of the files that it starts with ([`devices::files`]), by the numbers of their sets.
    pub files: &'a BTreeMap<u32, i32>,
    pub accelerator: Accelerator,
}

impl CommandLine<'_> {
    /// The arguments after the program's name.
    pub fn render(&self) -> Vec<String> {
        let mut args = Args(Vec::new());
        self.identity(&mut args);
        self.files(&mut args);
        self.machine(&mut args);
        self.chardevs(&mut args);
        self.devices(&mut args);
        args.0
    }

    /// So that a person with `ps` and `top -H` sees what runs where, and recovery finds its own.
    fn identity(&self, args: &mut Args) {
        args.add("-name", format!("guest={},debug-threads=on", escape(&self.spec.name)));
        args.add("-uuid", self.spec.id.to_string());
    }

    /// What each set is called is told too: `query-fdsets` says which file QEMU has.
    fn files(&self, args: &mut Args) {
        for file in devices::files(self.spec, self.paths.console_log()) {
            if let Some(fd) = self.files.get(&file.set) {
                let path = escape(&file.path.display().to_string());
                args.add("-add-fd", format!("fd={fd},set={},opaque={path}", file.set));
            }
        }
    }

    fn machine(&self, args: &mut Args) {
        let VmSpec { machine, vcpus, max_vcpus, .. } = self.spec;
        args.flag("-no-user-config");
        args.flag("-nodefaults");
        args.add("-display", "none");
        // What a CD shows before its system runs, such as a menu, comes on the serial console: there is no display.
        let menu = if self.spec.iso.is_some() { ",graphics=off" } else { "" };
        // The tables of machine types before QEMU 9 have one byte for the number of cores, and QEMU 10 refuses those with 255.
        let tables = if *max_vcpus > 254 { ",smbios-entry-point-type=64" } else { "" };
        args.add("-machine", format!("{},usb=off,vmport=off,dump-guest-core=off{menu}{tables}", machine.machine_type));
        args.add("-accel", self.accelerator.argument());
        args.add("-cpu", self.cpu());
        args.add("-smp", format!("cpus={vcpus},maxcpus={max_vcpus},sockets=1,cores={max_vcpus},threads=1"));
        args.add("-m", devices::memory_argument(self.spec));
        args.add("-rtc", "base=utc");
        args.add("-boot", "strict=on");
        // The guest runs nothing before it is pinned and throttled; a guest that powers off or panics stays, so that
        // the daemon can read why (design.md, decisions 2 and 11).
        args.flag("-S");
        args.add("-action", "shutdown=pause,panic=pause");
        args.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        args.add("-msg", "timestamp=on");
    }

    /// What its owner wants of it is had, or the guest does not start: without `enforce` QEMU leaves out what the accelerator
    /// lacks, and says so to nobody.
    fn cpu(&self) -> String {
        let richest = self.accelerator.cpu_model();
        let Some(cpu) = &self.spec.cpu else { return richest.to_owned() };
        let switch = |(name, on): (&String, &bool)| format!(",{name}={}", if *on { "on" } else { "off" });
        let features: String = cpu.features.iter().map(switch).collect();
        format!("{},enforce{features}", cpu.model.as_deref().unwrap_or(richest))
    }

    /// Sockets made by the daemon: connecting cannot race with QEMU's start.
    fn chardevs(&self, args: &mut Args) {
        let socket = |id: &str, fd: i32| format!("socket,id={id},fd={fd},server=on,wait=off");
        args.add("-chardev", socket("monitor", self.fds.qmp));
        args.add("-mon", "chardev=monitor,mode=control");
        let log = devices::log_file(self.paths.console_log()).name();
        args.add("-chardev", format!("{},logfile={log},logappend=on", socket("serial0", self.fds.serial)));
        args.device(devices::serial("serial0"));
        args.add("-chardev", socket("agent0", self.fds.agent));
        for device in devices::agent_channel("agent0", self.spec) {
            args.device(device);
        }
    }

    fn devices(&self, args: &mut Args) {
        if let Bus::Pcie { hotplug_ports } = self.spec.machine.bus {
            for port in devices::root_ports(hotplug_ports) {
                args.device(port);
            }
        }
        for disk in &self.spec.disks {
            args.json("-blockdev", devices::blockdev(disk));
            args.device(devices::disk(disk, self.spec));
        }
        if let Some(iso) = &self.spec.iso {
            args.json("-blockdev", devices::first_cdrom_blockdev(iso));
            args.device(devices::cdrom());
        }
        if let Some(seed) = &self.spec.seed {
            args.json("-blockdev", devices::seed_blockdev(seed, self.spec));
            args.device(devices::seed(self.spec));
        }
        for nic in &self.spec.nics {
            let tap: Vec<String> = self.taps.get(&nic.id).into_iter().flatten().map(i32::to_string).collect();
            args.json("-netdev", devices::netdev(nic, &tap));
            args.device(devices::nic(nic, self.spec));
        }
        if let Some((backend, device)) = devices::memory(self.spec) {
            args.json("-object", backend);
            args.device(device);
        }
        for object in devices::objects(self.spec) {
            args.json("-object", object);
        }
        for device in devices::platform(self.spec) {
            args.device(device);
        }
    }
}

struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.0.push(value.into());
    }

    fn json(&mut self, name: &str, value: serde_json::Value) {
        self.add(name, value.to_string());
    }

    fn device(&mut self, value: serde_json::Value) {
        self.json("-device", value);
    }
}

/// A comma inside a value is doubled (qemu(1), "key=value" options).
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}
