//! Operations as both dialects have them: their rows of the route table, what is looked for, the long poll, and cancelling. How a
//! dialect writes one is its own business.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;
use warp::http::StatusCode;

use super::http::{Draft, HttpError, QueryParam, Reply, Request, Route};
use crate::{
    model::{Role, VmId},
    service::{
        KeptAnswer, Service,
        operations::{Filter, NotCancelled, Operation, OperationStatus, Page},
    },
};

/// Seconds that a long poll may wait.
const LONGEST_WAIT: i64 = 300;
const DEFAULT_LIMIT: i64 = 100;
const MOST: i64 = 1_000;

const TAG: &str = "Operations";
const WAIT: &[QueryParam] = &[QueryParam::whole(
    "wait",
    0,
    LONGEST_WAIT,
    "Answer when it has ended, or after so many seconds (0 to 300) as it is then; default 0.",
)];
/// As JSON Schema has it.
pub(super) const UUID: &str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
/// The same: a number and a UUID.
pub(super) const TOKEN: &str = "^[0-9]{1,19}[.][0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";
pub(super) const LIMIT: QueryParam = QueryParam::whole(
    "limit",
    1,
    MOST,
    "At most so many, 1 to 1000; default 100. The Link header leads to the next page.",
);

/// Their rows of the route table: the list, by what `query` names, one of them, and its cancelling. `B` is how one is written.
pub(super) fn routes<S: 'static, B: JsonSchema>(
    list: Draft<S>,
    query: &'static [QueryParam],
    get: Draft<S>,
    cancel: Draft<S>,
) -> Vec<Route<S>> {
    let listed = "The operations of both dialects that run, or have ended within the last 24 hours, the newest first.";
    let cancelled = "Cancel an operation: a create, a graceful stop, a removal, a change that waits for the guest, or what waits for its turn.";
    vec![
        list.role(Role::Viewer).tag(TAG).summary(listed).query(query).output::<Vec<B>>(200, "The operations."),
        get.role(Role::Viewer)
            .tag(TAG)
            .summary("One operation, at once or when it has ended.")
            .query(WAIT)
            .waits_for_guest()
            .output::<B>(200, "The operation.")
            .error(404, "There is none, or none any more."),
        cancel
            .role(Role::Operator)
            .tag(TAG)
            .summary(cancelled)
            .output::<B>(202, "It is taken back, and ends when that is done.")
            .error(404, "There is none, or none any more.")
            .error(409, "It has ended, or cannot be cancelled; the message says why."),
    ]
}

/// What a query says, but for the VM, whose id each dialect reads in its own way.
#[derive(serde::Deserialize)]
struct ListQuery {
    status: Option<String>,
    limit: Option<i64>,
    #[serde(alias = "pageToken")]
    page_token: Option<String>,
}

#[derive(serde::Deserialize)]
struct WaitQuery {
    wait: Option<i64>,
}

/// A page, with the link to the next one, which is at `place` and begins where `page_token` says. `of` writes an operation.
///
/// # Errors
/// 400 for what is not understood.
pub(super) async fn list<B: Serialize>(
    service: &Service,
    request: &Request,
    vm: Option<VmId>,
    (place, page_token): (&str, &'static str),
    of: fn(&Operation, Role) -> B,
) -> Result<Reply, HttpError> {
    let query: ListQuery = request.query()?;
    let status = query.status.as_deref().map(read_status).transpose()?;
    let limit = ranged("limit", query.limit.unwrap_or(DEFAULT_LIMIT), 1, MOST)?;
    let before = query.page_token.as_deref().map(|token| read_token(page_token, token)).transpose()?;
    let page: Result<Page, _> = service.operations().page(Filter { vm, status }, before, limit as usize).await;
    let (found, next) = page.map_err(|error| HttpError::Internal { why: error.to_string() })?;
    let next = next.map(|(at, id)| {
        let mut next = form_urlencoded::Serializer::new(String::new());
        next.append_pair(page_token, &format!("{at}.{id}"));
        next.extend_pairs(request.query.iter().filter(|(name, _)| name != page_token));
        next.finish()
    });
    let rows: Vec<B> = found.iter().map(|operation| of(operation, request.caller.role)).collect();
    let reply = Reply::json(StatusCode::OK, &rows);
    Ok(match next {
        Some(next) => reply.next_page(&format!("{place}?{next}")),
        None => reply,
    })
}

fn read_status(text: &str) -> Result<OperationStatus, HttpError> {
    let found = OperationStatus::ALL.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| HttpError::invalid("status", "be one of pending, running, done, failed, cancelled"))
}

fn read_token(name: &str, token: &str) -> Result<(u64, Uuid), HttpError> {
    let parts = token.split_once('.').and_then(|(at, id)| Some((at.parse().ok()?, Uuid::try_parse(id).ok()?)));
    parts.ok_or_else(|| HttpError::invalid(name, "be one that a list gave in its Link header"))
}

fn ranged(name: &str, value: i64, least: i64, most: i64) -> Result<u64, HttpError> {
    let fits = (least..=most).contains(&value);
    fits.then_some(value as u64).ok_or_else(|| HttpError::invalid(name, format!("be from {least} to {most}")))
}

/// One, as it is or when it has ended.
///
/// # Errors
/// 404.
pub(super) async fn get(service: &Service, request: &Request, id: Uuid) -> Result<Operation, HttpError> {
    let WaitQuery { wait } = request.query()?;
    let wait = ranged("wait", wait.unwrap_or(0), 0, LONGEST_WAIT)?;
    let end = Instant::now() + Duration::from_secs(wait);
    let found = service.operations().until_ended(id, end).await;
    found.map_err(|error| HttpError::Internal { why: error.to_string() })?.ok_or(HttpError::NoSuchOperation)
}

/// Has one cancelled, and returns it as it is then.
///
/// # Errors
/// 404, and 409 with why it is not cancelled.
pub(super) async fn cancel(service: &Service, id: Uuid) -> Result<Operation, HttpError> {
    service.operations().cancel(id).await.map_err(|error| match error {
        NotCancelled::NotFound => HttpError::NoSuchOperation,
        NotCancelled::Refused(why) => HttpError::NotCancelled { why },
    })?;
    let found = service.operations().get(id).await;
    found.map_err(|error| HttpError::Internal { why: error.to_string() })?.ok_or(HttpError::NoSuchOperation)
}

/// What it would have been answered, as a status and a body that somebody in `role` may read: where it was done, and where it failed.
pub(super) fn answers(operation: &Operation, role: Role) -> [Option<(u16, Value)>; 2] {
    let kept = operation.record.end.as_ref().and_then(|end| end.answer.as_ref());
    let answer = kept.map(|answer| (answer.status, body_for(role, answer)));
    match answer {
        Some((200..300, _)) => [answer, None],
        answer => [None, answer],
    }
}

/// What the host says of itself is for operators, and so is an objection that may name a path: an operator has asked for this.
fn body_for(role: Role, answer: &KeptAnswer) -> Value {
    let mut body = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    if role >= Role::Operator || answer.status < 400 {
        return body;
    }
    // Of both dialects.
    for object in ["/error", ""] {
        if let Some(Value::Object(fields)) = body.pointer_mut(object) {
            if answer.status >= 500 {
                fields.remove("detail");
            }
            fields.values_mut().for_each(|field| without_paths(role, field));
        }
    }
    body
}

fn without_paths(role: Role, field: &mut Value) {
    match field {
        Value::String(text) => *text = role.shown(std::mem::take(text)),
        Value::Array(all) => all.iter_mut().for_each(|field| without_paths(role, field)),
        Value::Object(all) => all.values_mut().for_each(|field| without_paths(role, field)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_host_says_of_itself_is_for_operators() {
        for body in [
            json!({"error": {"code": 500, "message": "no", "detail": "/var/lib"}}),
            json!({"error": "no", "detail": "/var/lib"}),
        ] {
            let answer = |status| KeptAnswer { status, content_type: None, body: body.to_string() };
            assert_eq!(body_for(Role::Viewer, &answer(200)), body);
            assert_eq!(body_for(Role::Operator, &answer(500)), body);
            assert_eq!(body_for(Role::Operator, &answer(409)), body);
            for status in [409, 500] {
                let seen = body_for(Role::Viewer, &answer(status)).to_string();
                assert!(!seen.contains("/var/lib") && seen.contains("no"), "{seen}");
            }
        }
        let named = json!({"error": {"code": 404, "message": "Base image not found: /srv/a.qcow2."}});
        let answer = KeptAnswer { status: 404, content_type: None, body: named.to_string() };
        let seen = body_for(Role::Viewer, &answer);
        assert_eq!(seen, json!({"error": {"code": 404, "message": Role::Viewer.shown("/".to_owned())}}));
    }
}
