//! What the agent of a VM's guest is asked beside the VM's own steps: what it knows of its guest, to run a command, to read and
//! write files, to set the clock. Nothing of it changes what is stored of the VM, so the core has no part in it; what the core
//! asks of an agent goes by the same [`Channel`], before all others (docs/adr/0053). A guest is not to be trusted: every answer
//! has its bound, and what is not as expected is an error of the agent's.

mod channel;
mod exec;
mod files;
mod info;
mod interfaces;
mod reports;

use std::{sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(in crate::vm) use channel::{AgentError, Channel, Turn};
pub use exec::{Command, Executed, MOST_OUTPUT};
pub use files::{GuestFile, Write};
pub use info::{AgentInfo, FileSystem, GuestUser, Interface, Os};
pub(crate) use interfaces::GuestInterface;
pub(in crate::vm) use reports::{Asking, Reports};
pub(crate) use reports::{FRESH, report};

use crate::{
    model::{Error, Result},
    qmp::QgaError,
};

/// For one's turn to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what an agent does at once.
const SOON: Duration = Duration::from_secs(10);
/// What qemu-ga says of every command but a few while it keeps file systems frozen.
const FROZEN: &str = "frozen";

/// The agent of one guest, from outside the VM's task.
#[derive(Clone, Debug)]
pub struct Guest(Arc<Channel>);

impl Guest {
    pub(in crate::vm) fn by(channel: Arc<Channel>) -> Self {
        Self(channel)
    }

    /// One command, and its answer.
    ///
    /// # Errors
    /// As [`Self::set_time`].
    async fn ask<T: DeserializeOwned>(&self, command: &str, arguments: Value, time: Duration) -> Result<T> {
        let mut turn = self.turn(time).await?;
        command_in(&mut turn, command, arguments).await
    }

    async fn turn(&self, time: Duration) -> Result<Turn> {
        self.0.turn(PATIENCE, time).await.map_err(|error| failed(&error))
    }

    /// Sets the clock of the guest; `time` is nanoseconds since 1970.
    ///
    /// # Errors
    /// Those of an agent: [`Error::AgentLacks`], [`Error::AgentFails`], [`Error::GuestRefuses`].
    pub async fn set_time(&self, time: i64) -> Result<()> {
        // It has a program of the guest write the hardware's clock too.
        self.ask::<Value>("guest-set-time", json!({ "time": time }), 3 * SOON).await.map(drop)
    }
}

/// One command in a turn.
///
/// # Errors
/// As [`refused`].
pub(in crate::vm) async fn command_in<T: DeserializeOwned>(
    turn: &mut Turn,
    command: &str,
    arguments: Value,
) -> Result<T> {
    let arguments = Some(arguments).filter(|arguments| arguments.as_object().is_some_and(|all| !all.is_empty()));
    let answer = match turn.execute(command, arguments).await {
        Ok(answer) => answer,
        Err(error) => return Err(refused(turn, error).await),
    };
    read(command, answer)
}

fn read<T: DeserializeOwned>(command: &str, answer: Value) -> Result<T> {
    let odd = |error: serde_json::Error| Error::AgentFails { why: format!("its answer to {command} is none: {error}") };
    serde_json::from_value(answer).map_err(odd)
}

/// What an agent's refusal is to a client: a command that it has not, or that it may not do now, or what the guest says to it.
async fn refused(turn: &mut Turn, error: AgentError) -> Error {
    let AgentError::Agent(QgaError::Refused { command, class, desc }) = error else { return failed(&error) };
    if class != "CommandNotFound" {
        return Error::GuestRefuses { command, why: bounded(&desc) };
    }
    if desc.contains(FROZEN) {
        return crate::model::Conflict::Frozen.into();
    }
    let version = info::version(turn).await.unwrap_or_else(|| "unknown".to_owned());
    Error::AgentLacks { command, version }
}

pub(in crate::vm) fn failed(error: &AgentError) -> Error {
    Error::AgentFails { why: bounded(&error.to_string()) }
}

/// Words of a guest's.
fn bounded(text: &str) -> String {
    const MOST: usize = 1024;
    text.chars().filter(|c| !c.is_control()).take(MOST).collect()
}

#[cfg(test)]
mod tests;
