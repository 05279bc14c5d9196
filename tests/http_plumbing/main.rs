//! The HTTP plumbing over a real socket: routing, bodies, and what becomes of connections.

mod bodies;
mod connections;
mod crowds;
mod kept;
mod lasting;
mod refusals;
mod routing;
mod streams;
mod support;
mod upgrades;
