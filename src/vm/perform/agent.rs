//! Asks the guest to power off or to reboot: through its agent where one answers, else by the ACPI power button. Whether it
//! heeds is the deadline's matter.

use std::time::Duration;

use super::{Done, Hands, Report};
use crate::{
    model::Error,
    qmp::{Agent, QgaError, ShutdownMode},
    vm::core::{Mode, Setback},
};

/// For the agent's connection, its greeting and its command: a live one answers in milliseconds.
const AGENT: Duration = Duration::from_secs(3);

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

async fn ask_agent(hands: &Hands, mode: ShutdownMode) -> Result<(), QgaError> {
    Agent::connect(&hands.paths.agent(), AGENT).await?.shutdown(mode, AGENT).await
}

/// Whatever was tried before: a guest in its firmware, or one that has just begun to boot, did not notice, and one that is
/// on its way down does not mind.
pub(super) async fn press_button(hands: &Hands) -> Done {
    hands.session()?.execute(qapi::qmp::system_powerdown {}).await?;
    Ok(Report::Done)
}
