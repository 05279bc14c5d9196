//! Connects to the monitor of a VM that runs, and asks it how things are.

use super::{Brief, Done, Hands};
use crate::vm::core::Setback;

pub(super) async fn connect(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn look(_hands: &Hands, _brief: &Brief, _devices: bool) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
