//! Images, and disks that come and go while the VM runs.

use super::{Brief, Done, Hands};
use crate::{
    model::{Disk, IoLimits},
    vm::core::{DiskNo, Setback},
};

pub(super) async fn check_image(_hands: &Hands, _brief: &Brief, _no: DiskNo) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn make_image(_hands: &Hands, _brief: &Brief, _no: DiskNo, _size: u64) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn remove_image(_hands: &Hands, _brief: &Brief, _no: DiskNo) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn grow_image(_hands: &Hands, _brief: &Brief, _no: DiskNo, _size: u64) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn plug(_hands: &Hands, _brief: &Brief, _disk: Disk) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn release(_hands: &Hands, _brief: &Brief, _no: DiskNo) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn close(_hands: &Hands, _brief: &Brief, _no: DiskNo) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn resize(_hands: &Hands, _brief: &Brief, _no: DiskNo, _size: u64) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn throttle(_hands: &Hands, _brief: &Brief, _no: DiskNo, _limits: Option<IoLimits>) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
