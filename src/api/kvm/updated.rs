//! How every update of a VM is asked for and answered.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{
    Shared,
    error::Problem,
    pending::{Pending, pending},
};
use crate::{
    api::http::{HttpError, Reply},
    model::{Applied, Change, VmId, VmSpec, VmView},
};

/// What became of an update.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Updated<T> {
    #[serde(flatten)]
    pub of: Of,
    #[serde(flatten)]
    pub configured: T,
    /// Always `updated`.
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub applied: Applied,
    /// What of it waits for the next start.
    pub pending: BTreeMap<Cow<'static, str>, Pending>,
}

/// What was changed.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Of {
    /// Of the VM; of a disk that has a path of its own, the disk's.
    pub id: String,
    pub vm_id: String,
}

impl Of {
    pub fn vm(id: VmId) -> Self {
        Self { id: id.to_string(), vm_id: id.to_string() }
    }

    /// A disk's name is its id.
    pub fn disk(vm: VmId, name: &str) -> Self {
        Self { id: name.to_owned(), vm_id: vm.to_string() }
    }
}

impl<T: Serialize> Updated<T> {
    pub fn new(of: Of, view: &VmView, configured: T, message: &'static str, applied: Applied) -> Self {
        Self { of, configured, status: "updated".into(), message: message.into(), applied, pending: pending(view) }
    }

    pub fn reply(&self) -> Reply {
        Reply::json(StatusCode::OK, self)
    }
}

pub async fn update<T: Serialize>(
    shared: &Shared,
    id: VmId,
    of: Of,
    change: Change,
    message: &'static str,
    configured: impl FnOnce(&VmSpec) -> T,
) -> Result<Reply, Problem> {
    let (view, applied) = shared.service.change(id, change).await?;
    let configured = configured(&view.spec);
    Ok(Updated::new(of, &view, configured, message, applied).reply())
}

pub fn at_least_one(fields: &'static str) -> HttpError {
    HttpError::invalid(fields, "be given, at least one of them")
}
