//! Gets a file from a server of somebody else's, by http or https: where that may be (`place`), how it is reached (`connect`),
//! and how a transfer that breaks off is taken up again (`transfer`). Where the bytes go, and what they are, is the caller's.
//!
//! A daemon on a host reaches what its clients do not: the host's own services, what answers on link-local addresses with
//! the host's secrets, the network behind. So it goes to public addresses, and to others only where its administrator says
//! so; the address is looked at that is connected to, whatever name or redirect led there.

mod connect;
mod place;
mod transfer;

use std::time::Duration;

use ipnet::IpNet;

pub use place::Place;
pub use transfer::{Broken, Run, Transfer};

/// Why there is no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The address is at fault; completes "must …".
    #[error("{0}")]
    Unsuitable(String),
    /// The server, or the way to it, when a part of it had come.
    #[error("{0}")]
    Elsewhere(String),
}

/// How long what is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For a name, for a connection, for an answer.
    connect: Duration,
    /// For the next piece.
    silence: Duration,
    /// Before it is tried again; longer each time.
    pause: Duration,
}

const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(15), silence: Duration::from_secs(30), pause: Duration::from_secs(1) };

/// Gets files.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// Beside public addresses.
    allowed: Vec<IpNet>,
    patience: Patience,
}

impl Fetcher {
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed, patience: PATIENCE }
    }

    /// Nothing is asked yet. `is_checked`: there is a sum that the whole is compared with at its end.
    pub fn transfer(&self, place: Place, is_checked: bool) -> Transfer {
        Transfer::new(self.clone(), place, is_checked)
    }
}

#[cfg(test)]
mod tests;
