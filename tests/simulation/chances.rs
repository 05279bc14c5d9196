//! What comes by itself.

use qherd::vm::core::{Device, DiskNo, Report, Sight};

use super::{
    daemon::{Daemon, Done},
    history::Chance,
    world::{State, World},
};

impl Daemon<'_> {
    pub fn chance(&mut self, chance: Chance) -> Done {
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
                return self.report(Report::Sight(Sight::Closing { vms: self.history.seed.is_multiple_of(2) }));
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
                // A guest that does not run lets go of nothing.
                let runs = self.world.process().is_some_and(|process| process.state == State::Running);
                if let Some(device) = device(nth, &self.world).filter(|_| runs) {
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
            Chance::GuestPowersOff => self.guest(State::Off, Sight::Halted),
            Chance::GuestPanics => self.guest(State::Panicked, Sight::Halted),
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
}
