//! Runs the core through a history, and looks after every event whether anything is as it must never be.

use qherd::{
    model::{Due, ProcessId},
    vm::core::{
        Bounds, DiskNo, Effects, Facts, Found, Guest, Lane, Monitor, Now, Outcome, Plan, Report, Run, Sight, Step,
        absorb, create, plan, recover,
    },
};

use super::{
    Violation,
    history::{Event, Fate, History},
    ledger::{Ledger, Promise},
    vm,
    world::{State, World},
};

/// What a history came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub steps: u64,
    pub answers: u64,
    pub crashes: u64,
    pub starts: u64,
    pub events: u64,
}

pub struct Daemon<'a> {
    pub history: &'a History,
    pub facts: Facts,
    plan: Plan,
    pub world: World,
    pub ledger: Ledger,
    pub now: Now,
    pub bounds: Bounds,
    figures: Figures,
    /// The VM is gone, or never was: nothing follows.
    over: bool,
    aloud: bool,
}

/// As [`run`], and tells every event and every step.
///
/// # Errors
/// As [`run`].
pub fn run_aloud(history: &History) -> Result<Figures, Violation> {
    go(history, true)
}

/// # Errors
/// The first thing that must never be.
pub fn run(history: &History) -> Result<Figures, Violation> {
    go(history, false)
}

fn go(history: &History, aloud: bool) -> Result<Figures, Violation> {
    let now = Now { wall: 1_000_000_000_000, monotonic: 1_000_000, uptime: 1_000_000 };
    let bounds = Bounds { memory: 4096, closing: false, ends_vms: false };
    let definition = vm::definition(history);
    let mut ledger = Ledger::new(definition.memory);
    let ticket = ledger.send(Promise::Create, None);
    if history.start {
        ledger.will_start();
    }
    let facts = create(definition, history.start, ticket, now, bounds);
    let world = World { heeds: history.heeds, ..World::default() };
    let (plan, figures) = Default::default();
    let mut daemon = Daemon { history, facts, plan, world, ledger, now, bounds, figures, over: false, aloud };
    let all = |daemon: &mut Daemon| -> Result<(), (String, usize)> {
        daemon.report(Report::Sight(Sight::Time)).map_err(|what| (what, 0))?;
        for (at, event) in history.events.iter().enumerate() {
            daemon.event(*event).map_err(|what| (what, at + 1))?;
        }
        daemon.come_to_rest().map_err(|what| (what, history.events.len() + 1))
    };
    match all(&mut daemon) {
        Ok(()) => {
            let (answers, events) = (daemon.ledger.answered, daemon.world.subscriber.events);
            Ok(Figures { answers, events, ..daemon.figures })
        }
        Err((what, at)) => Err(Violation { what, at }),
    }
}

/// A step without the definitions in it.
fn brief(step: &Step) -> String {
    match step {
        Step::Commit(txn) => match &txn.record {
            Some(record) => {
                let disks: Vec<&str> = record.definition.disks.iter().map(|disk| disk.name.as_str()).collect();
                let nics: Vec<&str> = record.definition.nics.iter().map(|nic| nic.name.as_str()).collect();
                let run = &record.run;
                let ports = run.held.ports.len();
                let state = format!("{:?}", run.state).chars().take(60).collect::<String>();
                format!("Commit {} {state} {:?} {disks:?} {nics:?}, {ports} ports", txn.number, run.goal)
            }
            None => "Commit: remove".to_owned(),
        },
        step => format!("{step:?}").chars().take(60).collect(),
    }
}

pub type Done = Result<(), String>;

impl Daemon<'_> {
    fn event(&mut self, event: Event) -> Done {
        if self.aloud {
            println!("{event:?}");
        }
        self.pass(1);
        match event {
            Event::Crash { effects } => self.crash(effects, false),
            Event::Boot { effects } => self.crash(effects, true),
            Event::SetClock(by) => {
                self.now.wall = self.now.wall.saturating_add_signed(by.into());
                Ok(())
            }
            _ if self.over => Ok(()),
            Event::Request(ask) => self.request(ask),
            Event::Cancel(nth) => self.cancel(nth.into()),
            Event::Finish { nth, fate } => self.finish(nth.into(), fate),
            Event::Calm => self.calm(2_000, 300).map(drop),
            Event::Wait(time) => {
                self.pass(time.into());
                self.report(Report::Sight(Sight::Time))
            }
            Event::Sight(chance) => self.chance(chance),
        }
    }

    fn pass(&mut self, time: u64) {
        self.now.wall += time;
        self.now.monotonic += time;
        self.now.uptime += time;
    }

    pub fn report(&mut self, report: Report) -> Done {
        let effects = absorb(&mut self.facts, self.now, report);
        self.follow(effects)
    }

    /// Hands out answers, starts steps, and looks at everything.
    pub fn follow(&mut self, effects: Effects) -> Done {
        for (ticket, answer) in effects.answers {
            let stored = self.world.store.as_ref().map(|record| record.definition.clone());
            if self.aloud {
                println!("    answer {ticket}: {answer:?}");
            }
            self.ledger.answer(ticket, &answer, stored.as_deref())?;
            if answer.is_ok() && stored.is_some_and(|spec| spec.disk_of(Some(vm::request(ticket))).is_some()) {
                self.world.subscriber.must_know(ticket)?;
            }
        }
        self.plan = plan(&self.facts);
        for step in &self.plan.start {
            if self.facts.in_flight.contains_key(&step.lane()) {
                return Err(format!("a second step in one lane: {step:?}"));
            }
            if self.aloud {
                println!("    start {}", brief(step));
            }
            self.figures.steps += 1;
            self.figures.starts += u64::from(*step == Step::Spawn);
            if let Step::Look { devices } = step {
                self.world.begin_look(*devices);
            }
        }
        self.facts.begin(&self.plan);
        if self.facts.gone {
            self.over = true;
            if !self.facts.waiting.is_empty() || !self.facts.later.is_empty() {
                return Err("a VM is gone, and somebody waits for it".into());
            }
        }
        self.check()
    }

    fn check(&mut self) -> Done {
        if self.facts.seen.unsure {
            self.ledger.leave_open(self.world.store.as_ref());
        }
        self.ledger.check(self.world.store.as_ref(), self.world.processes.len())?;
        self.world.subscriber.check(self.world.store.as_ref())?;
        if self.world.processes.len() > 1 {
            return Err("two processes of one VM".into());
        }
        if self.facts.waiting.len() + self.facts.later.len() > 200 {
            return Err("requests pile up".into());
        }
        Ok(())
    }

    /// What may be told next: steps under way, and what QEMU and the kernel have to say.
    fn finish(&mut self, nth: usize, fate: Fate) -> Done {
        let exit = usize::from(self.world.exit);
        let event = usize::from(!self.world.events.is_empty() && self.facts.is_open());
        let all = self.facts.in_flight.len() + exit + event;
        if all == 0 {
            return Ok(());
        }
        match nth % all {
            0 if exit > 0 => self.tell_exit(),
            at if event > 0 && at == exit => self.tell_event(),
            at => {
                let lane = self.facts.in_flight.keys().nth(at - exit - event).copied();
                lane.map_or(Ok(()), |lane| self.end_step(lane, fate))
            }
        }
    }

    fn tell_exit(&mut self) -> Done {
        self.world.exit = false;
        self.world.events.clear();
        self.report(Report::Sight(Sight::Exited("it exited with status 1".into())))
    }

    fn tell_event(&mut self) -> Done {
        let sight = self.world.events.pop_front();
        sight.map_or(Ok(()), |sight| self.report(Report::Sight(sight)))
    }

    fn end_step(&mut self, lane: Lane, fate: Fate) -> Done {
        let Some(step) = self.facts.in_flight.get(&lane).cloned() else { return Ok(()) };
        let outcome = if self.facts.cut.contains(&lane) {
            if let Fate::Lost { effect: true } | Fate::Silent { effect: true } = fate {
                self.world.perform(&step, fate, &self.facts)?;
            }
            Outcome::Cut
        } else {
            self.world.perform(&step, fate, &self.facts)?
        };
        if self.aloud {
            println!("  {lane:?} {}", format!("{outcome:?}").chars().take(100).collect::<String>());
        }
        self.report(Report::Outcome(lane, outcome))
    }

    /// All goes well for `budget` milliseconds, or until there is nothing left to do. Returns whether there is nothing.
    fn calm(&mut self, budget: u64, most: usize) -> Result<bool, String> {
        let until = self.now.monotonic + budget;
        for _ in 0..most {
            if self.over {
                return Ok(true);
            }
            let waits = |lane: &&Lane| {
                // A monitor whose process the kernel holds is waited for.
                let held = self.world.processes.iter().any(|process| process.held);
                !(held && **lane == Lane::Monitor) || self.facts.cut.contains(*lane)
            };
            let lane = self.facts.in_flight.keys().find(waits).copied();
            if self.world.exit {
                self.tell_exit()?;
            } else if !self.world.events.is_empty() && self.facts.is_open() {
                self.tell_event()?;
            } else if let Some(lane) = lane {
                self.end_step(lane, Fate::Well)?;
            } else {
                match self.plan.wake {
                    Some(wake) if wake <= until => {
                        let time = wake.saturating_sub(self.now.monotonic);
                        self.pass(time);
                        self.report(Report::Sight(Sight::Time))?;
                    }
                    Some(_) | None => return Ok(true),
                }
            }
        }
        Ok(false)
    }

    /// The daemon dies, and another one takes over.
    fn crash(&mut self, effects: u8, boot: bool) -> Done {
        self.figures.crashes += 1;
        if !self.over {
            let under_way: Vec<Step> = self.facts.in_flight.values().cloned().collect();
            for (at, step) in under_way.iter().enumerate() {
                if effects & (1 << (at % 8)) != 0 {
                    self.world.perform(step, Fate::Lost { effect: true }, &self.facts)?;
                }
            }
        }
        self.world.forget();
        self.ledger.lose_connections();
        if boot {
            self.world.processes.clear();
            self.world.taps.clear();
            self.now = Now { monotonic: 5_000, uptime: 5_000, ..self.now };
        }
        self.ledger.check(self.world.store.as_ref(), self.world.processes.len())?;
        let Some(mut record) = self.world.store.clone() else {
            self.over = true;
            return Ok(());
        };
        if boot && record.definition.policy.autostart.enabled {
            record.run.upkeep.due = Some(Due::Boot);
            self.world.store = Some(record.clone());
        }
        let lives = |id: &ProcessId| self.world.processes.iter().any(|process| process.id == *id);
        let found = match record.run.up() {
            Some(up) if lives(&up.process) => Found::Alive,
            Some(_) if boot => Found::AnotherBoot,
            Some(_) | None => Found::Nothing,
        };
        self.over = false;
        self.bounds = Bounds { closing: false, ends_vms: false, ..self.bounds };
        self.facts = recover(record, found, self.now, self.bounds);
        self.report(Report::Sight(Sight::Time))
    }

    /// The host does as it is told from now on: nobody waits any more then, nothing is under way, and nothing is left
    /// over.
    fn come_to_rest(&mut self) -> Done {
        self.world.let_go();
        (self.world.full, self.world.heeds) = (false, true);
        if self.over {
            return Ok(());
        }
        for _ in 0..6 {
            if !self.calm(200_000, 4_000)? {
                return Err("it does not come to rest".into());
            }
        }
        if self.over {
            return Ok(());
        }
        let unanswered = self.ledger.unanswered();
        if !unanswered.is_empty() {
            let waiting = format!("{:?}", (&self.facts.waiting, &self.facts.later));
            let waiting: String = waiting.chars().take(200).collect();
            return Err(format!("never answered: {unanswered:?}, of {waiting}"));
        }
        if !self.facts.in_flight.is_empty() {
            return Err(format!("still under way: {:?}", self.facts.in_flight));
        }
        if self.facts.record != self.facts.stored || self.world.store.as_ref() != Some(&self.facts.record) {
            return Err("what is known is not stored".into());
        }
        self.check_leftovers()
    }

    fn check_leftovers(&self) -> Done {
        let (world, record) = (&self.world, &self.facts.record);
        let held = &record.run.held;
        let defined: Vec<DiskNo> = record.definition.disks.iter().filter_map(|disk| DiskNo::of(&disk.name)).collect();
        match &record.run.state {
            Run::Down { .. } => {
                if !world.processes.is_empty() || world.run_files || !world.taps.is_empty() {
                    let left = (&world.processes, world.run_files, &world.taps);
                    return Err(format!("left over of a VM that is down: {left:?}"));
                }
                if held.run_files || held.strays || !held.ports.is_empty() {
                    return Err(format!("still held of a VM that is down: {held:?}"));
                }
                let images: Vec<DiskNo> = world.images.iter().copied().collect();
                let mut defined = defined;
                defined.sort_unstable();
                if images != defined && !world.half_erased {
                    return Err(format!("images {images:?} of the disks {defined:?}"));
                }
            }
            Run::Up(up) => {
                let Some(process) = world.processes.first() else { return Err("up, without a process".into()) };
                if self.facts.seen.monitor != Monitor::Open {
                    return Err(format!("its monitor is {:?}", self.facts.seen.monitor));
                }
                let runs = process.state == State::Running;
                if !world.lied && runs != (up.guest == Guest::Running) {
                    return Err(format!("its guest is {:?}, and is known to be {:?}", process.state, up.guest));
                }
                if !world.lied && runs && process.agent && process.frozen {
                    return Err("its file systems are frozen for ever".into());
                }
                let live: Vec<DiskNo> = up.in_effect.disks.iter().filter_map(|disk| DiskNo::of(&disk.name)).collect();
                let missing = live.iter().find(|no| !process.disks.contains(no));
                if !world.lied && (missing.is_some() || live.len() != process.disks.len()) {
                    return Err(format!("QEMU has the disks {:?}, and is known to have {live:?}", process.disks));
                }
                let stray = world.taps.iter().find(|tap| !held.ports.contains_key(tap));
                if let Some(stray) = stray {
                    return Err(format!("the tap of {stray} is nobody's"));
                }
            }
            state @ (Run::Making { .. } | Run::Starting { .. }) => return Err(format!("at rest: {state:?}")),
        }
        Ok(())
    }
}
