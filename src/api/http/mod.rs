//! The HTTP plumbing under every dialect. It knows no virtual machine and no dialect.
//!
//! ```text
//! server  accepts connections, limits them, drains them; listen and tls are where they come from
//!   ├─ connection  one connection: its answers one after the other, and what is spoken after an upgrade
//!   ├─ wire      how long a connection is kept, what is no request at all, and how an answer is let out
//!   └─ dispatch  one warp filter: mount → table → query check → body → handler (in a task of its own)
//!        ├─ gate, origin          who is let in; web pages of others are not
//!        ├─ idempotency           a request with a known key gets its first answer
//!        ├─ beside                what is done for clients that do not wait on the line
//!        ├─ table, route   which handler a path and a method mean; what OpenAPI says about it
//!        ├─ request_id     what a request is called in its answer, in the log and in what is told of it
//!        ├─ request        what a handler is given; query, json and decode turn it into the handler's types, and an upload is
//!        │                 taken piece by piece
//!        ├─ answers        how much of answers is kept for those who do not take them
//!        └─ response, section  what a handler gives back: a whole body, a stream (streaming), another protocol (upgrade);
//!           error is everything the plumbing itself can object to
//! ```
//!
//! A dialect writes a table and says once how an [`HttpError`] looks:
//!
//! ```
//! use qherd::api::http::{Gate, HttpError, Load, Reply, Request, Route, Table, dispatch};
//! use qherd::model::Role;
//! use warp::http::StatusCode;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Greeting { name: String }
//!
//! async fn greet(prefix: String, req: Request) -> Result<Reply, HttpError> {
//!     let body: Greeting = req.json()?;
//!     Ok(Reply::json(StatusCode::OK, &format!("{prefix} {}", body.name)))
//! }
//!
//! let table = Table::new("Hello".to_owned(), vec![
//!     Route::post("/greetings", "greet", greet).at_once().role(Role::Operator).tag("Greetings").input::<Greeting>().output::<String>(200, "The greeting."),
//! ]);
//! let filter = dispatch::filter(vec![("", table)], None, Gate::closed(), Load::new(1 << 20, 100));
//! # let _ = filter;
//! ```

mod answers;
mod beside;
mod callers;
mod connection;
pub mod decode;
pub mod dispatch;
pub mod error;
pub mod fault;
pub mod gate;
mod idempotency;
mod incoming;
pub mod inflight;
pub mod json;
pub mod limits;
pub mod listen;
pub mod listing;
pub mod load;
pub mod openapi;
mod origin;
pub mod query;
pub mod query_param;
pub mod range;
pub mod request;
mod request_id;
pub mod response;
mod room;
pub mod route;
pub mod section;
pub mod server;
pub mod shutdown;
pub mod streaming;
pub mod table;
pub mod tls;
pub mod upgrade;
mod upload;
mod waiter;
pub mod websocket;
pub(super) mod wire;

pub use decode::{Nulls, given, or_default};
pub use error::HttpError;
pub use gate::Gate;
pub use limits::{Limits, PIECE};
pub use load::Load;
pub use query_param::QueryParam;
pub use request::{NoFields, Request, agreed};
pub use response::{IntoResponse, Reply, Response};
pub use route::{Draft, Route, RouteInfo, Urgency};
pub use section::{Problem, in_section};
pub use server::{Report, serve};
pub use shutdown::Shutdown;
pub use table::Table;
pub use upload::Upload;
