//! What a VM has on disk beside its images: looked for, and removed.

use super::{Brief, Done, Hands};
use crate::vm::core::Setback;

pub(super) async fn find(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn check_removable(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn erase(_hands: &Hands, _brief: &Brief, _half_made: bool) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn remove_run_files(_hands: &Hands) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
