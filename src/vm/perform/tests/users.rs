//! The user-mode network of these tests: QEMU itself carries it, and nobody bounds what guests reach by it; and the program that
//! they run.

use crate::{
    host::{launcher::QEMU_PROBE, sandbox::Programs},
    model::{Carrier, UserNetwork},
    qemu::Caps,
};

pub fn programs(caps: &Caps) -> Programs<'_> {
    let Caps { program, version, may_execute, .. } = caps;
    Programs { program, version, others: may_execute, permit: QEMU_PROBE, kvm: false }
}

pub fn user_network() -> UserNetwork {
    UserNetwork { carrier: Carrier::Slirp, reason: "tests".to_owned(), exposure: Some("tests".to_owned()) }
}
