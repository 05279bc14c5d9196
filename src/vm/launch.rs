//! Starts a VM: resources, QEMU stopped before its first instruction, monitor, pinning, throttles, and only then `cont`
//! (design.md, decision 11). Every step that leaves something behind says how it is undone.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Context, console, effect, live::Live, undo::Undo};
use crate::{
    host::{STORAGE, in_time, memory, process::Process},
    model::{Error, Intent, LiveRun, NicId, Operation, Run, VmRecord, VmSpec, wall_at_uptime},
    qemu::{ChardevFds, CommandLine, RunPaths, devices},
    qmp::{Events, QmpError, Session, socket},
};

/// From the spawn to the greeting; QEMU needs some 30 ms, a host under load much more.
const GREETING: Duration = Duration::from_secs(30);
/// How often the balloon driver sends its statistics, in seconds.
const BALLOON_POLLING: u64 = 2;

/// The steps in their order, for tests that let a launch fail after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchStep {
    Files,
    Network,
    Sockets,
    Spawn,
    Record,
    Monitor,
    Pin,
    Throttle,
    Continue,
    Acknowledge,
}

impl LaunchStep {
    pub const ALL: [Self; 10] = [
        Self::Files,
        Self::Network,
        Self::Sockets,
        Self::Spawn,
        Self::Record,
        Self::Monitor,
        Self::Pin,
        Self::Throttle,
        Self::Continue,
        Self::Acknowledge,
    ];
}

/// Why a launch failed, in words.
pub enum Failure {
    /// The host does not do it.
    Host(String),
    /// The definition names something that is no longer there; a change of it mends that.
    Definition(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Host(error.to_string())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Host(why) => Self::failed(Operation::Start, why),
            Failure::Definition(why) => Self::Unstartable { why },
        }
    }
}

/// One start under way.
pub struct Launch<'a> {
    pub ctx: &'a Context,
    pub record: &'a mut VmRecord,
    /// The VM is being created as well: a crash takes it back whole.
    pub new: bool,
    pub undo: &'a mut Undo,
    /// QEMU, as soon as there is one.
    pub spawned: &'a mut Option<Arc<Process>>,
}

impl Launch<'_> {
    /// Brings the VM up; the record says `Live` when it returns. On an error, and when the future is dropped half-way,
    /// the caller ends what was `spawned` and unwinds `undo`.
    pub async fn run(mut self) -> Result<Live, Failure> {
        let paths = self.ctx.run_paths(&self.record.spec.id);
        self.record.run = Run::Starting { process: None, new: self.new };
        self.ctx.persist_wish(self.record).await?;
        self.files(&paths).await?;
        self.reached(LaunchStep::Files)?;
        let taps = self.connect().await?;
        self.reached(LaunchStep::Network)?;
        let spec = fitted(&self.record.spec, memory::is_strict());
        let process = self.spawn(&spec, &paths, &taps)?;
        // QEMU has its own copies now, and its end is the end of its taps.
        drop(taps);
        self.write(Run::Starting { process: Some(process.id().clone()), new: self.new }).await?;
        self.reached(LaunchStep::Record)?;
        let greeting = greet(&process, &paths).await;
        let (session, events) = greeting.map_err(|why| explained(why, &spec, &self.ctx.caps.version))?;
        is_itself(&process, &paths)?;
        self.reached(LaunchStep::Monitor)?;
        let threads = vcpu_threads(&session).await?;
        if spec.cpu_pinning.is_some() {
            effect::pin(process.pid(), &threads, &spec, &self.ctx.host).map_err(Failure::Host)?;
        }
        self.reached(LaunchStep::Pin)?;
        effect::resize_at_start(&session, &spec).await?;
        effect::throttle_at_start(&session, &spec).await?;
        self.reached(LaunchStep::Throttle)?;
        if spec.machine.balloon {
            poll_balloon(&session).await?;
        }
        session.execute(qapi::qmp::cont {}).await?;
        self.reached(LaunchStep::Continue)?;
        let run = LiveRun {
            process: process.id().clone(),
            started_at: wall_at_uptime(process.id().started()),
            intent: Intent::Run,
            in_effect: spec.clone(),
            boot_memory: spec.memory,
            hotplug_memory: devices::hotplug_size(&spec),
            vcpus_made: 0,
        };
        self.record.upkeep.due = None;
        self.write(Run::Live(run)).await?;
        self.reached(LaunchStep::Acknowledge)?;
        Ok(Live::new(process, session, events, threads))
    }

    fn reached(&self, step: LaunchStep) -> Result<(), Failure> {
        match self.ctx.fail_launch_after {
            Some(failing) if failing == step => Err(Failure::Host(format!("made to fail after {step:?}"))),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, run: Run) -> Result<(), Failure> {
        self.record.run = run;
        Ok(self.ctx.persist(self.record).await?)
    }

    /// The run directory, and a look at the disks whose absence QEMU would explain less well.
    async fn files(&mut self, paths: &RunPaths) -> Result<(), Failure> {
        let dir = paths.dir();
        fs::create_dir_all(dir).map_err(|e| Failure::Host(format!("cannot make {}: {e}", dir.display())))?;
        // Left by a run that nobody could clean up after; QEMU's own end would remove a successor's (facts of 7.2).
        remove_run_files(paths);
        for disk in &self.record.spec.disks {
            there(&disk.file, "the disk", "put it back").await.map_err(Failure::Host)?;
            if let Some(base) = disk.backing_file() {
                let what = format!("the base image that the disk {} was cloned from,", disk.name);
                let remedy = "put it back: the disk holds only what differs from it";
                there(&base.path, &what, remedy).await.map_err(Failure::Host)?;
            }
        }
        if let Some(iso) = &self.record.spec.iso {
            let remedy = "put it back, or exchange or eject it (PUT /vms/{id}/iso; isoPath in the Hyper-V dialect)";
            there(iso, "the ISO image in the CD drive,", remedy).await.map_err(Failure::Definition)?;
        }
        Ok(())
    }

    /// The taps of the NICs that are on a switch.
    async fn connect(&mut self) -> Result<HashMap<NicId, Vec<OwnedFd>>, Failure> {
        let mut taps = HashMap::new();
        let spec = self.record.spec.clone();
        for nic in spec.nics.iter().filter(|nic| nic.switch().is_some()) {
            let (net, port) = (self.ctx.net.clone(), nic.clone());
            self.undo.push(|| async move {
                if let Err(error) = net.unplug(&port).await {
                    tracing::warn!(tap = port.tap(), %error, "cannot take back a NIC");
                }
            });
            let plugged = self.ctx.net.plug(nic).await;
            taps.insert(nic.id, plugged.map_err(|e| Failure::Host(format!("the NIC {}: {e}", nic.name)))?);
        }
        Ok(taps)
    }

    /// Sockets that QEMU inherits in the listening state, so that connecting cannot race with its start.
    fn spawn(
        &mut self,
        spec: &VmSpec,
        paths: &RunPaths,
        taps: &HashMap<NicId, Vec<OwnedFd>>,
    ) -> Result<Arc<Process>, Failure> {
        let leftovers = paths.clone();
        self.undo.push(|| async move { remove_run_files(&leftovers) });
        let listen = |path: PathBuf| socket::listen(&path).map_err(|e| Failure::Host(format!("cannot listen on {e}")));
        let (qmp, agent, serial) = (listen(paths.qmp())?, listen(paths.agent())?, listen(paths.serial())?);
        self.reached(LaunchStep::Sockets)?;
        let fds = ChardevFds { qmp: qmp.as_raw_fd(), agent: agent.as_raw_fd(), serial: serial.as_raw_fd() };
        let raw = |fds: &Vec<OwnedFd>| fds.iter().map(OwnedFd::as_raw_fd).collect();
        let taps: HashMap<NicId, Vec<i32>> = taps.iter().map(|(nic, fds)| (*nic, raw(fds))).collect();
        let inherited: Vec<i32> =
            [fds.qmp, fds.agent, fds.serial].into_iter().chain(taps.values().flatten().copied()).collect();
        let accelerator = self.ctx.caps.accelerator;
        let args = CommandLine { spec, paths, fds, taps: &taps, accelerator }.render();
        let log = console::new_qemu_log(paths)
            .map_err(|e| Failure::Host(format!("cannot write {}: {e}", paths.qemu_log().display())))?;
        let process = Process::spawn(&self.ctx.config.qemu, &args, &inherited, log)
            .map_err(|e| Failure::Host(format!("cannot run {}: {e}", self.ctx.config.qemu.display())))?;
        let process = Arc::new(process);
        *self.spawned = Some(process.clone());
        self.reached(LaunchStep::Spawn)?;
        // Our copies of the listening sockets close here: from now on an end of QEMU is an end of its sockets.
        Ok(process)
    }
}

/// What can be had of the definition on this host: a bound for growing that nobody asked for is not reserved where memory
/// is promised only once.
fn fitted(spec: &Arc<VmSpec>, strict: bool) -> Arc<VmSpec> {
    if !strict || spec.max_memory_given {
        return spec.clone();
    }
    Arc::new(VmSpec { max_memory: spec.memory, ..(**spec).clone() })
}

/// QEMU would wait for storage that hangs without a word.
async fn there(path: &Path, what: &str, remedy: &str) -> Result<(), String> {
    let looked = path.to_owned();
    match in_time(STORAGE, move || fs::metadata(looked)).await {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("{what} {} cannot be used ({e}); {remedy}", path.display())),
    }
}

/// Connects to the monitor, or says why QEMU ended before that.
async fn greet(process: &Process, paths: &RunPaths) -> Result<(Session, Events), String> {
    let connect = async {
        let stream = socket::connect(&paths.qmp(), GREETING).await?;
        Session::open(stream, GREETING).await.map_err(io::Error::other)
    };
    let why = tokio::select! {
        opened = connect => match opened {
            Ok(opened) => return Ok(opened),
            // The monitor goes first when QEMU ends; the reason is in its own words then.
            Err(error) => match tokio::time::timeout(Duration::from_secs(1), process.exited()).await {
                Ok(exit) => exit.to_string(),
                Err(_) => return Err(format!("QEMU does not answer on its monitor: {error}")),
            },
        },
        exit = process.exited() => exit.to_string(),
    };
    Err(format!("{why}: {}", complaints(paths)))
}

/// What QEMU complains of, with what to do about it.
fn explained(why: String, spec: &VmSpec, version: &str) -> Failure {
    if why.contains("unsupported machine type") {
        let machine_type = &spec.machine.machine_type;
        return Failure::Definition(format!(
            "QEMU {version} does not know its machine type {machine_type}; PUT /vms/{{id}}/machine gives it the latest of its kind"
        ));
    }
    let short = ["Cannot allocate memory", "cannot set up guest memory"].iter().any(|words| why.contains(words));
    Failure::Host(if short { format!("{why}; {}", memory::advice()) } else { why })
}

/// QEMU writes its own pid, before it greets. One behind a wrapper that did not `exec` it would outlive its VM: the
/// daemon holds, and kills, the process that it started.
fn is_itself(process: &Process, paths: &RunPaths) -> Result<(), Failure> {
    let file = paths.pid();
    let text = fs::read_to_string(&file).map_err(|e| Failure::Host(format!("cannot read {}: {e}", file.display())))?;
    match text.trim() {
        pid if pid == process.pid().to_string() => Ok(()),
        pid => Err(Failure::Host(format!(
            "QEMU runs as process {pid}, but process {} was started: a program that --qemu names in QEMU's place must \
             end with `exec qemu-system-x86_64 \"$@\"`",
            process.pid()
        ))),
    }
}

/// Bytes of them in a message: it stands in the VM's record after a crash.
const COMPLAINT: usize = 2048;

/// The last lines of QEMU's standard error.
pub(super) fn complaints(paths: &RunPaths) -> String {
    let text = console::complaints(paths, 3);
    let end = &text[text.len().saturating_sub(COMPLAINT)..];
    let text = String::from_utf8_lossy(end);
    let text = text.trim();
    if text.is_empty() { "it left no message".to_owned() } else { text.replace('\n', "; ") }
}

/// Thread ids of the vCPUs, in their order.
pub(super) async fn vcpu_threads(session: &Session) -> Result<Vec<i32>, QmpError> {
    let mut cpus = session.query_cpus_fast().await?;
    cpus.sort_by_key(|cpu| cpu.cpu_index);
    Ok(cpus.iter().map(|cpu| cpu.thread_id).collect())
}

async fn poll_balloon(session: &Session) -> Result<(), QmpError> {
    let path = format!("/machine/peripheral/{}", devices::BALLOON_ID);
    let arguments =
        serde_json::json!({ "path": path, "property": "guest-stats-polling-interval", "value": BALLOON_POLLING });
    session.execute_raw("qom-set", Some(arguments)).await.map(drop)
}

/// Removes what a run leaves in its directory; the logs stay.
pub(super) fn remove_run_files(paths: &RunPaths) {
    for file in [paths.qmp(), paths.agent(), paths.serial(), paths.pid()] {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "cannot remove");
        }
    }
}
