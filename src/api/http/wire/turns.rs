//! What the two ends of hyper have to tell each other about one connection: the wire below it, which gives it heads, and
//! the service above it, which gives it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::http::HttpError;

/// A client that takes nothing for so long has less of a claim to its place than who has just come.
const STALLED: Duration = Duration::from_secs(1);

/// The requests of one connection.
pub struct Turns(Mutex<State>);

struct State {
    /// Heads that hyper was given, and requests that came out of it.
    begun: usize,
    served: usize,
    /// Answers that have been written.
    ended: usize,
    quiet_since: Instant,
    /// The last head was none; this is why.
    refusal: Option<HttpError>,
    last: bool,
    upgraded: bool,
    /// Since when the client takes nothing of what it asked for.
    stalled: Option<Instant>,
    /// A piece of a stream is on its way, and the next one not to be made.
    piece_out: bool,
    /// Who is to make it.
    maker: Option<Waker>,
    /// A stream without end is being answered, so that a client that says no more has hung up.
    listens: bool,
    hung_up: bool,
}

/// An extension of a request that stands for what was none: the objection, to be told in the dialect's shape.
#[derive(Debug, Clone)]
pub struct Refused(pub HttpError);

/// For how long nobody has had anything to say.
pub struct Silence {
    pub since: Instant,
}

impl Turns {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            begun: 0,
            served: 0,
            ended: 0,
            quiet_since: Instant::now(),
            refusal: None,
            last: false,
            upgraded: false,
            stalled: None,
            piece_out: false,
            maker: None,
            listens: false,
            hung_up: false,
        })))
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hyper is given a head.
    pub fn begin(&self) {
        self.state().begun += 1;
    }

    /// Hyper is given a head in the place of what was none.
    pub fn refuse(&self, error: HttpError) {
        let mut state = self.state();
        state.begun += 1;
        state.refusal = Some(error);
    }

    /// A request has come out of hyper: its turn, and the objection where it stands for what was none.
    pub fn serve(self: &Arc<Self>) -> (Turn, Option<HttpError>) {
        let mut state = self.state();
        state.served += 1;
        // Nothing is read after a refusal, so it is the last of all.
        let refused = if state.served == state.begun { state.refusal.take() } else { None };
        (Turn(Arc::clone(self)), refused)
    }

    /// `None` while something is asked or answered.
    pub fn silence(&self) -> Option<Silence> {
        let state = self.state();
        (state.begun == state.ended).then_some(Silence { since: state.quiet_since })
    }

    /// The client takes nothing of its answer from now on.
    pub fn stalls(&self) {
        self.state().stalled = Some(Instant::now());
    }

    /// The client takes something again.
    pub fn moves(&self) {
        self.state().stalled = None;
    }

    /// Hyper is given a piece of a stream.
    pub fn piece_goes(&self) {
        self.state().piece_out = true;
    }

    pub fn is_piece_out(&self) -> bool {
        self.state().piece_out
    }

    /// The socket has room for the next one; nothing to whom none is out, who would flush for being woken and be woken again.
    pub fn piece_is_gone(&self) {
        let mut state = self.state();
        if !std::mem::take(&mut state.piece_out) {
            return;
        }
        if let Some(maker) = state.maker.take() {
            maker.wake();
        }
    }

    /// Whether the next one may be made.
    pub fn poll_piece(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.piece_out {
            return Poll::Ready(());
        }
        state.maker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A stream without end begins, or ends.
    pub fn listens(&self, listens: bool) {
        self.state().listens = listens;
    }

    pub fn is_listened_to(&self) -> bool {
        let state = self.state();
        state.listens && !state.hung_up
    }

    /// The client says no more.
    pub fn hang_up(&self) {
        let mut state = self.state();
        state.hung_up = true;
        if let Some(maker) = state.maker.take() {
            maker.wake();
        }
    }

    /// Returns when it does.
    pub fn poll_hung_up(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.hung_up {
            return Poll::Ready(());
        }
        state.maker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Since when the client has neither said nor taken anything, if that is what is waited for.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        if state.begun == state.ended && !state.upgraded {
            return Some(state.quiet_since);
        }
        state.stalled.filter(|since| since.elapsed() >= STALLED)
    }

    /// The next answer is the last one.
    pub fn make_last(&self) {
        self.state().last = true;
    }

    pub fn is_last(&self) -> bool {
        self.state().last
    }

    /// From now on another protocol is spoken.
    pub fn upgrade(&self) {
        self.state().upgraded = true;
    }

    pub fn is_upgraded(&self) -> bool {
        self.state().upgraded
    }
}

/// One request, until its answer is written or given up.
pub struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended += 1;
        state.listens = false;
        state.quiet_since = Instant::now();
    }
}

impl Turn {
    pub(super) fn turns(&self) -> &Turns {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_silence_when_every_head_has_its_answer() {
        let turns = Turns::new();
        assert!(turns.silence().is_some());
        turns.begin();
        turns.begin();
        assert!(turns.silence().is_none());
        let ((one, no), (two, nor)) = (turns.serve(), turns.serve());
        assert!(no.is_none() && nor.is_none());
        drop(one);
        assert!(turns.silence().is_none());
        drop(two);
        assert!(turns.silence().is_some());
    }

    #[tokio::test]
    async fn a_refusal_is_for_the_request_that_stands_for_it() {
        let turns = Turns::new();
        turns.begin();
        turns.refuse(HttpError::BadHead { why: "x" });
        assert!(turns.serve().1.is_none());
        assert_eq!(turns.serve().1, Some(HttpError::BadHead { why: "x" }));
    }
}
