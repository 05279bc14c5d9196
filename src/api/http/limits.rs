//! How much and how long a server takes of a client.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Limits {
    /// How long requests under way may still take once the server is told to end.
    pub drain: Duration,
    /// How long a request's head may take to arrive, from its first byte on.
    pub header_timeout: Duration,
    /// How long a connection is kept between two requests, whatever happens. Clients keep theirs for 60 to 90 s.
    pub idle: Duration,
    /// How long it is kept beyond that, while nobody needs its place.
    pub silence: Duration,
    /// How long a client may take nothing of its answer.
    pub stall: Duration,
    /// The largest head of a request; beyond it 431, and 414 for an eighth of it in the path.
    pub header_bytes: usize,
    /// Beyond it clients wait in the backlog. Descriptors are needed for VMs too.
    pub connections: usize,
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
        }
    }
}
