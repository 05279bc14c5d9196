//! Handlers about the service itself.

use schemars::JsonSchema;
use serde::Serialize;
use warp::http::StatusCode;

use super::{Shared, error::Problem};
use crate::api::http::{Reply, Request};

#[derive(Serialize, JsonSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
    version: &'static str,
    qemu_version: String,
    /// `kvm` or `tcg`.
    accelerator: &'static str,
    /// What somebody should see to.
    warnings: Vec<String>,
}

pub async fn health(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let caps = shared.service.caps();
    let health = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        qemu_version: caps.version.clone(),
        accelerator: caps.accelerator.as_str(),
        warnings: shared.service.warnings(),
    };
    Ok(Reply::json(StatusCode::OK, &health))
}
