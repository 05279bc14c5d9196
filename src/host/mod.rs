//! The host's side: processes, disk images, cores and memory. Small and synchronous where the kernel answers at once;
//! nothing in here knows what a VM is.

pub mod cgroups;
pub mod cpus;
pub mod fail_point;
pub mod folder;
pub mod host_ports;
pub mod image;
mod in_time;
pub mod inventory;
pub mod launcher;
mod listed;
pub mod memory;
pub mod mounts;
mod open;
pub mod process;
pub mod relay;
mod removal;
pub mod sandbox;
pub mod sock_diag;
mod space;
mod spill;
mod storage;
mod tail;
pub mod tasks;
mod writes;

pub use in_time::{STORAGE, in_time};
pub use listed::{is_gone, listed};
pub use open::{Access, open_within};
pub use removal::remove_image;
pub use space::free_space;
pub use spill::Spill;
pub use storage::{Places, on_storage, on_storage_of};
pub use tail::{last_lines, last_text};
pub use writes::Writes;
