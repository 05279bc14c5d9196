use reqwest::{Client, Method};
use serde_json::json;

use crate::support::{Server, answer, message, read_one};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn an_unknown_path_is_404_in_the_shape_of_its_dialect() {
    let server = Server::start().await;
    for path in ["/nope", "/", "/vms/", "/vms//stop", "/hypervisor", "/VMS"] {
        let (status, body) = answer(Client::new().get(server.url(path))).await;
        assert_eq!(
            (status, &body),
            (
                404,
                &json!({"error": {"code": 404, "message": "No such path; openapi.json lists those that there are.", "detail": null}})
            ),
            "{path}"
        );
    }
    for path in ["/hyperv", "/hyperv/", "/hyperv/nope"] {
        let (status, body) = answer(Client::new().get(server.url(path))).await;
        assert_eq!(
            (status, body),
            (404, json!({"error": "No such path; openapi.json lists those that there are."})),
            "{path}"
        );
    }
    let (status, _) = answer(Client::new().get(server.url("/hyperv/vms"))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn another_method_is_405_with_allow() {
    let server = Server::start().await;
    for (method, path, allow) in [
        (Method::POST, "/vms", "GET, HEAD"),
        (Method::OPTIONS, "/vms", "GET, HEAD"),
        (Method::GET, "/vms/a/stop", "POST"),
        (Method::DELETE, "/hyperv/vms/by-name/x", "GET, HEAD"),
    ] {
        let response = Client::new().request(method.clone(), server.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(response.headers()["allow"], allow);
        let body: serde_json::Value = response.json().await.unwrap();
        assert!(body.to_string().contains("Method not allowed"), "{body}");
    }
}

#[tokio::test]
async fn a_literal_segment_wins_over_a_parameter() {
    let server = Server::start().await;
    let (_, body) = answer(Client::new().get(server.url("/vms/by-name/stop"))).await;
    assert_eq!(body, json!({"param": "stop"}));
    let (status, _) = answer(Client::new().post(server.url("/vms/by-name/stop"))).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn path_parameters_are_percent_decoded_each_by_itself() {
    let server = Server::start().await;
    for (sent, seen) in [
        ("a%2Fb", "a/b"),
        ("caf%C3%A9%20x", "café x"),
        ("a+b", "a+b"),
        ("%FF", "\u{fffd}"),
        ("%zz", "%zz"),
        ("%00", "\0"),
        ("..%2F..", "../.."),
    ] {
        let text = format!("GET /vms/by-name/{sent} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = server.raw(&text).await;
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body, json!({"param": seen}), "{sent}");
    }
    let (status, _) = answer(Client::new().get(server.url("/%76ms"))).await;
    assert_eq!(status, 200, "a literal may be written encoded");
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    for (path, status, length) in [("/vms", "200", "2"), ("/nope", "404", "103")] {
        let get = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        socket.write_all(get.as_bytes()).await.unwrap();
        let (head_of_get, _) = {
            let text = read_one(&mut socket).await;
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        };
        assert!(head_of_get.contains(&format!("content-length: {length}")), "{head_of_get}");
        let text = server.raw(&format!("HEAD {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        assert!(text.contains(&format!("content-length: {length}\r\n")), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }
}

#[tokio::test]
async fn query_parameters_are_checked_against_the_route() {
    let server = Server::start().await;
    for (query, expected) in [
        ("timeot=3", "Invalid parameter: timeot is not known; did you mean timeout?"),
        ("timeout=3&timeout=4", "Invalid parameter: timeout must be given only once."),
        ("timeout=soon", "Invalid parameter: timeout must be a whole number, not \"soon\"."),
    ] {
        let (status, body) = answer(Client::new().post(server.url(&format!("/vms/a/stop?{query}")))).await;
        assert_eq!((status, message(&body)), (400, expected));
    }
    let (status, body) = answer(Client::new().post(server.url("/vms/a/stop?timeout=3"))).await;
    assert_eq!((status, body), (200, json!({"id": "a", "timeout": 3})));
    let (status, _) = answer(Client::new().get(server.url("/vms?x=1"))).await;
    assert_eq!(status, 400);
    let (status, _) = answer(Client::new().get(server.url("/vms?"))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_next_page_is_linked() {
    let server = Server::start().await;
    let response = Client::new().get(server.url("/vms")).send().await.unwrap();
    assert_eq!(response.headers()["link"], "</vms?page_token=x>; rel=\"next\"");
}
