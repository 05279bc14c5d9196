//! Answers that come piece by piece: what a handler says of one, and what the plumbing keeps for as long as it lasts. How
//! its pieces are let out is the wire's business (`wire::outgoing`).

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, future::BoxFuture};
use warp::{Reply as _, reply::Response};

use super::{
    answers::{Answers, Held},
    callers::UnderWay,
    inflight::Guard,
    upgrade::Upgrading,
};
use crate::service::access::Vigil;

/// What a handler gives: pieces of up to [`PIECE`](super::PIECE) bytes, made when they are asked for. An error cuts the connection, so that
/// a client does not take what it has for the whole.
pub type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// An extension of a response whose body is a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Streaming {
    /// It would go on for as long as the daemon does. When that ends, this is its last piece.
    pub farewell: Option<Bytes>,
    /// The same, when its caller may not have it any more.
    pub dismissal: Bytes,
}

/// An extension of a response that lasts, as a stream or as another protocol: its request counts as under way until it is over.
#[derive(Clone)]
pub(super) struct Lasting(Arc<Holds>);

struct Holds {
    answers: Arc<Answers>,
    vigil: Option<Vigil>,
    _guard: Guard,
    _under_way: UnderWay,
}

impl Lasting {
    pub fn new(answers: Arc<Answers>, vigil: Option<Vigil>, guard: Guard, under_way: UnderWay) -> Self {
        Self(Arc::new(Holds { answers, vigil, _guard: guard, _under_way: under_way }))
    }

    /// What ends when its caller may not have it any more; none of one who may for as long as it lasts.
    pub fn vigil(&self) -> Option<Vigil> {
        self.0.vigil.clone()
    }

    /// Room for a piece, as soon as there is.
    pub fn piece(&self) -> BoxFuture<'static, Option<Held>> {
        Arc::clone(&self.0.answers).piece().boxed()
    }
}

/// Whether a response goes on when its handler is done.
pub(super) fn lasts(response: &Response) -> bool {
    response.extensions().get::<Streaming>().is_some() || response.extensions().get::<Upgrading>().is_some()
}

/// A response with such a body.
pub(super) fn response(pieces: Pieces) -> Response {
    warp::reply::stream(Apart(Mutex::new(pieces))).into_response()
}

/// warp wants bodies that threads could share, and no thread shares one.
struct Apart(Mutex<Pieces>);

impl Stream for Apart {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_next(cx)
    }
}
