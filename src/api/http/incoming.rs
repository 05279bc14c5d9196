//! The body of a request on its way in: how much of it is read, how long that may take, and what becomes of one that nobody
//! wants. What it says is not known here.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;
use warp::Buf;
use warp::http::{HeaderMap, header};

use super::HttpError;
use super::limits::for_bytes;

/// The largest body that is read whole.
const BODY_LIMIT: usize = 1024 * 1024;
/// How long a body may take to arrive, and what its bytes take at the least rate; of one that is taken piece by piece, each
/// piece.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that nobody wants is still taken off the wire within these bounds. A client that writes its whole body
/// before it looks for an answer would otherwise be cut off and see a broken pipe where it should read its 413.
const LINGER_LIMIT: usize = 128 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(10);

/// A request's body before it is read. Nothing is asked of the client (`100 Continue`) until `read` is called.
pub(super) struct Incoming<T> {
    stream: T,
    declared: Option<u64>,
    present: bool,
    expects_continue: bool,
}

impl Incoming<()> {
    pub fn new<B: Buf, E>(
        stream: impl Stream<Item = Result<B, E>> + Send + 'static,
        headers: &HeaderMap,
    ) -> Incoming<impl Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static> {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let stream = stream.map(|frame| {
            // `Bytes` underneath, so this shares and does not copy.
            frame.map(|mut buf| buf.copy_to_bytes(buf.remaining())).map_err(|_| ())
        });
        Incoming {
            stream: Box::pin(stream),
            declared,
            present: declared.is_some_and(|n| n > 0) || headers.contains_key(header::TRANSFER_ENCODING),
            expects_continue: headers.contains_key(header::EXPECT),
        }
    }
}

impl<T: Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static> Incoming<T> {
    pub async fn read(mut self) -> Result<Bytes, HttpError> {
        if !self.present {
            return Ok(Bytes::new());
        }
        if self.declared.is_some_and(|n| n > BODY_LIMIT as u64) {
            self.linger();
            return Err(HttpError::TooLarge { limit: BODY_LIMIT });
        }
        match collect(&mut self.stream).await {
            Err(error @ HttpError::TooLarge { .. }) => {
                self.expects_continue = false;
                self.linger();
                Err(error)
            }
            result => result,
        }
    }

    /// For who takes it piece by piece.
    pub fn boxed(self) -> Incoming<BoxStream<'static, Result<Bytes, ()>>> {
        let Self { stream, declared, present, expects_continue } = self;
        Incoming { stream: stream.boxed(), declared, present, expects_continue }
    }

    /// Answers are not held up by this: it goes on beside them. When it gives up, the connection is closed.
    pub fn linger(self) {
        // A client that waits for `100 Continue` has sent nothing that would have to be taken off the wire.
        if self.expects_continue || !self.present {
            return;
        }
        tokio::spawn(tokio::time::timeout(LINGER_TIME, async move {
            let mut stream = self.stream;
            let mut taken = 0;
            while let Some(Ok(chunk)) = stream.next().await {
                taken += chunk.len();
                if taken > LINGER_LIMIT {
                    break;
                }
            }
        }));
    }
}

impl<T: Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static> Incoming<T> {
    /// How long it is to be, where its client says so.
    pub(super) fn declared(&self) -> Option<u64> {
        if self.present { self.declared } else { Some(0) }
    }

    /// The next piece of it, of which `count` bytes have come since `begun`; none at its end.
    pub(super) async fn next(&mut self, begun: Instant, count: usize) -> Result<Option<Bytes>, HttpError> {
        if !self.present {
            return Ok(None);
        }
        self.expects_continue = false;
        let end = begun + BODY_TIMEOUT + for_bytes(count);
        // A disk that was waited for is not the client's delay.
        let end = end.max(Instant::now() + BODY_TIMEOUT / 3);
        match tokio::time::timeout_at(end, self.stream.next()).await {
            Ok(piece) => piece.transpose().map_err(|()| HttpError::BodyIncomplete),
            Err(_) => Err(HttpError::BodyTimeout { seconds: end.duration_since(begun).as_secs() }),
        }
    }
}

async fn collect(stream: &mut (impl Stream<Item = Result<Bytes, ()>> + Unpin)) -> Result<Bytes, HttpError> {
    let mut stream = pin!(stream);
    let mut body = BytesMut::new();
    let begun = Instant::now();
    loop {
        let end = begun + BODY_TIMEOUT + for_bytes(body.len());
        let late = |_| HttpError::BodyTimeout { seconds: end.duration_since(begun).as_secs() };
        let Some(chunk) = tokio::time::timeout_at(end, stream.next()).await.map_err(late)? else { break };
        let chunk = chunk.map_err(|()| HttpError::BodyIncomplete)?;
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(HttpError::TooLarge { limit: BODY_LIMIT });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use warp::http::HeaderValue;

    /// A piece of a body that is counted for as long as it is kept.
    struct Piece(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_neither_kept_nor_read_for_ever() {
        let (made, kept) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (peak, counters) = (Arc::new(AtomicUsize::new(0)), (made.clone(), kept.clone()));
        let highest = Arc::clone(&peak);
        let endless = futures_util::stream::repeat_with(move || {
            counters.0.fetch_add(1, Ordering::SeqCst);
            let now = counters.1.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(now, Ordering::SeqCst);
            Ok::<_, ()>(Bytes::from_owner(Piece(vec![0; 512 * 1024], counters.1.clone())))
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let read = Incoming::new(endless, &headers).read().await;
        assert_eq!(read, Err(HttpError::TooLarge { limit: BODY_LIMIT }));
        let taken = async {
            while kept.load(Ordering::SeqCst) > 0 || made.load(Ordering::SeqCst) < 200 {
                tokio::task::yield_now().await;
            }
        };
        let taken = tokio::time::timeout(Duration::from_secs(8), taken).await;
        assert!(taken.is_ok(), "what is not wanted is taken off the wire");
        assert!(made.load(Ordering::SeqCst) <= 3 + LINGER_LIMIT / (512 * 1024) + 1);
        assert!(peak.load(Ordering::SeqCst) <= 2, "pieces are let go as they come");
    }
}
