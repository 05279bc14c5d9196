//! Stores what is known of a VM.

use super::{Done, Hands};
use crate::vm::core::{Setback, Txn};

pub(super) async fn commit(_hands: &Hands, _txn: Txn) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
