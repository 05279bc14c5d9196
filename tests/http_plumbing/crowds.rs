//! More clients than there are places: who says nothing, who waits, and who takes nothing makes room.

use std::time::Duration;

use futures_util::future::join_all;
use qherd::api::http::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Server, read_one};

const GET: &[u8] = b"GET /vms HTTP/1.1\r\nhost: a\r\n\r\n";
const HOUR: Duration = Duration::from_secs(3600);

/// Few places, and no clock that would help.
fn few() -> Limits {
    Limits {
        connections: 4,
        standing: 100,
        idle: HOUR,
        silence: HOUR,
        stall: HOUR,
        header_timeout: HOUR,
        ..Limits::default()
    }
}

async fn is_served(server: &Server) {
    let requested = async {
        let mut socket = server.connect().await;
        socket.write_all(GET).await.unwrap();
        assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
    };
    tokio::time::timeout(Duration::from_secs(30), requested).await.expect("an answer");
}

async fn all_connected(server: &Server, count: usize, text: &[u8]) -> Vec<TcpStream> {
    let one = async || {
        let mut socket = server.connect().await;
        socket.write_all(text).await.unwrap();
        socket
    };
    join_all((0..count).map(|_| one())).await
}

#[tokio::test]
async fn connections_that_say_nothing_make_room_the_longest_idle_first() {
    let server = Server::with(few()).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(server.connect().await);
        // Accepted one after the other.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    is_served(&server).await;
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"", "the first one has made room");
    silent[3].write_all(GET).await.unwrap();
    assert!(read_one(&mut silent[3]).await.starts_with("HTTP/1.1 200"), "and not the last one");
    // Those who never ask, and those who never come to the end of their head.
    for text in [&b""[..], b"GET /vms HTTP/1.1\r\nhos"] {
        let _crowd = all_connected(&server, 40, text).await;
        is_served(&server).await;
    }
}

#[tokio::test]
async fn requests_that_wait_and_bodies_that_do_not_come_take_no_places() {
    let server = Server::with(few()).await;
    let slow = b"POST /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut waiting = all_connected(&server, 20, slow).await;
    is_served(&server).await;
    let halting = b"POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{";
    let _halting = all_connected(&server, 20, halting).await;
    is_served(&server).await;
    // Each of those that waited gets its answer.
    for _ in 0..20 {
        server.state.release.notify_one();
        tokio::task::yield_now().await;
    }
    let released = async {
        for socket in &mut waiting {
            server.state.release.notify_waiters();
            assert!(read_one(socket).await.starts_with("HTTP/1.1 200"));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), released).await.expect("all of them");
}

#[tokio::test]
async fn clients_that_take_nothing_of_their_answer_make_room() {
    let server = Server::with(few()).await;
    let _crowd = all_connected(&server, 20, b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
    is_served(&server).await;
}

#[tokio::test]
async fn one_caller_has_only_so_many_requests_under_way_and_is_told_so() {
    let server = Server::with(Limits { standing: 12, ..few() }).await;
    let slow = b"POST /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    let waiting = all_connected(&server, 10, slow).await;
    // Each by a connection of its own.
    let ask = async || {
        let mut one = server.connect().await;
        one.write_all(GET).await.unwrap();
        read_one(&mut one).await
    };
    let until = async |status: &str| loop {
        let answer = ask().await;
        if answer.starts_with(status) {
            break answer;
        }
    };
    let patience = Duration::from_secs(30);
    let refused = tokio::time::timeout(patience, until("HTTP/1.1 429")).await.expect("all ten are under way");
    assert!(
        refused.contains("retry-after: 1") && refused.contains("waits for the answers to 10 requests"),
        "{refused}"
    );
    // One answer makes room for one.
    server.state.release.notify_one();
    tokio::time::timeout(patience, until("HTTP/1.1 200")).await.expect("room");
    drop(waiting);
    server.state.release.notify_waiters();
}
