//! The accept loop under a service: limits on connections, and an orderly end.
//!
//! warp's own `serve` has no header timeout, ends neither in time nor in order, and takes TCP alone; so hyper-util
//! runs under `warp::service` here. It knows no route; what a request means is the service's task, and what happens on one
//! connection `connection`'s.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::task::JoinSet;

use super::connection::{Connection, Service};
use super::inflight::InFlight;
use super::listen::Listener;
use super::room::Room;
use super::wire::Turns;
use super::{Limits, Shutdown};

/// After an accept that failed for want of something: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client sent before it could know of the end is read within this.
const LINGER: Duration = Duration::from_millis(100);
/// How long the last answers may take to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Connections accepted over the whole time.
    pub accepted: u64,
    /// Connections that were cut, because they did not take their answer.
    pub cut: usize,
    /// Operations that were still under way at the end. They go on as long as the runtime does.
    pub unfinished: usize,
}

/// Serves until `shutdown` is asked to begin. Then requests under way may finish for `limits.drain`, and new ones, also
/// on new connections, are refused with 503; at its end, or when `shutdown` is asked again, those that still wait are
/// told so. Returns when all of them have their answer.
pub async fn serve<L: Listener>(listener: L, service: impl Service, shutdown: Shutdown, limits: Limits) -> Report {
    let in_flight = InFlight::default();
    let mut server = Acceptor {
        listener,
        service,
        http: http(&limits),
        room: Room::new(&limits),
        arrived: None,
        limits: limits.clone(),
        in_flight: in_flight.clone(),
        connections: JoinSet::new(),
        accepted: 0,
    };
    server.accept_until(shutdown.begun()).await;

    in_flight.drain();
    let patience = async {
        tokio::select! {
            () = in_flight.idle() => {}
            () = tokio::time::sleep(limits.drain) => {}
            () = shutdown.hurried() => {}
        }
    };
    server.accept_until(patience).await;

    in_flight.end();
    // For what is already on its way to us: closing a socket with a request unread in it would be no answer.
    server.accept_until(tokio::time::sleep(LINGER)).await;
    let Acceptor { listener, mut connections, accepted, .. } = server;
    drop(listener);
    in_flight.close();
    let written = async { while connections.join_next().await.is_some() {} };
    let cut = match tokio::time::timeout(FAREWELL, written).await {
        Ok(()) => 0,
        Err(_) => {
            while connections.try_join_next().is_some() {}
            connections.len()
        }
    };
    connections.shutdown().await;
    Report { accepted, cut, unfinished: in_flight.count() }
}

struct Acceptor<L: Listener, S> {
    listener: L,
    service: S,
    http: http1::Builder,
    room: Room,
    /// Has come, and has no place yet.
    arrived: Option<L::Arrival>,
    limits: Limits,
    in_flight: InFlight,
    connections: JoinSet<()>,
    accepted: u64,
}

impl<L: Listener, S: Service> Acceptor<L, S> {
    async fn accept_until(&mut self, end: impl Future<Output = ()>) {
        let mut complained = false;
        let mut end = pin!(end);
        loop {
            let next = async {
                if self.arrived.is_none() {
                    self.arrived = Some(self.listener.accept().await?);
                }
                self.room.place().await
            };
            tokio::select! {
                biased;
                () = &mut end => break,
                // Ended connections are taken out as they end, or the set would grow for ever.
                Some(_) = self.connections.join_next() => {}
                result = next => match result {
                    Ok(place) => {
                        let Some(arrival) = self.arrived.take() else { continue };
                        self.accepted += 1;
                        complained = false;
                        let turns = Turns::new();
                        let connection = Connection {
                            in_flight: self.in_flight.clone(),
                            limits: self.limits.clone(),
                            seat: Arc::new(self.room.seat(place, Arc::clone(&turns))),
                            turns,
                        };
                        self.connections.spawn(connection.run(self.http.clone(), arrival, self.service.clone()));
                    }
                    Err(err) if of_one_client(&err) => {
                        tracing::debug!(%err, "a client went away before it was accepted");
                    }
                    Err(err) => {
                        // Out of descriptors or memory: one warning, however long it lasts.
                        if !complained {
                            tracing::warn!(%err, "connections cannot be accepted");
                            complained = true;
                        }
                        tokio::select! {
                            () = &mut end => break,
                            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                        }
                    }
                },
            }
        }
    }
}

fn http(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    // The wire has clocks of its own, and lets no larger head through; hyper refuses less than 8 KiB by a panic.
    http.header_read_timeout(None).max_buf_size(limits.header_bytes.max(8192) + 8192).keep_alive(true);
    // Who has said all that it wants to say is answered all the same.
    http.half_close(true);
    http
}

/// Errors that say something about one client and nothing about the next.
fn of_one_client(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::{Gate, Load, Table, dispatch};
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    /// Fails as told, then hands out its connections, then has nothing more.
    struct Scripted {
        script: VecDeque<io::Result<DuplexStream>>,
        calls: Arc<AtomicUsize>,
    }

    impl Listener for Scripted {
        type Arrival = DuplexStream;
        async fn accept(&mut self) -> io::Result<DuplexStream> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            match self.script.pop_front() {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn failing_to_accept_neither_ends_nor_spins_the_loop() {
        let (mut client, server) = tokio::io::duplex(4096);
        let calls = Arc::new(AtomicUsize::new(0));
        let emfile = || Err(io::Error::from_raw_os_error(24));
        let listener = Scripted {
            script: VecDeque::from([
                Err(io::ErrorKind::ConnectionAborted.into()),
                emfile(),
                emfile(),
                emfile(),
                Ok(server),
            ]),
            calls: Arc::clone(&calls),
        };
        let started = std::time::Instant::now();
        let shutdown = Shutdown::default();
        let service =
            dispatch::service(vec![("", Table::new((), Vec::new()))], None, Gate::closed(), Load::new(1 << 20, 100));
        let server = tokio::spawn(serve(listener, service, shutdown.clone(), Limits::default()));
        client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert_eq!(started.elapsed().as_millis() / 100, 3, "100 ms per failure for want of something");
        assert!(calls.load(Ordering::SeqCst) <= 7);
        shutdown.ask();
        let report = server.await.unwrap();
        assert_eq!(report, Report { accepted: 1, cut: 0, unfinished: 0 });
    }
}
