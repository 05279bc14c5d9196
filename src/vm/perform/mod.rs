//! Performs steps: the only part of a VM that speaks to the host, to QEMU and to the guest. One exchange a step, each of
//! which looks first, so that every step may be repeated from any point. What is to be done, and what follows from an
//! outcome, is the core's business (`vm::core`); nothing here waits for what the plan can wait for.
//!
//! A step is a task of its own. It is given what the facts were when it was planned ([`Brief`]), and shares with the
//! other steps of its VM what cannot be stored: the process, the session, the taps of a start ([`Hands`]).

mod agent;
mod bases;
mod carriers;
mod cpu;
mod disks;
mod files;
mod hands;
mod host_files;
mod images;
mod kill;
mod launch;
mod medium;
mod memory;
mod monitor;
mod netdevs;
mod nics;
mod pinning;
mod power;
mod release;
mod store;
mod vcpus;

pub(super) use hands::{Brief, Hands, IoError};
pub use launch::LaunchStep;

use super::core::{Outcome, Setback, Step, StepReport as Report};
use crate::qmp::QmpError;

/// How a step ends.
type Done = Result<Report, Setback>;

impl From<QmpError> for Setback {
    fn from(error: QmpError) -> Self {
        match error {
            QmpError::Refused { desc, .. } => Self::Refused(desc),
            QmpError::Decode { .. } => Self::Refused(error.to_string()),
            QmpError::Timeout { .. } | QmpError::Closed { .. } => Self::Lost(error.to_string()),
        }
    }
}

/// Performs one step. May be dropped half-way where [`Step::may_be_cut`] says so.
pub(super) async fn perform(hands: &Hands, brief: Brief, step: Step) -> Outcome {
    let brief = &brief;
    let done: Done = match step {
        Step::Commit(txn) => store::commit(hands, *txn).await,
        Step::Kill => kill::kill(hands).await,
        Step::EndStrays => kill::end_strays(hands, brief).await,

        Step::Prepare => launch::prepare(hands, brief).await,
        Step::Spawn => launch::spawn(hands, brief).await,
        Step::Greet => launch::greet(hands, brief).await,
        Step::Tune => launch::tune(hands, brief).await,

        Step::Continue => power::go_on(hands, brief).await,
        Step::Pause => power::pause(hands).await,
        Step::Reset => power::reset(hands).await,
        Step::Quit => power::quit(hands).await,
        Step::GoOn => power::go_on_after_error(hands, brief).await,

        Step::Connect => monitor::connect(hands).await,
        Step::Look { devices } => monitor::look(hands, brief, devices).await,

        Step::AskGuest { mode, by_agent, agent_only } => agent::ask(hands, mode, by_agent, agent_only).await,
        Step::PressButton => agent::press_button(hands).await,
        Step::Freeze => agent::freeze(hands).await,
        Step::Thaw => agent::thaw(hands).await,

        Step::FindFiles => files::find(hands, brief).await,
        Step::CheckRemovable => files::check_removable(hands, brief).await,
        Step::Erase { half_made } => files::erase(hands, brief, half_made).await,
        Step::RemoveRunFiles => files::remove_run_files(hands).await,

        Step::CheckImage(no) => images::check_free(hands, brief, no).await,
        Step::MakeImage(no, size) => images::make(hands, brief, no, size).await,
        Step::RemoveImage(no) => images::remove(hands, brief, no).await,
        Step::GrowImage(no, size) => images::grow(hands, brief, no, size).await,
        Step::PlugDisk(disk) => disks::plug(hands, brief, *disk).await,
        Step::ReleaseDisk(no) => disks::release(hands, brief, no).await,
        Step::CloseDisk(no) => disks::close(hands, brief, no).await,
        Step::ResizeDisk(no, size) => disks::resize(hands, brief, no, size).await,
        Step::ThrottleDisk(no, limits) => disks::limit(hands, brief, no, limits.map(|limits| *limits)).await,

        Step::ConnectNic(nic) => nics::connect(hands, *nic).await,
        Step::AdoptNic(nic) => nics::adopt(hands, *nic).await,
        Step::DisconnectNic(nic) => nics::disconnect(hands, *nic).await,
        Step::PlugNic(nic) => nics::plug(hands, brief, *nic).await,
        Step::ReleaseNic(id) => nics::release(hands, brief, id).await,
        Step::CloseNic(id) => nics::close(hands, brief, id).await,
        Step::PutPort(nic) => nics::put_port(hands, *nic).await,

        Step::SetVcpus(count) => vcpus::set(hands, brief, count).await,
        Step::Pin(pinning) => pinning::pin(hands, brief, pinning.map(|pinning| *pinning)).await,
        Step::SetMemory(memory) => memory::set(hands, brief, memory).await,
        Step::ReadMemory => memory::read(hands, brief).await,
        Step::ExchangeMedium(iso) => medium::exchange(hands, iso).await,
    };
    match done {
        Ok(report) => Outcome::Done(report),
        Err(setback) => Outcome::Failed(setback),
    }
}

#[cfg(test)]
mod tests;
