//! Base images in use: bodies, and the handler of their list.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, error::Problem};
use crate::{
    api::http::{Reply, Request},
    model::{CloneMode, ImageFormat},
    service::{Base, BaseState, Service},
};

/// A base image and the VMs that were cloned from it.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct BaseBody {
    pub path: PathBuf,
    pub format: ImageFormat,
    /// The names of the images of the store whose data these are; empty for another file.
    pub images: Vec<String>,
    pub state: BaseStateBody,
    pub vms: Vec<BaseUserBody>,
}

/// What became of a base image under the disks that lie on it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseStateBody {
    AsCloned,
    /// VMs on it are not started until it is put back, or accepted.
    Changed,
    Missing,
    /// It was cloned before anybody kept what was in it, nothing lies on it, or it cannot be looked at.
    Unknown,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct BaseUserBody {
    pub id: String,
    pub vm_id: String,
    pub name: String,
    pub clone: CloneMode,
}

impl BaseBody {
    pub fn of(base: Base, service: &Service) -> Self {
        let user = |user: crate::service::BaseUser| BaseUserBody {
            id: user.id.to_string(),
            vm_id: user.id.to_string(),
            name: user.name,
            clone: user.clone,
        };
        let images = base.layer.map(|layer| service.images_of(layer)).unwrap_or_default();
        let state = match base.state {
            BaseState::AsCloned => BaseStateBody::AsCloned,
            BaseState::Changed => BaseStateBody::Changed,
            BaseState::Missing => BaseStateBody::Missing,
            BaseState::Unknown => BaseStateBody::Unknown,
        };
        Self { path: base.path, format: base.format, images, state, vms: base.vms.into_iter().map(user).collect() }
    }
}

pub async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let bases = shared.service.bases().await.into_iter();
    let bases: Vec<_> = bases.map(|base| BaseBody::of(base, &shared.service)).collect();
    Ok(Reply::json(StatusCode::OK, &bases))
}
