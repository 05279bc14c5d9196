//! One connection, from its opening to its end: its requests one after the other, each with its answer, and what is spoken on it
//! after an upgrade. How long it is kept is the `wire`'s business, and whether there is a place for it the `room`'s.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use warp::http::{HeaderName, HeaderValue, Version, header};

use super::answers::Held;
use super::gate::Visitor;
use super::inflight::InFlight;
use super::listen::Arrival;
use super::room::{LONG, Seat};
use super::streaming::{Lasting, Streaming};
use super::upgrade::{Ending, Talk, Upgrading};
use super::wire::{Pace, Refused, TurnBody, Turns, Wire};
use super::{Limits, Response};

/// After a talk, for its connection to be closed in order.
const CLOSING: Duration = Duration::from_secs(2);

/// What answers: `warp::service(filter)` is one.
pub trait Service:
    tower_service::Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<T> Service for T where
    T: tower_service::Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

pub(super) struct Connection {
    pub in_flight: InFlight,
    pub limits: Limits,
    pub seat: Arc<Seat>,
    pub turns: Arc<Turns>,
}

/// What is spoken when the last answer of HTTP has been written.
struct Upgrade {
    line: OnUpgrade,
    talk: Talk,
    ending: Ending,
    /// It is among the connections until it ends.
    _seat: Arc<Seat>,
    _lasting: Option<Lasting>,
}

/// Where an answer leaves it.
type Next = Arc<Mutex<Option<Upgrade>>>;

impl Connection {
    pub async fn run(self, http: http1::Builder, arrival: impl Arrival, service: impl Service) {
        let Self { in_flight, limits, seat, turns } = self;
        let mut leave = seat.leave.clone();
        let opened = tokio::select! {
            // Who has something to say is not sent away by this.
            biased;
            opened = tokio::time::timeout(limits.header_timeout, arrival.open()) => opened,
            () = in_flight.over() => return,
            _ = leave.wait_for(|leave| *leave) => return,
        };
        let (io, peer) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return tracing::debug!(%error, "a connection came to nothing"),
            Err(_) => return tracing::debug!("a client has not begun to speak"),
        };
        let visitor = Visitor::new(peer);
        seat.is_of(Arc::clone(&visitor));
        let kept = HeaderValue::from_str(&format!("timeout={}", limits.idle.as_secs())).ok();
        let wire = Wire::new(io, limits, Arc::clone(&turns), in_flight.clone(), seat.leave.clone());
        let next = Next::default();
        let closing = in_flight.clone();
        let exchange = Arc::new(Exchange { in_flight, seat, turns, visitor, kept, next: Arc::clone(&next) });
        let answer =
            service_fn(move |request: hyper::Request<Incoming>| Arc::clone(&exchange).answer(service.clone(), request));
        let mut connection = pin!(http.serve_connection(TokioIo::new(wire), answer).with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.closing() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(err) = ended {
            return tracing::debug!(%err, "a connection ended badly");
        }
        let upgrade = next.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(upgrade) = upgrade {
            upgrade.speak().await;
        }
    }
}

/// What each request of a connection needs of it.
struct Exchange {
    in_flight: InFlight,
    seat: Arc<Seat>,
    turns: Arc<Turns>,
    visitor: Arc<Visitor>,
    /// How long it is kept, as a header says it.
    kept: Option<HeaderValue>,
    next: Next,
}

impl Exchange {
    async fn answer(
        self: Arc<Self>,
        mut service: impl Service,
        mut request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<impl Body<Data = Bytes, Error = io::Error> + Send + 'static>, Infallible> {
        let (turn, refused) = self.turns.serve();
        if let Some(error) = refused {
            request.extensions_mut().insert(Refused(error));
        }
        request.extensions_mut().insert(self.in_flight.clone());
        request.extensions_mut().insert(Arc::clone(&self.visitor));
        let modern = request.version() == Version::HTTP_11;
        if !modern {
            // RFC 9110, 7.8: it is to be passed over.
            request.headers_mut().remove(header::UPGRADE);
        }
        let line = hyper::upgrade::on(&mut request);
        // warp's service is always ready, so `poll_ready` is not asked.
        let mut answer = pin!(service.call(request));
        let mut response = match tokio::time::timeout(LONG, &mut answer).await {
            Ok(response) => response?,
            Err(_) => {
                self.seat.give_place();
                answer.await?
            }
        };
        let streaming = response.extensions_mut().remove::<Streaming>();
        let lasting = response.extensions_mut().remove::<Lasting>();
        let talk = response.extensions_mut().remove::<Upgrading>().and_then(|upgrading| upgrading.take());
        if streaming.is_some() || talk.is_some() {
            // It lasts: its place is for others. The next request takes one again with its answer.
            self.seat.give_place();
        } else if !self.seat.take_place() {
            self.turns.make_last();
        }
        let pace = streaming.map(|streaming| Pace::new(streaming, lasting.clone(), &self.in_flight));
        if let Some(talk) = talk {
            self.turns.upgrade();
            let (ending, seat) =
                (Ending::of(self.in_flight.clone(), lasting.as_ref().and_then(Lasting::vigil)), Arc::clone(&self.seat));
            let upgrade = Upgrade { line, talk, ending, _seat: seat, _lasting: lasting };
            *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
        } else if modern && !response.headers().contains_key(header::CONNECTION) {
            response.headers_mut().extend(self.how_long());
        }
        let held = response.extensions_mut().remove::<Held>();
        Ok(response.map(|body| TurnBody::new(turn, body, held, pace)))
    }

    /// Whether the connection is kept, and for how long.
    fn how_long(&self) -> Option<(HeaderName, HeaderValue)> {
        // Its place is needed, and there is no better time to tell than with an answer.
        if *self.seat.full.borrow() || *self.seat.leave.borrow() || self.turns.is_last() {
            return Some((header::CONNECTION, HeaderValue::from_static("close")));
        }
        Some((HeaderName::from_static("keep-alive"), self.kept.clone()?))
    }
}

impl Upgrade {
    async fn speak(self) {
        let line = match self.line.await {
            Ok(line) => line,
            Err(error) => return tracing::debug!(%error, "a client did not wait for the protocol that it asked for"),
        };
        let Some(mut line) = (self.talk)(TokioIo::new(line), self.ending).await else { return };
        // What it has sent last is still taken off the socket, or closing that would take back what it was told.
        let _ = tokio::time::timeout(CLOSING, line.shutdown()).await;
    }
}
