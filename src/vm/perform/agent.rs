//! Asks the guest to power off or to reboot: through its agent where one answers, else by the ACPI power button. Whether it
//! heeds is the deadline's matter. Has its agent freeze and thaw file systems.

use std::time::Duration;

use serde_json::json;

use super::{Done, Hands, Report};
use crate::{
    model::Error,
    qmp::{QgaError, ShutdownMode},
    vm::{
        core::{Mode, Setback},
        guest::{AgentError, command_in, failed},
    },
};

/// For the agent's connection, its greeting and its command: a live one answers in milliseconds.
const AGENT: Duration = Duration::from_secs(3);
/// For a guest to write what it holds.
const FREEZE: Duration = Duration::from_secs(25);
const THAW: Duration = Duration::from_secs(10);

pub(super) async fn ask(hands: &Hands, mode: Mode, by_agent: bool, agent_only: bool) -> Done {
    let mode = match mode {
        Mode::PowerOff => ShutdownMode::Powerdown,
        Mode::Reboot => ShutdownMode::Reboot,
    };
    if by_agent {
        match ask_agent(hands, mode).await {
            Ok(()) => return Ok(Report::Done),
            Err(error) if agent_only => {
                let why = format!("{error}; force=true cuts the power");
                return Err(Setback::Reported(Error::NoAgent { why }));
            }
            Err(error) => {
                tracing::info!(vm = %hands.id, %error, "the guest agent does not do it; pressing the power button");
            }
        }
    }
    press_button(hands).await
}

/// Before whatever else it is asked.
async fn ask_agent(hands: &Hands, mode: ShutdownMode) -> Result<(), AgentError> {
    let mut turn = hands.agent.first(AGENT).await?;
    let agent = turn.take().ok_or(QgaError::OutOfSync)?;
    Ok(agent.shutdown(mode, AGENT).await?)
}

/// Whatever was tried before: a guest in its firmware, or one that has just begun to boot, did not notice, and one that is
/// on its way down does not mind.
pub(super) async fn press_button(hands: &Hands) -> Done {
    hands.session()?.execute(qapi::qmp::system_powerdown {}).await?;
    Ok(Report::Done)
}

/// Before anything else is written there.
pub(super) async fn freeze(hands: &Hands) -> Done {
    let mut turn = hands.agent.turn(AGENT, FREEZE).await.map_err(|error| Setback::Reported(failed(&error)))?;
    command_in(&mut turn, "guest-fsfreeze-freeze", json!({})).await.map(Report::FileSystems).map_err(Setback::Reported)
}

/// Before whatever else it is command_in, as it does nothing else until then.
pub(super) async fn thaw(hands: &Hands) -> Done {
    let mut turn = hands.agent.first(THAW).await.map_err(|error| Setback::Reported(failed(&error)))?;
    command_in(&mut turn, "guest-fsfreeze-thaw", json!({})).await.map(Report::FileSystems).map_err(Setback::Reported)
}
