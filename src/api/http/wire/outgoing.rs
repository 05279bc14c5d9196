//! The body of an answer on its way out, as hyper is given it: whole ones in pieces that do not keep the whole, streams one piece
//! at a time, and only while the client takes them (docs/adr/0033).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, SizeHint};

use super::turns::Turn;
use crate::api::http::PIECE;
use crate::api::http::answers::Held;
use crate::api::http::inflight::InFlight;
use crate::api::http::streaming::{Lasting, Streaming};

/// Bytes of a whole answer that hyper is given at once.
const PART: usize = 64 * 1024;

/// When hyper has written it, or gives it up, the turn ends.
pub struct TurnBody<B> {
    body: B,
    /// Of the last frame, what was not given yet.
    rest: Bytes,
    /// What is given is copied, for a piece of something large would keep the whole.
    large: bool,
    pace: Option<Pace>,
    _held: Option<Held>,
    turn: Turn,
}

/// How a stream is let out.
pub(in crate::api::http) struct Pace {
    farewell: Option<Bytes>,
    /// Until nobody is to wait for it.
    lasting: Option<Lasting>,
    /// Room for the piece that is out or is being made.
    room: Option<Held>,
    waits_for_room: Option<BoxFuture<'static, Option<Held>>>,
    /// The daemon is told to end; then its patience is over.
    draining: Option<BoxFuture<'static, ()>>,
    over: BoxFuture<'static, ()>,
    /// Its caller may not have it any more.
    dismissed: Option<BoxFuture<'static, ()>>,
    dismissal: Bytes,
    is_dismissed: bool,
    ended: bool,
}

impl Pace {
    pub fn new(streaming: Streaming, lasting: Option<Lasting>, in_flight: &InFlight) -> Self {
        let (draining, over) = (in_flight.clone(), in_flight.clone());
        let vigil = lasting.as_ref().and_then(Lasting::vigil);
        Self {
            dismissed: vigil.map(|vigil| vigil.is_over().boxed()),
            dismissal: streaming.dismissal,
            is_dismissed: false,
            farewell: streaming.farewell,
            lasting,
            room: None,
            waits_for_room: None,
            draining: Some(async move { draining.draining().await }.boxed()),
            over: async move { over.over().await }.boxed(),
            ended: false,
        }
    }

    /// Whether it has to end now, at the next end of a frame.
    fn is_called_off(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(dismissed) = &mut self.dismissed
            && dismissed.poll_unpin(cx).is_ready()
        {
            (self.dismissed, self.is_dismissed) = (None, true);
            if let Some(farewell) = &mut self.farewell {
                *farewell = std::mem::take(&mut self.dismissal);
                self.lasting = None;
            }
        }
        if self.is_dismissed {
            return self.farewell.is_some();
        }
        if let Some(draining) = &mut self.draining
            && draining.poll_unpin(cx).is_ready()
        {
            self.draining = None;
            if self.farewell.is_some() {
                // Nobody waits for one that has no end.
                self.lasting = None;
            }
        }
        self.draining.is_none() && self.farewell.is_some()
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lasting) = &self.lasting else { return Poll::Ready(()) };
        if self.room.is_none() {
            self.room = ready!(self.waits_for_room.get_or_insert_with(|| lasting.piece()).poll_unpin(cx));
            self.waits_for_room = None;
        }
        Poll::Ready(())
    }
}

impl<B> TurnBody<B> {
    pub(in crate::api::http) fn new(turn: Turn, body: B, held: Option<Held>, pace: Option<Pace>) -> Self {
        turn.turns().listens(pace.as_ref().is_some_and(|pace| pace.farewell.is_some()));
        Self { body, rest: Bytes::new(), large: false, pace, _held: held, turn }
    }

    /// What hyper is given next. It keeps what it was given until that is written.
    fn part(&mut self) -> Bytes {
        let most = if self.pace.is_some() { PIECE } else { PART };
        if self.rest.len() <= most && !self.large {
            return std::mem::take(&mut self.rest);
        }
        let part = Bytes::copy_from_slice(&self.rest[..self.rest.len().min(most)]);
        self.rest.advance(part.len());
        if self.rest.is_empty() {
            (self.rest, self.large) = (Bytes::new(), false);
        }
        part
    }

    fn piece(&mut self) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.turn.turns().piece_goes();
        Poll::Ready(Some(Ok(Frame::data(self.part()))))
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin> TurnBody<B> {
    fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            match ready!(self.poll_inner(cx)) {
                Some(Ok(data)) => (self.large, self.rest) = (data.len() > PART, data),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.part()))))
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(pace) = &mut self.pace else { return Poll::Ready(None) };
        if pace.ended {
            return Poll::Ready(None);
        }
        if pace.farewell.is_some() && self.turn.turns().poll_hung_up(cx).is_ready() {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has hung up"))));
        }
        let called_off = pace.is_called_off(cx);
        if pace.is_dismissed && !called_off {
            let cut = "its caller may not have the rest of a stream any more";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::PermissionDenied, cut))));
        }
        if pace.over.poll_unpin(cx).is_ready() && !called_off {
            let cut = "the daemon ends before a stream has come to its end";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::Interrupted, cut))));
        }
        ready!(self.turn.turns().poll_piece(cx));
        if !self.rest.is_empty() {
            return self.piece();
        }
        pace.room = None;
        if called_off {
            pace.ended = true;
            self.rest = pace.farewell.take().unwrap_or_default();
            return if self.rest.is_empty() { Poll::Ready(None) } else { self.piece() };
        }
        ready!(pace.poll_room(cx));
        let next = self.poll_inner(cx);
        let Some(pace) = &mut self.pace else { return Poll::Ready(None) };
        match next {
            Poll::Pending => {
                // Nothing is being made that room would be needed for.
                pace.room = None;
                Poll::Pending
            }
            Poll::Ready(Some(Ok(data))) => {
                (self.large, self.rest) = (data.len() > PIECE, data);
                self.piece()
            }
            Poll::Ready(end) => {
                (pace.ended, pace.room) = (true, None);
                Poll::Ready(end.map(|end| end.map(Frame::data)))
            }
        }
    }

    /// Without trailers: nobody here sends any.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    // Of nothing hyper would make the end of a chunked body.
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                    _ => {}
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin> Body for TurnBody<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.pace.is_some() { self.poll_stream(cx) } else { self.poll_whole(cx) }
    }

    fn is_end_stream(&self) -> bool {
        self.pace.is_none() && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::super::Turns;
    use super::*;

    #[tokio::test]
    async fn a_large_body_comes_in_pieces_that_do_not_keep_it() {
        let (turn, _) = Turns::new().serve();
        let whole: Vec<u8> = (0..PART * 5 / 2).map(|n| n as u8).collect();
        let mut body = TurnBody::new(turn, Full::new(Bytes::from(whole.clone())), None, None);
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut pieces = Vec::new();
        while !body.is_end_stream() {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(body.size_hint().exact(), Some((whole.len() - pieces.len() - piece.len()) as u64));
            assert!(piece.len() <= PART);
            pieces.extend_from_slice(&piece);
        }
        assert_eq!(pieces, whole);
    }
}
