//! Connections between two requests: how long they are kept, and that nothing is lost when they are not any longer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use qherd::api::http::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::support::{Server, read_all, read_one};

const GET: &[u8] = b"GET /vms HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &[u8] = b"POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}";

fn limits(idle: u64, silence: u64) -> Limits {
    Limits { idle: Duration::from_millis(idle), silence: Duration::from_millis(silence), ..Limits::default() }
}

/// A connection that has carried a request, and when it had its answer.
async fn kept(server: &Server) -> (TcpStream, Instant) {
    let mut socket = server.connect().await;
    socket.write_all(GET).await.unwrap();
    assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
    (socket, Instant::now())
}

/// From 10 ms before to 10 ms after `limit`, in steps of 0.1 ms.
fn around(limit: u64) -> impl Iterator<Item = Duration> {
    (0..200).map(move |step| Duration::from_micros(limit * 1000 - 10_000 + step * 100))
}

#[test]
fn connections_are_kept_for_longer_than_their_clients_keep_them() {
    let limits = Limits::default();
    assert_eq!((limits.idle, limits.silence), (Duration::from_secs(75), Duration::from_secs(180)));
    assert!(limits.header_timeout <= Duration::from_secs(10), "which has nothing to do with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_idle_limit_no_request_is_lost() {
    let server = Server::with(limits(500, 3_600_000)).await;
    let sent = join_all(around(500).map(|after| {
        let server = &server;
        async move {
            let (mut socket, answered) = kept(server).await;
            sleep_until(answered + after).await;
            // A client that does not look, and does not try again.
            socket.write_all(POST).await.unwrap();
            let text = read_one(&mut socket).await;
            assert!(text.starts_with("HTTP/1.1 201"), "after {after:?}: {text:?}");
        }
    }))
    .await;
    assert_eq!(server.state.finished.load(Ordering::SeqCst), sent.len());
    assert_eq!(sent.len(), 200);
}

/// Where a connection does end by itself, a client may be about to send. TCP has no way to tell it in time; but what is
/// not answered was not done either, so that it can be sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_of_a_silence_what_is_not_answered_was_not_done() {
    let server = Server::with(limits(300, 500)).await;
    let answered = join_all(around(500).map(|after| {
        let server = &server;
        async move {
            let (mut socket, answered) = kept(server).await;
            sleep_until(answered + after).await;
            let mut text = Vec::new();
            let requested = async {
                socket.write_all(POST).await?;
                socket.shutdown().await?;
                socket.read_to_end(&mut text).await
            };
            let ended = requested.await;
            let got = String::from_utf8_lossy(&text).into_owned();
            assert!(got.is_empty() || got.starts_with("HTTP/1.1 201") && ended.is_ok(), "{after:?}: {ended:?} {got:?}");
            usize::from(!got.is_empty())
        }
    }))
    .await;
    let answered: usize = answered.into_iter().sum();
    let state = server.state.clone();
    server.stop().await;
    assert_eq!(state.finished.load(Ordering::SeqCst), answered);
}

#[tokio::test]
async fn a_connection_ends_when_it_has_been_silent_for_long() {
    let server = Server::with(limits(100, 300)).await;
    let (mut used, _) = kept(&server).await;
    let mut fresh = server.connect().await;
    assert_eq!((read_all(&mut used).await, read_all(&mut fresh).await), (String::new(), String::new()));
}

#[tokio::test]
async fn every_answer_says_how_long_the_connection_is_kept_or_that_it_is_not() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(GET).await.unwrap();
    assert!(read_one(&mut socket).await.contains("keep-alive: timeout=75\r\n"));
    socket.write_all(b"GET /vms HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let last = read_all(&mut socket).await;
    assert!(last.contains("connection: close\r\n"), "{last}");
    let old = server.raw("GET /vms HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200") && !old.contains("keep-alive"), "{old}");
}

#[tokio::test]
async fn who_needs_a_place_gets_that_of_a_connection_with_its_next_answer() {
    let server = Server::with(Limits { connections: 2, ..limits(3_600_000, 3_600_000) }).await;
    let (mut first, _) = kept(&server).await;
    // It takes the last place; the server hears of it in its own time.
    let _second = server.connect().await;
    let expected = async {
        loop {
            first.write_all(POST).await.unwrap();
            let text = read_one(&mut first).await;
            assert!(text.starts_with("HTTP/1.1 201"), "{text}");
            if text.contains("connection: close\r\n") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), expected).await.expect("it is told");
    assert_eq!(read_all(&mut first).await, "");
    let mut third = server.connect().await;
    third.write_all(GET).await.unwrap();
    assert!(read_one(&mut third).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_a_client_still_sends_does_not_cost_it_its_last_answer() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /vms HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    // Unread in the socket of a server that closes, it would be answered with a reset.
    socket.write_all(&vec![b'x'; 300_000]).await.unwrap();
    let text = read_all(&mut socket).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("[]"), "{text}");
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_a_silence_may_is_waited_for() {
    let server = Server::with(limits(100, 200)).await;
    let mut socket = server.connect().await;
    socket.write_all(b"POST /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    server.state.entered.notified().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.state.release.notify_one();
    assert!(read_one(&mut socket).await.ends_with("done"));
}
