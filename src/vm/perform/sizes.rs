//! vCPUs, pinning, memory and the medium of a running VM.

use std::path::PathBuf;

use super::{Brief, Done, Hands};
use crate::{model::CpuPinning, vm::core::Setback};

pub(super) async fn set_vcpus(_hands: &Hands, _brief: &Brief, _count: u32) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn pin(_hands: &Hands, _brief: &Brief, _pinning: Option<CpuPinning>) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn set_memory(_hands: &Hands, _brief: &Brief, _memory: u64) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn read_memory(_hands: &Hands, _brief: &Brief) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn exchange_medium(_hands: &Hands, _iso: Option<PathBuf>) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
