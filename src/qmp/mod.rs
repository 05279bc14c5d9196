//! The QMP wire: one [`Session`] per running QEMU, and a short-lived [`Agent`] for the guest agent
//! beside it.
//!
//! ```text
//!  Session (clones) ──calls──▶ ┌────────┐ ──bytes──▶ QEMU
//!      ▲  ◀──replies, by id──  │ driver │ ◀──lines──
//!  Events ◀──bounded queue──   └────────┘
//! ```
//!
//! `codec` turns bytes into messages, `driver` is the one task that owns the socket, `outgoing` what it
//! has to write, `session` the handle to it, `deadline` says how long each command may take, `event` and `types` say what
//! QEMU's JSON means.
//!
//! Nothing here knows what a VM is: it starts no process, keeps no state of a VM and never
//! reconnects. A session that goes wrong closes with a [`CloseReason`], and the caller decides what
//! that means.

mod agent;
mod codec;
mod deadline;
mod driver;
mod error;
mod event;
mod outgoing;
mod session;
pub mod socket;
mod types;
mod version;

pub use agent::{Agent, ShutdownMode};
pub use deadline::deadline;
pub use error::{CloseReason, QgaError, QmpError};
pub use event::{Event, TimedEvent};
pub use session::{Events, Options, Session};
pub use types::{
    BlockDeviceInfo, BlockDeviceStats, BlockInfo, BlockStats, CpuFast, GuestStats, ImageInfo, MachineInfo, RunState,
    StatusInfo,
};
pub use version::QemuVersion;
