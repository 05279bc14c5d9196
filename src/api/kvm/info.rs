//! Handlers that read.

use serde::Deserialize;
use warp::http::StatusCode;

use super::{Shared, config::Config, dto, error::Problem, vm_id};
use crate::{
    api::{
        events::wait_time,
        http::{HttpError, QueryParam, Reply, Request},
    },
    service::Awaited,
};

pub const STATUS_QUERY: &[QueryParam] = &[
    QueryParam::one_of(
        "wait",
        &["running", "stopped", "agent", "ip"],
        "Answer when it runs, when nothing of it runs, when the guest's agent is there, or when the guest has an address; `reached` says whether it came to that \
         within the time. Deleted meanwhile: 404 at once.",
    ),
    QueryParam::whole("timeout", 1, 3600, "With `wait`: seconds, 1 to 3600; default 30."),
];

pub fn ranged(name: &'static str, value: i64, max: i64) -> Result<u64, HttpError> {
    match value {
        ..=0 => Err(HttpError::invalid(name, "be greater than 0")),
        _ if value > max => Err(HttpError::invalid(name, format!("be at most {max}"))),
        _ => Ok(value as u64),
    }
}

pub async fn details(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.view(vm_id(&request)?)?.shown_to(request.caller.role);
    let details = dto::Details::of(&shared.service, &view);
    let config = details.config.shown_to(&request.caller, &shared.service, &view).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Details { config, ..details }))
}

pub async fn config(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.view(vm_id(&request)?)?;
    let config = Config::of(&shared.service, &view).shown_to(&request.caller, &shared.service, &view).await?;
    Ok(Reply::json(StatusCode::OK, &config))
}

pub async fn status(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, role) = (vm_id(&request)?, request.caller.role);
    let view = shared.service.view(id)?.shown_to(role);
    let query: WaitQuery = request.query()?;
    let Some(awaited) = query.wait else {
        return match query.timeout {
            None => Ok(Reply::json(StatusCode::OK, &dto::StatusBody::of(&view))),
            Some(_) => Err(HttpError::invalid("timeout", "be given with wait").into()),
        };
    };
    let time = wait_time(query.timeout)?;
    let (view, reached) = shared.service.wait_for(id, awaited.into(), time).await?;
    Ok(Reply::json(StatusCode::OK, &dto::StatusBody::waited(&view.shown_to(role), reached)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    wait: Option<Wait>,
    timeout: Option<i64>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    Running,
    Stopped,
    Agent,
    Ip,
}

impl From<Wait> for Awaited {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Running => Self::Running,
            Wait::Stopped => Self::Stopped,
            Wait::Agent => Self::Agent,
            Wait::Ip => Self::Ip,
        }
    }
}

pub async fn health(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let caps = shared.service.caps();
    let health = dto::Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        qemu_version: caps.version.clone(),
        accelerator: caps.accelerator.as_str().into(),
        accelerator_reason: caps.accelerator_reason.clone(),
        warnings: shared.service.warnings(),
    };
    Ok(Reply::json(StatusCode::OK, &health))
}
