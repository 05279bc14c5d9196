//! qherd manages QEMU virtual machines directly over QMP, without libvirt, behind a REST API.
//!
//! The way of a request through the code, always in this direction:
//!
//! ```text
//!  api/http   one route table, body decoding, accept loop
//!  api/kvm, api/hyperv    the two dialects: translation only          cli   commands; most of them by client, over HTTP
//!     │
//!  service    the one core: create, list, route to a VM, recover
//!     │
//!  vm         one task per VM: decide, launch, stop, adopt
//!     │
//!  qemu  qmp  net  host  store     arguments · monitor · switches · processes and images · records
//!  fetch                           files from elsewhere
//!     │
//!  model      plain types without I/O
//! ```
//!
//! Reads do not travel at all: they take the last `VmView` that a VM's task published. Nothing
//! points upwards; `tests/tree/layers.rs` holds the tree to that. One start through all of it: docs/architecture.md.

// The list is in clippy.toml. Tests may wait.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod fetch;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod model;
pub mod net;
pub mod profile;
pub mod qemu;
pub mod qmp;
pub mod service;
pub mod store;
pub mod vm;
