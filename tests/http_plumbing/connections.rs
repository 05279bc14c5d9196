use std::sync::atomic::Ordering;
use std::time::Duration;

use qherd::api::http::{Limits, Report};
use reqwest::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{ANSWERS, LARGE, Server, answer, message, read_all, read_one};

const GET: &[u8] = b"GET /vms HTTP/1.1\r\nhost: a\r\n\r\n";
const GET_AND_CLOSE: &str = "GET /vms HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
const SLOW: &[u8] = b"POST /slow HTTP/1.1\r\nhost: a\r\n\r\n";

fn quick() -> Limits {
    let (header_timeout, idle) = (Duration::from_millis(300), Duration::from_millis(300));
    Limits { header_timeout, idle, silence: idle, drain: Duration::from_millis(400), ..Limits::default() }
}

#[tokio::test]
async fn one_connection_carries_a_thousand_requests() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    for _ in 0..1000 {
        socket.write_all(GET).await.unwrap();
        assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
    }
    drop(socket);
    assert_eq!(server.stop().await, Report { accepted: 1, cut: 0, unfinished: 0 });
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let text = server
        .raw("GET /vms HTTP/1.1\r\nhost: a\r\n\r\nGET /nope HTTP/1.1\r\nhost: a\r\n\r\nGET /vms HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|t| &t[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let server = Server::with(quick()).await;
    for (beginning, expected) in [("", ""), ("GET /vms HTTP/1.1\r\nhost:", "HTTP/1.1 408")] {
        // To the end of the connection.
        let text = server.raw(beginning).await;
        assert!(text.starts_with(expected) && text.is_empty() == expected.is_empty(), "{beginning:?}: {text}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_500_and_not_the_connection() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let text = read_one(&mut socket).await;
    assert!(text.starts_with("HTTP/1.1 500"), "{text}");
    assert!(text.contains("panic: on purpose"), "{text}");
    socket.write_all(GET).await.unwrap();
    assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
    let (status, body) = answer(Client::new().get(server.url("/panic"))).await;
    assert_eq!((status, message(&body)), (500, "Internal error"));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cancel_its_operation() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(SLOW).await.unwrap();
    server.state.entered.notified().await;
    drop(socket);
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.state.release.notify_one();
    let state = server.state.clone();
    server.stop().await;
    assert_eq!(state.finished.load(Ordering::SeqCst), 1, "and the server waited for it");
}

#[tokio::test]
async fn a_server_that_ends_lets_requests_under_way_finish() {
    let server = Server::start().await;
    let mut busy = server.connect().await;
    busy.write_all(SLOW).await.unwrap();
    server.state.entered.notified().await;
    let mut idle = server.connect().await;
    idle.write_all(GET).await.unwrap();
    read_one(&mut idle).await;
    let mut fresh = server.connect().await;

    server.shutdown.ask();
    // The server hears of it in its own time.
    let refused = loop {
        let text = server.raw(GET_AND_CLOSE).await;
        if !text.starts_with("HTTP/1.1 200") {
            break text;
        }
    };
    refuses(&refused);
    for socket in [&mut idle, &mut fresh] {
        socket.write_all(GET).await.unwrap();
        refuses(&read_all(socket).await);
    }

    server.state.release.notify_one();
    let text = read_all(&mut busy).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("done"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    let (addr, report) = (server.addr, server.ended().await);
    assert_eq!((report.cut, report.unfinished), (0, 0));
    assert!(TcpStream::connect(addr).await.is_err(), "nothing more is accepted");
}

/// With the connection's end, and in the dialect's shape.
fn refuses(text: &str) {
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    for part in ["connection: close", "retry-after: 5", "shutting down", r#""code":503"#] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn who_still_waits_at_the_end_of_the_servers_patience_is_told() {
    let server = Server::with(quick()).await;
    let mut busy = server.connect().await;
    busy.write_all(SLOW).await.unwrap();
    server.state.entered.notified().await;
    // Its body does not come.
    let mut halting = server.connect().await;
    halting
        .write_all(b"POST /slow HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    assert!(read_one(&mut halting).await.starts_with("HTTP/1.1 100"));
    let state = server.state.clone();
    let report = server.stop().await;
    assert_eq!((report.cut, report.unfinished), (0, 1));
    for socket in [&mut busy, &mut halting] {
        let text = read_all(socket).await;
        refuses(&text);
        assert!(text.contains("goes on after the restart"), "{text}");
    }
    state.release.notify_one();
}

#[tokio::test]
async fn a_server_that_is_asked_twice_waits_for_nothing() {
    let server = Server::with(Limits { drain: Duration::from_secs(3600), ..quick() }).await;
    let mut busy = server.connect().await;
    busy.write_all(SLOW).await.unwrap();
    server.state.entered.notified().await;
    server.shutdown.ask();
    let state = server.state.clone();
    let report = server.stop().await;
    assert_eq!((report.cut, report.unfinished), (0, 1));
    refuses(&read_all(&mut busy).await);
    state.release.notify_one();
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_and_its_request_not_carried_out() {
    let server = Server::start().await;
    let requested = |origin: String| {
        let request = Client::new().post(server.url("/vms/a/stop")).header("origin", origin);
        answer(request)
    };
    let (status, body) = requested("http://evil.example".into()).await;
    assert_eq!(status, 403, "{body}");
    assert!(message(&body).contains("another origin"), "{body}");
    assert_eq!(requested(server.url("")).await.0, 200);
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_their_turn() {
    let server = Server::with(Limits { connections: 1, ..quick() }).await;
    let mut first = server.connect().await;
    first.write_all(GET).await.unwrap();
    read_one(&mut first).await;
    let mut second = server.connect().await;
    second.write_all(GET).await.unwrap();
    // The first is idle for longer than it may be, and makes room.
    assert!(read_one(&mut second).await.starts_with("HTTP/1.1 200"));
    assert_eq!(read_all(&mut first).await, "");
}

#[tokio::test]
async fn many_clients_at_once_are_served() {
    let server = Server::start().await;
    let client = Client::new();
    let all = (0..200).map(|_| client.get(server.url("/vms")).send());
    for response in futures_util::future::join_all(all).await {
        assert_eq!(response.unwrap().status(), 200);
    }
}

/// The status of an answer of which no more is read than that.
async fn status_of(socket: &mut TcpStream) -> String {
    let mut line = [0; 12];
    socket.read_exact(&mut line).await.unwrap();
    String::from_utf8(line[9..].to_vec()).unwrap()
}

#[tokio::test]
async fn clients_that_do_not_take_their_answers_are_cut_off_and_never_hold_more_than_there_is_room_for() {
    let server = Server::with(Limits { stall: Duration::from_secs(1), ..Limits::default() }).await;
    const ASK: &[u8] = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut sockets = Vec::new();
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let mut socket = server.connect().await;
        socket.write_all(ASK).await.unwrap();
        statuses.push(status_of(&mut socket).await);
        sockets.push(socket);
    }
    let most = ANSWERS as usize / LARGE;
    assert!(statuses[..most].iter().all(|status| status == "200"), "{statuses:?}");
    assert!(statuses[most..most + 2].iter().any(|status| status == "503") || most > statuses.len(), "{statuses:?}");
    // Meanwhile others are served.
    assert!(server.raw(GET_AND_CLOSE).await.starts_with("HTTP/1.1 200"));
    // When those are cut off there is room again.
    let again = async {
        loop {
            let mut socket = server.connect().await;
            socket.write_all(ASK).await.unwrap();
            if status_of(&mut socket).await == "200" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("there is room again");
    // The first one has lost the rest of its answer.
    let mut rest = Vec::new();
    let _ = sockets[0].read_to_end(&mut rest).await;
    assert!(rest.len() < LARGE, "{}", rest.len());
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_gets_all_of_it() {
    let server = Server::with(Limits { stall: Duration::from_secs(2), ..Limits::default() }).await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut taken, mut piece) = (0, vec![0; 1 << 20]);
    let begun = std::time::Instant::now();
    loop {
        match socket.read(&mut piece).await.unwrap() {
            0 => break,
            length => taken += length,
        }
        // In all longer than a client may take nothing.
        if begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    assert!(taken > LARGE, "{taken}");
}
