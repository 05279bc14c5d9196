//! Handlers that read.

use serde::Deserialize;
use warp::http::StatusCode;

use super::{Shared, dto, error::Problem, vm_id};
use crate::{
    api::{
        events::wait_time,
        http::{HttpError, QueryParam, Reply, Request, listing},
    },
    model::{Status, VmId},
    service::{Awaited, Filter},
};

const MAX_PAGE: i64 = 10_000;

pub const STATUS_QUERY: &[QueryParam] = &[
    QueryParam::one_of(
        "wait",
        &["running", "stopped", "agent", "ip"],
        "Answer when it runs, when nothing of it runs, when the guest's agent is there, or when the guest has an address; `reached` says whether it came to that \
         within the time. Deleted meanwhile: 404 at once.",
    ),
    QueryParam::integer("timeout", "With `wait`: seconds, 1 to 3600; default 30."),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    status: Option<Status>,
    name: Option<String>,
    limit: Option<i64>,
    page_token: Option<String>,
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let query: ListQuery = request.query()?;
    let limit = query.limit.map(|limit| ranged("limit", limit, MAX_PAGE)).transpose()?;
    let after = query.page_token.as_deref().map(read_token).transpose()?;
    let filter = Filter { status: query.status, name: query.name.clone(), ..Filter::default() };
    let Some(limit) = limit else {
        return Ok(listing::array(move |page: Option<(u64, VmId)>| {
            let page = shared.service.list(&filter, page.or(after), Some(listing::PAGE));
            (page.vms.iter().map(dto::Listed::of).collect(), page.next)
        }));
    };
    let page = shared.service.list(&filter, after, Some(limit as usize));
    let reply = Reply::json(StatusCode::OK, &page.vms.iter().map(dto::Listed::of).collect::<Vec<_>>());
    let Some((created_at, id)) = page.next else { return Ok(reply) };
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.append_pair("page_token", &format!("{created_at}.{id}"));
    next.extend_pairs(query.limit.map(|limit| ("limit", limit.to_string())));
    next.extend_pairs(query.status.map(|status| ("status", status.as_str())));
    next.extend_pairs(query.name.map(|name| ("name", name)));
    Ok(reply.next_page(&format!("/vms?{}", next.finish())))
}

fn read_token(token: &str) -> Result<(u64, VmId), HttpError> {
    let parts = token.split_once('.').and_then(|(age, id)| Some((age.parse().ok()?, VmId::parse(id)?)));
    parts.ok_or_else(|| HttpError::invalid("page_token", "be one that a list gave in its Link header"))
}

pub fn ranged(name: &'static str, value: i64, max: i64) -> Result<u64, HttpError> {
    match value {
        ..=0 => Err(HttpError::invalid(name, "be greater than 0")),
        _ if value > max => Err(HttpError::invalid(name, format!("be at most {max}"))),
        _ => Ok(value as u64),
    }
}

pub async fn details(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.view(vm_id(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &dto::Details::of(&view, shared.service.caps().accelerator.as_str())))
}

pub async fn config(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.view(vm_id(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &dto::Config::of(&view)))
}

pub async fn status(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let view = shared.service.view(id)?;
    let query: WaitQuery = request.query()?;
    let Some(awaited) = query.wait else {
        return match query.timeout {
            None => Ok(Reply::json(StatusCode::OK, &dto::StatusBody::of(&view))),
            Some(_) => Err(HttpError::invalid("timeout", "be given with wait").into()),
        };
    };
    let time = wait_time(query.timeout)?;
    let (view, reached) = shared.service.wait_for(id, awaited.into(), time).await?;
    Ok(Reply::json(StatusCode::OK, &dto::StatusBody::waited(&view, reached)))
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

pub async fn base_images(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let bases: Vec<dto::BaseBody> = shared.service.bases().into_iter().map(Into::into).collect();
    Ok(Reply::json(StatusCode::OK, &bases))
}

pub async fn health(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let caps = shared.service.caps();
    let health = dto::Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        qemu_version: caps.version.clone(),
        accelerator: caps.accelerator.as_str().into(),
        accelerator_reason: caps.accelerator_reason.clone(),
        warnings: crate::api::warnings(&shared.service),
    };
    Ok(Reply::json(StatusCode::OK, &health))
}

pub async fn openapi(shared: Shared, _: Request) -> Result<Reply, Problem> {
    Ok(Reply::json(StatusCode::OK, &*shared.openapi))
}
