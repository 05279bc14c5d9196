//! What is no request, or is one that HTTP itself objects to: refused with the status that fits, in the shape of the
//! dialect that was meant, and with the connection's end.

use std::time::Duration;

use qherd::api::http::Limits;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{Server, read_all, read_one};

/// Status and body of an answer; that the connection ends with it is looked at too.
fn last(text: &str) -> (u16, Value) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    assert!(head.contains("connection: close") && head.contains("content-type: application/json"), "{head}");
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn in_both_shapes(path: &str, status: u16, message: &str) -> Value {
    match path.starts_with("/hyperv") {
        true => json!({ "error": message }),
        false => json!({ "error": { "code": status, "message": message, "detail": null } }),
    }
}

#[tokio::test]
async fn what_is_asked_of_a_proxy_is_refused() {
    let server = Server::start().await;
    for first in ["CONNECT a:80", "CONNECT a", "GET a", "OPTIONS a:80"] {
        let host = first.split(' ').nth(1).unwrap();
        let answer = last(&server.raw(&format!("{first} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await);
        let message = "The request is not valid HTTP: its first line names no path.";
        assert_eq!(answer, (400, in_both_shapes("", 400, message)), "{first}");
    }
}

#[tokio::test]
async fn every_refusal_has_the_shape_of_its_dialect() {
    let server = Server::start().await;
    let long = "x".repeat(9000);
    for path in ["/vms", "/hyperv/vms"] {
        for (request, status, message) in [
            (format!("GET {path} HTTP/1.1\r\n\r\n"), 400, "The request is not valid HTTP: it has no Host header."),
            (
                format!("GET {path} HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
                400,
                "The request is not valid HTTP: it has more than one Host header.",
            ),
            (
                format!("GET {path} HTTP/1.1\r\nhost: a\r\nbad header: b\r\n\r\n"),
                400,
                "The request is not valid HTTP: a header is malformed.",
            ),
            (
                format!("GET {path} HTTP/9.9\r\nhost: a\r\n\r\n"),
                400,
                "The request is not valid HTTP: only HTTP/1.0 and HTTP/1.1 are spoken here.",
            ),
            (
                format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
                400,
                "The request is not valid HTTP: it has both a Content-Length and a Transfer-Encoding.",
            ),
            (
                format!("GET {path}?{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
                414,
                "The path and its query are too long; the limit is 8192 bytes.",
            ),
            (
                format!("GET {path} HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(300_000)),
                431,
                "The headers are too large; the limits are 65536 bytes and 100 fields.",
            ),
            (
                format!("GET {path} HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(101)),
                431,
                "The headers are too large; the limits are 65536 bytes and 100 fields.",
            ),
        ] {
            let answer = last(&server.raw(&request).await);
            assert_eq!(
                answer,
                (status, in_both_shapes(path, status, message)),
                "{:?}",
                &request[..60.min(request.len())]
            );
        }
    }
    // Another protocol altogether.
    let (status, body) = last(&server.raw("\u{16}\u{3}\u{1}\u{2}\0\u{1}").await);
    assert_eq!((status, body["error"]["code"].as_u64()), (400, Some(400)));
    let text = server.raw("HEAD /vms HTTP/1.1\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 400") && text.ends_with("\r\n\r\n"), "no body for HEAD: {text}");
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_408() {
    let server = Server::with(Limits { header_timeout: Duration::from_secs(1), ..Limits::default() }).await;
    for path in ["/vms", "/hyperv/vms"] {
        let expected = in_both_shapes(path, 408, "The headers did not arrive within 1 seconds.");
        assert_eq!(last(&server.raw(&format!("GET {path} HTTP/1.1\r\nhost: a")).await), (408, expected));
    }
}

#[tokio::test]
async fn what_came_before_a_refused_request_is_answered_first() {
    let server = Server::start().await;
    let text = server
        .raw("POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}GET /vms HTTP/1.1\r\n\r\nGET /vms HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|t| &t[..3]).collect();
    assert_eq!(statuses, ["201", "400"], "and nothing after it: {text}");
}

#[tokio::test]
async fn a_chunked_body_ends_where_it_ends() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    let head =
        "POST /vms/a/make HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "5;x=y\r\n{\"nam\r\n11\r\ne\":\"a\",\"vcpus\":2}\r\n0\r\ntrailer: 1\r\n\r\n";
    // In one piece with the next request, and byte by byte.
    for pieces in [body.len() + head.len(), 1] {
        let all = format!("{head}{body}GET /nope HTTP/1.1\r\nhost: a\r\n\r\n");
        for piece in all.as_bytes().chunks(pieces) {
            socket.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 201"));
        assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 404"));
    }
    socket.write_all(format!("{head}nonsense").as_bytes()).await.unwrap();
    let (status, body) = last(&read_all(&mut socket).await);
    assert_eq!((status, &body["error"]["message"]), (400, &json!("The body ended too early.")));
}
