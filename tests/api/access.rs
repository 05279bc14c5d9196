//! Who may ask for what: every route of both dialects with every role and every sort of token, and users of this host by
//! TCP and by the Unix socket.

use crate::callers::{Curled, NOBODY, curl, curl_as, id_of, token};
use crate::support::Daemon;
use crate::terminal::Terminal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// One row of a table: method, path without parameters left in it, the least role, and whether it is for whoever comes.
type Row = (Method, String, String, bool);

/// Every row of both tables. The documents are made of the tables, and so is this.
fn every_row() -> Vec<Row> {
    let mut rows = Vec::new();
    for (prefix, document) in [("", qherd::api::kvm::openapi()), ("/hyperv", qherd::api::hyperv::openapi("/hyperv"))] {
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                // What no VM, switch, disk or NIC bears.
                let parts = path.split('/').map(|part| match part.starts_with('{') {
                    true => "2a1f7c46-7ab8-4f6e-9d1b-0a5b3d1c9e77",
                    false => part,
                });
                let method = method.to_uppercase().parse().unwrap();
                let role = operation["x-role"].as_str().unwrap().to_owned();
                let is_open = operation["security"] == json!([{}]);
                rows.push((method, format!("{prefix}{}", parts.collect::<Vec<_>>().join("/")), role, is_open));
            }
        }
    }
    assert!(rows.len() > 60, "{}", rows.len());
    rows
}

fn rank(role: &str) -> usize {
    ["viewer", "operator", "admin"].iter().position(|known| *known == role).unwrap()
}

async fn ask(daemon: &Daemon, (method, path, ..): &Row, token: Option<&str>) -> (StatusCode, Value) {
    let mut request = daemon.http().request(method.clone(), daemon.at(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if *method != Method::GET {
        request = request.json(&json!({}));
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{method} {path}");
    assert_eq!(answer.headers()["cache-control"], "no-store", "{method} {path}");
    let challenged = answer.headers().contains_key("www-authenticate");
    let status = answer.status();
    assert_eq!(challenged, status == StatusCode::UNAUTHORIZED, "{method} {path}");
    // What has no end is not waited for.
    if answer.headers()["content-type"] == "text/event-stream" {
        return (status, Value::Null);
    }
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The sentence of either dialect.
fn sentence(body: &Value) -> &str {
    body["error"]["message"].as_str().or(body["error"].as_str()).unwrap_or_default()
}

#[tokio::test]
async fn every_route_is_for_those_roles_that_it_names_and_for_no_token_that_is_not_good() {
    let daemon = Daemon::start();
    let state = daemon.state();
    let made = |args: &[&str]| token(&state, &[&["create"], args].concat());
    let tokens: Vec<(&str, String)> =
        ["viewer", "operator", "admin"].map(|role| (role, made(&["--role", role]))).to_vec();
    let expired = made(&["--role", "admin", "--ttl", "1ms"]);
    let revoked = made(&["--role", "admin"]);
    token(&state, &["rm", id_of(&revoked)]);
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = token(elsewhere.path(), &["create", "--role", "admin"]);
    let mut open = Vec::new();
    for row in every_row() {
        let (method, path, needed, is_open) = &row;
        for (role, token) in &tokens {
            let (status, body) = ask(&daemon, &row, Some(token)).await;
            let what = format!("{role}: {method} {path}: {status} {body}");
            if rank(role) >= rank(needed) {
                assert!(![401, 403, 421, 500].contains(&status.as_u16()), "{what}");
            } else {
                assert_eq!(status, 403, "{what}");
                assert_eq!(
                    sentence(&body),
                    format!("token {} has the role {role}; this needs {needed}.", id_of(token))
                );
            }
        }
        // The client is root, and that does not help.
        for (bad, why) in [
            (&expired, "The token has expired."),
            (&revoked, "The token is not one of this qherd, or was revoked."),
            (&foreign, "The token is not one of this qherd, or was revoked."),
        ] {
            let (status, body) = ask(&daemon, &row, Some(bad)).await;
            assert_eq!((status, sentence(&body)), (StatusCode::UNAUTHORIZED, why), "{method} {path}");
        }
        // Root, without any; and another user, without any and with one.
        let (status, body) = ask(&daemon, &row, None).await;
        assert!(![401, 403, 421, 500].contains(&status.as_u16()), "{method} {path}: {status} {body}");
        let url = daemon.at(path);
        let plain = ["-X", method.as_str(), "-H", "Content-Type: application/json", "-d", "{}", &url];
        let refused = curl_as(NOBODY, if *method == Method::GET { &plain[6..] } else { &plain });
        if *is_open {
            assert!([200, 404].contains(&refused.status), "{method} {path}: {refused:?}");
            open.push(path.clone());
            continue;
        }
        assert_eq!(refused.status, 401, "{method} {path}: {refused:?}");
        assert!(sentence(&refused.body).contains("uid 65534 has no role here"), "{refused:?}");
    }
    // The page and its files say nothing of this host. `every_row` has put an id in the place of a file's name.
    let page = ["/docs", "/docs/2a1f7c46-7ab8-4f6e-9d1b-0a5b3d1c9e77"];
    assert_eq!(open, [page.map(str::to_owned), page.map(|path| format!("/hyperv{path}"))].concat());
    let admin = format!("Authorization: Bearer {}", tokens[2].1);
    assert_eq!(curl_as(NOBODY, &["-H", &admin, &daemon.at("/vms")]).status, 200);
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]), "and nothing was made");
}

#[tokio::test]
async fn what_is_open_with_a_token_is_closed_when_it_is_revoked_or_expires() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let kept = token(&daemon.state(), &["create", "--role", "operator"]);
    let revoked = token(&daemon.state(), &["create", "--role", "operator"]);
    let expires = token(&daemon.state(), &["create", "--role", "operator", "--ttl", "10s"]);
    // Without a deadline for the whole answer.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let stream = async |token: &str, path: &str| {
        let response = http.get(daemon.at(path)).bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response
    };
    let mut theirs = stream(&kept, "/events").await;
    for dismissed in [&revoked, &expires] {
        let events = [stream(dismissed, "/events").await, stream(dismissed, "/hyperv/events").await];
        let logs = stream(dismissed, &format!("/vms/{id}/logs?follow=true")).await;
        let header = format!("Authorization: Bearer {dismissed}\r\n");
        let mut console = Terminal::open_with(&daemon, &id, "", &header).await;
        if dismissed == &revoked {
            token(&daemon.state(), &["rm", id_of(&revoked)]);
        }
        for events in events {
            let text = events.text().await.unwrap();
            assert!(text.ends_with(": the token was revoked or has expired\n\n"), "{text:?}");
        }
        logs.text().await.unwrap();
        assert_eq!(console.closed().await, "closed: 1008 the token was revoked or has expired");
    }
    // Nobody else's is.
    assert!(theirs.chunk().await.unwrap().is_some());
    daemon.create(daemon.wish()).await;
    assert!(String::from_utf8_lossy(&theirs.chunk().await.unwrap().unwrap()).contains("vm.created"));
}

#[tokio::test]
async fn a_token_counts_from_when_it_is_made_until_it_is_revoked_whatever_the_connection() {
    let mut daemon = Daemon::start();
    let bearer = |token: &str| daemon.http().get(daemon.at("/vms")).bearer_auth(token);
    let made = token(&daemon.state(), &["create", "--role", "viewer", "--name", "board"]);
    daemon.send(bearer(&made)).await.expect(200);
    let listed = token(&daemon.state(), &["ls"]);
    assert!(listed.contains(id_of(&made)) && listed.contains("viewer") && listed.contains("board"), "{listed}");
    assert!(!listed.contains(made.split('_').nth(2).unwrap()));
    daemon.kill();
    daemon.run();
    let bearer = |token: &str| daemon.http().get(daemon.at("/vms")).bearer_auth(token);
    daemon.send(bearer(&made)).await.expect(200);
    token(&daemon.state(), &["rm", id_of(&made)]);
    daemon.send(bearer(&made)).await.expect(401);
    assert_eq!(token(&daemon.state(), &["ls"]), "");
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_its_caller() {
    let daemon = Daemon::start();
    let one = token(&daemon.state(), &["create", "--role", "operator"]);
    let make = |token: Option<&str>| {
        let request = daemon.http().post(daemon.at("/vms")).json(&daemon.wish()).header("Idempotency-Key", "k");
        daemon.send(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    };
    let mine = make(None).await.expect(201);
    assert_eq!(make(None).await.expect(201), mine);
    assert_ne!(make(Some(&one)).await.expect(201)["id"], mine["id"]);
}

#[tokio::test]
async fn users_and_groups_have_the_roles_that_the_settings_give_them_by_tcp_and_by_the_socket() {
    let mut daemon =
        Daemon::prepare(&["--accel", "tcg", "--allow", "user:nobody=viewer", "--allow", "group:daemon=operator"]);
    // Where others reach it, unlike what is in the state directory.
    let open = tempfile::tempdir().unwrap();
    std::fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let socket = open.path().join("api.sock").display().to_string();
    daemon.add_args(&["--socket", &socket]);
    daemon.run();
    let tcp = daemon.at("");
    let by_tcp = |uid: &str, args: &[&str]| curl_as(uid, &[args, &[&format!("{tcp}/vms")]].concat());
    let by_socket = |uid: &str, args: &[&str]| {
        curl_as(uid, &[&["--unix-socket", &socket], args, &["http://localhost/vms"]].concat())
    };
    let post = ["-H", "Content-Type: application/json", "-d", "{}"];
    for ask in [&by_tcp as &dyn Fn(&str, &[&str]) -> Curled, &by_socket] {
        assert_eq!(ask("0", &post).status, 400);
        assert_eq!(ask(NOBODY, &[]).status, 200);
        let refused = ask(NOBODY, &post);
        assert_eq!(sentence(&refused.body), "uid 65534 has the role viewer; this needs operator.", "{refused:?}");
        assert_eq!(refused.status, 403);
        // The user `daemon` is in the group `daemon`, the user `bin` is not.
        assert_eq!(ask("1", &post).status, 400);
        assert_eq!(ask("2", &[]).status, 401);
    }
    daemon.terminate();
    assert!(!std::path::Path::new(&socket).exists());
}

#[tokio::test]
async fn the_socket_of_a_state_directory_is_for_root_and_takes_the_place_of_one_that_was_left() {
    let mut daemon = Daemon::start();
    let socket = daemon.state().join("api.sock").display().to_string();
    let ask = |uid: &str| curl_as(uid, &["--unix-socket", &socket, "http://localhost/hyperv/vms"]).status;
    assert_eq!((ask("0"), ask(NOBODY)), (200, 0));
    daemon.kill();
    daemon.run();
    assert_eq!(ask("0"), 200);
}

#[tokio::test]
async fn a_name_that_is_not_ours_and_a_page_that_is_not_allowed_are_refused() {
    let daemon = Daemon::start_with(&[
        "--accel",
        "tcg",
        "--host-name",
        "vms.example",
        "--cors-origin",
        "https://console.example",
    ]);
    let url = daemon.at("/vms");
    let ask = |headers: &[&str]| {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        curl(&headers.chain([url.as_str()]).collect::<Vec<_>>())
    };
    assert_eq!(ask(&["Host: vms.example"]).status, 200);
    // The page of a host whose name was pointed here afterwards: it asks for nothing that a browser would refuse.
    let refused = ask(&["Host: evil.example"]);
    assert_eq!(refused.status, 421, "{refused:?}");
    assert!(sentence(&refused.body).contains("--host-name"), "{refused:?}");
    assert_eq!(ask(&["Host: localhost", "Origin: http://evil.example"]).status, 403);
    // An upgrade is a GET, and refused like the rest.
    assert_eq!(ask(&["Upgrade: websocket", "Connection: Upgrade", "Origin: http://evil.example"]).status, 403);
    let allowed = ask(&["Origin: https://console.example"]);
    assert_eq!(allowed.status, 200);
    assert!(allowed.head.contains("access-control-allow-origin: https://console.example"), "{allowed:?}");
    let preflight = curl(&[
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://console.example",
        "-H",
        "Access-Control-Request-Method: DELETE",
        &url,
    ]);
    assert_eq!(preflight.status, 204);
    assert!(preflight.head.contains("access-control-allow-methods: get, post, put, delete"), "{preflight:?}");
    let other = curl(&[
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://evil.example",
        "-H",
        "Access-Control-Request-Method: PUT",
        &url,
    ]);
    assert_eq!(other.status, 403);
    assert!(!other.head.contains("access-control-allow"), "{other:?}");
}
