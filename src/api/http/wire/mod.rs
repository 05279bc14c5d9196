//! What stands between a socket and hyper, and sees to three things that hyper leaves to its user (docs/adr/0016):
//!
//! - how long a connection may be silent, which is not how long a head may take to arrive;
//! - that what is no request (a malformed head, one that is too large, or does not come) is answered by the dialect, and
//!   not by hyper with an empty body: hyper is given a small request in its place, and the service the objection;
//! - that no answer is lost because something unread was in the socket when it was closed.
//!
//! It gives hyper one whole head at a time, and of a body what has arrived. What a request means is not known here.

mod body;
mod head;
mod outgoing;
mod socket;
mod turns;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::inflight::InFlight;
use super::limits::for_bytes;
use super::{HttpError, Limits};
use body::Framing;
use head::Head;
pub(crate) use head::fuzz;
pub(super) use outgoing::{Pace, TurnBody};
pub use socket::Socket;
pub(super) use turns::{Refused, Turns};

/// Bytes taken off the socket at once.
const CHUNK: usize = 8 * 1024;
/// After the last answer, how long and how much is still taken off the socket: a client that sends before it reads
/// would else get a reset in the place of its answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// For the rest of a head, where others need the place.
const HURRY: Duration = Duration::from_secs(1);
/// How long a client may take nothing of its answer once the server is told to end.
const STALL_AT_THE_END: Duration = Duration::from_secs(2);
/// The same while the server ends.
const LINGER_AT_THE_END: Duration = Duration::from_millis(100);

/// A socket as hyper is to see it.
pub(super) struct Wire<Io> {
    io: Io,
    limits: Limits,
    turns: Arc<Turns>,
    in_flight: InFlight,
    /// Whether it is to go, for somebody else.
    leave: watch::Receiver<bool>,
    leaving: Option<BoxFuture<'static, ()>>,
    /// Arrived, and not given to hyper.
    input: BytesMut,
    /// How much of it may be given.
    pass: usize,
    next: Next,
    clock: Pin<Box<Sleep>>,
    /// Runs while something is to be written and the client takes nothing, since when that is so.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
    /// It ends in silence: there is no last answer that could be lost.
    sent_away: bool,
    closing: Option<Linger>,
}

/// What arrives next.
enum Next {
    Head {
        looked_at: usize,
        /// When its first byte came.
        since: Option<Instant>,
    },
    Body(Framing),
    /// Whatever it is, hyper is given all of it: another protocol, or a body whose end cannot be found.
    Anything,
    /// Nothing that anybody wants.
    Nothing,
}

impl Next {
    const HEAD: Self = Self::Head { looked_at: 0, since: None };
}

struct Linger {
    until: Instant,
    taken: usize,
}

impl<Io: Socket> Wire<Io> {
    pub fn new(io: Io, limits: Limits, turns: Arc<Turns>, in_flight: InFlight, leave: watch::Receiver<bool>) -> Self {
        Self {
            io,
            limits,
            turns,
            in_flight,
            leave,
            leaving: None,
            input: BytesMut::new(),
            pass: 0,
            next: Next::HEAD,
            clock: Box::pin(tokio::time::sleep(Duration::ZERO)),
            stalled: None,
            sent_away: false,
            closing: None,
        }
    }

    /// Decides how much of what has arrived hyper may have.
    fn judge(&mut self) {
        if self.turns.is_upgraded() {
            self.next = Next::Anything;
        }
        match &mut self.next {
            Next::Head { looked_at, since } => {
                since.get_or_insert_with(Instant::now);
                match head::judge(&self.input, *looked_at, self.limits.header_bytes) {
                    Head::Partial => *looked_at = self.input.len(),
                    Head::Whole { length, body } => {
                        self.pass = length;
                        self.next = body.map_or(Next::HEAD, Next::Body);
                        self.turns.begin();
                    }
                    Head::Refused(error) => self.refuse(error),
                }
            }
            Next::Body(framing) => {
                self.pass = framing.take(&self.input);
                if framing.is_lost() {
                    self.turns.make_last();
                    self.next = Next::Anything;
                    self.pass = self.input.len();
                } else if framing.is_over() {
                    self.next = Next::HEAD;
                }
            }
            Next::Anything => self.pass = self.input.len(),
            Next::Nothing => self.input.clear(),
        }
    }

    /// Puts a request that hyper takes in the place of what is none.
    fn refuse(&mut self, error: HttpError) {
        let substitute = head::substitute(&self.input);
        self.input = BytesMut::from(substitute.as_bytes());
        self.pass = self.input.len();
        self.next = Next::Nothing;
        self.turns.refuse(error);
    }

    /// Nothing has arrived: what time has to say to that.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Silence> {
        let Next::Head { since, .. } = &self.next else { return Poll::Pending };
        if self.turns.is_upgraded() {
            return Poll::Pending;
        }
        if let Some(since) = *since {
            let hurried = self.poll_leave(cx).is_ready();
            let patience = if hurried { HURRY.min(self.limits.header_timeout) } else { self.limits.header_timeout };
            let patience = patience + for_bytes(self.input.len());
            ready!(self.clock_at(since + patience, cx));
            return Poll::Ready(Silence::HeadLate { patience });
        }
        // While a request is answered, the client has nothing to say.
        let Some(silence) = self.turns.silence() else { return Poll::Pending };
        if self.poll_leave(cx).is_ready() {
            self.sent_away = true;
            return Poll::Ready(Silence::Over);
        }
        let end = silence.since + self.limits.silence.max(self.limits.idle);
        self.clock_at(end, cx).map(|()| Silence::Over)
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if *self.leave.borrow() {
            return Poll::Ready(());
        }
        let mut leave = self.leave.clone();
        let leaving =
            self.leaving.get_or_insert_with(|| async move { drop(leave.wait_for(|leave| *leave).await) }.boxed());
        ready!(leaving.poll_unpin(cx));
        self.leaving = None;
        Poll::Ready(())
    }

    /// Hears whether the client of a stream without end has gone. Who shuts its own side has: nobody else would ever be known to.
    fn listen(&mut self, cx: &mut Context<'_>) {
        // What it says meanwhile, such as its next request, waits.
        while self.input.len() < CHUNK {
            match self.poll_socket(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return self.turns.hang_up(),
                Poll::Pending => return,
            }
        }
    }

    /// Cuts off a client that does not take what it asked for: its answer is kept in memory for as long.
    fn progress<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.turns.moves();
            }
            return written;
        }
        // Who takes nothing is not waited for at the end.
        let patience = if self.in_flight.is_draining() { STALL_AT_THE_END } else { self.limits.stall };
        let patience = patience.min(self.limits.stall);
        if self.stalled.is_none() {
            self.turns.stalls();
        }
        let leaving = self.poll_leave(cx).is_ready();
        let (since, clock) =
            self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(patience))));
        let end = *since + patience;
        if clock.deadline() != end {
            clock.as_mut().reset(end);
        }
        if !leaving {
            ready!(clock.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }

    fn clock_at(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.deadline() != at {
            self.clock.as_mut().reset(at);
        }
        self.clock.as_mut().poll(cx)
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [std::mem::MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
        self.input.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    }
}

/// What a silence has come to.
enum Silence {
    /// A head has begun, and does not come to its end.
    HeadLate { patience: Duration },
    /// The connection is not kept any longer.
    Over,
}

impl<Io: Socket> AsyncRead for Wire<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.pass == 0 && !this.input.is_empty() {
                this.judge();
            }
            if this.pass > 0 {
                let given = this.pass.min(buf.remaining());
                buf.put_slice(&this.input[..given]);
                this.input.advance(given);
                this.pass -= given;
                return Poll::Ready(Ok(()));
            }
            match this.poll_socket(cx) {
                // The end: hyper is told by an empty read.
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            match ready!(this.poll_clock(cx)) {
                Silence::HeadLate { patience } => this.refuse(HttpError::HeadTimeout { seconds: patience.as_secs() }),
                // The very last look: a request that is here is answered, however late it came.
                Silence::Over if this.io.has_arrived() => {
                    this.sent_away = false;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Silence::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<Io: Socket> AsyncWrite for Wire<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.progress(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.progress(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turns.is_listened_to() {
            self.listen(cx);
        }
        let mut flushed = Pin::new(&mut self.io).poll_flush(cx);
        // Of a stream nothing more is made before there is room for it: so a client that takes nothing costs nothing.
        if matches!(flushed, Poll::Ready(Ok(()))) && self.turns.is_piece_out() {
            flushed = self.io.poll_room(cx);
        }
        let flushed = self.progress(flushed, cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.turns.piece_is_gone();
        }
        flushed
    }

    /// Tells the client that nothing more comes, and then takes off the socket what it had sent before it knew: closing a
    /// socket with something unread in it resets the connection, and the last answer with it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            let patience = match (this.sent_away, this.in_flight.is_over()) {
                (true, _) => Duration::ZERO,
                (false, true) => LINGER_AT_THE_END,
                (false, false) => LINGER,
            };
            this.closing = Some(Linger { until: Instant::now() + patience, taken: 0 });
        }
        loop {
            this.input.clear();
            match this.poll_socket(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(taken)) => {
                    let Some(linger) = &mut this.closing else { return Poll::Ready(Ok(())) };
                    linger.taken += taken;
                    if linger.taken > LINGER_BYTES {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Pending => {
                    let until = this.closing.as_ref().map_or_else(Instant::now, |linger| linger.until);
                    return this.clock_at(until, cx).map(Ok);
                }
            }
        }
    }
}
