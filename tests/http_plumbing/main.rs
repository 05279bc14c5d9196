//! The HTTP plumbing over a real socket: routing, bodies, and what becomes of connections.

mod bodies;
mod connections;
mod crowds;
mod kept;
mod refusals;
mod routing;
mod support;
