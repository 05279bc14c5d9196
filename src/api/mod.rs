//! What the outside world talks to: REST dialects over one core.
//!
//! A dialect is translation and nothing else: a route table, the types of its bodies, and its shape of an error.
//! What the dialects share (routing, bodies, decoding, serving, OpenAPI) is in [`http`], which knows no dialect.

pub mod http;
pub mod hyperv;
pub mod kvm;
