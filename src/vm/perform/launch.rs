//! From nothing to a QEMU whose guest may run.

use super::{Brief, Done, Hands};
use crate::vm::core::Setback;

pub(super) async fn prepare(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn spawn(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn greet(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn tune(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
