//! What clients ask, made of what there is.

use qherd::{
    model::{Alias, Change, IoLimits, MetadataWish, PolicyWish, PortWish, Redefinition},
    vm::core::{Lane, Patience, Request, Run, admit, withdraw},
};

use super::{
    daemon::{Daemon, Done},
    history::Ask,
    ledger::Promise,
    subscriber::asker,
    vm,
};

impl Daemon<'_> {
    pub fn request(&mut self, ask: Ask) -> Done {
        let definition = self.facts.record.definition.clone();
        let disk = |nth: u8| definition.disks.get(usize::from(nth) % definition.disks.len().max(1)).cloned();
        let nic = |nth: u8| definition.nics.get(usize::from(nth) % definition.nics.len().max(1)).cloned();
        let patience = |time: u32, agent_only| Patience { time: time.into(), agent_only };
        let change = |change| Request::Change(Box::new(change));
        let (promise, about, request) = match ask {
            Ask::Start => (Promise::Start, None, Request::Start),
            Ask::Stop { patience: time, agent_only } => {
                (Promise::Stop, None, Request::Stop(patience(time, agent_only)))
            }
            Ask::StopAndDelete { patience: time } => {
                (Promise::Delete, None, Request::StopAndDelete(patience(time, false)))
            }
            Ask::ForceOff => (Promise::Stop, None, Request::ForceOff),
            Ask::Reboot { patience: time, agent_only } => {
                (Promise::Other, None, Request::Reboot(patience(time, agent_only)))
            }
            Ask::Reset => (Promise::Other, None, Request::Reset),
            Ask::Restart => (Promise::Start, None, Request::Restart(Some(patience(1_000, false)))),
            Ask::Suspend => (Promise::Other, None, Request::Suspend),
            Ask::Resume => (Promise::Other, None, Request::Resume),
            Ask::Freeze(time) => (Promise::Other, None, Request::Freeze(time.into())),
            Ask::Thaw => (Promise::Other, None, Request::Thaw),
            Ask::TurnAfterBoot => (Promise::Start, None, Request::Boot),
            Ask::Vcpus(vcpus) => {
                (Promise::Other, None, change(Change::Cpu { vcpus: Some(vcpus.into()), pinning: None }))
            }
            Ask::Memory(memory) => {
                let memory = 64 + 64 * u64::from(memory);
                (Promise::Memory(memory), None, change(Change::Memory(memory as i64)))
            }
            Ask::Grow(nth) => {
                let Some(disk) = disk(nth) else { return Ok(()) };
                let size = Some(disk.size as i64 + i64::from(nth % 2));
                (Promise::Other, None, change(Change::Disk { name: disk.name, size, io_limits: None }))
            }
            Ask::Throttle(nth) => {
                let Some(disk) = disk(nth) else { return Ok(()) };
                let limits = IoLimits { iops: Some(i64::from(nth) + 1), ..IoLimits::default() };
                let io_limits = Some((nth % 3 != 0).then(|| Box::new(limits)));
                (Promise::Other, None, change(Change::Disk { name: disk.name, size: None, io_limits }))
            }
            Ask::AddDisk => {
                let ticket = self.ledger.send(Promise::AddDisk, None);
                let disk = Box::new(vm::new_disk(ticket));
                return self.admit(ticket, change(Change::AddDisk { disk, folder: "/i".into() }));
            }
            Ask::RemoveDisk(nth) => {
                let Some(disk) = disk(nth) else { return Ok(()) };
                (Promise::RemoveDisk, Some(disk.name.clone()), change(Change::RemoveDisk(disk.name)))
            }
            Ask::AddNic { on_switch } => {
                let ticket = self.ledger.send(Promise::Other, None);
                return self.admit(ticket, change(Change::AddNic(Box::new(vm::nic(ticket, on_switch)))));
            }
            Ask::RemoveNic(nth) => {
                let Some(nic) = nic(nth) else { return Ok(()) };
                (Promise::Other, None, change(Change::RemoveNic(nic.id)))
            }
            Ask::MovePort(nth) => {
                let Some((nic, switch)) = nic(nth).and_then(|nic| Some((nic.id, nic.switch()?))) else {
                    return Ok(());
                };
                let wish = Box::new(PortWish { isolated: Some(nth % 2 == 0), ..PortWish::default() });
                (Promise::Other, None, change(Change::Port { nic, switch, wish }))
            }
            Ask::Policy(number) => {
                let policy = vm::policy(number);
                let wish = PolicyWish {
                    restart: Some(policy.restart),
                    on_io_error: Some(policy.on_io_error),
                    ..PolicyWish::default()
                };
                (Promise::Other, None, change(Change::Policy(wish)))
            }
            Ask::Medium(medium) => (
                Promise::Other,
                None,
                change(Change::Medium(medium.then(|| Alias { file: "/iso".into(), sent: "/iso".into() }))),
            ),
            Ask::Several(number) => {
                let memory = 64 + u64::from(number % 3) * 32;
                let labels = (0..number % 3).map(|n| (format!("k{n}"), String::new())).collect();
                let mut changes = vec![
                    Change::Cpu { vcpus: Some(i64::from(number % 4) + 1), pinning: None },
                    Change::Memory(memory as i64),
                    Change::Metadata(Box::new(MetadataWish { labels: Some(labels), ..MetadataWish::default() })),
                ];
                changes.extend(disk(number).map(|disk| Change::Disk {
                    name: disk.name,
                    size: Some(disk.size as i64 + i64::from(number % 2)),
                    io_limits: Some(None),
                }));
                (Promise::Memory(memory), None, change(Change::Several(changes)))
            }
            Ask::Redefine(number) => {
                let redefinition = Redefinition { vcpus: Some(i64::from(number % 4) + 1), ..Redefinition::default() };
                (Promise::Other, None, Request::Redefine(Box::new(redefinition)))
            }
            Ask::Delete => (Promise::Delete, None, Request::Delete),
        };
        let ticket = self.ledger.send(promise, about);
        self.admit(ticket, request)
    }

    /// A client takes its request back, where that can be.
    pub fn cancel(&mut self, nth: usize) -> Done {
        let waiting = self.facts.waiting.iter().map(|waiting| waiting.ticket);
        let tickets: Vec<_> = waiting.chain(self.facts.later.iter().map(|(ticket, _)| *ticket)).collect();
        let Some(ticket) = tickets.get(nth % tickets.len().max(1)).copied() else { return Ok(()) };
        match withdraw(&mut self.facts, self.now, ticket) {
            Ok(effects) => {
                self.ledger.cancel(ticket);
                self.follow(effects)
            }
            Err(_) => Ok(()),
        }
    }

    fn admit(&mut self, ticket: u64, request: Request) -> Done {
        let kills = matches!(request, Request::ForceOff)
            && matches!(self.facts.record.run.state, Run::Up(_))
            && self.facts.seen.process;
        self.world.subscriber.ask(ticket);
        self.facts.note_asker(ticket, Some(asker(ticket)), &request);
        if ticket.is_multiple_of(2) {
            self.facts.patient.push(ticket);
        }
        let effects = admit(&mut self.facts, self.now, ticket, request, false);
        self.follow(effects)?;
        if kills && !self.facts.in_flight.contains_key(&Lane::Kill) {
            return Err("a forced stop waits for something".into());
        }
        Ok(())
    }
}
