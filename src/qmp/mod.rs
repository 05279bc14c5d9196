//! The QMP wire: one [`Session`] per running QEMU, and a short-lived [`Agent`] for the guest agent
//! beside it.
//!
//! ```text
//!  Session (clones) ──calls──▶ ┌────────┐ ──bytes──▶ QEMU
//!      ▲  ◀──replies, by id──  │ driver │ ◀──lines──
//!  Events ◀──bounded queue──   └────────┘
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use qherd::qmp::{Session, socket};
//! use std::{path::Path, time::Duration};
//!
//! let stream = socket::connect(Path::new("/run/vm/qmp.sock"), Duration::from_secs(10)).await?;
//! let (session, mut events) = Session::open(stream, Duration::from_secs(10)).await?;
//! session.execute(qapi::qmp::cont {}).await?;
//! while let Some(event) = events.next().await {
//!     println!("{:?}", event.event);
//! }
//! println!("it ended because {}", session.closed().await);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/qmp.rs` does the same with a QEMU of its own. What can be relied on:
//! - every command is answered, refused by QEMU, or fails once its [`deadline()`] is over; nothing hangs;
//! - a call may be dropped at any time, which disturbs no other;
//! - a peer that lies, floods or falls silent costs a bounded amount of memory, and the session.
//!
//! `codec` turns bytes into messages, `driver` is the one task that owns the socket, `outgoing` what it
//! has to write, `session` the handle to it, `deadline` says how long each command may take, `event` and `types` say what
//! QEMU's JSON means.
//!
//! Nothing here knows what a VM is: it starts no process, keeps no state of a VM and never
//! reconnects. A session that goes wrong closes with a [`CloseReason`], and the caller decides what
//! that means.

#![warn(missing_docs)]

mod agent;
mod codec;
mod deadline;
mod driver;
mod error;
mod event;
pub(crate) mod fuzz;
mod outgoing;
mod session;
pub mod socket;
mod types;
mod version;

pub use agent::{Agent, Bounds, ShutdownMode};
pub use deadline::deadline;
pub use error::{CloseReason, QgaError, QmpError};
pub use event::{Event, TimedEvent};
pub use session::{Events, Options, Session};
pub use types::{
    BlockDeviceInfo, BlockDeviceStats, BlockInfo, BlockStats, CpuFast, GuestStats, ImageInfo, MachineInfo, RunState,
    StatusInfo,
};
pub use version::QemuVersion;
