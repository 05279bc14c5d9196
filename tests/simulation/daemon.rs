//! Runs the core through a history, and looks after every event whether anything is as it must never be.

use qherd::{
    model::{Change, Due, IoLimits, PolicyWish, PortWish, Redefinition},
    vm::core::{
        Bounds, Device, DiskNo, Effects, Facts, Found, Lane, Monitor, Now, Outcome, Patience, Plan, Report, Request, Run,
        Sight, Step, absorb, admit, create, plan, recover,
    },
};

use super::{
    Violation,
    history::{Ask, Chance, Event, Fate, History},
    ledger::{Kind, Ledger},
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
}

struct Daemon<'a> {
    history: &'a History,
    facts: Facts,
    plan: Plan,
    world: World,
    ledger: Ledger,
    now: Now,
    bounds: Bounds,
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
    let ticket = ledger.send(Kind::Create, None);
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
        Ok(()) => Ok(Figures { answers: daemon.ledger.answered, ..daemon.figures }),
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

type Done = Result<(), String>;

impl Daemon<'_> {
    fn event(&mut self, event: Event) -> Done {
        if self.aloud {
            println!("{event:?}");
        }
        self.pass(1);
        match event {
            Event::Crash { effects } => return self.crash(effects, false),
            Event::Boot { effects } => return self.crash(effects, true),
            Event::SetClock(by) => {
                self.now.wall = self.now.wall.saturating_add_signed(by.into());
                return Ok(());
            }
            _ if self.over => return Ok(()),
            Event::Request(ask) => self.request(ask),
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

    fn report(&mut self, report: Report) -> Done {
        let effects = absorb(&mut self.facts, self.now, report);
        self.follow(effects)
    }

    /// Hands out answers, starts steps, and looks at everything.
    fn follow(&mut self, effects: Effects) -> Done {
        for (ticket, answer) in effects.answers {
            let stored = self.world.store.as_ref().map(|record| record.definition.clone());
            if self.aloud {
                println!("    answer {ticket}: {answer:?}");
            }
            self.ledger.answer(ticket, &answer, stored.as_deref())?;
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

    fn check(&self) -> Done {
        self.ledger.check(self.world.store.as_ref(), self.world.processes.len())?;
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
        let lives = |id: &qherd::model::ProcessId| self.world.processes.iter().any(|process| process.id == *id);
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

    fn request(&mut self, ask: Ask) -> Done {
        let definition = self.facts.record.definition.clone();
        let disk = |nth: u8| definition.disks.get(usize::from(nth) % definition.disks.len().max(1)).cloned();
        let nic = |nth: u8| definition.nics.get(usize::from(nth) % definition.nics.len().max(1)).cloned();
        let patience = |time: u32, agent_only| Patience { time: time.into(), agent_only };
        let change = |change| Request::Change(Box::new(change));
        let (kind, about, request) = match ask {
            Ask::Start => (Kind::Start, None, Request::Start),
            Ask::Stop { patience: time, agent_only } => {
                (Kind::Stop, None, Request::Stop(patience(time, agent_only)))
            }
            Ask::StopAndDelete { patience: time } => {
                (Kind::Delete, None, Request::StopAndDelete(patience(time, false)))
            }
            Ask::ForceOff => (Kind::Stop, None, Request::ForceOff),
            Ask::Reboot { patience: time, agent_only } => {
                (Kind::Other, None, Request::Reboot(patience(time, agent_only)))
            }
            Ask::Reset => (Kind::Other, None, Request::Reset),
            Ask::Restart => (Kind::Start, None, Request::Restart(Some(patience(1_000, false)))),
            Ask::Suspend => (Kind::Other, None, Request::Suspend),
            Ask::Resume => (Kind::Other, None, Request::Resume),
            Ask::TurnAfterBoot => (Kind::Start, None, Request::Boot),
            Ask::Vcpus(vcpus) => {
                (Kind::Other, None, change(Change::Cpu { vcpus: Some(vcpus.into()), pinning: None }))
            }
            Ask::Memory(memory) => {
                let memory = 64 + 64 * u64::from(memory);
                (Kind::Memory(memory), None, change(Change::Memory(memory as i64)))
            }
            Ask::Grow(nth) => {
                let Some(disk) = disk(nth) else { return Ok(()) };
                let size = Some(disk.size as i64 + i64::from(nth % 2));
                (Kind::Other, None, change(Change::Disk { name: disk.name, size, io_limits: None }))
            }
            Ask::Throttle(nth) => {
                let Some(disk) = disk(nth) else { return Ok(()) };
                let limits = IoLimits { iops: Some(i64::from(nth) + 1), ..IoLimits::default() };
                let io_limits = Some((nth % 3 != 0).then(|| Box::new(limits)));
                (Kind::Other, None, change(Change::Disk { name: disk.name, size: None, io_limits }))
            }
            Ask::AddDisk => {
                let ticket = self.ledger.send(Kind::AddDisk, None);
                let disk = Box::new(vm::new_disk(ticket));
                return self.admit(ticket, change(Change::AddDisk { disk, folder: "/i".into() }));
            }
            Ask::RemoveDisk(nth) => {
                let Some(disk) = disk(nth) else { return Ok(()) };
                (Kind::RemoveDisk, Some(disk.name.clone()), change(Change::RemoveDisk(disk.name)))
            }
            Ask::AddNic { on_switch } => {
                let ticket = self.ledger.send(Kind::Other, None);
                return self.admit(ticket, change(Change::AddNic(Box::new(vm::nic(ticket, on_switch)))));
            }
            Ask::RemoveNic(nth) => {
                let Some(nic) = nic(nth) else { return Ok(()) };
                (Kind::Other, None, change(Change::RemoveNic(nic.id)))
            }
            Ask::MovePort(nth) => {
                let Some((nic, switch)) = nic(nth).and_then(|nic| Some((nic.id, nic.switch()?))) else {
                    return Ok(());
                };
                let wish = Box::new(PortWish { isolated: Some(nth % 2 == 0), ..PortWish::default() });
                (Kind::Other, None, change(Change::Port { nic, switch, wish }))
            }
            Ask::Policy(number) => {
                let policy = vm::policy(number);
                let wish = PolicyWish {
                    restart: Some(policy.restart),
                    on_io_error: Some(policy.on_io_error),
                    ..PolicyWish::default()
                };
                (Kind::Other, None, change(Change::Policy(wish)))
            }
            Ask::Medium(medium) => {
                (Kind::Other, None, change(Change::Medium(medium.then(|| "/iso".into()))))
            }
            Ask::Redefine(number) => {
                let redefinition =
                    Redefinition { vcpus: Some(i64::from(number % 4) + 1), ..Redefinition::default() };
                (Kind::Other, None, Request::Redefine(Box::new(redefinition)))
            }
            Ask::Delete => (Kind::Delete, None, Request::Delete),
        };
        let ticket = self.ledger.send(kind, about);
        self.admit(ticket, request)
    }

    fn admit(&mut self, ticket: u64, request: Request) -> Done {
        let kills = matches!(request, Request::ForceOff)
            && matches!(self.facts.record.run.state, Run::Up(_))
            && self.facts.seen.process;
        let effects = admit(&mut self.facts, self.now, ticket, request, false);
        self.follow(effects)?;
        if kills && !self.facts.in_flight.contains_key(&Lane::Kill) {
            return Err("a forced stop waits for something".into());
        }
        Ok(())
    }

    fn chance(&mut self, chance: Chance) -> Done {
        let open = self.facts.is_open();
        let device = |nth: u8, world: &World| {
            let process = world.processes.last()?;
            let disks = process.disks.iter().filter(|no| no.0 > 0).map(|no| Device::Disk(*no));
            let devices: Vec<Device> = disks.chain(process.nics.iter().map(|nic| Device::Nic(*nic))).collect();
            devices.get(usize::from(nth) % devices.len().max(1)).copied()
        };
        match chance {
            Chance::ProcessDies => {
                self.world.kill();
            }
            Chance::KernelHolds => self.world.process().into_iter().for_each(|process| process.held = true),
            Chance::KernelLetsGo => self.world.let_go(),
            Chance::Closing => {
                self.bounds.closing = true;
                return self.report(Report::Sight(Sight::Closing { vms: self.history.seed % 2 == 0 }));
            }
            Chance::MonitorCloses | Chance::MonitorMisbehaves if self.facts.seen.process => {
                self.world.events.clear();
                let misconduct = chance == Chance::MonitorMisbehaves;
                let closed = Sight::Closed { reason: "end of file".into(), misconduct, brief: true };
                return self.report(Report::Sight(closed));
            }
            Chance::Flood if open => {
                for _ in 0..20 {
                    self.report(Report::Sight(Sight::MemoryMoved))?;
                    self.report(Report::Sight(Sight::Halted))?;
                    self.report(Report::Sight(Sight::Deleted(Device::Disk(DiskNo(99)))))?;
                }
            }
            Chance::LetsGo(nth) => {
                if let Some(device) = device(nth, &self.world) {
                    self.world.process().into_iter().for_each(|process| process.lose(device));
                    self.world.events.push_back(Sight::Deleted(device));
                }
            }
            Chance::Keeps(nth) => {
                let kept = device(nth, &self.world).map(Sight::Kept);
                self.world.events.extend(kept);
            }
            Chance::TapRemoved(nth) => {
                if let Some(Device::Nic(nic)) = device(nth, &self.world) {
                    return self.report(Report::Sight(Sight::TapGone(nic)));
                }
            }
            Chance::GuestPowersOff => self.guest(State::Off, Sight::PoweredOff),
            Chance::GuestPanics => self.guest(State::Panicked, Sight::Panicked),
            Chance::GuestResets => self.guest(State::Running, Sight::Reset),
            Chance::IoError => {
                self.world.full = true;
                self.guest(State::IoError, Sight::Halted);
            }
            Chance::AgentComes | Chance::AgentGoes => {
                let agent = chance == Chance::AgentComes;
                self.world.process().into_iter().for_each(|process| process.agent = agent);
                self.world.events.push_back(Sight::Agent(agent));
            }
            Chance::MemoryMoves(memory) => {
                self.world.process().into_iter().for_each(|process| process.memory = 16 + u64::from(memory));
                self.world.events.push_back(Sight::MemoryMoved);
            }
            Chance::MonitorCloses | Chance::MonitorMisbehaves | Chance::Flood => {}
        }
        Ok(())
    }

    /// Something happens to a guest that runs.
    fn guest(&mut self, state: State, event: Sight) {
        if let Some(process) = self.world.process().filter(|process| process.state == State::Running) {
            process.state = state;
            self.world.events.push_back(event);
        }
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
                let has: Vec<DiskNo> = up.in_effect.disks.iter().filter_map(|disk| DiskNo::of(&disk.name)).collect();
                let missing = has.iter().find(|no| !process.disks.contains(no));
                if !world.lied && (missing.is_some() || has.len() != process.disks.len()) {
                    return Err(format!("QEMU has the disks {:?}, and is known to have {has:?}", process.disks));
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
