//! From nothing to a QEMU whose guest may run: files, QEMU stopped before its first instruction, monitor, pinning and
//! throttles (design.md, decision 11). What a step leaves behind is held by the record; nothing is undone here.

#![allow(
    clippy::disallowed_methods,
    reason = "called on threads that may wait, and a small file of the state directory"
)]

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{join_all, try_join_all};
use qapi::qmp::qom_set;
use tokio::task::spawn_blocking;

use super::{
    Brief, Done, Hands, Report, bases, cpu, disks, files,
    hands::KeptIn,
    host_files::{self, Opened},
    nics, pinning,
};
use crate::{
    host::{
        STORAGE, fail_point, in_time,
        launcher::{Child, NoneFree, QEMU},
        memory, on_storage,
        process::Process,
        sandbox::Needs,
    },
    model::{Carrier, Disk, Error, Nic, NicId, VmSpec},
    qemu::{
        ChardevFds, CommandLine,
        devices::{self, FileUse, HostFile},
        memory_bound,
    },
    qmp::{Events, QmpError, Session, socket},
    vm::{
        console::Streams,
        core::{DiskNo, Setback, StartedWith},
    },
};

/// From the spawn to the greeting; QEMU needs some 30 ms, a host under load much more.
const GREETING: Duration = Duration::from_secs(30);
/// How often the balloon driver sends its statistics, in seconds.
const BALLOON_POLLING: u64 = 2;

/// The stages of a start in their order, for tests that let one fail after each.
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
}

impl LaunchStep {
    pub const ALL: [Self; 9] = [
        Self::Files,
        Self::Network,
        Self::Sockets,
        Self::Spawn,
        Self::Record,
        Self::Monitor,
        Self::Pin,
        Self::Throttle,
        Self::Continue,
    ];
}

impl Hands {
    /// # Errors
    /// Where a test wants the start to fail after this stage.
    pub(super) fn reached(&self, stage: LaunchStep) -> Result<(), Setback> {
        match fail_point::fails(&self.ctx.config.state_dir, &stage) {
            true => Err(Setback::Host(format!("made to fail after {stage:?}"))),
            false => Ok(()),
        }
    }
}

/// What the definition names that is no longer there; a change of it mends that.
fn unstartable(why: String) -> Setback {
    Setback::Reported(Error::Unstartable { why })
}

/// The run directory, and a look at what QEMU would say less well, or would wait for in silence.
pub(super) async fn prepare(hands: &Hands, brief: &Brief) -> Done {
    let spec = brief.definition();
    cpu::check(&hands.ctx, spec)?;
    for nic in &spec.nics {
        nics::check_ports(nic.backend.forwards()).map_err(Setback::Reported)?;
    }
    let disks: Vec<_> = spec.disks.iter().filter(|disk| !brief.is_unmade(disk)).collect();
    for disk in &disks {
        hands.ctx.owns(disk, spec).map_err(Setback::Reported)?;
    }
    // Side by side: each is a thread's to do, and none needs another.
    let mut looks: Vec<_> = Vec::new();
    for disk in disks {
        looks.push(there(disk.file.to_path_buf(), "the disk".to_owned(), "put it back"));
        for below in disk.lies_on() {
            let what = format!("the base image that the disk {} was cloned from,", disk.name);
            looks.push(there(below.path, what, "put it back: the disk holds only what differs from it"));
        }
    }
    let on_bases = bases::check_all(hands, brief);
    let (cleared, looked, on_bases) = tokio::join!(clear_run_directory(hands), join_all(looks), on_bases);
    cleared.and(looked.into_iter().collect::<Result<(), String>>().map_err(Setback::Host))?;
    on_bases.map_err(unstartable)?;
    if let Some(iso) = &spec.iso {
        let remedy = "put it back, or exchange or eject it (PUT /vms/{id}/iso; isoPath in the Hyper-V dialect)";
        there(iso.clone(), "the ISO image in the CD drive,".to_owned(), remedy).await.map_err(unstartable)?;
    }
    hands.reached(LaunchStep::Files)?;
    Ok(Report::Done)
}

/// Made where there is none, and emptied of what a run has left that nobody could clean up after: QEMU's own end would
/// remove a successor's (facts of 7.2).
async fn clear_run_directory(hands: &Hands) -> Result<(), Setback> {
    let paths = hands.paths.clone();
    let cleared = in_time(STORAGE, move || {
        fs::create_dir_all(paths.dir())?;
        files::clear(&paths)
    });
    cleared.await.map_err(|e| Setback::Host(format!("cannot make {}: {e}", hands.paths.dir().display())))
}

async fn there(path: PathBuf, what: String, remedy: &str) -> Result<(), String> {
    let looked = path.clone();
    match on_storage(&path, STORAGE, move || fs::metadata(looked)).await {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("{what} {} cannot be used ({e}); {remedy}", path.display())),
    }
}

/// QEMU, stopped before its first instruction, with sockets that it inherits in the listening state, so that connecting
/// cannot race with its start.
pub(super) async fn spawn(hands: &Hands, brief: &Brief) -> Done {
    let spawned = spawn_now(hands, brief).await;
    if spawned.is_err() && hands.process().is_none() {
        hands.end_carriers().await;
    }
    spawned
}

async fn spawn_now(hands: &Hands, brief: &Brief) -> Done {
    hands.reached(LaunchStep::Network)?;
    let mut taps = hands.take_taps();
    let spec = fitted(brief, memory::is_strict());
    let carrier = hands.ctx.user_network.carrier;
    let users: Vec<&Nic> = spec.nics.iter().filter(|nic| nic.switch().is_none()).collect();
    if !users.is_empty() {
        hands.enter_user_network().await?;
    }
    for nic in users.iter().filter(|_| carrier == Carrier::Passt) {
        taps.insert(nic.id, vec![hands.listener(nic)?]);
    }
    let (streams, files) = open_files(hands, &spec).await?;
    let listen = |path: PathBuf| socket::listen(&path).map_err(|e| Setback::Host(format!("cannot listen on {e}")));
    let paths = &hands.paths;
    let sockets = [listen(paths.qmp())?, listen(paths.agent())?, listen(paths.serial())?];
    hands.reached(LaunchStep::Sockets)?;
    let [qmp, agent, serial] = sockets.each_ref().map(AsRawFd::as_raw_fd);
    let fds = ChardevFds { qmp, agent, serial };
    let raw = |fds: &Vec<OwnedFd>| fds.iter().map(OwnedFd::as_raw_fd).collect();
    let numbers: HashMap<NicId, Vec<i32>> = taps.iter().map(|(nic, fds)| (*nic, raw(fds))).collect();
    let sets: BTreeMap<u32, i32> = files.iter().map(|(set, file)| (*set, file.as_raw_fd())).collect();
    let inherited = [qmp, agent, serial].into_iter().chain(numbers.values().flatten().copied());
    let marks = streams.marks.iter().map(OwnedFd::as_raw_fd);
    let inherited: Vec<i32> = inherited.chain(sets.values().copied()).chain(marks).collect();
    let accelerator = hands.ctx.caps.accelerator;
    let args = CommandLine { spec: &spec, paths, fds, taps: &numbers, files: &sets, accelerator }.render();
    let program = hands.ctx.config.qemu.clone();
    let needs = Needs {
        vm: Some(hands.id),
        network: carrier == Carrier::Slirp && !users.is_empty(),
        memory: memory_bound(spec.memory, if carrier == Carrier::Passt { users.len() } else { 0 }, accelerator),
    };
    let ctx = hands.ctx.clone();
    let spawned = spawn_blocking(move || {
        let mut made = ctx.sandbox.cell(needs).map_err(|error| match NoneFree::is_in(&error) {
            true => Setback::Reported(Error::BeyondBounds(error.to_string())),
            false => Setback::Host(format!("cannot make a sandbox for QEMU: {error}")),
        })?;
        made.shown.carrier = Some(carrier);
        let kept_in = KeptIn { group: made.group, uid: made.shown.uid };
        let child = Child::new(QEMU, &program).args(&args).inherit(inherited).stderr(streams.stderr).within(made.cell);
        let spawned = Process::spawn(child);
        // QEMU has its own copies now: from here on its end is the end of its sockets, taps and locks.
        drop((sockets, taps, files, streams.marks));
        match spawned {
            Ok(process) => Ok((Unclaimed::new(process, kept_in), made.shown)),
            Err(error) => {
                kept_in.clear();
                Err(Setback::Host(format!("cannot run {}: {error}", program.display())))
            }
        }
    });
    let spawned = spawned.await.map_err(|e| Setback::Host(e.to_string()))?;
    let (unclaimed, sandbox) = spawned?;
    let Some((process, kept_in)) = unclaimed.claim() else { return Err(Setback::Held) };
    hands.set_kept_in(kept_in);
    hands.set_process(Some(process.clone()));
    // Each begins while QEMU does.
    users.iter().filter(|_| carrier == Carrier::Passt).for_each(|nic| hands.carry(nic, &sandbox, false));
    hands.reached(LaunchStep::Spawn)?;
    let hotplug_memory = devices::hotplug_size(&spec);
    let with = StartedWith { fitted: spec, hotplug_memory, sandbox };
    Ok(Report::Spawned { process: process.id().clone(), with })
}

/// The files that QEMU starts with, looked into anew at each start, by the numbers of their sets, and its logs.
async fn open_files(hands: &Hands, spec: &VmSpec) -> Result<(Streams, BTreeMap<u32, OwnedFd>), Setback> {
    let files = devices::files(spec, hands.paths.console_log());
    let (logs, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.used == FileUse::Log);
    let console = hands.console.clone();
    let streams = async {
        let began = in_time(STORAGE, move || console.begin()).await;
        began.map_err(|e| Setback::Host(format!("cannot make logs in {}: {e}", hands.paths.dir().display())))
    };
    let opened = try_join_all(files.iter().map(|file| host_files::open_for_start(hands, file, &spec.name)));
    let (streams, opened) = tokio::try_join!(streams, opened)?;
    let is_short = |disk: &&Disk| {
        let of_it = |(file, opened): (&HostFile, &Opened)| {
            *file.path == *disk.file && opened.size.is_some_and(|size| size < disk.bytes())
        };
        files.iter().zip(&opened).any(of_it)
    };
    hands.keep_short(spec.disks.iter().filter(is_short).map(|disk| disk.name.clone()).collect());
    let mut sets: BTreeMap<u32, OwnedFd> =
        files.iter().zip(opened).map(|(file, opened)| (file.set, opened.descriptor)).collect();
    // There are only now any to be had.
    for log in &logs {
        sets.insert(log.set, host_files::open_for_start(hands, log, &spec.name).await?.descriptor);
    }
    Ok((streams, sets))
}

/// A process that ends unless somebody takes it: a spawn may come so late that its step was given up.
struct Unclaimed(Option<(Arc<Process>, KeptIn)>);

impl Unclaimed {
    fn new(process: Process, kept_in: KeptIn) -> Self {
        Self(Some((Arc::new(process), kept_in)))
    }

    fn claim(mut self) -> Option<(Arc<Process>, KeptIn)> {
        self.0.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some((process, kept_in)) = self.0.take() {
            process.kill();
            kept_in.clear();
        }
    }
}

/// What can be had of the definition on this host: a bound for growing that nobody asked for is not reserved where memory
/// is promised only once, and a disk that is being made is none yet.
fn fitted(brief: &Brief, strict: bool) -> Arc<VmSpec> {
    let definition = brief.definition();
    let bound = strict && !definition.max_memory_given;
    if !bound && brief.record.run.unmade.is_empty() {
        return definition.clone();
    }
    let mut spec = (**definition).clone();
    if bound {
        spec.max_memory = spec.memory;
    }
    spec.disks.retain(|disk| !brief.is_unmade(disk));
    Arc::new(spec)
}

/// Connects to the monitor, or says why QEMU ended before that.
pub(super) async fn greet(hands: &Hands, brief: &Brief) -> Done {
    hands.reached(LaunchStep::Record)?;
    let Some(process) = hands.process() else { return Err(Setback::Host("QEMU has ended".to_owned())) };
    let opened = open(&process, hands).await;
    let (session, events) = opened.map_err(|why| explained(why, brief.definition(), &hands.ctx.caps.version))?;
    hands.console.opened().map_err(|e| Setback::Host(e.to_string()))?;
    let threads = pinning::threads(&session).await?;
    is_itself(&process, &threads)?;
    hands.reached(LaunchStep::Monitor)?;
    hands.opened(session, events, threads);
    Ok(Report::Done)
}

async fn open(process: &Process, hands: &Hands) -> Result<(Session, Events), String> {
    let connect = async {
        let stream = socket::connect(&hands.paths.qmp(), GREETING).await?;
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
    Err(format!("{why}: {}", hands.last_words()))
}

/// What QEMU complains of, with what to do about it.
fn explained(why: String, spec: &VmSpec, version: &str) -> Setback {
    if why.contains("unsupported machine type") {
        let machine_type = &spec.machine.machine_type;
        return unstartable(format!(
            "QEMU {version} does not know its machine type {machine_type}; PUT /vms/{{id}}/machine gives it the latest of its kind"
        ));
    }
    if let Some(setback) = cpu::explained(&why, spec) {
        return setback;
    }
    let short = ["Cannot allocate memory", "cannot set up guest memory"].iter().any(|words| why.contains(words));
    Setback::Host(if short { format!("{why}; {}", memory::advice()) } else { why })
}

/// The vCPUs' threads are QEMU's own. One behind a wrapper that did not `exec` it would outlive its VM: the daemon holds, and
/// kills, the process that it started.
fn is_itself(process: &Process, threads: &[i32]) -> Result<(), Setback> {
    match threads.iter().find(|thread| !process.has_thread(**thread)) {
        None => Ok(()),
        Some(thread) => Err(Setback::Host(format!(
            "QEMU runs in thread {thread}, but process {} was started, which has no such thread: a program that --qemu names \
             in QEMU's place must end with `exec qemu-system-x86_64 \"$@\"`",
            process.pid()
        ))),
    }
}

/// Everything that is to be so before the guest runs.
pub(super) async fn tune(hands: &Hands, brief: &Brief) -> Done {
    let session = hands.session()?;
    let mut spec = (**brief.definition()).clone();
    spec.disks.retain(|disk| !brief.is_unmade(disk));
    if let Some(process) = hands.process().filter(|_| spec.cpu_pinning.is_some()) {
        let pinned = spec.cpu_pinning.as_ref();
        let bound = pinning::bind(process.pid(), &hands.threads(), pinned, spec.vcpus, &hands.ctx.host);
        bound.map_err(Setback::Host)?;
    }
    hands.reached(LaunchStep::Pin)?;
    // QEMU answers in their order; what is sent together costs one wait.
    let short = hands.short();
    let (resized, throttled, polled) = tokio::join!(
        disks::resize_at_start(&session, &spec, &short),
        disks::throttle_at_start(&session, &spec),
        poll_balloon(&session, &spec)
    );
    resized?;
    throttled?;
    hands.reached(LaunchStep::Throttle)?;
    polled?;
    hands.are_carried().await?;
    Ok(Report::Done)
}

impl Brief {
    /// A disk that is not there yet.
    pub(super) fn is_unmade(&self, disk: &crate::model::Disk) -> bool {
        DiskNo::of(&disk.name).is_some_and(|no| self.record.run.unmade.contains(&no))
    }
}

async fn poll_balloon(session: &Session, spec: &VmSpec) -> Result<(), QmpError> {
    if !spec.machine.balloon {
        return Ok(());
    }
    let path = format!("/machine/peripheral/{}", devices::BALLOON_ID);
    let property = "guest-stats-polling-interval".to_owned();
    session.execute(qom_set { path, property, value: BALLOON_POLLING.into() }).await.map(drop)
}
