//! The guest's power, by QEMU.

use super::{Brief, Done, Hands};
use crate::vm::core::Setback;

pub(super) async fn go_on(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn pause(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn reset(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn quit(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn go_on_after_error(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
