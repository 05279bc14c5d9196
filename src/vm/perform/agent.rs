//! Asks the guest.

use super::{Done, Hands};
use crate::vm::core::{Mode, Setback};

pub(super) async fn ask(_hands: &Hands, _mode: Mode, _by_agent: bool, _agent_only: bool) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn press_button(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
