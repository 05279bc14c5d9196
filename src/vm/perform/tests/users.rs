//! The user-mode network of these tests: QEMU itself carries it, and nobody bounds what guests reach by it.

use crate::model::{Carrier, UserNetwork};

pub fn user_network() -> UserNetwork {
    UserNetwork { carrier: Carrier::Slirp, reason: "tests".to_owned(), exposure: Some("tests".to_owned()) }
}
