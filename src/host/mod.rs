//! The host's side: processes, disk images, cores and memory. Small and synchronous where the kernel answers at once;
//! nothing in here knows what a VM is.

pub mod cpus;
pub mod image;
pub mod inventory;
pub mod process;
mod tail;
pub mod tasks;

pub use tail::{last_lines, last_text};
