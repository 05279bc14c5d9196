//! Namespaces of a child's own: what it does not see it cannot reach, whatever user it is.

use std::io;

use nix::sched::{CloneFlags, unshare};

use super::{layer::Layers, root::Root};
use crate::model::Layer;

/// Entered by a child while it still has the right to.
#[derive(Debug, Default)]
pub struct Apart {
    /// A network with nothing in it. What the child has open leads where it led before: taps, its monitor.
    pub network: bool,
    /// Shared memory, semaphores and queues.
    pub ipc: bool,
    pub root: Option<Root>,
}

impl Apart {
    /// In the child, for good. Allocates nothing.
    ///
    /// # Errors
    /// Of a daemon that may not.
    pub(super) fn enter(&self, layers: Layers) -> io::Result<()> {
        let mut new = CloneFlags::empty();
        if self.network && layers.includes(Layer::Network) {
            new |= CloneFlags::CLONE_NEWNET;
        }
        if self.ipc && layers.includes(Layer::Ipc) {
            new |= CloneFlags::CLONE_NEWIPC;
        }
        if !new.is_empty() {
            unshare(new)?;
        }
        match self.root.as_ref().filter(|_| layers.includes(Layer::Mounts)) {
            Some(root) => root.enter(),
            None => Ok(()),
        }
    }
}
