//! The console of a VM, its log and its logs over HTTP: what is answered and refused, and that nothing of it depends on how it is cut.

use std::{fs, io::Read, os::unix::net::UnixListener, time::Duration};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    callers::token,
    support::Daemon,
    terminal::{Terminal, answered, request},
};

/// A VM that has never run, with a log.
async fn with_log(daemon: &Daemon, log: &[u8]) -> String {
    let id = daemon.create(daemon.wish()).await;
    fs::create_dir_all(daemon.run_dir(&id)).unwrap();
    fs::write(daemon.run_dir(&id).join("console.log"), log).unwrap();
    id
}

async fn text(daemon: &Daemon, path: &str) -> String {
    let answer = daemon.http().get(daemon.at(path)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.unwrap()
}

#[tokio::test]
async fn a_log_is_had_in_ranges_cut_at_each_byte() {
    let daemon = Daemon::start();
    let log = b"\xff first\r\n\x1b[31msecond\x1b[0m\nlogin: ";
    let id = with_log(&daemon, log).await;
    let at = daemon.at(&format!("/vms/{id}/console/log"));
    let ask = async |range: String| {
        let answer = daemon.http().get(&at).header("range", range).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    };
    for cut in 1..log.len() {
        let (first, second) = (ask(format!("bytes=0-{}", cut - 1)).await, ask(format!("bytes={cut}-")).await);
        assert_eq!((first.0, second.0), (206, 206));
        assert_eq!([first.1, second.1].concat(), log, "{cut}");
    }
    assert_eq!(ask(format!("bytes={}-", log.len())).await.0, 416);
    let head = daemon.http().head(&at).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &log.len().to_string().parse().unwrap())
    );
    let tail = daemon.http().get(format!("{at}?tail=1")).header("range", "bytes=0-2").send().await.unwrap();
    assert_eq!(tail.bytes().await.unwrap(), "log".as_bytes(), "of what was asked for");
    assert_eq!(text(&daemon, &format!("/vms/{id}/console/log?plain=true")).await, "\u{fffd} first\nsecond\nlogin: ");
}

#[tokio::test]
async fn logs_are_asked_for_by_source_time_and_number() {
    let daemon = Daemon::start();
    let id = with_log(&daemon, b"one\n\x1b[1mtwo\x1b[0m\nthree").await;
    let logs = async |query: &str| text(&daemon, &format!("/vms/{id}/logs?{query}")).await;
    assert_eq!(logs("").await, "one\n\u{1b}[1mtwo\u{1b}[0m\nthree");
    assert_eq!(logs("tail=2&plain=true").await, "two\nthree");
    assert_eq!(logs("tail=0").await, "");
    assert_eq!(logs("source=qemu").await, "");
    // Nobody has noted when: it was there before.
    assert_eq!(logs("since=2100-01-01T00:00:00Z&tail=1").await, "three");
    for line in logs("timestamps=true&plain=true").await.lines() {
        let (time, words) = line.split_once(' ').unwrap();
        assert!(time == "-" || humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert!(["one", "two", "three"].contains(&words), "{line}");
    }
    for (query, words) in [
        ("source=disk", "source"),
        ("since=yesterday", "since must be a time such as"),
        ("tail=-1", "tail must be greater than 0"),
        ("follow=maybe", "follow"),
        ("lines=3", "lines"),
    ] {
        let refused = daemon.get(&format!("/vms/{id}/logs?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.message().contains(words), "{query}: {}", refused.message());
    }
    daemon.get("/vms/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d/logs").await.expect(404);
}

/// With the words of its firmware, which speaks on the console where there is a CD.
#[tokio::test]
async fn logs_follow_a_vm_over_its_runs_until_it_is_gone() {
    let daemon = Daemon::start();
    let iso = daemon.bases().join("empty.iso");
    fs::write(&iso, [0; 4096]).unwrap();
    let mut wish = daemon.wish();
    wish["iso"] = json!(iso);
    let id = daemon.create(wish).await;
    let answer = daemon.http().get(daemon.at(&format!("/vms/{id}/logs?follow=true&plain=true&timestamps=true")));
    let mut lines = answer.timeout(Duration::from_secs(600)).send().await.unwrap();
    let mut seen = String::new();
    let mut from = 0;
    for _ in 0..2 {
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
        while !seen[from..].contains("SeaBIOS") {
            seen.push_str(&String::from_utf8_lossy(&lines.chunk().await.unwrap().expect("it goes on")));
        }
        from = seen.len();
        daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    }
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    while let Some(more) = lines.chunk().await.unwrap() {
        seen.push_str(&String::from_utf8_lossy(&more));
    }
    assert!(!seen.contains('\u{1b}'), "{seen:?}");
    let said = seen.lines().find(|line| line.contains("SeaBIOS")).unwrap();
    assert!(humantime::parse_rfc3339(said.split(' ').next().unwrap()).is_ok(), "{said}");
}

#[tokio::test]
async fn a_console_is_opened_as_a_websocket_by_who_may_and_by_nobody_else() {
    let daemon = Daemon::start();
    let id = with_log(&daemon, b"one\ntwo\n").await;
    let path = format!("/vms/{id}/console");
    let plain = daemon.http().get(daemon.at(&path)).send().await.unwrap();
    assert_eq!((plain.status().as_u16(), &plain.headers()["upgrade"]), (426, &"websocket".parse().unwrap()));
    let status = async |asked_with: String| {
        let (_socket, head) = answered(&daemon, &asked_with).await;
        head.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let good = request(&path, "");
    let viewer = token(&daemon.state(), &["create", "--role", "viewer", "--name", "board"]);
    for (asked_with, expected) in [
        (good.clone(), 101),
        (good.replace("Version: 13", "Version: 8"), 426),
        (good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 426),
        (good.replace("Connection: keep-alive, Upgrade", "Connection: keep-alive"), 426),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 426),
        (request(&path, "Origin: http://evil.example\r\n"), 403),
        (request(&path, "Origin: null\r\n"), 403),
        (request(&path, "Origin: http://localhost\r\n"), 101),
        (request(&path, &format!("Authorization: Bearer {viewer}\r\n")), 403),
        (request(&path, "Authorization: Bearer qherd_x\r\n"), 401),
        (request(&format!("{path}?tail=-1"), ""), 400),
        (request(&format!("{path}?rows=3"), ""), 400),
        (request(&format!("{path}?watch=true&shared=true"), ""), 400),
        (request("/vms/x/console", ""), 400),
        (request("/vms/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d/console", ""), 404),
    ] {
        assert_eq!(status(asked_with.clone()).await, expected, "{asked_with}");
    }
    let mut terminal = Terminal::open(&daemon, &id, "?tail=1").await;
    terminal.see("two\n").await;
    assert_eq!(terminal.seen, "");
    terminal.type_text("x").await;
    terminal.note("the VM does not run").await;
    terminal.send(tokio_tungstenite::tungstenite::Message::binary(vec![0; 70_000])).await;
    assert!(terminal.closed().await.contains("64 KiB"));
}

/// Each byte that a client sends may be the last one of a packet.
#[tokio::test]
async fn what_is_typed_is_the_same_wherever_its_frames_are_cut() {
    let daemon = Daemon::start();
    let id = with_log(&daemon, b"").await;
    // In the place of QEMU's end of the serial line.
    let serial = UnixListener::bind(daemon.run_dir(&id).join("serial.sock")).unwrap();
    // As RFC 6455 has them, masked with nothing: a text, a fragmented one with a ping between, bytes, and the end.
    let frame = |first: u8, payload: &[u8]| [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat();
    let resize = b"{\"resize\":{\"cols\":80}}";
    let frames = [
        frame(0x81, b"ls\n"),
        frame(0x01, b"ec"),
        frame(0x89, b"there?"),
        frame(0x80, "hö\n".as_bytes()),
        frame(0x81, resize),
        frame(0x82, b"\0\xff\x1b[A"),
        frame(0x88, &[3, 232]),
    ]
    .concat();
    let expected = [b"ls\n", "echö\n".as_bytes(), b"\0\xff\x1b[A"].concat();
    for cut in 1..frames.len() {
        let (mut socket, head) = answered(&daemon, &request(&format!("/vms/{id}/console?shared=true"), "")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        socket.write_all(&frames[..cut]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        socket.write_all(&frames[cut..]).await.unwrap();
        let (serial, length) = (serial.try_clone().unwrap(), expected.len());
        let typed = tokio::task::spawn_blocking(move || {
            let mut typed = Vec::new();
            while typed.len() < length {
                let (mut line, _) = serial.accept().unwrap();
                line.read_to_end(&mut typed).unwrap();
            }
            typed
        });
        let typed = tokio::time::timeout(Duration::from_secs(60), typed).await.expect("all of it").unwrap();
        assert_eq!(typed, expected, "cut at {cut}");
        // The next one is alone again.
        let ended = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut Vec::new())).await;
        ended.expect("it is closed").unwrap();
    }
}

/// Each byte that a viewer takes may be the last that it takes.
#[tokio::test]
async fn a_viewer_that_goes_within_a_frame_leaves_no_place_taken_and_the_next_one_has_all_of_it() {
    let daemon = Daemon::start();
    let log = b"\xff first\r\n\x1b[31msecond\x1b[0m\nlogin: ";
    let id = with_log(&daemon, log).await;
    let ask = request(&format!("/vms/{id}/console?shared=true"), "");
    // The head, and one frame with what was there before.
    let (mut socket, head) = answered(&daemon, &ask).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut frames = vec![0; 2 + log.len()];
    tokio::time::timeout(Duration::from_secs(60), socket.read_exact(&mut frames)).await.expect("a frame").unwrap();
    assert_eq!((frames[0], usize::from(frames[1]), &frames[2..]), (0x82, log.len(), &log[..]));
    drop(socket);
    for cut in 0..=frames.len() {
        let (mut socket, head) = answered(&daemon, &ask).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut taken = vec![0; cut];
        tokio::time::timeout(Duration::from_secs(60), socket.read_exact(&mut taken)).await.expect("so much").unwrap();
        assert_eq!(taken, frames[..cut], "{cut}");
    }
    // Who types alone gets the place, as soon as the last of those has been seen to be gone.
    let begun = std::time::Instant::now();
    loop {
        let mut terminal = Terminal::open(&daemon, &id, "").await;
        terminal.see("login: ").await;
        terminal.type_text("x").await;
        terminal.note("[qherd: ").await;
        if terminal.notes.contains("the VM does not run") {
            break;
        }
        assert!(terminal.notes.contains("you only watch"), "{}", terminal.notes);
        assert!(begun.elapsed() < Duration::from_secs(60), "somebody keeps the place: {}", terminal.notes);
    }
}

#[tokio::test]
async fn a_viewer_that_is_far_behind_goes_on_with_the_end_and_is_noted_what_is_left_out() {
    let daemon = Daemon::start();
    let id = with_log(&daemon, b"before\n").await;
    let mut viewer = Terminal::open(&daemon, &id, "").await;
    viewer.see("before").await;
    // It hears of what QEMU writes; here somebody else does, and it looks when it has something to say itself.
    let more = format!("{}the end\n", "it goes by\n".repeat(200_000));
    let mut log = fs::File::options().append(true).open(daemon.run_dir(&id).join("console.log")).unwrap();
    std::io::Write::write_all(&mut log, more.as_bytes()).unwrap();
    viewer.type_text("x").await;
    viewer.see("the end").await;
    let left_out = more.len() - (64 << 10);
    let note = format!("[qherd: {left_out} bytes are left out: they came faster than they were taken]");
    assert!(viewer.notes.contains(&note), "{}, and not {note}", viewer.notes);
    assert!(viewer.seen.len() < 64 << 10, "{}", viewer.seen.len());
}
