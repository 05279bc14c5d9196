//! What the steps of one VM work with.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, task::spawn_blocking};

use crate::{
    host::{cgroups::Group, image::Copied, launcher::User, process::Process},
    model::{NicId, VmId, VmSpec},
    qemu::RunPaths,
    qmp::{Events, Session},
    vm::{
        Console, SharedContext,
        core::{Record, Setback, Sight, Up},
        guest::Channel,
        records::Known,
    },
};

/// What the facts were when a step was planned.
pub(in crate::vm) struct Brief {
    pub record: Record,
    /// The guest agent has opened its port.
    pub agent: bool,
    /// vCPUs that an emulating QEMU can still make.
    pub vcpu_room: u32,
    /// How much it has copied, where it copies.
    pub copied: Arc<Copied>,
}

impl Brief {
    pub fn definition(&self) -> &Arc<VmSpec> {
        &self.record.definition
    }

    /// What the VM is up with.
    ///
    /// # Errors
    /// Of a VM that is not: its step comes too late.
    pub fn up(&self) -> Result<&Up, Setback> {
        self.record.run.up().ok_or_else(|| Setback::NotNow("the VM is not running".to_owned()))
    }
}

/// The last I/O error that QEMU told of.
#[derive(Clone, Debug)]
pub(in crate::vm) struct IoError {
    /// As in `root`.
    pub disk: String,
    pub nospace: bool,
}

/// What the steps of one VM share, and its task with them.
pub(in crate::vm) struct Hands {
    pub ctx: SharedContext,
    pub id: VmId,
    pub paths: RunPaths,
    pub console: Arc<Console>,
    pub agent: Arc<Channel>,
    link: Mutex<Link>,
    /// There is a sight that the task has not taken.
    seen: Notify,
    /// Of whoever looks for threads and binds them: another would take a vCPU that has just come for QEMU's own.
    binding: tokio::sync::Mutex<()>,
}

/// What cannot be stored. It is locked for moments, never across an await.
#[derive(Default)]
struct Link {
    process: Option<Arc<Process>>,
    session: Option<Session>,
    /// Of a session that the task has not taken up yet.
    events: Option<Events>,
    /// Of the vCPUs, in their order.
    threads: Vec<i32>,
    /// For a start that is under way.
    taps: HashMap<NicId, Vec<OwnedFd>>,
    /// Disks whose image is smaller than they are defined, as a start has found them.
    short: Vec<String>,
    io_error: Option<IoError>,
    memory_changed: bool,
    /// How far long steps have come. No channel: that makes room for 32 at once, of each VM.
    sights: VecDeque<Sight>,
    /// What is stored of it.
    known: Known,
    kept_in: KeptIn,
}

/// What was made on the host for the process.
#[derive(Clone, Debug, Default)]
pub(in crate::vm) struct KeptIn {
    pub group: Option<Group>,
    pub uid: Option<u32>,
}

impl KeptIn {
    /// Of a process that has ended: whatever it has left in its group ends, and what was made for it goes. In the background,
    /// as it may take its time; what is left because the daemon ends first is the next one's matter.
    pub fn clear(self) {
        if self.group.is_none() && self.uid.is_none() {
            return;
        }
        spawn_blocking(move || {
            self.group.iter().for_each(Group::end);
            if let Some(Err(error)) = self.uid.map(User::forget) {
                tracing::warn!(uid = self.uid, %error, "cannot remove the file of a user that no VM has");
            }
        });
    }
}

impl IoError {
    /// Of QEMU's name for a disk's node.
    pub fn of(node: &str, nospace: bool) -> Self {
        Self { disk: node.strip_suffix("-node").unwrap_or(node).to_owned(), nospace }
    }
}

impl Hands {
    pub fn new(ctx: SharedContext, id: VmId, known: Known) -> Self {
        let (paths, link) = (ctx.run_paths(&id), Link { known, ..Link::default() });
        let console = Arc::new(Console::new(paths.clone()));
        let agent = Channel::new(paths.agent());
        let (link, seen, binding) = (link.into(), Notify::new(), tokio::sync::Mutex::default());
        Self { ctx, id, paths, console, agent, link, seen, binding }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the core how far a long step has come.
    pub fn see(&self, sight: Sight) {
        self.link().sights.push_back(sight);
        self.seen.notify_one();
    }

    pub fn take_sight(&self) -> Option<Sight> {
        self.link().sights.pop_front()
    }

    /// The next sight, in their order. May be dropped and called again.
    pub async fn sight(&self) -> Sight {
        loop {
            if let Some(sight) = self.take_sight() {
                return sight;
            }
            self.seen.notified().await;
        }
    }

    pub fn process(&self) -> Option<Arc<Process>> {
        self.link().process.clone()
    }

    pub fn set_process(&self, process: Option<Arc<Process>>) {
        self.link().process = process;
    }

    /// What the process was put into.
    pub fn set_kept_in(&self, kept_in: KeptIn) {
        self.link().kept_in = kept_in;
    }

    pub fn take_kept_in(&self) -> KeptIn {
        std::mem::take(&mut self.link().kept_in)
    }

    pub fn group(&self) -> Option<Group> {
        self.link().kept_in.group.clone()
    }

    /// Takes over what an earlier daemon started, or clears away what is left of it. `up` is what the record says of it.
    pub fn adopt(&self, process: Option<Arc<Process>>, up: Option<&Up>) {
        let sandbox = up.and_then(|up| up.sandbox.as_ref());
        let uid = sandbox.and_then(|sandbox| sandbox.uid);
        match &process {
            Some(process) => {
                self.console.adopt(process);
                self.set_kept_in(KeptIn { group: self.ctx.sandbox.group_of(process.pid()), uid });
                up.into_iter().for_each(|up| self.adopt_carriers(up));
            }
            None => KeptIn { group: sandbox.and_then(|run| self.ctx.sandbox.left_by(run)), uid }.clear(),
        }
        self.set_process(process);
    }

    /// What QEMU complained of, which has ended. What else is held goes to the logs meanwhile: nothing here waits for the disk.
    pub fn last_words(&self) -> String {
        let console = self.console.clone();
        let (said, ended) = (console.last_complaints(), console.spills());
        spawn_blocking(move || console.keep_last(&ended));
        said
    }

    /// # Errors
    /// `Lost` while there is none.
    pub fn session(&self) -> Result<Session, Setback> {
        self.link().session.clone().ok_or_else(|| Setback::Lost("its monitor does not answer".to_owned()))
    }

    pub fn opened(&self, session: Session, events: Events, threads: Vec<i32>) {
        let mut link = self.link();
        (link.session, link.events, link.threads) = (Some(session), Some(events), threads);
    }

    /// The events of a session that was opened since the last call.
    pub fn take_events(&self) -> Option<(Session, Events)> {
        let mut link = self.link();
        link.session.clone().zip(link.events.take())
    }

    /// The session is over.
    pub fn close(&self) {
        let mut link = self.link();
        (link.session, link.events, link.io_error) = (None, None, None);
    }

    /// Held from the look for threads until they are bound.
    pub async fn binding(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.binding.lock().await
    }

    pub fn threads(&self) -> Vec<i32> {
        self.link().threads.clone()
    }

    /// vCPUs came or went.
    pub fn set_threads(&self, threads: Vec<i32>) {
        self.link().threads = threads;
    }

    pub fn io_error(&self) -> Option<IoError> {
        self.link().io_error.clone()
    }

    pub fn set_io_error(&self, error: Option<IoError>) {
        self.link().io_error = error;
    }

    /// The guest has moved memory: who measures asks anew.
    pub fn memory_has_changed(&self) {
        self.link().memory_changed = true;
    }

    pub fn take_memory_has_changed(&self) -> bool {
        std::mem::take(&mut self.link().memory_changed)
    }

    /// What is known to be stored. Until somebody says what has become of a commit, that is less.
    pub fn known_before_commit(&self) -> Known {
        let mut link = self.link();
        let less = link.known.without_definition();
        std::mem::replace(&mut link.known, less)
    }

    pub fn set_known(&self, known: Known) {
        self.link().known = known;
    }

    /// The descriptors of a NIC's tap, one a queue, for the start that comes.
    pub fn keep_taps(&self, nic: NicId, taps: Vec<OwnedFd>) {
        self.link().taps.insert(nic, taps);
    }

    pub fn keep_short(&self, disks: Vec<String>) {
        self.link().short = disks;
    }

    pub fn short(&self) -> Vec<String> {
        self.link().short.clone()
    }

    /// Its tap goes, unless a QEMU has it.
    pub fn drop_taps(&self, nic: NicId) {
        self.link().taps.remove(&nic);
    }

    /// QEMU has its own copies then, or there is no start any more: the end of the last copy is the end of a tap.
    pub fn take_taps(&self) -> HashMap<NicId, Vec<OwnedFd>> {
        std::mem::take(&mut self.link().taps)
    }
}
