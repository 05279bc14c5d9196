//! Images that are sent: whole, cut off, too long, with a sum that lies, and while the daemon is killed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    operations_of as operations,
    support::{Answer, Daemon, PATIENCE},
};
use serde_json::{Value, json};

async fn upload(daemon: &Daemon, query: &str, body: Vec<u8>) -> Answer {
    daemon.send(daemon.http().post(daemon.at(&format!("/images/uploads?{query}"))).body(body)).await
}

/// A raw disk with something in it.
fn disk(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| if at % 7 == 0 { (at / 4096) as u8 } else { 0 }).collect()
}

fn unfinished(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.state().join("layers/unfinished")).unwrap().count()
}

async fn nothing_is_unfinished(daemon: &Daemon) {
    let deadline = Instant::now() + PATIENCE;
    while unfinished(daemon) > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The head of an upload that says how long it is, and what comes after it is the test's.
fn begin(daemon: &Daemon, query: &str, head: &str) -> TcpStream {
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST /images/uploads?{query} HTTP/1.1\r\nHost: {address}\r\n{head}\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !is_whole(&text) {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => text += &String::from_utf8_lossy(&piece[..read]),
        }
    }
    text
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

#[tokio::test]
async fn what_is_sent_is_an_image_with_its_sum() {
    let daemon = Daemon::start();
    let bytes = disk(5 << 20);
    let path = daemon.dir.path().join("sent.raw");
    std::fs::write(&path, &bytes).unwrap();
    let output = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
    let sum = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
    let image = upload(&daemon, &format!("name=sent:1&sha256={sum}"), bytes.clone()).await.expect(201);
    assert_eq!((&image["sha256"], &image["source"]["type"]), (&json!(sum), &json!("upload")));
    let file = image["layer"]["file"].as_str().unwrap();
    let compared = std::process::Command::new("qemu-img").args(["compare", file]).arg(&path).output().unwrap();
    assert!(compared.status.success(), "{compared:?}");
    nothing_is_unfinished(&daemon).await;

    // In pieces of unknown number, and without waiting for what comes after it.
    let mut stream = begin(&daemon, "name=chunked", "Transfer-Encoding: chunked\r\nPrefer: respond-async");
    for piece in disk(1 << 20).chunks(100_000) {
        write!(stream, "{:x}\r\n", piece.len()).unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let text = answer(&stream);
    assert!(text.starts_with("HTTP/1.1 202") || text.starts_with("HTTP/1.1 201"), "{text}");
    if let Some(place) = text.lines().find_map(|line| line.strip_prefix("location: ")) {
        let ended = operations::end(&daemon, place.trim()).await;
        assert_eq!(ended["status"], "done", "{ended:#}");
    }
    daemon.get("/images/chunked").await.expect(200);
}

#[tokio::test]
async fn an_upload_that_lies_or_cannot_be_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    let bytes = || disk(1 << 20);
    for (query, body, status, said) in [
        ("", bytes(), 400, "name must be given"),
        ("name=a/b", bytes(), 400, "name must be NAME"),
        ("name=ok&sha256=12", bytes(), 400, "sha256 must be a SHA-256 sum"),
        ("name=ok&sum=12", bytes(), 400, "sum"),
        (&format!("name=ok&sha256={}", "a".repeat(64)), bytes(), 400, "sha256 must be the sum of what is imported"),
        ("name=ok", Vec::new(), 400, "image must not be empty"),
        ("name=ok", b"<html>404</html>".to_vec(), 400, "image must be the image of a disk, not an HTML"),
    ] {
        let answer = upload(&daemon, query, body).await;
        assert!(answer.status == status && answer.message().contains(said), "{query}: {answer:?}");
    }
    let form = daemon
        .http()
        .post(daemon.at("/images/uploads?name=ok"))
        .header("content-type", "multipart/form-data; boundary=x");
    let answer = daemon.send(form.body("--x")).await;
    assert!(answer.status == 400 && answer.message().contains("the body is the file itself"), "{answer:?}");
    let keyed = daemon.http().post(daemon.at("/images/uploads?name=ok")).header("idempotency-key", "k");
    let answer = daemon.send(keyed.body(bytes())).await;
    assert!(answer.status == 400 && answer.message().contains("sha256 must be given"), "{answer:?}");

    // More than there is room for is told before any of it is sent.
    let length = u64::MAX / 4;
    let text = answer_of(&daemon, "name=ok", &format!("Content-Length: {length}"));
    assert!(text.starts_with("HTTP/1.1 507") && text.contains(&length.to_string()), "{text}");

    // Cut off in the middle.
    let mut stream = begin(&daemon, "name=ok", "Content-Length: 9000000");
    stream.write_all(&bytes()).unwrap();
    while unfinished(&daemon) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(stream);
    nothing_is_unfinished(&daemon).await;
    assert_eq!(daemon.get("/images").await.expect(200), json!([]));
    upload(&daemon, "name=ok", bytes()).await.expect(201);
    let answer = upload(&daemon, "name=ok", bytes()).await;
    assert!(answer.status == 409, "{answer:?}");
}

fn answer_of(daemon: &Daemon, query: &str, head: &str) -> String {
    answer(&begin(daemon, query, head))
}

#[tokio::test]
async fn what_a_kill_leaves_of_an_upload_goes_at_the_next_start() {
    let mut daemon = Daemon::start();
    let mut stream = begin(&daemon, "name=ok", "Content-Length: 9000000");
    stream.write_all(&disk(1 << 20)).unwrap();
    while unfinished(&daemon) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.kill();
    let notes = daemon.state().join("layers/unfinished/notes");
    std::fs::write(&notes, "somebody's").unwrap();
    assert_eq!(unfinished(&daemon), 2);
    daemon.run();
    assert_eq!(unfinished(&daemon), 1, "what is ours goes, and nothing else");
    assert!(notes.exists());
    upload(&daemon, "name=ok", disk(1 << 20)).await.expect(201);
}

/// Of memory that the kernel counts as the daemon's own.
fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[tokio::test]
async fn a_long_upload_takes_no_more_memory_than_a_short_one() {
    let daemon = Daemon::start();
    let before = resident(&daemon);
    let length = 256_u64 << 20;
    let mut stream = begin(&daemon, "name=long", &format!("Content-Length: {length}"));
    let piece = vec![0; 1 << 20];
    let mut most = 0;
    for _ in 0..length >> 20 {
        stream.write_all(&piece).unwrap();
        most = most.max(resident(&daemon));
    }
    let text = answer(&stream);
    assert!(text.starts_with("HTTP/1.1 201"), "{text}");
    let image: Value = daemon.get("/images/long").await.expect(200);
    assert_eq!(image["virtual_size"], json!(length));
    assert!(most < before + (32 << 10), "{most} kB after {before} kB");
}

async fn go_on(daemon: &Daemon, id: &str, offset: usize, body: Vec<u8>) -> Answer {
    daemon.send(daemon.http().put(daemon.at(&format!("/uploads/{id}?offset={offset}"))).body(body)).await
}

async fn begun(daemon: &Daemon) -> String {
    let upload = daemon.post("/uploads", json!({ "name": "disk.raw" })).await.expect(201);
    assert_eq!((&upload["offset"], &upload["name"]), (&json!(0), &json!("disk.raw")));
    upload["id"].as_str().unwrap().to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off_and_is_an_image_then() {
    let daemon = Daemon::start();
    let bytes = disk(5 << 20);
    let id = begun(&daemon).await;
    let at = format!("/uploads/{id}");
    let upload = go_on(&daemon, &id, 0, bytes[..1 << 20].to_vec()).await.expect(200);
    assert_eq!((&upload["offset"], &upload["sha256"]), (&json!(1 << 20), &json!(sha256(&bytes[..1 << 20]))));

    // Cut off in the middle of a part: what has come of it stays.
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let left = bytes.len() - (1 << 20);
    write!(stream, "PUT {at}?offset=1048576 HTTP/1.1\r\nHost: {address}\r\nContent-Length: {left}\r\n\r\n").unwrap();
    stream.write_all(&bytes[1 << 20..3 << 20]).unwrap();
    while daemon.get(&at).await.expect(200)["offset"] != json!(3 << 20) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Whoever comes back does not wait until the lost connection is; that one is told.
    let answer = go_on(&daemon, &id, 0, bytes.clone()).await;
    assert!(answer.status == 409 && answer.message().contains("go on there, and not at 0"), "{answer:?}");
    let upload = daemon.get(&at).await.expect(200);
    assert_eq!((&upload["offset"], &upload["sha256"]), (&json!(3 << 20), &json!(sha256(&bytes[..3 << 20]))));
    drop(stream);
    let upload = go_on(&daemon, &id, 3 << 20, bytes[3 << 20..].to_vec()).await.expect(200);
    assert_eq!((&upload["offset"], &upload["sha256"]), (&json!(5 << 20), &json!(sha256(&bytes))));

    // Refused it stays.
    let wrong = json!({ "name": "sent:1", "upload": id, "sha256": "a".repeat(64) });
    let answer = daemon.post("/images", wrong).await;
    assert!(answer.status == 400 && answer.message().contains(&sha256(&bytes)), "{answer:?}");
    assert_eq!(daemon.get("/uploads").await.expect(200), json!([upload]));
    let wish = json!({ "name": "sent:1", "upload": id, "sha256": sha256(&bytes), "labels": { "a": "b" } });
    let image = daemon.post("/images", wish).await.expect(201);
    assert_eq!(image["source"], json!({ "type": "upload", "path": null, "url": null, "vm_id": null, "disk": null }));
    for answer in [daemon.get(&at).await, go_on(&daemon, &id, 0, bytes.clone()).await, daemon.delete(&at).await] {
        assert!(answer.status == 404 && answer.message().contains("Upload not found"), "{answer:?}");
    }
    assert_eq!(daemon.get("/uploads").await.expect(200), json!([]));
    nothing_is_unfinished(&daemon).await;
}

#[tokio::test]
async fn uploads_are_bounded_and_one_that_is_thrown_away_leaves_nothing() {
    let mut daemon = Daemon::start();
    for (path, body, said) in [
        ("/uploads/none?offset=0", vec![7], "Upload not found"),
        ("/uploads/123e4567-e89b-42d3-a456-426614174000?offset=0", vec![7], "Upload not found"),
    ] {
        let answer = daemon.send(daemon.http().put(daemon.at(path)).body(body)).await;
        assert!(answer.status == 404 && answer.message().contains(said), "{path}: {answer:?}");
    }
    let id = begun(&daemon).await;
    for query in ["", "?offset=-1", "?offset=x"] {
        let answer = daemon.send(daemon.http().put(daemon.at(&format!("/uploads/{id}{query}"))).body("x")).await;
        assert!(answer.status == 400 && answer.message().contains("offset"), "{query}: {answer:?}");
    }
    // An empty one is no image.
    let answer = daemon.post("/images", json!({ "name": "none", "upload": id })).await;
    assert!(answer.status == 400 && answer.message().contains("upload must not be empty"), "{answer:?}");
    let answer = daemon.post("/images", json!({ "name": "none", "upload": id, "path": "blank.raw" })).await;
    assert!(answer.status == 400, "{answer:?}");
    // More than there is room for is told before any of it is sent.
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = u64::MAX / 4;
    write!(stream, "PUT /uploads/{id}?offset=0 HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    let text = super::image_uploads::answer(&stream);
    assert!(text.starts_with("HTTP/1.1 507") && text.contains(&length.to_string()), "{text}");
    daemon.delete(&format!("/uploads/{id}")).await.expect(200);
    nothing_is_unfinished(&daemon).await;

    for _ in 0..64 {
        begun(&daemon).await;
    }
    let answer = daemon.post("/uploads", json!({})).await;
    assert!(answer.status == 409 && answer.message().contains("64 uploads"), "{answer:?}");
    // They go with the daemon.
    daemon.kill();
    daemon.run();
    assert_eq!((daemon.get("/uploads").await.expect(200), unfinished(&daemon)), (json!([]), 0));
}

#[tokio::test]
async fn the_data_of_an_image_come_back_whole_and_in_parts() {
    let daemon = Daemon::start();
    let image = upload(&daemon, "name=sent:1", disk(5 << 20)).await.expect(201);
    let file = std::fs::read(image["layer"]["file"].as_str().unwrap()).unwrap();
    let get = |range: &'static str, tag: String| {
        let request = daemon.http().get(daemon.at("/images/sent:1/content"));
        let request = if range.is_empty() { request } else { request.header("range", range) };
        let request = if tag.is_empty() { request } else { request.header("if-range", tag) };
        async move {
            let response = request.send().await.unwrap();
            let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let (status, tag, part) = (response.status().as_u16(), header("etag"), header("content-range"));
            (status, tag, part, response.bytes().await.unwrap())
        }
    };
    let tag = format!("\"{}\"", image["layer"]["sha256"].as_str().unwrap());
    let (status, named, _, whole) = get("", String::new()).await;
    assert_eq!((status, named.as_ref(), &whole[..]), (200, Some(&tag), &file[..]));
    let (status, _, part, rest) = get("bytes=100000-", tag).await;
    assert_eq!((status, &rest[..]), (206, &file[100_000..]));
    assert_eq!(part.unwrap(), format!("bytes 100000-{}/{}", file.len() - 1, file.len()));
    let (status, _, _, other) = get("bytes=100000-", "\"another\"".to_owned()).await;
    assert_eq!((status, other.len()), (200, file.len()));
    assert_eq!(get("bytes=99999999-", String::new()).await.0, 416);
    daemon.get("/images/none/content").await.expect(404);
}
