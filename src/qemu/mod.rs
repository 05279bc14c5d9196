//! What is known about QEMU as a program: its command line for a VM, its abilities, and which accelerator works.
//! Talking to a running QEMU is `qmp`'s work, and its process is `host`'s.

mod accelerator;
mod args;
mod caps;
mod cpus;
pub mod devices;
mod footprint;
mod stderr;

pub use accelerator::Accelerator;
pub use args::{ChardevFds, CommandLine, RunPaths};
pub use caps::{Caps, family};
pub use footprint::memory_bound;
