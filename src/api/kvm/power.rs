//! Handlers that act: create, start, stop, reboot, delete.

use std::time::Duration;

use serde::Deserialize;
use warp::http::StatusCode;

use super::{Shared, as_sent::Written, dto, error::Problem, vm_id};
use crate::{
    api::http::{HttpError, NoFields, Reply, Request, agreed},
    model::{CreateVm, Status, VmId},
    vm::{RebootMode, Start, StopMode},
};

/// A day.
const MAX_TIMEOUT: i64 = 86_400;

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: dto::CreateBody = request.json()?;
    let wish = CreateVm { id: request.makes.map(VmId::from), ..body.into_model(&Written::of(&request))? };
    let view = shared.service.create(wish).await?;
    Ok(Reply::json(StatusCode::CREATED, &dto::Created::of(&view)))
}

pub async fn start(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    request.json_or_default::<NoFields>()?;
    let (view, found) = shared.service.start(id).await?;
    // What was acknowledged is the start; a guest that has already stopped again is the next read's news.
    let status = if view.status == Status::Stopped { Status::Running } else { view.status };
    let message = "VM successfully started, or already running.";
    let reply = Reply::json(StatusCode::OK, &dto::Done::new(id, status, message, None));
    Ok(reply.unchanged_if(found == Start::Already))
}

pub async fn stop(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: dto::StopBody = request.json_or_default()?;
    let query: dto::StopBody = request.query()?;
    let force = agreed("force", query.force, body.force)?.unwrap_or(false);
    let patience = patience(&shared, agreed("timeout", query.timeout, body.timeout)?)?;
    let mode = if force { StopMode::Force } else { StopMode::Graceful(patience) };
    let stopped = shared.service.stop(id, mode).await?;
    let done = dto::Done::new(id, Status::Stopped, "VM successfully stopped.", Some(stopped.forced));
    Ok(Reply::json(StatusCode::OK, &done).unchanged_if(stopped.unchanged))
}

pub async fn reboot(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: dto::RebootBody = request.json_or_default()?;
    let query: dto::RebootBody = request.query()?;
    let patience = patience(&shared, agreed("timeout", query.timeout, body.timeout)?)?;
    shared.service.reboot(id, RebootMode::Graceful(patience)).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Done::new(id, Status::Rebooting, "VM successfully rebooted.", None)))
}

pub async fn suspend(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    request.json_or_default::<NoFields>()?;
    shared.service.suspend(id).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Done::new(id, Status::Paused, "VM successfully suspended.", None)))
}

pub async fn resume(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    request.json_or_default::<NoFields>()?;
    shared.service.resume(id).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Done::new(id, Status::Running, "VM successfully resumed.", None)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteQuery {
    #[serde(default)]
    graceful: bool,
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let query: DeleteQuery = request.query()?;
    let graceful = query.graceful.then(|| shared.service.default_patience());
    let view = shared.service.delete(id, graceful).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::of(&view)))
}

fn patience(shared: &Shared, timeout: Option<i64>) -> Result<Duration, HttpError> {
    match timeout {
        None => Ok(shared.service.default_patience()),
        Some(..=0) => {
            Err(HttpError::invalid("timeout", "be greater than 0 (seconds); force=true cuts the power at once"))
        }
        Some(seconds @ 1..=MAX_TIMEOUT) => Ok(Duration::from_secs(seconds as u64)),
        Some(_) => Err(HttpError::invalid("timeout", format!("be at most {MAX_TIMEOUT} (seconds)"))),
    }
}
