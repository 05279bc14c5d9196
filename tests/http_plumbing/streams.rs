//! Answers that come piece by piece: whole and in order, between other answers on one connection, made only as they are taken,
//! and ended in order.

use std::sync::atomic::Ordering;
use std::time::Duration;

use qherd::api::http::{Limits, PIECE, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lasting::{FAREWELL, LENGTH, PIECES, byte_at, piece};
use crate::support::{Server, read_all, read_one};

const GET: &[u8] = b"GET /vms HTTP/1.1\r\nhost: a\r\n\r\n";
/// That it did not hang.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// The head of an answer, and nothing after it.
pub async fn read_head(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") {
        assert_eq!(timeout(PATIENCE, socket.read(&mut byte)).await.expect("a head").unwrap(), 1, "{text}");
        text.push(byte[0] as char);
    }
    text
}

/// The next chunk; empty for the last one.
async fn read_chunk(socket: &mut TcpStream) -> Vec<u8> {
    let mut size = String::new();
    let mut byte = [0];
    while !size.ends_with("\r\n") {
        assert_eq!(timeout(PATIENCE, socket.read(&mut byte)).await.expect("a chunk").unwrap(), 1, "{size:?}");
        size.push(byte[0] as char);
    }
    let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
    timeout(PATIENCE, socket.read_exact(&mut chunk)).await.expect("a chunk").unwrap();
    chunk.truncate(chunk.len() - 2);
    chunk
}

async fn read_chunks(socket: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let chunk = read_chunk(socket).await;
        if chunk.is_empty() {
            return body;
        }
        body.extend(chunk);
    }
}

fn all_pieces() -> Vec<u8> {
    (0..PIECES).flat_map(piece).collect()
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_connection_carries_answers_before_and_after_a_stream() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    for _ in 0..2 {
        socket.write_all(GET).await.unwrap();
        assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
        socket.write_all(get("/finite").as_bytes()).await.unwrap();
        let head = read_head(&mut socket).await;
        assert!(head.contains("transfer-encoding: chunked\r\n") && head.contains("keep-alive: timeout=75"), "{head}");
        assert_eq!(read_chunks(&mut socket).await, all_pieces());
    }
    // And pipelined, with one that is empty between.
    let requests = [get("/uneven"), get("/vms"), get("/uneven"), get("/vms")].concat();
    socket.write_all(requests.as_bytes()).await.unwrap();
    read_head(&mut socket).await;
    assert_eq!(read_chunks(&mut socket).await.len(), 1 + PIECE * 5 / 2 + PIECE);
    assert!(read_one(&mut socket).await.ends_with("[]"));
    read_head(&mut socket).await;
    assert_eq!(read_chunks(&mut socket).await.len(), 1 + PIECE * 5 / 2 + PIECE);
    assert!(read_one(&mut socket).await.ends_with("[]"));
    drop(socket);
    assert_eq!(server.state.lasting.open.load(Ordering::SeqCst), 0);
    assert_eq!(server.stop().await, Report { accepted: 1, cut: 0, unfinished: 0 });
}

#[tokio::test]
async fn a_stream_that_says_nothing_costs_nothing() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(get("/quiet").as_bytes()).await.unwrap();
    read_head(&mut socket).await;
    for _ in 0..3 {
        server.state.lasting.word.notify_one();
        assert_eq!(read_chunk(&mut socket).await, b"word\n");
    }
    let polls = || server.state.lasting.polls.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = polls();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Some clock may have rung.
    assert!(polls() - before < 10, "polled {} times in a second of silence", polls() - before);
    drop(socket);
}

#[tokio::test]
async fn in_http_1_0_a_stream_ends_with_the_connection() {
    let server = Server::start().await;
    let text = server.raw("GET /finite HTTP/1.0\r\nhost: a\r\n\r\n").await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200") && !head.contains("chunked") && !head.contains("keep-alive"), "{head}");
    assert_eq!(body.as_bytes(), all_pieces());
}

#[tokio::test]
async fn head_makes_nothing_of_a_stream() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    for (path, header) in
        [("/finite", "text/plain"), ("/endless", "text/plain"), ("/long", "content-length: 100000\r\n")]
    {
        socket.write_all(get(path).replace("GET", "HEAD").as_bytes()).await.unwrap();
        let head = read_head(&mut socket).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(header), "{head}");
    }
    socket.write_all(GET).await.unwrap();
    assert!(read_one(&mut socket).await.ends_with("[]"));
    assert_eq!(server.state.lasting.made.load(Ordering::SeqCst), 0);
    until("all are over", || server.state.lasting.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn of_what_has_a_length_a_range_is_had() {
    let server = Server::start().await;
    let client = reqwest::Client::new();
    let ask = |range: &'static str| client.get(server.url("/long")).header("range", range).send();
    let whole: Vec<u8> = (0..LENGTH).map(byte_at).collect();
    for (range, of, said) in [
        ("bytes=0-9", 0..10, "bytes 0-9/100000"),
        ("bytes=40000-79999", 40_000..80_000, "bytes 40000-79999/100000"),
        ("bytes=99990-", 99_990..LENGTH, "bytes 99990-99999/100000"),
        ("bytes=-5", 99_995..LENGTH, "bytes 99995-99999/100000"),
    ] {
        let answer = ask(range).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["content-range"].to_str().unwrap()), (206, said));
        assert_eq!(answer.content_length(), Some(of.len() as u64));
        assert_eq!(answer.bytes().await.unwrap(), whole[of], "{range}");
    }
    let answer = ask("bytes=100000-").await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-range"]),
        (416, &"bytes */100000".parse().unwrap())
    );
    for other in ["lines=1-2", "bytes=1-2,4-5"] {
        let answer = ask(other).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap()), (200, whole.clone().into()), "{other}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_does_not_pass_for_a_whole_one() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(get("/breaks").as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let ended = timeout(PATIENCE, socket.read_to_end(&mut all)).await.expect("it ends");
    assert!(ended.is_err() || !all.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&all));
    let read = reqwest::get(server.url("/breaks")).await.unwrap().bytes().await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn nothing_is_made_for_a_client_that_takes_nothing() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(get("/endless").as_bytes()).await.unwrap();
    let made = || server.state.lasting.made.load(Ordering::SeqCst);
    until("it begins", || made() > 0).await;
    // Until the sockets are full.
    let mut before = 0;
    while before != made() {
        before = made();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    read_head(&mut socket).await;
    for number in 0..200 {
        assert_eq!(read_chunk(&mut socket).await, piece(number));
    }
    until("it goes on when the client does", || made() > before).await;
    drop(socket);
    until("its end is known", || server.state.lasting.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_long_is_cut_and_one_that_is_told_nothing_is_not() {
    let server = Server::with(Limits { stall: Duration::from_millis(300), ..Limits::default() }).await;
    let open = || server.state.lasting.open.load(Ordering::SeqCst);
    let mut listener = server.connect().await;
    listener.write_all(get("/quiet").as_bytes()).await.unwrap();
    read_head(&mut listener).await;
    let mut sleeper = server.connect().await;
    sleeper.write_all(get("/endless").as_bytes()).await.unwrap();
    until("both have begun", || open() == 2).await;
    until("one is cut", || open() == 1).await;
    let mut rest = Vec::new();
    assert!(sleeper.read_to_end(&mut rest).await.is_err() || !rest.ends_with(b"0\r\n\r\n"));
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.state.lasting.word.notify_one();
    assert_eq!(read_chunk(&mut listener).await, b"word\n");
}

#[tokio::test]
async fn at_the_end_a_stream_without_end_takes_its_leave_and_one_with_an_end_comes_to_it() {
    let server = Server::start().await;
    let mut sockets = Vec::new();
    for path in ["/quiet", "/endless", "/finite"] {
        let mut socket = server.connect().await;
        socket.write_all(get(path).as_bytes()).await.unwrap();
        read_head(&mut socket).await;
        sockets.push(socket);
    }
    // One that takes nothing is not waited for.
    let mut sleeper = server.connect().await;
    sleeper.write_all(get("/endless").as_bytes()).await.unwrap();
    let state = server.state.clone();
    until("all have begun", || state.lasting.open.load(Ordering::SeqCst) == 4).await;
    server.shutdown.ask();
    let [quiet, endless, finite] = &mut sockets[..] else { unreachable!() };
    assert_eq!(read_chunks(quiet).await, FAREWELL.as_bytes());
    let (text, whole) = tokio::join!(read_chunks(endless), read_chunks(finite));
    assert!(text.ends_with(FAREWELL.as_bytes()));
    assert_eq!((text.len() - FAREWELL.len()) % PIECE, 0, "at the end of a piece");
    assert_eq!(whole, all_pieces());
    for socket in &mut sockets {
        assert_eq!(read_all(socket).await, "", "nothing follows");
    }
    let report = server.ended().await;
    assert_eq!((report.accepted, report.unfinished), (4, 0));
    drop(sleeper);
    assert_eq!(state.lasting.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn streams_take_no_places_and_are_counted_for_whom_they_are() {
    let server = Server::with(Limits { connections: 4, standing: 24, ..Limits::default() }).await;
    let mut listeners = Vec::new();
    for _ in 0..19 {
        let mut socket = server.connect().await;
        socket.write_all(get("/quiet").as_bytes()).await.unwrap();
        assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 200"));
        listeners.push(socket);
    }
    // All are one caller's, who may have twenty requests under way.
    let mut socket = server.connect().await;
    socket.write_all(GET).await.unwrap();
    assert!(read_one(&mut socket).await.starts_with("HTTP/1.1 200"));
    socket.write_all(get("/quiet").as_bytes()).await.unwrap();
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 200"));
    let mut one_more = server.connect().await;
    one_more.write_all(GET).await.unwrap();
    assert!(read_one(&mut one_more).await.starts_with("HTTP/1.1 429"));
    drop(listeners);
    let served = async {
        loop {
            one_more.write_all(GET).await.unwrap();
            if read_one(&mut one_more).await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    };
    timeout(PATIENCE, served).await.expect("what is over counts no more");
}

/// Who hangs up is known at once, also where nothing is said.
#[tokio::test]
async fn a_stream_without_end_ends_with_its_client() {
    let server = Server::start().await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = server.connect().await;
        socket.write_all(get("/quiet").as_bytes()).await.unwrap();
        read_head(&mut socket).await;
        sockets.push(socket);
    }
    let open = || server.state.lasting.open.load(Ordering::SeqCst);
    assert_eq!(open(), 3);
    // One asks for more meanwhile, which waits; one shuts its side.
    sockets[0].write_all(GET).await.unwrap();
    sockets[1].shutdown().await.unwrap();
    until("who says no more has gone", || open() == 2).await;
    drop(sockets.pop());
    until("who hangs up has gone", || open() == 1).await;
    server.state.lasting.word.notify_one();
    assert_eq!(read_chunk(&mut sockets[0]).await, b"word\n");
}
