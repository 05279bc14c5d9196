//! Connections on which another protocol is spoken after an answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use qherd::api::http::Report;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lasting::FAREWELL;
use crate::streams::read_head;
use crate::support::{Server, read_all, read_one};

const ASK: &str = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

async fn upgraded(server: &Server) -> TcpStream {
    let mut socket = server.connect().await;
    // Requests before it are answered as ever.
    socket.write_all(b"GET /vms HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
    socket.write_all(ASK.as_bytes()).await.unwrap();
    let head = read_head(&mut socket).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: echo\r\n"), "{head}");
    socket
}

async fn echoes(socket: &mut TcpStream, text: &[u8]) {
    let mut back = vec![0; text.len()];
    let (mut read, mut write) = socket.split();
    let (written, read) = tokio::join!(write.write_all(text), read.read_exact(&mut back));
    written.and(read.map(drop)).unwrap();
    assert_eq!(back, text);
}

#[tokio::test]
async fn what_is_said_after_an_upgrade_goes_through_as_it_is() {
    let server = Server::start().await;
    let mut socket = upgraded(&server).await;
    // What would be a request, or the beginning of none.
    echoes(&mut socket, b"GET /vms HTTP/1.1\r\n\r\n\0\xff").await;
    echoes(&mut socket, &[7; 300_000]).await;
    for byte in 0..=255 {
        echoes(&mut socket, &[byte]).await;
    }
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    assert_eq!(server.stop().await, Report { accepted: 1, cut: 0, unfinished: 0 });
}

#[tokio::test]
async fn at_the_end_a_talk_takes_its_leave() {
    let server = Server::start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(upgraded(&server).await);
    }
    let state = server.state.clone();
    server.shutdown.ask();
    for socket in &mut sockets {
        assert_eq!(read_all(socket).await, FAREWELL);
    }
    assert_eq!(server.ended().await, Report { accepted: 20, cut: 0, unfinished: 0 });
    assert_eq!(state.lasting.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_talk_outlasts_silences_and_takes_no_place() {
    let limits = qherd::api::http::Limits {
        connections: 2,
        idle: Duration::from_millis(100),
        silence: Duration::from_millis(100),
        ..Default::default()
    };
    let server = Server::with(limits).await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(upgraded(&server).await);
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    for socket in &mut sockets {
        echoes(socket, b"still there").await;
    }
}

#[tokio::test]
async fn an_upgrade_from_a_page_of_another_origin_is_refused() {
    let server = Server::start().await;
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let mut socket = server.connect().await;
        let ask = ASK.replace("host: a\r\n", &format!("host: a\r\norigin: {origin}\r\n"));
        socket.write_all(ask.as_bytes()).await.unwrap();
        assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 403"), "{origin}");
    }
    assert_eq!(server.state.lasting.open.load(Ordering::SeqCst), 0);
}
