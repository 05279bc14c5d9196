//! Answers after which another protocol is spoken on the connection. Which one is said by who answers; here is what it is
//! given, and what the connection has to know.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;

use super::inflight::InFlight;
use crate::service::access::Vigil;

/// The connection, as the other protocol has it. Who takes nothing of what is written for `Limits::stall` is cut off.
pub type Line = TokioIo<hyper::upgrade::Upgraded>;

/// What is said on it, to the end. What it gives back is closed in order.
pub type Talk = Box<dyn FnOnce(Line, Ending) -> BoxFuture<'static, Option<Line>> + Send>;

/// Tells that the daemon is to end, or its caller may not speak any more: a talk takes its leave then.
#[derive(Clone)]
pub struct Ending(InFlight, Option<Vigil>);

impl Ending {
    pub(super) fn of(in_flight: InFlight, vigil: Option<Vigil>) -> Self {
        Self(in_flight, vigil)
    }

    /// Returns once the daemon is to end.
    pub async fn begun(&self) {
        self.0.draining().await;
    }

    /// Returns once its caller's token is not good any more.
    pub async fn dismissed(&self) {
        match &self.1 {
            Some(vigil) => vigil.clone().is_over().await,
            None => std::future::pending().await,
        }
    }
}

/// An extension of a response with the status 101.
#[derive(Clone)]
pub(super) struct Upgrading(Arc<Mutex<Option<Talk>>>);

impl Upgrading {
    pub fn new(talk: Talk) -> Self {
        Self(Arc::new(Mutex::new(Some(talk))))
    }

    pub fn take(&self) -> Option<Talk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
