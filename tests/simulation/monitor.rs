//! The monitors of the host that does not exist, and the guests behind them.

use qherd::{
    model::{Conflict, Error},
    vm::core::{Device, DiskNo, Facts, Guest, Look, Mode, Outcome, Setback, Sight, Step, StepReport as Report},
};

use super::{
    history::Fate,
    world::{Process, State, Violation, World, failed},
};

impl World {
    /// A look sees what is there when it begins.
    pub fn begin_look(&mut self, devices: bool) {
        self.looked = self.processes.last().map(|process| (process.id.clone(), look(process, devices)));
    }

    pub fn ask_monitor(&mut self, step: &Step, fate: Fate, facts: &Facts) -> Result<Outcome, Violation> {
        let lost = || Outcome::Failed(Setback::Lost("no answer".into()));
        if self.process().is_none_or(|process| process.held) {
            return Ok(lost());
        }
        let never_lies = matches!(step, Step::Greet | Step::Connect | Step::Quit | Step::Tune | Step::Look { .. });
        match fate {
            Fate::Lie if !never_lies => {
                self.lied = true;
                Ok(Outcome::Done(Report::Done))
            }
            Fate::Well | Fate::Lie => self.on_monitor(step, facts),
            Fate::NotNow => Ok(Outcome::Failed(Setback::NotNow("not now".into()))),
            Fate::Refused | Fate::Host => Ok(Outcome::Failed(Setback::Refused("no".into()))),
            Fate::Lost { effect } | Fate::Silent { effect } => {
                if effect {
                    self.on_monitor(step, facts)?;
                }
                Ok(lost())
            }
        }
    }

    fn on_monitor(&mut self, step: &Step, facts: &Facts) -> Result<Outcome, Violation> {
        let (heeds, full) = (self.heeds, self.full);
        let stored = self.store.clone();
        let Some(process) = self.processes.last_mut() else { return Ok(failed("it has gone")) };
        let mut events = Vec::new();
        let mut report = Report::Done;
        match step {
            Step::Greet | Step::Tune | Step::Pin(_) | Step::ResizeDisk(..) | Step::ThrottleDisk(..) => {}
            Step::ExchangeMedium(_) | Step::PutPort(_) | Step::PressButton => {}
            Step::Continue | Step::GoOn => match process.state {
                State::Off | State::Panicked => {}
                State::IoError if full => events.push(Sight::Halted),
                State::Running | State::Halted | State::IoError => {
                    process.state = State::Running;
                    events.push(Sight::Resumed);
                }
            },
            Step::Pause => {
                if process.state == State::Running {
                    process.state = State::Halted;
                }
                events.push(Sight::Halted);
            }
            Step::Reset => {
                (process.state, process.agent, process.frozen) = (State::Running, false, false);
                events.push(Sight::Reset);
            }
            Step::Quit => {
                // Power that is cut is cut by a signal: QEMU is told to quit once its guest is off.
                if !matches!(process.state, State::Off | State::Panicked) && !self.lied {
                    return Err(format!("QEMU is told to quit, and its guest is {:?}", process.state));
                }
                self.kill();
            }
            Step::Connect => report = Report::Connected { agent: process.agent },
            Step::Look { .. } => match self.looked.take().filter(|(id, _)| *id == process.id) {
                Some((_, seen)) => report = seen,
                None => return Ok(Outcome::Failed(Setback::Lost("its session is over".into()))),
            },
            Step::AskGuest { agent_only: true, .. } if !process.agent => {
                let why = "nobody is there".to_owned();
                return Ok(Outcome::Failed(Setback::Reported(Error::NoAgent { why })));
            }
            Step::AskGuest { mode, .. } => {
                if heeds && process.state == State::Running {
                    match mode {
                        Mode::PowerOff => {
                            process.state = State::Off;
                            events.push(Sight::Halted);
                        }
                        Mode::Reboot => {
                            process.frozen = false;
                            events.push(Sight::Reset);
                        }
                    }
                }
            }
            Step::Freeze => {
                if stored.is_none_or(|record| record.run.frozen.is_none()) {
                    return Err("file systems are frozen before it is stored that they may be".to_owned());
                }
                process.frozen = true;
                report = Report::FileSystems(1);
            }
            Step::Thaw => {
                report = Report::FileSystems(process.frozen.into());
                process.frozen = false;
            }
            Step::PlugDisk(disk) => {
                let Some(no) = DiskNo::of(&disk.name) else { return Err(format!("{} has no number", disk.name)) };
                if !self.images.contains(&no) {
                    return Err(format!("{} is plugged without an image", disk.name));
                }
                process.disks.insert(no);
            }
            Step::PlugNic(nic) => {
                if nic.switch().is_some() {
                    let held = stored.is_some_and(|record| record.run.held.ports.contains_key(&nic.id));
                    if !held {
                        return Err(format!("{} is plugged before its tap is stored", nic.name));
                    }
                    self.taps.insert(nic.id);
                }
                process.nics.insert(nic.id);
            }
            Step::ReleaseDisk(no) => match release(process, Device::Disk(*no), heeds) {
                Ok((found, event)) => {
                    report = found;
                    events.extend(event);
                }
                Err(outcome) => return Ok(outcome),
            },
            Step::ReleaseNic(nic) => match release(process, Device::Nic(*nic), heeds) {
                Ok((found, event)) => {
                    report = found;
                    events.extend(event);
                }
                Err(outcome) => return Ok(outcome),
            },
            Step::CloseDisk(no) if process.disks.contains(no) => report = Report::StillThere,
            Step::CloseNic(nic) if process.nics.contains(nic) => report = Report::StillThere,
            Step::CloseDisk(_) | Step::CloseNic(_) => {}
            Step::SetVcpus(count) => process.vcpus = *count,
            Step::SetMemory(memory) => process.memory = *memory,
            Step::ReadMemory => report = Report::Memory(process.memory),
            other => return Err(format!("{other:?} needs no monitor")),
        }
        self.events.extend(events);
        let _ = facts;
        Ok(Outcome::Done(report))
    }
}

fn look(process: &Process, devices: bool) -> Report {
    let look = match process.state {
        State::Running => Look::Is(Guest::Running),
        State::Halted => Look::Is(Guest::Paused { reason: None, critical: false }),
        State::IoError => Look::IoError("I/O error on root".to_owned()),
        State::Off => Look::PoweredOff,
        State::Panicked => Look::Panicked,
    };
    if !devices {
        return Report::Guest(look);
    }
    let (disks, nics) = (process.disks.iter().copied().collect(), process.nics.iter().copied().collect());
    Report::Devices { look, disks, nics, vcpus: process.vcpus }
}

/// The guest lets go at once, or not at all.
fn release(process: &mut Process, device: Device, heeds: bool) -> Result<(Report, Option<Sight>), Outcome> {
    let plugged = match device {
        Device::Disk(no) => process.disks.contains(&no),
        Device::Nic(nic) => process.nics.contains(&nic),
    };
    if !plugged {
        return Ok((Report::Out, None));
    }
    if process.state != State::Running {
        return Err(Outcome::Failed(Setback::Reported(Conflict::Halted.into())));
    }
    if heeds {
        process.lose(device);
    }
    Ok((Report::Done, heeds.then_some(Sight::Deleted(device))))
}

/// Whether a step is an exchange with the monitor.
pub fn bears(step: &Step) -> bool {
    match step {
        Step::Greet
        | Step::Tune
        | Step::Continue
        | Step::Pause
        | Step::Reset
        | Step::Quit
        | Step::GoOn
        | Step::Connect
        | Step::Look { .. }
        | Step::AskGuest { .. }
        | Step::Freeze
        | Step::Thaw
        | Step::PressButton
        | Step::PlugDisk(_)
        | Step::ReleaseDisk(_)
        | Step::CloseDisk(_)
        | Step::ResizeDisk(..)
        | Step::ThrottleDisk(..)
        | Step::PlugNic(_)
        | Step::ReleaseNic(_)
        | Step::CloseNic(_)
        | Step::PutPort(_)
        | Step::SetVcpus(_)
        | Step::Pin(_)
        | Step::SetMemory(_)
        | Step::ReadMemory
        | Step::ExchangeMedium(_) => true,
        Step::Commit(_)
        | Step::Kill
        | Step::EndStrays
        | Step::Prepare
        | Step::Spawn
        | Step::FindFiles
        | Step::CheckRemovable
        | Step::Erase { .. }
        | Step::RemoveRunFiles
        | Step::CheckImage(_)
        | Step::MakeImage(..)
        | Step::RemoveImage(_)
        | Step::GrowImage(..)
        | Step::ConnectNic(_)
        | Step::AdoptNic(_)
        | Step::DisconnectNic(_) => false,
    }
}
