//! A VM with a process: what can happen to it, and what that means. Requests for stops and reboots are `power`'s.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};

use super::{
    Context,
    actor::{Actor, Interrupted},
    console,
    effect::MemorySource,
    heartbeat::Heartbeat,
    io_error::Trouble,
    launch::{complaints, vcpu_threads},
    sampler::{Circumstances, Readings, Sampler},
};
use crate::{
    host::process::{Exit, Process},
    model::{Ending, Intent, Nic, Run, VmRecord},
    qmp::{CloseReason, Event, Events, QmpError, RunState, Session, socket},
};

/// A monitor that closes because its process ends is a matter of microseconds.
const EXIT_GRACE: Duration = Duration::from_millis(200);
/// One pending connection waits this long for QEMU to greet; then another one takes its place.
const PATIENCE: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_millis(250);
/// Between two tries at a monitor that does not keep to the protocol.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A session that lasts so long was a good one.
const CALM: Duration = Duration::from_secs(60);
/// QEMU's id of the guest agent's port.
const AGENT_PORT: &str = "agent-port";
/// QEMU's id of the guest agent's character device.
const AGENT_CHARDEV: &str = "agent0";

/// What there is of a VM on this host. QMP on a stopped VM cannot be written: there is no session then.
pub(super) enum Instance {
    Down,
    Live(Box<Live>),
    Mute(Mute),
    /// SIGKILL was sent, and the kernel still holds the process.
    Killed(Arc<Process>),
}

/// A process whose monitor answers.
pub(super) struct Live {
    pub process: Arc<Process>,
    pub session: Session,
    pub guest: Guest,
    /// The guest agent has opened its port.
    pub agent: bool,
    since: Instant,
    events: Events,
    sampler: Sampler,
    /// The sampling under way. Nothing waits for it: a monitor that is mute delays no request.
    sampling: Option<BoxFuture<'static, Result<Readings, QmpError>>>,
    _heartbeat: Heartbeat,
    /// The last bounding of the console log; two at once would cut what neither has kept.
    bounding: Option<JoinHandle<()>>,
    pub trouble: Trouble,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    Running,
    Paused {
        reason: Option<String>,
        /// By an I/O or internal error.
        critical: bool,
    },
}

/// A process whose monitor does not answer, or has not answered yet. QEMU serves one client at a time, so one
/// connection is kept waiting; when it is greeted the VM is live again.
pub(super) struct Mute {
    pub process: Arc<Process>,
    pub reason: String,
    reconnect: BoxFuture<'static, (Session, Events)>,
}

/// What may happen to an instance by itself.
pub(super) enum Happening {
    Exited(Exit),
    Event(Event),
    MonitorClosed(CloseReason),
    MonitorBack(Session, Events),
    SampleDue,
    Sampled(Result<Readings, QmpError>),
    /// After an I/O error.
    MayGoOn,
}

impl Instance {
    /// The instance of a stored record: the process of one that ran is looked for.
    pub fn of(ctx: &Context, record: &VmRecord) -> Self {
        match ctx.process_of(record) {
            Some(process) => {
                let path = ctx.run_paths(&record.spec.id).qmp();
                let reason = "qherd is connecting to its monitor".to_owned();
                Self::Mute(Mute { process: Arc::new(process), reason, reconnect: reconnect(path, Duration::ZERO) })
            }
            None => Self::Down,
        }
    }

    pub fn process(&self) -> Option<Arc<Process>> {
        match self {
            Self::Down => None,
            Self::Live(live) => Some(live.process.clone()),
            Self::Mute(mute) => Some(mute.process.clone()),
            Self::Killed(process) => Some(process.clone()),
        }
    }

    /// May be dropped and called again.
    pub async fn next(&mut self) -> Happening {
        match self {
            Self::Down => std::future::pending().await,
            Self::Live(live) => live.next().await,
            Self::Mute(mute) => tokio::select! {
                exit = mute.process.exited() => Happening::Exited(exit),
                (session, events) = &mut mute.reconnect => Happening::MonitorBack(session, events),
            },
            Self::Killed(process) => Happening::Exited(process.exited().await),
        }
    }
}

impl Live {
    pub fn new(process: Arc<Process>, session: Session, events: Events, threads: Vec<i32>) -> Self {
        let sampler = Sampler::new(process.pid(), threads);
        let heartbeat = Heartbeat::of(session.clone(), process.pid());
        Self {
            process,
            session,
            guest: Guest::Running,
            agent: false,
            since: Instant::now(),
            events,
            sampler,
            sampling: None,
            _heartbeat: heartbeat,
            bounding: None,
            trouble: Trouble::default(),
        }
    }

    /// vCPUs came or went.
    pub fn set_vcpu_threads(&mut self, threads: Vec<i32>) {
        self.sampler.set_threads(threads);
    }

    async fn next(&mut self) -> Happening {
        tokio::select! {
            biased;
            exit = self.process.exited() => Happening::Exited(exit),
            event = self.events.next() => match event {
                Some(timed) => Happening::Event(timed.event),
                None => Happening::MonitorClosed(self.session.closed().await),
            },
            () = self.trouble.wait() => Happening::MayGoOn,
            sampled = under_way(&mut self.sampling) => Happening::Sampled(sampled),
            () = self.sampler.due(), if self.sampling.is_none() => Happening::SampleDue,
        }
    }
}

/// The outcome of what is under way, which is over then. May be dropped and called again.
pub(super) async fn under_way<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = work else { return std::future::pending().await };
    let outcome = future.await;
    *work = None;
    outcome
}

/// Connects for as long as it takes; `pause` comes first.
fn reconnect(path: PathBuf, pause: Duration) -> BoxFuture<'static, (Session, Events)> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        let mut pause = RETRY;
        loop {
            match socket::connect(&path, PATIENCE).await {
                Ok(stream) => match Session::open(stream, PATIENCE).await {
                    Ok(opened) => return opened,
                    Err(error) => {
                        tracing::debug!(%error, "monitor");
                        pause = (2 * pause).min(LONGEST_RETRY);
                    }
                },
                Err(error) => tracing::debug!(%error, path = %path.display(), "monitor"),
            }
            tokio::time::sleep(pause).await;
        }
    })
}

impl Actor {
    pub(super) async fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Exited(exit) => self.exited(exit).await,
            Happening::Event(event) => self.event(event).await,
            Happening::MonitorClosed(reason) => self.monitor_closed(reason).await,
            Happening::MonitorBack(session, events) => self.monitor_back(session, events).await,
            Happening::MayGoOn => self.go_on().await,
            Happening::SampleDue => self.begin_sampling(),
            // A monitor that did not answer closes, which is a happening of its own.
            Happening::Sampled(readings) => readings.map(|readings| self.sampled(readings)).unwrap_or_default(),
        }
    }

    /// The one way out for every process that ended by itself, spawned or adopted.
    async fn exited(&mut self, exit: Exit) {
        let wanted = self.ctx.ends_vms()
            || matches!(self.instance, Instance::Killed(_))
            || matches!(self.intent(), Intent::Stop { .. } | Intent::Off { .. });
        let ending = if wanted {
            Ending::Clean
        } else {
            let reason = format!("{exit}: {}", complaints(&self.ctx.run_paths(&self.record.spec.id)));
            tracing::warn!(vm = %self.record.spec.id, reason, "crashed");
            Ending::Crashed { reason }
        };
        let _ = self.ended(ending, wanted).await;
    }

    async fn event(&mut self, event: Event) {
        tracing::debug!(vm = %self.record.spec.id, ?event, "event");
        let Instance::Live(live) = &mut self.instance else { return };
        match event {
            // A shutdown from the host's side (a signal to QEMU) ends the process; the pidfd tells.
            Event::Shutdown { guest: true, .. } => self.guest_powered_off().await,
            Event::GuestPanicked { .. } => self.guest_panicked().await,
            Event::Reset { .. } => {
                // It went with its guest; the port's own event is held back by QEMU for up to a second.
                live.agent = false;
                self.was_reset().await;
                self.refresh().await;
                self.vcpus_are_back().await;
                self.ask_for_nics_again().await;
            }
            Event::DeviceDeleted { device: Some(id), .. } => {
                self.disk_deleted(&id).await;
                self.nic_deleted(&id).await;
                self.vcpu_deleted(&id).await;
            }
            Event::Stop => self.refresh().await,
            Event::Resume => {
                self.refresh().await;
                self.catch_up().await;
            }
            Event::VserportChange { id, open } if id == AGENT_PORT => {
                live.agent = open;
                // One that comes up while the guest is to stop is the better way to ask.
                if open {
                    self.take_up_intent().await;
                    self.ask_for_nics_again().await;
                }
            }
            Event::BalloonChange { .. } => {
                live.sampler.memory_changed();
                self.memory_moved(MemorySource::Balloon).await;
            }
            Event::MemoryDeviceSizeChange { .. } => {
                live.sampler.memory_changed();
                self.memory_moved(MemorySource::VirtioMem).await;
            }
            Event::BlockIoError { device, node_name, nospace, .. } => {
                live.trouble.note(&node_name.unwrap_or(device), nospace);
            }
            _ => {}
        }
    }

    /// Asks QEMU how the guest is.
    pub(super) async fn refresh(&mut self) {
        let Instance::Live(live) = &self.instance else { return };
        let session = live.session.clone();
        // A monitor that fails here closes, and a process that ended has a pidfd: both come as happenings of their own.
        let Ok(status) = self.guarded(session.query_status()).await else { return };
        let Instance::Live(live) = &mut self.instance else { return };
        let paused = |reason| Guest::Paused { reason, critical: false };
        let halted = |reason| Guest::Paused { reason: Some(reason), critical: true };
        live.guest = match status.status {
            RunState::Shutdown => return self.guest_powered_off().await,
            RunState::GuestPanicked => return self.guest_panicked().await,
            _ if status.running => Guest::Running,
            RunState::Paused | RunState::Prelaunch => paused(None),
            RunState::IoError => return self.halted().await,
            RunState::InternalError => halted(format!(
                "internal error of the accelerator: {}",
                complaints(&self.ctx.run_paths(&self.record.spec.id))
            )),
            RunState::Suspended => paused(Some("the guest sleeps (ACPI S3)".to_owned())),
            other => paused(Some(format!("QEMU says {other:?}"))),
        };
        if live.guest == Guest::Running {
            live.trouble.is_over();
        }
    }

    async fn guest_panicked(&mut self) {
        tracing::warn!(vm = %self.record.spec.id, "the guest panicked");
        self.quit(Ending::Crashed { reason: "the guest panicked; its console log may say why".into() }).await;
    }

    async fn monitor_closed(&mut self, reason: CloseReason) {
        let Some(process) = self.instance.process() else { return };
        // An end of QEMU closes the monitor first; it is the exit that counts then.
        if let Ok(exit) = tokio::time::timeout(EXIT_GRACE, process.exited()).await {
            return self.exited(exit).await;
        }
        let misconduct = reason.is_misconduct();
        let brief = matches!(&self.instance, Instance::Live(live) if live.since.elapsed() < CALM);
        self.misconduct = if misconduct && brief { self.misconduct.saturating_add(1) } else { misconduct.into() };
        let pause = RETRY.saturating_mul(1 << self.misconduct.min(8)).min(LONGEST_RETRY);
        let what = if misconduct { "its monitor was dropped" } else { "its monitor does not answer" };
        let reason = format!("{what}: {reason}");
        tracing::warn!(vm = %self.record.spec.id, reason, "unresponsive");
        let path = self.ctx.run_paths(&self.record.spec.id).qmp();
        self.publish_sample(None);
        self.instance = Instance::Mute(Mute { process, reason, reconnect: reconnect(path, pause) });
    }

    async fn monitor_back(&mut self, session: Session, events: Events) {
        let Some(process) = self.instance.process() else { return };
        let asking = session.clone();
        let facts = self.guarded(async {
            let threads = vcpu_threads(&asking).await?;
            let chardevs = asking.query_chardev().await?;
            Ok::<_, QmpError>((threads, chardevs.iter().any(|c| c.label == AGENT_CHARDEV && c.frontend_open)))
        });
        match facts.await {
            Ok((threads, agent)) => {
                let mut live = Live::new(process, session, events, threads);
                live.agent = agent;
                self.instance = Instance::Live(Box::new(live));
                self.refresh().await;
                // What follows may wait for the guest; that the monitor answers is known now.
                self.publish();
                self.take_up_intent().await;
                self.take_up_changes().await;
            }
            Err(Interrupted::Qmp(error)) => {
                let path = self.ctx.run_paths(&self.record.spec.id).qmp();
                let reason = format!("its monitor does not answer: {error}");
                self.instance = Instance::Mute(Mute { process, reason, reconnect: reconnect(path, RETRY) });
            }
            // The session goes, the forced request or the exit comes next; until then there is a process to be looked after.
            Err(Interrupted::Overtaken | Interrupted::Ended | Interrupted::Deadline) => {
                let path = self.ctx.run_paths(&self.record.spec.id).qmp();
                let reason = "qherd is connecting to its monitor".to_owned();
                self.instance = Instance::Mute(Mute { process, reason, reconnect: reconnect(path, RETRY) });
            }
        }
    }

    fn begin_sampling(&mut self) {
        let balloon = self.record.spec.machine.balloon;
        let paths = self.ctx.run_paths(&self.record.spec.id);
        let Instance::Live(live) = &mut self.instance else { return };
        // Storage that hangs holds one thread of the daemon for this VM, not one more at every sampling.
        if live.bounding.as_ref().is_none_or(JoinHandle::is_finished) {
            live.bounding = Some(spawn_blocking(move || console::bound(&paths)));
        }
        let (session, questions) = (live.session.clone(), live.sampler.questions(balloon));
        live.sampling = Some(Box::pin(async move { Sampler::ask(&session, questions).await }));
    }

    fn sampled(&mut self, readings: Readings) {
        let (Run::Live(run), Instance::Live(live)) = (&self.record.run, &mut self.instance) else { return };
        let (started, balloon) = (run.process.started(), self.record.spec.machine.balloon);
        let traffic = |nic: &Nic| (nic.clone(), self.ctx.net.traffic(nic.id));
        let nics = run.in_effect.nics.iter().map(traffic).collect();
        let running = live.guest == Guest::Running;
        let sample = live.sampler.take(readings, Circumstances { started, running, balloon, nics });
        self.publish_sample(Some(sample));
    }
}
