//! What all listeners together take on, so that a crowd at one of them costs bounded memory and shuts nobody out
//! (docs/adr/0026). Connections are each listener's own (`room`).

use std::sync::Arc;

use super::{answers::Answers, callers::Callers};

/// Shared by all listeners.
#[derive(Clone)]
pub struct Load {
    pub(super) answers: Arc<Answers>,
    pub(super) callers: Arc<Callers>,
}

impl Load {
    /// So many bytes of answers that are not taken yet, and so many requests under way.
    pub fn new(answers: u64, requests: usize) -> Self {
        Self { answers: Answers::new(answers), callers: Callers::new(requests) }
    }
}
