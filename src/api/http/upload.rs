//! A body that is too long to be held: its handler takes it piece by piece, and holds up the client meanwhile. What of it is
//! not taken is read off the wire, so that the client finds its answer. Who does not want to wait on the line for what comes
//! after it is answered when all of it is there, and not before.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{
    Stream,
    stream::{self, BoxStream},
};
use tokio::{sync::watch, time::Instant};

use super::{HttpError, incoming::Incoming};

type Body = Incoming<BoxStream<'static, Result<Bytes, ()>>>;

/// The body of a request whose route takes uploads; it can be taken once.
#[derive(Clone)]
pub struct Upload(Arc<Inner>);

struct Inner {
    declared: Option<u64>,
    body: Mutex<Option<Body>>,
    arrived: watch::Sender<bool>,
}

impl Upload {
    fn new(body: Body) -> Self {
        let declared = body.declared();
        Self(Arc::new(Inner { declared, body: Some(body).into(), arrived: watch::Sender::new(false) }))
    }

    /// A body as its handler is given it: to be taken, where its route takes uploads, or else read whole.
    pub(super) async fn or_whole<T>(takes: bool, body: Incoming<T>) -> (Result<Bytes, HttpError>, Option<Self>)
    where
        T: Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static,
    {
        match takes {
            true => (Ok(Bytes::new()), Some(Self::new(body.boxed()))),
            false => (body.read().await, None),
        }
    }

    /// Bytes, where the client says so.
    pub fn declared(&self) -> Option<u64> {
        self.0.declared
    }

    /// The pieces in their order.
    pub fn pieces(&self) -> impl Stream<Item = Result<Bytes, HttpError>> + Unpin + Send + use<> {
        let body = self.0.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        let taken = body.map(|body| Taken { body: Some(body), begun: Instant::now(), count: 0, inner: self.0.clone() });
        Box::pin(stream::try_unfold(taken, async |taken| {
            let Some(mut taken) = taken else { return Ok(None) };
            let Some(body) = &mut taken.body else { return Ok(None) };
            let Some(piece) = body.next(taken.begun, taken.count).await? else { return Ok(None) };
            taken.count = taken.count.saturating_add(piece.len());
            Ok(Some((piece, Some(taken))))
        }))
    }

    /// Returns when all of it is there, or nobody takes it any more.
    pub(super) async fn arrived(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.arrived.subscribe().wait_for(|arrived| *arrived).await;
    }
}

/// Being taken.
struct Taken {
    body: Option<Body>,
    begun: Instant,
    count: usize,
    inner: Arc<Inner>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            body.linger();
        }
        self.inner.arrived.send_replace(true);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Refused before anything of it was wanted.
        if let Some(body) = self.body.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            body.linger();
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("declared", &self.0.declared).finish_non_exhaustive()
    }
}
