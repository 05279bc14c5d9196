//! NICs that come and go while the VM runs, and the host's side of every NIC.

use super::{Brief, Done, Hands};
use crate::{
    model::{Nic, NicId},
    vm::core::Setback,
};

pub(super) async fn connect(_hands: &Hands, _nic: Nic) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn adopt(_hands: &Hands, _nic: Nic) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn disconnect(_hands: &Hands, _nic: Nic) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn plug(_hands: &Hands, _brief: &Brief, _nic: Nic) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn release(_hands: &Hands, _brief: &Brief, _id: NicId) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn close(_hands: &Hands, _brief: &Brief, _id: NicId) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}

pub(super) async fn put_port(_hands: &Hands, _nic: Nic) -> Done {
    Err(Setback::Host("not wired".to_owned()))
}
