//! Transfers from servers on the loopback address, each of which does what its script says with one connection after the
//! other, over real sockets.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use futures_util::StreamExt;

use super::*;

/// What is done with a connection whose request is there.
type Script = Vec<Box<dyn Fn(&mut TcpStream) + Send>>;

/// A server, and the requests that it was sent.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

fn serve(script: Script) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::<Mutex<Vec<String>>>::default();
    let seen = requests.clone();
    thread::spawn(move || {
        for answer in script {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            seen.lock().unwrap().push(String::from_utf8(request).unwrap().to_ascii_lowercase());
            answer(&mut stream);
        }
    });
    Server { address, requests }
}

fn says(text: impl Into<String>) -> Box<dyn Fn(&mut TcpStream) + Send> {
    let text = text.into();
    Box::new(move |stream| stream.write_all(text.as_bytes()).unwrap())
}

fn fetcher() -> Fetcher {
    let patience = Patience {
        connect: Duration::from_secs(10),
        silence: Duration::from_millis(300),
        pause: Duration::from_millis(1),
    };
    Fetcher { allowed: vec!["127.0.0.0/8".parse().unwrap()], patience }
}

impl Server {
    /// All of the file, or why not.
    async fn get(&self, is_checked: bool) -> Result<String, FetchError> {
        let place = Place::parse(&format!("http://{}/disk", self.address)).unwrap();
        let mut transfer = fetcher().transfer(place, is_checked);
        let mut file = Vec::new();
        loop {
            let run = transfer.run(file.len() as u64).await?;
            file.truncate(run.from.try_into().unwrap());
            let mut pieces = run.pieces();
            let broken = loop {
                match pieces.next().await {
                    Some(Ok(piece)) => file.extend_from_slice(&piece),
                    Some(Err(broken)) => break broken,
                    None => return Ok(String::from_utf8(file).unwrap()),
                }
            };
            transfer.broke(file.len() as u64, broken).await?;
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

const BEGINS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"one\"\r\n\r\n";

#[tokio::test]
async fn what_breaks_off_goes_on_where_it_did_when_it_is_the_same_still() {
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789";
    let server = serve(vec![says(format!("{BEGINS}0123")), says(rest)]);
    assert_eq!(server.get(false).await.unwrap(), "0123456789");
    let second = &server.requests()[1];
    assert!(second.contains("range: bytes=4-\r\n") && second.contains("if-range: \"one\"\r\n"), "{second}");
}

#[tokio::test]
async fn what_has_become_another_file_begins_anew() {
    let other = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"two\"\r\n\r\nabcde";
    let server = serve(vec![says(format!("{BEGINS}0123")), says(other)]);
    assert_eq!(server.get(false).await.unwrap(), "abcde");
    // Of another length, whatever it is called; and gone from where it broke off.
    for odd in [
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-8/9\r\nContent-Length: 5\r\n\r\n45678",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n0123456789",
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\n\r\n456789",
        "HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n",
    ] {
        let server = serve(vec![says(format!("{BEGINS}0123")), says(odd), says(format!("{BEGINS}9876543210"))]);
        assert_eq!(server.get(false).await.unwrap(), "9876543210", "{odd}");
        assert!(!server.requests()[2].contains("range: "), "{odd}");
    }
}

#[tokio::test]
async fn what_nobody_could_tell_from_another_file_is_not_gone_on_with_unless_there_is_a_sum() {
    let begins = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: W/\"weak\"\r\n\r\n";
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789";
    let server = serve(vec![says(format!("{begins}0123")), says(format!("{begins}abcdefghij"))]);
    assert_eq!(server.get(false).await.unwrap(), "abcdefghij");
    assert!(!server.requests()[1].contains("range: "));
    let server = serve(vec![says(format!("{begins}0123")), says(rest)]);
    assert_eq!(server.get(true).await.unwrap(), "0123456789");
}

#[tokio::test]
async fn one_that_always_breaks_off_is_given_up() {
    let server = serve((0..9).map(|_| says(format!("{BEGINS}0123"))).collect());
    let error = server.get(false).await.unwrap_err();
    assert!(matches!(&error, FetchError::Elsewhere(why) if why.contains("begun 3 times")), "{error:?}");
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n";
    let script = std::iter::once(says(format!("{BEGINS}0123"))).chain((0..9).map(|_| says(rest))).collect();
    let error = serve(script).get(false).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Elsewhere(why) if why.contains("after 4 bytes; it was tried 5 times")),
        "{error:?}"
    );
}

#[tokio::test]
async fn one_that_falls_silent_is_asked_again() {
    let silent = |text: &'static str| -> Box<dyn Fn(&mut TcpStream) + Send> {
        Box::new(move |stream| {
            stream.write_all(text.as_bytes()).unwrap();
            let held = stream.try_clone().unwrap();
            thread::spawn(move || {
                thread::sleep(Duration::from_secs(60));
                drop(held);
            });
        })
    };
    let rest = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789";
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"one\"\r\n\r\n0123";
    let server = serve(vec![silent(begun), silent(""), says(rest)]);
    assert_eq!(server.get(false).await.unwrap(), "0123456789");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn redirects_are_followed_and_have_an_end() {
    let to = |place: &str| says(format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"));
    let server = serve(vec![to("/a"), to("b?c=d"), says(format!("{BEGINS}0123456789"))]);
    assert_eq!(server.get(false).await.unwrap(), "0123456789");
    assert!(server.requests()[2].starts_with("get /b?c=d http/1.1\r\n"), "{:?}", server.requests());
    let server = serve((0..20).map(|_| to("/again")).collect());
    let error = server.get(false).await.unwrap_err();
    assert_eq!(error, FetchError::Unsuitable("lead to a file within 10 redirects".into()));
    assert_eq!(server.requests().len(), 11);
    // Not to where its administrator does not let it.
    for place in ["http://169.254.169.254/latest", "http://[::1]/x"] {
        let error = serve(vec![to(place)]).get(false).await.unwrap_err();
        assert!(matches!(&error, FetchError::Unsuitable(must) if must.contains("--pull-from")), "{place}: {error:?}");
    }
    let error = serve(vec![to("file:///etc/shadow")]).get(false).await.unwrap_err();
    assert!(error.to_string().contains("begin with https"), "{error:?}");
}

#[tokio::test]
async fn what_is_not_there_is_said_at_once_and_what_had_begun_is_waited_for() {
    let [missing, later, odd] = [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "no HTTP at all\r\n\r\n",
    ];
    for (answer, said) in [(missing, "answers 404 Not Found"), (later, "answers 503"), (odd, "127.0.0.1")] {
        let error = serve(vec![says(answer)]).get(false).await.unwrap_err();
        assert!(matches!(&error, FetchError::Unsuitable(must) if must.contains(said)), "{error:?}");
    }
    let server = serve(vec![
        says(format!("{BEGINS}0123")),
        says(later),
        says(odd),
        says(missing),
        says(format!("{BEGINS}9876543210")),
    ]);
    let error = server.get(false).await.unwrap_err();
    assert!(matches!(&error, FetchError::Unsuitable(must) if must.contains("answers 404")), "{error:?}");
    let server =
        serve(vec![says(format!("{BEGINS}0123")), says(later), says(odd), says(format!("{BEGINS}9876543210"))]);
    assert_eq!(server.get(false).await.unwrap(), "9876543210");
}

#[tokio::test]
async fn a_file_whose_end_nobody_tells_needs_a_sum() {
    let endless = || serve(vec![says("HTTP/1.1 200 OK\r\n\r\n0123456789")]);
    let error = endless().get(false).await.unwrap_err();
    assert!(error.to_string().contains("be given with the sha256"), "{error:?}");
    assert_eq!(endless().get(true).await.unwrap(), "0123456789");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n";
    assert_eq!(serve(vec![says(chunked)]).get(false).await.unwrap(), "0123456789");
}

#[tokio::test]
async fn nobody_is_asked_where_the_administrator_does_not_allow_it() {
    let server = serve(vec![says(BEGINS)]);
    let place = Place::parse(&format!("http://{}/", server.address)).unwrap();
    let error = Fetcher::new(Vec::new()).transfer(place, false).run(0).await.err().unwrap();
    assert!(matches!(&error, FetchError::Unsuitable(must) if must.contains("is at 127.0.0.1")), "{error:?}");
    assert!(server.requests().is_empty());
    let nowhere = Place::parse("http://nowhere.invalid/").unwrap();
    let error = fetcher().transfer(nowhere, false).run(0).await.err().unwrap();
    assert!(matches!(&error, FetchError::Unsuitable(must) if must.contains("nowhere.invalid")), "{error:?}");
}
