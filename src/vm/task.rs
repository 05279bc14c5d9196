//! The task of one VM: tells the core what happens, has done what it plans, hands out its answers. It waits for nothing but
//! the next thing to happen; every exchange with the host is a step, which is a task of its own.

use std::{
    collections::HashMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use uuid::Uuid;

use super::{
    SharedContext,
    core::{self, Bounds, Effects, Facts, Lane, Now, Report, Run, Sight, Step, Ticket, absorb, admit, plan, withdraw},
    events::sight,
    guest::Guest,
    handle::{Inbox, Message, Reply, Tally, VmHandle},
    heartbeat::Heartbeat,
    journal::Journal,
    mailbox::{Mailbox, mailbox},
    perform::{Brief, Hands},
    progress::{Progress, Withdrawn},
    publish::{Public, as_left},
    records::Known,
    sampling::{Latest, Sampling},
    steps::{Joined, Steps},
};
use crate::{
    host::process::Exit,
    model::{NicId, monotonic_ms, now_ms, uptime_ms},
    net::PortHealth,
    qmp::{CloseReason, Event, Events, Session},
};

/// A session that lasts so long was a good one.
const CALM: Duration = Duration::from_secs(60);
/// From so many requests that wait on, those whose clients have hung up are forgotten.
const CROWD: usize = 32;

pub(super) struct Task {
    ctx: SharedContext,
    facts: Facts,
    pub hands: Arc<Hands>,
    inbox: Mailbox<Inbox>,
    steps: Steps,
    link: Option<Link>,
    pub replies: HashMap<Ticket, Reply>,
    tickets: Ticket,
    /// Forced requests that were admitted.
    forced: u64,
    /// By the host's own clock.
    wake: Option<core::Ms>,
    view: Public,
    sample: Latest,
    journal: Journal,
}

/// A session, and who works beside the task for as long as it lasts.
struct Link {
    session: Session,
    events: Events,
    since: Instant,
    /// Once the guest runs.
    beside: Option<(Heartbeat, Sampling)>,
}

enum Happening {
    Message(Inbox),
    Exited(Exit),
    Event(Event),
    Closed(CloseReason),
    Sight(Sight),
    Step(Joined),
    Time,
    /// Nobody can reach this task any more: the daemon ends.
    Orphaned,
}

impl From<Option<Inbox>> for Happening {
    fn from(message: Option<Inbox>) -> Self {
        message.map_or(Self::Orphaned, Self::Message)
    }
}

pub(super) fn now() -> Now {
    Now { wall: now_ms(), monotonic: monotonic_ms(), uptime: uptime_ms() }
}

pub(super) fn bounds(ctx: &SharedContext) -> Bounds {
    let closing = ctx.closing.has_begun();
    Bounds { memory: ctx.host.memory, closing, ends_vms: closing && ctx.config.stop_vms_on_exit }
}

impl Task {
    pub fn new(ctx: SharedContext, facts: Facts, known: Known) -> (VmHandle, Box<Self>) {
        let id = facts.record.definition.id;
        let (sender, inbox) = mailbox();
        let hands = Arc::new(Hands::new(ctx.clone(), id, known));
        let (view, view_reader) = Public::new(&facts, ctx.census.clone());
        let sample = Latest::default();
        let shared = (hands.console.clone(), Guest::by(hands.agent.clone()));
        let handle = VmHandle::new(id, Tally::default(), sender, view_reader, sample.clone(), shared);
        let task = Self {
            ctx,
            journal: Journal::of(&facts),
            facts,
            hands,
            inbox,
            steps: Steps::default(),
            link: None,
            replies: HashMap::new(),
            tickets: 0,
            forced: 0,
            wake: None,
            view,
            sample,
        };
        (handle, Box::new(task))
    }

    /// In a box: an async function has room for its arguments twice, and there is one of each VM.
    pub async fn run(mut self: Box<Self>) {
        self.happened(Happening::Time);
        while !self.facts.gone {
            let happening = match self.is_at_rest() {
                // A future that waits for anything is large, and nearly all VMs are at rest.
                false => Box::pin(self.next()).await,
                true => self.inbox.recv().await.into(),
            };
            match happening {
                Happening::Orphaned => return,
                // Whoever is told that it has stopped finds its ports of the host free.
                Happening::Exited(_) => Box::pin(self.hands.end_carriers()).await,
                _ => {}
            }
            self.happened(happening);
        }
        // Those who came too late are told so.
        self.inbox.close();
        while let Some(message) = self.inbox.recv().await {
            self.turn_away(message);
        }
    }

    /// Not asynchronous, nor is what it calls: what happens and what follows have their room on the stack, not in the future
    /// of each VM.
    fn happened(&mut self, happening: Happening) {
        let effects = match happening {
            Happening::Message(message) => self.take(message),
            Happening::Exited(exit) => self.exited(exit),
            Happening::Event(event) => self.event(event),
            Happening::Closed(reason) => self.closed(&reason),
            Happening::Sight(sight) => self.absorb(Report::Sight(sight)),
            Happening::Step(ended) => {
                // It may have sent them just after they were looked for.
                while let Some(sight) = self.hands.take_sight() {
                    let effects = self.absorb(Report::Sight(sight));
                    self.follow(effects);
                }
                self.ended(ended)
            }
            Happening::Time => self.absorb(Report::Sight(Sight::Time)),
            Happening::Orphaned => return,
        };
        self.follow(effects);
    }

    fn turn_away(&mut self, message: Inbox) {
        let effects = self.take(message);
        self.hand_out(effects);
    }

    /// Nothing can happen to it but that somebody asks something of it.
    fn is_at_rest(&mut self) -> bool {
        let at_rest = self.steps.is_empty()
            && self.link.is_none()
            && self.wake.is_none()
            && self.hands.process().is_none()
            && self.replies.is_empty();
        if at_rest {
            self.steps.shrink();
            self.replies = HashMap::new();
        }
        at_rest
    }

    /// The next thing to happen. What came first need not be told first, but what a step has seen comes before its end, and
    /// the end of a process before anything that follows from it.
    async fn next(&mut self) -> Happening {
        // A start says itself why its QEMU has ended.
        let starting = matches!(self.facts.in_flight.get(&Lane::Power), Some(Step::Spawn | Step::Greet));
        let process = self.hands.process().filter(|_| !starting);
        let exited = async {
            match process {
                Some(process) => process.exited().await,
                None => pending().await,
            }
        };
        let monitor = async {
            let Some(link) = &mut self.link else { return pending().await };
            match link.events.next().await {
                Some(timed) => Happening::Event(timed.event),
                None => Happening::Closed(link.session.closed().await),
            }
        };
        let wake = self.wake.map(|at| Duration::from_millis(at.saturating_sub(monotonic_ms())));
        let time = async {
            match wake {
                Some(wait) => sleep(wait).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            exit = exited => Happening::Exited(exit),
            happening = monitor => happening,
            sight = self.hands.sight() => Happening::Sight(sight),
            Some(ended) = self.steps.next() => Happening::Step(ended),
            () = time => Happening::Time,
            message = self.inbox.recv() => message.into(),
        }
    }

    fn absorb(&mut self, report: Report) -> Effects {
        self.facts.bounds = bounds(&self.ctx);
        absorb(&mut self.facts, now(), report)
    }

    fn take(&mut self, message: Inbox) -> Effects {
        match message {
            Inbox::Request(message) => self.request(*message),
            Inbox::TapGone(nic) => self.tap_gone(nic),
            Inbox::Withdraw(id, reply) => self.withdraw(id, reply),
        }
    }

    fn request(&mut self, Message { request, came, asker, reply }: Message) -> Effects {
        self.facts.bounds = bounds(&self.ctx);
        if self.replies.len() >= CROWD {
            let gone: Vec<Ticket> =
                self.replies.iter().filter(|(_, reply)| reply.answer.is_closed()).map(|(ticket, _)| *ticket).collect();
            for ticket in gone.into_iter().filter(|ticket| self.facts.forget(*ticket)) {
                self.replies.remove(&ticket);
            }
        }
        self.tickets += 1;
        if let Some(progress) = &reply.progress {
            self.facts.patient.push(self.tickets);
            self.steps.show(progress);
        }
        self.replies.insert(self.tickets, reply);
        let overtaken = came < self.forced && !request.is_forced();
        self.forced += u64::from(request.is_forced());
        tracing::debug!(vm = %self.hands.id, ?request, overtaken, "request");
        self.facts.note_asker(self.tickets, asker, &request);
        admit(&mut self.facts, now(), self.tickets, request, overtaken)
    }

    fn withdraw(&mut self, id: Uuid, reply: Withdrawn) -> Effects {
        self.facts.bounds = bounds(&self.ctx);
        let is_its = |reply: &Reply| reply.progress.as_ref().is_some_and(|progress| progress.id() == id);
        let ticket = self.replies.iter().find(|(_, reply)| is_its(reply)).map(|(ticket, _)| *ticket);
        // Of one that has its answer nothing is left to withdraw.
        let withdrawn = withdraw(&mut self.facts, now(), ticket.unwrap_or(Ticket::MAX));
        tracing::debug!(vm = %self.hands.id, ?ticket, withdrawn = withdrawn.is_ok(), "a request is to be withdrawn");
        let (answer, effects) = match withdrawn {
            Ok(effects) => (Ok(()), effects),
            Err(why) => (Err(why), Effects::default()),
        };
        let _ = reply.send(answer);
        effects
    }

    fn tap_gone(&mut self, nic: NicId) -> Effects {
        // The news may be old.
        if self.ctx.net.port(nic) != PortHealth::Gone {
            return Effects::default();
        }
        self.absorb(Report::Sight(Sight::TapGone(nic)))
    }

    fn exited(&mut self, exit: Exit) -> Effects {
        let how = format!("{exit}: {}", self.hands.last_words());
        self.link = None;
        self.hands.close();
        self.hands.set_process(None);
        self.hands.agent.close();
        self.hands.take_kept_in().clear();
        self.absorb(Report::Sight(Sight::Exited(how)))
    }

    fn event(&mut self, event: Event) -> Effects {
        tracing::debug!(vm = %self.hands.id, ?event, "event");
        match sight(&self.facts, &self.hands, event) {
            Some(sight) => self.absorb(Report::Sight(sight)),
            None => Effects::default(),
        }
    }

    fn closed(&mut self, reason: &CloseReason) -> Effects {
        let brief = self.link.take().is_some_and(|link| link.since.elapsed() < CALM);
        self.hands.close();
        let misconduct = reason.is_misconduct();
        tracing::debug!(vm = %self.hands.id, %reason, "the monitor's session has ended");
        self.absorb(Report::Sight(Sight::Closed { reason: reason.to_string(), misconduct, brief }))
    }

    /// A step has reported, or was cut short.
    fn ended(&mut self, joined: Joined) -> Effects {
        let shown = shown(&self.replies).map(|(_, progress)| progress);
        match self.steps.end(self.hands.id, joined, shown) {
            Some((lane, outcome)) => self.absorb(Report::Outcome(lane, outcome)),
            None => Effects::default(),
        }
    }

    /// Everything that follows from what has happened.
    fn follow(&mut self, effects: Effects) {
        self.look_after_link();
        self.hand_out(effects);
        let plan = plan(&self.facts);
        self.facts.begin(&plan);
        self.journal.note(&self.facts);
        self.steps.cut(|lane| plan.cut.contains(lane));
        for (ticket, progress) in shown(&self.replies) {
            progress.is_admitted(self.facts.later.iter().any(|(later, _)| later == ticket));
        }
        for step in plan.start {
            self.start(step);
        }
        self.wake = plan.wake;
    }

    /// Whoever reads after an answer finds what it says.
    fn hand_out(&mut self, effects: Effects) {
        let view = self.view.tell(&self.facts, self.hands.process().map(|process| process.pid()));
        for (ticket, answer) in effects.answers {
            if let Some(reply) = self.replies.remove(&ticket) {
                let view = match effects.left.get(&ticket) {
                    Some(left) => as_left(view.clone(), left),
                    None => view.clone(),
                };
                // Who does not wait any more is not told.
                let _ = reply.answer.send((answer, view));
            }
        }
    }

    fn start(&mut self, step: Step) {
        let brief = Brief {
            record: self.facts.record.clone(),
            agent: self.facts.seen.agent,
            vcpu_room: self.facts.seen.vcpu_room,
            copied: Arc::default(),
        };
        self.steps.start(&self.hands, brief, step, shown(&self.replies).map(|(_, progress)| progress));
    }

    /// Takes up a new session, and lets go of one that the core has given up: QEMU serves one at a time.
    fn look_after_link(&mut self) {
        if !self.facts.is_open() {
            if self.link.take().is_some() {
                self.hands.close();
            }
            // The end of the last descriptor is the end of a tap.
            if !matches!(self.facts.record.run.state, Run::Starting { .. }) {
                drop(self.hands.take_taps());
            }
            self.sample.set(None);
            return;
        }
        if let Some((session, events)) = self.hands.take_events() {
            self.link = Some(Link { session, events, since: Instant::now(), beside: None });
        }
        if let Some(link) = self.link.as_mut().filter(|link| link.beside.is_none() && self.facts.up().is_some())
            && let Some(process) = self.hands.process()
        {
            let heartbeat = Heartbeat::of(link.session.clone(), process.pid());
            let (view, sample) = (self.view.subscribe(), self.sample.clone());
            link.beside = Some((heartbeat, Sampling::of(self.hands.clone(), link.session.clone(), view, sample)));
        }
    }
}

/// The requests whose work is looked at.
fn shown(replies: &HashMap<Ticket, Reply>) -> impl Iterator<Item = (&Ticket, &Arc<Progress>)> {
    replies.iter().filter_map(|(ticket, reply)| Some((ticket, reply.progress.as_ref()?)))
}
