//! Ends processes.

use super::{Brief, Done, Hands};
use crate::vm::core::Setback;

pub(super) async fn kill(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn end_strays(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
