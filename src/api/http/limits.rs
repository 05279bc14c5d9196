//! How much and how long a server takes of a client.

use std::time::Duration;

/// Bytes per second of a head or a body that are no delay: a slow line has its time, and who sends a byte now and then
/// has not.
pub const LEAST_RATE: u32 = 4096;

/// Bytes that a piece of a stream should have at most. Nothing is asked for before the client's socket has room for one.
pub const PIECE: usize = 16 * 1024;

/// What so many bytes may take longer.
pub fn for_bytes(count: usize) -> Duration {
    Duration::from_secs(1) / LEAST_RATE * u32::try_from(count).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// How long requests under way may still take once the server is told to end.
    pub drain: Duration,
    /// How long a request's head may take to arrive, from its first byte on, and [`LEAST_RATE`] beyond that.
    pub header_timeout: Duration,
    /// How long a connection is kept between two requests, whatever happens. Clients keep theirs for 60 to 90 s.
    pub idle: Duration,
    /// How long it is kept beyond that, while nobody needs its place.
    pub silence: Duration,
    /// How long a client may take nothing of its answer.
    pub stall: Duration,
    /// The largest head of a request; beyond it 431, and 414 for an eighth of it in the path.
    pub header_bytes: usize,
    /// Places for connections. When they run out, the one that has been idle for the longest time goes; requests that
    /// take long need none.
    pub connections: usize,
    /// Requests that take long. Descriptors are needed for VMs too.
    pub standing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            silence: Duration::from_secs(180),
            stall: Duration::from_secs(30),
            header_bytes: 64 * 1024,
            connections: 1024,
            standing: 12_000,
        }
    }
}
