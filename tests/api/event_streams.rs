//! Server-sent events: what a client reads, goes on with after a kill, and that one who does not read keeps nobody waiting.

use std::{collections::BTreeMap, sync::OnceLock};

use crate::support::{Daemon, PATIENCE};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Without a deadline for the whole answer. One for all: it takes its time to be made.
fn client() -> reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()).clone()
}

/// A client that reads a stream.
struct Reader {
    response: reqwest::Response,
    text: String,
    /// The last id that was read.
    last: String,
}

impl Reader {
    async fn open(daemon: &Daemon, path: &str, last: Option<&str>) -> Self {
        let mut request = client().get(daemon.at(path));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        Self { response, text: String::new(), last: String::new() }
    }

    /// The next event; none when the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let Some(id) = field("id: ") {
                    self.last = id;
                }
                if let Some(data) = field("data: ") {
                    let event: Value = serde_json::from_str(&data).unwrap();
                    assert_eq!(event["id"].as_str().or(event["Id"].as_str()), Some(self.last.as_str()));
                    assert_eq!(event["type"].as_str().or(event["Type"].as_str()).map(str::to_owned), field("event: "));
                    return Some(event);
                }
            }
            let piece = timeout(PATIENCE, self.response.chunk()).await.expect("it goes on");
            self.text += std::str::from_utf8(&piece.ok()??).unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_a_kill_where_its_client_was() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    daemon.run();
    let mut reader = Reader::open(&daemon, "/events", None).await;
    let mut theirs = Reader::open(&daemon, "/hyperv/events?type=vm.created", None).await;
    let id = daemon.create(daemon.wish()).await;
    let first = reader.next().await.unwrap();
    assert_eq!((&first["type"], &first["vm_id"]), (&json!("vm.created"), &json!(id)));
    let same = theirs.next().await.unwrap();
    assert_eq!((&same["Type"], &same["VMId"], &same["Id"]), (&first["type"], &first["vm_id"], &first["id"]));
    for iops in 0..5 {
        let limits = json!({ "io_limits": { "iops": 100 + iops } });
        daemon.put(&format!("/vms/{id}/disk"), limits).await.expect(200);
    }
    let mut numbers = vec![first["seq"].as_u64().unwrap()];
    numbers.push(reader.next().await.unwrap()["seq"].as_u64().unwrap());
    daemon.kill();
    // What it had not read before the connection broke it reads from the next daemon.
    let last = reader.last.clone();
    daemon.run();
    daemon.put(&format!("/vms/{id}/disk"), json!({ "io_limits": { "iops": 200 } })).await.expect(200);
    let newest = daemon.get("/events?after=0&wait=0&limit=1000").await.expect(200);
    let newest = newest["events"].as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
    let mut again = Reader::open(&daemon, "/events?after=0", Some(&last)).await;
    while *numbers.last().unwrap() < newest {
        numbers.push(again.next().await.unwrap()["seq"].as_u64().unwrap());
    }
    assert!(numbers.iter().copied().eq(numbers[0]..=newest), "{numbers:?}");
    // A daemon that ends says so, and waits for nobody.
    assert!(daemon.terminate().success());
    assert_eq!(again.next().await, None);
    assert!(again.text.is_empty());
}

/// What a client has of a stream whose connection has ended after so many bytes of its answer: whole events, and the last id.
fn had_of(answer: &[u8]) -> (Vec<u64>, Option<String>) {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return (Vec::new(), None) };
    let (mut rest, mut body) = (&answer[head + 4..], Vec::new());
    // Chunks, of which the last one may be a part.
    while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        body.extend(&rest[..size.min(rest.len())]);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let (mut numbers, mut last) = (Vec::new(), None);
    for line in whole.split("\n\n").flat_map(str::lines) {
        last = line.strip_prefix("id: ").map(str::to_owned).or(last);
        let event = line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap());
        numbers.extend(event.map(|event| event["seq"].as_u64().unwrap()));
    }
    (numbers, last)
}

#[tokio::test]
async fn a_stream_that_is_cut_at_any_byte_goes_on_with_the_event_that_was_not_whole() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for description in ["größe", "a\nb"] {
        daemon
            .put(&format!("/vms/{id}"), json!({ "description": description, "name": description.replace('\n', " ") }))
            .await
            .expect(200);
    }
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    let all = daemon.get("/events?after=0&wait=0").await.expect(200);
    let all: Vec<u64> = all["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut answer = Vec::new();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /events?after=0 HTTP/1.1\r\nHost: {address}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    while had_of(&answer).0.len() < all.len() {
        timeout(PATIENCE, socket.read_buf(&mut answer)).await.expect("it goes on").unwrap();
    }
    drop(socket);
    // What comes after each id that a client may have been left with.
    let mut following: BTreeMap<Option<String>, Vec<u64>> = BTreeMap::new();
    for cut in 0..=answer.len() {
        let (mut heard, last) = had_of(&answer[..cut]);
        if !following.contains_key(&last) {
            let again = daemon.http().get(daemon.at("/events?after=0&wait=0&limit=1000"));
            let again = if let Some(last) = &last { again.header("last-event-id", last) } else { again };
            let rest = daemon.send(again).await.expect(200);
            let numbers = rest["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap());
            following.insert(last.clone(), numbers.collect());
        }
        heard.extend(&following[&last]);
        assert_eq!(heard, all, "cut at {cut}, after {last:?}");
    }
    assert!(following.len() > all.len(), "{following:?}");
}

#[tokio::test]
async fn a_thousand_follow_and_one_that_does_not_read_keeps_nobody_waiting() {
    const READERS: usize = 1_000;
    const CHANGES: u64 = 8;
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /events?after=0 HTTP/1.1\r\nHost: {address}\r\n\r\n");
    silent.write_all(head.as_bytes()).await.unwrap();
    let path = format!("/events?vm={id}&type=vm.changed");
    let mut readers = Vec::new();
    for _ in 0..READERS / 50 {
        readers.extend(join_all((0..50).map(|_| Reader::open(&daemon, &path, None))).await);
    }
    let changes = async {
        for change in 0..CHANGES {
            let limits = json!({ "io_limits": { "iops": 100 + change } });
            daemon.put(&format!("/vms/{id}/disk"), limits).await.expect(200);
        }
    };
    let reads = join_all(readers.iter_mut().map(async |reader| {
        let mut numbers = Vec::new();
        while numbers.len() < CHANGES as usize {
            let event = reader.next().await.unwrap();
            assert_eq!(event["fields"], json!(["disks"]));
            numbers.push(event["seq"].as_u64().unwrap());
        }
        numbers
    }));
    // Each has its patience for every piece; a thousand take their time on a small machine.
    let ((), heard) = tokio::join!(changes, reads);
    assert!(heard[0].is_sorted_by(|a, b| a < b));
    assert!(heard.iter().all(|numbers| *numbers == heard[0]), "all hear the same");
    drop(readers);
    daemon.get("/health").await.expect(200);
    drop(silent);
}
