//! A server of files on the loopback address: each connection is answered as the test says, in its turn, over real sockets.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

pub struct Web {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// `answer` is given the number of the connection, from 0, and what was asked.
    pub fn serve(answer: impl Fn(usize, &str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        // It ends with the test's process.
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { continue };
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    request.push(byte[0]);
                }
                let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
                seen.lock().unwrap().push(request.clone());
                answer(number, &request, &mut stream);
            }
        });
        Self { address, requests }
    }

    /// One that has this file, and sends ranges of it.
    pub fn of_file(file: Vec<u8>) -> Self {
        Self::serve(move |_, request, stream| send(&file, request, file.len(), stream))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// What is asked of a file, as a server does that has ranges; it breaks off after `most` bytes.
pub fn send(file: &[u8], request: &str, most: usize, stream: &mut TcpStream) {
    let range = request.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let (from, length) = (range.unwrap_or(0), file.len());
    let head = match range {
        Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}", length - 1),
        None => "200 OK".to_owned(),
    };
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nETag: \"one\"\r\n\r\n", length - from);
    // A client that has gone hears nothing.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&file[from..(from + most).min(length)]));
}
