//! `create`.

use std::path::{Path, absolute};

use clap::Args;

use super::{
    connect::Connect,
    cpu::CpuFlags,
    exit::Fail,
    first_boot::FirstBoot,
    names::Vm,
    nics::{HELP, NicFlag},
    progress::waiting,
    sizes::{self, Cores, Label},
    wait::{Goal, WaitFor},
    words::{IO_ERROR, RESTART, one_of},
};
use crate::{
    api::kvm::bodies::{AutostartBody, CpuPinning, CreateBody, Created, DiskBody},
    client::LONG,
    model::{CloneMode, ImageFormat, IoLimits, OnIoError, RestartPolicy},
};

#[derive(Args)]
pub struct Create {
    /// The image that its root disk is cloned from: one of `image ls`, a path, or a name in an image directory of the daemon
    #[arg(long, value_name = "IMAGE", required_unless_present = "attached")]
    image: Option<String>,
    /// A disk image that is there already, in a storage directory of the daemon, used as it is and never deleted; repeatable.
    /// Without --image the first is its root disk
    #[arg(long = "attach", value_name = ATTACHED, value_parser = attached)]
    attached: Vec<Attached>,
    /// What it is called [default: vm- and the beginning of its id]
    #[arg(long)]
    name: Option<String>,
    /// vCPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: i64,
    /// vCPUs that it can grow to [default: 16]
    #[arg(long, value_name = "N")]
    max_cpus: Option<i64>,
    /// Memory, such as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = sizes::mib)]
    memory: i64,
    /// Memory that it can grow to [default: --memory below 2G, else the host's]
    #[arg(long, value_name = "SIZE", value_parser = sizes::mib)]
    max_memory: Option<i64>,
    /// Size of its root disk, not below the image's [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = sizes::gib, requires = "image")]
    disk: Option<i64>,
    /// Copy the image instead of laying the disk over it
    #[arg(long, requires = "image")]
    full_clone: bool,
    /// Machine profile [default: q35]
    #[arg(long)]
    profile: Option<String>,
    #[arg(long = "nic", value_name = "NIC", help = format!("A NIC; repeatable: {HELP}; none for none [default: user]"))]
    nics: Vec<NicFlag>,
    /// Cores of the host that its vCPUs run on, such as 0-3,8: one each where there are as many, else any of them
    #[arg(long, value_name = "CORES", value_parser = sizes::cores)]
    pin: Option<Cores>,
    #[command(flatten)]
    cpu: CpuFlags,
    /// I/O operations per second of its root disk
    #[arg(long, value_name = "N")]
    iops: Option<i64>,
    /// Bytes per second of its root disk, such as 50M
    #[arg(long, value_name = "SIZE", value_parser = sizes::bytes)]
    bps: Option<u64>,
    /// An ISO image for its CD drive
    #[arg(long, value_name = "PATH")]
    iso: Option<String>,
    #[command(flatten)]
    first_boot: FirstBoot,
    /// Whether it starts again when it has ended [default: never]
    #[arg(long, value_name = "POLICY", value_parser = one_of::<RestartPolicy>(RESTART))]
    restart_policy: Option<RestartPolicy>,
    /// Start it after a boot of the host
    #[arg(long)]
    autostart: bool,
    /// What becomes of the guest when the host cannot read or write its disk [default: pause]
    #[arg(long, value_name = "WHAT", value_parser = one_of::<OnIoError>(IO_ERROR))]
    on_io_error: Option<OnIoError>,
    /// A label; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = sizes::label)]
    labels: Vec<Label>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Keep it from being deleted and forced off until `set --protected false`
    #[arg(long)]
    protected: bool,
    /// Start it, or make nothing
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    wait: WaitFor,
    #[command(flatten)]
    to: Connect,
}

/// GiB.
const DEFAULT_DISK: i64 = 10;

/// How a disk is named that is there already.
pub const ATTACHED: &str = "PATH[,format=F]";

/// A disk image that is there already.
#[derive(Clone)]
pub struct Attached {
    path: String,
    format: ImageFormat,
}

impl Attached {
    pub fn body(self, is_here: bool) -> DiskBody {
        let path = Some(path(self.path, is_here).into());
        DiskBody { path, format: Some(self.format), ..DiskBody::default() }
    }
}

/// # Errors
/// Where neither a word nor the ending says of which format it is: what an image says of itself its guest can write.
pub fn attached(text: &str) -> Result<Attached, String> {
    let (path, format) = match text.rsplit_once(",format=") {
        Some((path, format)) => (path, format),
        None if text.ends_with(".qcow2") => (text, "qcow2"),
        None if text.ends_with(".raw") => (text, "raw"),
        None => return Err(format!("say of which format it is: {text},format=raw or {text},format=qcow2")),
    };
    let format = match format {
        "raw" => ImageFormat::Raw,
        "qcow2" => ImageFormat::Qcow2,
        _ => return Err(format!("{format:?} is neither raw nor qcow2; others are imported: qherd image import")),
    };
    Ok(Attached { path: path.to_owned(), format })
}

/// A path as the daemon understands it: one that is relative is of the folder that the command is given in.
pub fn path(text: String, is_here: bool) -> String {
    if !is_here || !text.contains('/') {
        return text;
    }
    absolute(Path::new(&text)).map_or(text, |path| path.display().to_string())
}

impl Create {
    pub async fn run(self) -> Result<(), Fail> {
        if self.wait.goal().is_some_and(|goal| goal != Goal::Stopped) && !self.start {
            return Err(Fail::usage("--wait-for waits for a VM that runs; add --start"));
        }
        let (output, wait) = (self.to.output(), self.wait);
        let networks = NicFlag::all(self.nics)?;
        if let Some(goal) = wait.goal() {
            let name = self.name.as_deref().unwrap_or("the VM");
            // Without any it gets one on the user-mode network.
            match &networks {
                Some(networks) => goal.check(name, networks.iter().map(|nic| nic.switch.is_some()))?,
                None => goal.check(name, [false].into_iter())?,
            }
        }
        let cloud_init = self.first_boot.over(None)?;
        let client = self.to.client()?;
        let is_here = client.target().is_here();
        let limits = IoLimits { iops: self.iops, bps: self.bps.map(|bps| bps as i64), ..IoLimits::default() };
        let limits = Some(limits).filter(|limits| *limits != IoLimits::default());
        let mut disks: Vec<DiskBody> = self.attached.into_iter().map(|disk| disk.body(is_here)).collect();
        if let (None, Some(root)) = (&self.image, disks.first_mut()) {
            root.io_limits = limits;
        }
        let size = self.image.as_ref().map(|_| self.disk.unwrap_or(DEFAULT_DISK));
        let of_clone = limits.filter(|_| self.image.is_some());
        let pinning = self.pin.and_then(|pin| pin.0);
        let body = CreateBody {
            base_image: self.image.map(|image| path(image, is_here)),
            disks,
            name: self.name,
            vcpus: self.cpus,
            max_vcpus: self.max_cpus,
            memory: self.memory,
            max_memory: self.max_memory,
            disk_size: size,
            clone: if self.full_clone { CloneMode::Full } else { CloneMode::Linked },
            profile: self.profile,
            networks,
            cpu_pinning: pinning.map(|cores| CpuPinning { cores: Some(cores), vcpus: None, emulator: None }),
            cpu: self.cpu.over(None),
            io_limits: of_clone,
            iso: self.iso.map(|iso| path(iso, is_here)),
            cloud_init,
            restart_policy: self.restart_policy,
            autostart: self.autostart.then_some(AutostartBody { enabled: true, order: 0, delay: 0 }),
            on_io_error: self.on_io_error,
            labels: (!self.labels.is_empty())
                .then(|| self.labels.into_iter().map(|label| (label.key, label.value)).collect()),
            description: self.description,
            protected: self.protected.then_some(true),
            start: self.start,
            ..CreateBody::default()
        };
        let created: Created = waiting(output, "creating", client.post("/vms", &body, LONG)).await?;
        if output.is_for_programs() {
            output.value(&created)?;
        } else if output.is_quiet() {
            super::output::line(&created.id)?;
        } else {
            let started = if self.start { ", and runs" } else { "" };
            output.say(&format!("{} is made{started} ({})", created.name, created.id))?;
        }
        wait.wait(&client, output, &[Vm { name: created.name, id: created.id }]).await
    }
}
