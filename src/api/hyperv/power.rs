//! Handlers that start, stop, restart, suspend and resume.

use warp::http::StatusCode;

use super::{Shared, dto, error::Problem};
use crate::{
    api::http::{NoFields, Reply, Request},
    vm::{RebootMode, Start, StopMode},
};

pub async fn start(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    request.json_or_default::<NoFields>()?;
    let (_, found) = shared.service.start(id).await?;
    let already = found == Start::Already;
    let started = dto::Started { started: view.spec.name.clone(), already_running: already.then_some(true) };
    Ok(Reply::json(StatusCode::OK, &started).unchanged_if(already))
}

/// Without force it is the agent's to do: the dialect's "shutdown integration service" (ruling 27).
pub async fn stop(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    let mode = if forced(&request)? { StopMode::Force } else { StopMode::Agent(shared.service.default_patience()) };
    if shared.service.stop(id, mode).await?.already && !request.goes_on {
        return Err(Problem::AlreadyStopped);
    }
    Ok(Reply::json(StatusCode::OK, &dto::Stopped { stopped: view.spec.name.clone() }))
}

pub async fn restart(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    let mode = if forced(&request)? { RebootMode::Force } else { RebootMode::Agent(shared.service.default_patience()) };
    shared.service.restart(id, mode).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Restarted { restarted: view.spec.name.clone() }))
}

pub async fn suspend(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    request.json_or_default::<NoFields>()?;
    shared.service.suspend(id).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Suspended { suspended: view.spec.name.clone() }))
}

pub async fn resume(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, view) = shared.vm(&request)?;
    request.json_or_default::<NoFields>()?;
    shared.service.resume(id).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Resumed { resumed: view.spec.name.clone() }))
}

fn forced(request: &Request) -> Result<bool, Problem> {
    let body: dto::Force = request.json_or_default()?;
    let query: dto::Force = request.query()?;
    Ok(crate::api::http::agreed("force", query.force, body.force)?.unwrap_or(false))
}
