//! The toy service's answers that last: streams that end and that do not, one that breaks, one that has a length, and another
//! protocol.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use qherd::api::http::{HttpError, PIECE, Reply, Request, Route, range};
use qherd::model::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use warp::http::StatusCode;

/// Pieces of a finite one: more than the kernel takes for a client that does not.
pub const PIECES: usize = 1024;
pub const FAREWELL: &str = "bye\n";
/// Bytes of one with a length.
pub const LENGTH: usize = 100_000;

#[derive(Default)]
pub struct Lasting {
    /// Pieces that were made, of all streams.
    pub made: AtomicUsize,
    /// The quiet ones say a word.
    pub word: Notify,
    /// How often a quiet one was polled.
    pub polls: AtomicUsize,
    /// Streams and talks that are not over.
    pub open: Arc<AtomicUsize>,
}

/// Counts as open until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(state: &Lasting) -> Self {
        state.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&state.open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type S = Arc<super::support::State>;

/// What the piece of this number says, all through.
pub fn piece(number: usize) -> Bytes {
    Bytes::from(vec![b'a' + (number % 26) as u8; PIECE])
}

async fn finite(state: S, _: Request) -> Reply {
    let open = Open::new(&state.lasting);
    let pieces = stream::iter(0..PIECES).map(move |number| {
        let _open = &open;
        state.lasting.made.fetch_add(1, Ordering::SeqCst);
        Ok(piece(number))
    });
    Reply::stream("text/plain", pieces)
}

async fn endless(state: S, _: Request) -> Reply {
    let open = Open::new(&state.lasting);
    let pieces = stream::iter(0..).map(move |number| {
        let _open = &open;
        state.lasting.made.fetch_add(1, Ordering::SeqCst);
        Ok(piece(number))
    });
    Reply::stream("text/plain", pieces).until_the_end(FAREWELL)
}

async fn quiet(state: S, _: Request) -> Reply {
    let open = Open::new(&state.lasting);
    let counted = state.clone();
    let words = stream::unfold((state, open), async |(state, open)| {
        state.lasting.word.notified().await;
        Some((Ok(Bytes::from("word\n")), (state, open)))
    });
    let mut words = Box::pin(words);
    let words = stream::poll_fn(move |cx| {
        counted.lasting.polls.fetch_add(1, Ordering::SeqCst);
        words.as_mut().poll_next(cx)
    });
    Reply::stream("text/event-stream", words).until_the_end(FAREWELL)
}

async fn breaks(_: S, _: Request) -> Reply {
    Reply::stream("text/plain", stream::iter([Ok(piece(0)), Err(io::Error::other("on purpose"))]))
}

/// Frames that are larger than they should be, and empty ones.
async fn uneven(_: S, _: Request) -> Reply {
    let frames = [0, 1, PIECE * 5 / 2, 0, PIECE, 0].map(|length| Ok(Bytes::from(vec![b'x'; length])));
    Reply::stream("text/plain", stream::iter(frames))
}

pub fn byte_at(at: usize) -> u8 {
    b'0' + (at / 1000 % 10) as u8
}

async fn long(_: S, request: Request) -> Result<Reply, HttpError> {
    let part = range::wanted(&request.headers, LENGTH as u64)?;
    let bytes: Vec<u8> = (0..LENGTH).map(byte_at).collect();
    let of = part.clone().map_or(0..LENGTH, |part| part.start as usize..part.end as usize);
    let frames: Vec<_> = bytes[of].chunks(PIECE).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Ok(range::part(Reply::stream("text/plain", stream::iter(frames)), part.as_ref(), LENGTH as u64))
}

/// Gives back what it is given, and takes its leave at the end.
async fn echo(state: S, _: Request) -> Reply {
    let open = Open::new(&state.lasting);
    Reply::upgrade(
        "echo",
        Box::new(|mut line, ending| {
            Box::pin(async move {
                let _open = open;
                let mut buffer = [0; 1024];
                loop {
                    tokio::select! {
                        read = line.read(&mut buffer) => match read {
                            Ok(read @ 1..) => line.write_all(&buffer[..read]).await.unwrap(),
                            _ => break,
                        },
                        () = ending.begun() => {
                            line.write_all(FAREWELL.as_bytes()).await.unwrap();
                            break;
                        }
                    }
                }
                Some(line)
            })
        }),
    )
}

async fn created(_: S, _: Request) -> Reply {
    Reply::stream("text/plain", stream::iter([Ok(Bytes::from("made"))])).status(StatusCode::CREATED)
}

pub fn routes() -> Vec<Route<S>> {
    vec![
        Route::get("/finite", "finite", finite).role(Role::Viewer).output_stream("It.", "text/plain", "aaa"),
        Route::get("/endless", "endless", endless).role(Role::Viewer),
        Route::get("/quiet", "quiet", quiet).role(Role::Viewer),
        Route::get("/breaks", "breaks", breaks).role(Role::Viewer),
        Route::get("/uneven", "uneven", uneven).role(Role::Viewer),
        Route::get("/long", "long", long).role(Role::Viewer),
        Route::get("/echo", "echo", echo).role(Role::Viewer),
        Route::get("/created", "created", created).role(Role::Viewer),
    ]
}
