//! What of a domain is not taken over, or is other here than it was: said plainly, with what that means.

use serde::Serialize;

/// One such thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// In libvirt's words.
    pub what: String,
    pub why: String,
}

/// All of them, in the order of the file.
#[derive(Debug, Default)]
pub struct List(pub Vec<Left>);

impl List {
    pub fn add(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let left = Left { what: what.into(), why: why.into() };
        if !self.0.contains(&left) {
            self.0.push(left);
        }
    }
}
