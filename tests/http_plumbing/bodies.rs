use std::time::Duration;

use qherd::api::http::Limits;
use reqwest::Client;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Server, answer, message, read_all, read_one};

const GOOD: &str = r#"{"name":"a","vcpus":2}"#;

#[tokio::test]
async fn a_good_body_is_taken() {
    let server = Server::start().await;
    let (status, body) = server.post("/vms/a/make", GOOD).await;
    assert_eq!((status, body), (201, json!({"name": "a", "vcpus": 2})));
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_400_with_the_reason() {
    let server = Server::start().await;
    for (sent, expected) in [
        (&b"{"[..], "The body is not valid JSON: it ends in the middle of an object (line 1, column 1)."),
        (b"\xff", "The body is not valid JSON: it is not UTF-8 (line 1, column 1)."),
        (b"", "The body is missing: a JSON object is required."),
        (b"[]", "The body must be a JSON object, not an array."),
        (b"{\"name\":\"a\"}", "Invalid parameter: vcpus must be given."),
        (b"{\"name\":1,\"vcpus\":1}", "Invalid parameter: name must be a string, not 1."),
        (b"{\"name\":\"a\",\"vcpu\":1}", "Invalid parameter: vcpu is not known; did you mean vcpus?"),
        (b"{\"name\":\"a\",\"vcpus\":1,\"vcpus\":1}", "Invalid parameter: vcpus must be given only once."),
    ] {
        let (status, body) = server.post("/vms/a/make", sent).await;
        assert_eq!((status, message(&body)), (400, expected));
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_415() {
    let server = Server::start().await;
    let post = || Client::new().post(server.url("/vms/a/make"));
    for request in [
        post().body(GOOD),
        post().header("content-type", "text/plain").body(GOOD),
        post().header("content-type", "application/x-www-form-urlencoded").body("{}"),
    ] {
        assert_eq!(answer(request).await.0, 415);
    }
    let odd = post().header("content-type", "APPLICATION/json; charset=UTF-8").body(GOOD);
    assert_eq!(answer(odd).await.0, 201);
}

#[tokio::test]
async fn an_action_takes_an_absent_or_an_empty_body() {
    let server = Server::start().await;
    let post = || Client::new().post(server.url("/vms/a/stop"));
    let stopped = (200, json!({"id": "a", "timeout": null}));
    assert_eq!(answer(post()).await, stopped);
    assert_eq!(answer(post().body("")).await, stopped);
    assert_eq!(server.post("/vms/a/stop", "{}").await, stopped);
    assert_eq!(server.post("/vms/a/stop", "{\"timeout\":7}").await.1["timeout"], 7);
    assert_eq!(server.post("/vms/a/stop", "{\"timeot\":7}").await.0, 400);
}

#[tokio::test]
async fn existence_is_checked_before_the_body() {
    let server = Server::start().await;
    for body in ["{".to_owned(), "x".repeat(2 << 20)] {
        assert_eq!(server.post("/vms/missing/make", body).await.0, 404);
    }
    let plain = Client::new().post(server.url("/vms/missing/make")).body(GOOD);
    assert_eq!(answer(plain).await.0, 404);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read_and_one_more_is_413() {
    let server = Server::start().await;
    let padded = |size: usize| format!("{GOOD}{}", " ".repeat(size - GOOD.len()));
    assert_eq!(server.post("/vms/a/make", padded(1 << 20)).await.0, 201);
    let (status, body) = server.post("/vms/a/make", padded((1 << 20) + 1)).await;
    assert_eq!(status, 413);
    assert_eq!(message(&body), "The body is too large; the limit is 1048576 bytes.");
}

#[tokio::test]
async fn a_declared_upload_of_100_mb_is_answered_before_it_is_sent() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    let head =
        "POST /vms/a/make HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let text = read_one(&mut socket).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
}

#[tokio::test]
async fn a_client_that_sends_100_mb_before_it_reads_still_sees_the_413() {
    let server = Server::start().await;
    let chunk = vec![b'x'; 1_000_000];
    for framing in ["content-length: 100000000", "transfer-encoding: chunked"] {
        let chunked = framing.starts_with('t');
        let mut socket = server.connect().await;
        let head =
            format!("POST /vms/a/make HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..100 {
            if chunked {
                socket.write_all(b"F4240\r\n").await.unwrap();
            }
            socket.write_all(&chunk).await.unwrap();
            if chunked {
                socket.write_all(b"\r\n").await.unwrap();
            }
        }
        if chunked {
            socket.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let text = read_all(&mut socket).await;
        assert!(text.starts_with("HTTP/1.1 413"), "{framing}: {text}");
    }
}

#[tokio::test]
async fn an_unwanted_body_is_not_asked_for() {
    // That the connection ends is the server's own doing, no limit's.
    let server = Server::with(Limits { header_timeout: Duration::from_secs(3600), ..Limits::default() }).await;
    let text = server
        .raw("POST /vms/a/make HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n")
        .await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");

    let mut socket = server.connect().await;
    let head = format!(
        "POST /vms/a/make HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        GOOD.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let text = read_one(&mut socket).await;
    assert!(text.starts_with("HTTP/1.1 100"), "{text}");
    socket.write_all(GOOD.as_bytes()).await.unwrap();
    assert!(read_all(&mut socket).await.starts_with("HTTP/1.1 201"));
}

#[tokio::test]
async fn a_refused_upload_to_a_wrong_path_leaves_the_connection_usable() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    let body = "x".repeat(300_000);
    let head = format!("POST /nope HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 404"));
    socket.write_all(b"GET /vms HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
}
