//! Requests whose clients do not wait on the line (`Prefer: respond-async`, RFC 7240): the handler runs beside the connection, as
//! an operation, and its answer is kept there. What is known at once, above all that it is refused, is answered as ever: the 202
//! goes out when the work has begun, as its VM's task says. What is kept, and for how long, is `service::operations`' business
//! (docs/adr/0036).

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{Either, ready},
};
use http_body_util::BodyExt;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use uuid::Uuid;
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    HttpError, Nulls, Request, Response, Upload,
    route::RouteInfo,
    table::{self, OperationShape, Table},
};
use crate::{
    model::{Asker, Role, SwitchId, VmId, now_ms},
    service::{
        Digest, KeptAnswer, Progress,
        access::Caller,
        asked_by,
        operations::{Again, Operation, OperationRecord, Operations, Running, Work},
        shown_in,
    },
};

const PREFER: &str = "prefer";
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const RESPOND_ASYNC: &str = "respond-async";
/// What a client may wait on the line before it is answered with the operation.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What is not known to have begun by then is acknowledged all the same: the host lets it wait.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// A body that is longer is not kept for the next daemon.
const LONGEST_BODY: usize = 4 * 1024;

/// Where a request came in: the table of its dialect, and the path that this is mounted at.
#[derive(Clone, Copy)]
pub(super) struct Mount<'a> {
    pub table: &'a Table,
    pub prefix: &'a [&'static str],
}

/// A request that is to be an operation.
pub(super) struct Beside {
    operations: Arc<Operations>,
    record: OperationRecord,
    pub progress: Arc<Progress>,
    made: Made,
    /// What its client sends still.
    upload: Option<Upload>,
    wait: Duration,
    shape: OperationShape,
    prefix: String,
    role: Role,
}

/// The id of what a request makes, which is known when its idempotency key is.
#[derive(Clone)]
pub(super) struct Made {
    operations: Arc<Operations>,
    operation: Uuid,
    id: Arc<OnceLock<Uuid>>,
}

impl Made {
    /// It is this. Stored when this returns, where there is an operation by then.
    pub async fn is(&self, id: Uuid) {
        let _ = self.id.set(id);
        self.operations.makes(self.operation, id).await;
    }
}

impl Beside {
    /// None where the client waits on the line, or there is nothing to wait for.
    pub fn wanted(
        operations: &Arc<Operations>,
        mount: Mount<'_>,
        info: &RouteInfo,
        request: &Request,
        asker: &Asker,
        key: Option<(Digest, Digest)>,
    ) -> Option<Self> {
        // One that cannot be taken for its body is refused on the line.
        request.body.as_ref().ok()?;
        let (work, wait, shape) = (info.work?, prefers(&request.headers)?, mount.table.operation_shape()?);
        let param =
            |name: &str| request.params.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone());
        let progress = Progress::new(Uuid::new_v4());
        let subject = param("id").and_then(|id| VmId::parse_guid(&id)).map(Uuid::from);
        let again = match (work, &request.body) {
            (Work::Stop | Work::Delete, Ok(body)) if body.len() <= LONGEST_BODY => Some(Again {
                params: request.params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
                query: request.query.clone(),
                body: String::from_utf8_lossy(body).into_owned(),
                role: request.caller.role,
            }),
            _ => None,
        };
        let record = OperationRecord {
            at: now_ms(),
            kind: info.operation_id.to_owned(),
            work,
            dialect: mount.table.dialect_name().to_owned(),
            by: asker.clone(),
            vm: subject.filter(|_| !work.is_of_switch()).map(VmId::from),
            switch: subject.filter(|_| work.is_of_switch()).map(SwitchId::from),
            name: None,
            makes: None,
            device: ["disk", "nic", "adapterId", "forward", "forwardId", "image", "volume"].into_iter().find_map(param),
            key,
            again,
            end: None,
        };
        let made = Made { operations: operations.clone(), operation: progress.id(), id: Arc::new(OnceLock::new()) };
        let prefix = mount.prefix.iter().flat_map(|segment| ["/", segment]).collect();
        let (operations, role, upload) = (operations.clone(), request.caller.role, request.upload.clone());
        Some(Self { operations, record, progress, made, upload, wait, shape, prefix, role })
    }

    pub fn made(&self) -> Made {
        self.made.clone()
    }

    /// The id that what it makes is to have, without a key that says so.
    pub fn makes(&self) -> Option<Uuid> {
        let makes = self.record.work.makes() && self.record.key.is_none();
        makes.then(|| *self.made.id.get_or_init(Uuid::new_v4))
    }

    /// What the same request has begun before, under its key.
    ///
    /// # Errors
    /// [`HttpError::KeyReused`].
    pub async fn begun_before(&self) -> Result<Option<Response>, HttpError> {
        let Some((key, request)) = &self.record.key else { return Ok(None) };
        let Some(id) = self.operations.of_key(key, request).map_err(|_| HttpError::KeyReused)? else {
            return Ok(None);
        };
        let found = self.operations.get(id).await.map_err(|error| HttpError::Internal { why: error.to_string() })?;
        Ok(found.map(|operation| {
            let mut response = self.accepted(&operation);
            response.headers_mut().insert(super::idempotency::REPLAYED, HeaderValue::from_static("true"));
            response
        }))
    }

    fn accepted(&self, operation: &Operation) -> Response {
        let reply = (self.shape)(operation, self.role).status(StatusCode::ACCEPTED);
        let place = format!("{}/operations/{}", self.prefix, operation.id);
        reply.header(header::LOCATION, place).header(APPLIED, RESPOND_ASYNC).build()
    }

    /// What has begun and come to something is an operation, however soon it was done.
    fn is_operation(&self, response: &Response) -> bool {
        let has_begun = || self.progress.has_begun().now_or_never().is_some();
        self.wait.is_zero() && response.status().is_success() && has_begun()
    }

    /// Does the work to its end. `reply` has what its client is answered: the operation, once it is stored, or what `work`
    /// comes to before that. One that cannot be stored is waited for as ever.
    pub async fn run(
        mut self,
        work: impl Future<Output = Response> + Send,
        reply: oneshot::Sender<Response>,
        failed: impl FnOnce(String) -> Response + Send,
    ) {
        let caught = AssertUnwindSafe(work).catch_unwind();
        let mut work = pin!(async move { caught.await.unwrap_or_else(|panic| failed(panic_text(panic.as_ref()))) });
        if let Some(upload) = self.upload.take() {
            tokio::select! {
                biased;
                response = &mut work => return drop(reply.send(response)),
                () = upload.arrived() => {}
            }
        }
        let work = match early(self.wait, self.progress.has_begun(), work.as_mut()).await {
            None => Either::Right(work),
            Some(response) if self.is_operation(&response) => Either::Left(ready(response)),
            Some(response) => return drop(reply.send(response)),
        };
        if let Some(id) = self.made.id.get() {
            self.record.makes(*id);
        }
        let running = match self.operations.begin(self.record.clone(), self.progress.clone()).await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "an operation cannot be stored; its client is answered when it is done");
                let _ = reply.send(work.await);
                return;
            }
        };
        let _ = reply.send(self.accepted(&Operation::of(&running)));
        let response = self.operations.attend(&running, work).await;
        self.operations.end(&running, kept(response).await).await;
    }
}

/// What it comes to before it has begun, or in the time that its client waits.
async fn early<F: Future>(wait: Duration, begun: impl Future<Output = ()>, work: Pin<&mut F>) -> Option<F::Output> {
    let patience = async {
        match wait.is_zero() {
            // Whichever it was, it is acknowledged.
            true => drop(timeout(LONGEST_LOOK, begun).await),
            false => sleep(wait).await,
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = patience => None,
    }
}

async fn kept(response: Response) -> KeptAnswer {
    let (head, body) = response.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // All of it is here: only GET lasts.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    KeptAnswer {
        status: head.status.as_u16(),
        content_type: content_type.map(str::to_owned),
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

pub(super) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

/// Asks again for what a daemon before had begun, and its VMs go on with.
pub(super) fn go_on(operations: &Arc<Operations>, table: &Table) {
    for running in operations.take_again(table.dialect_name()) {
        let operations = operations.clone();
        let record = running.record();
        let route = table.named(&record.kind).zip(record.again.clone());
        let Some(((info, handler), again)) = route else { continue };
        let by_name = |name| again.params.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone());
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = Request {
            params: info.path_params().filter_map(|name| Some((name, by_name(name)?))).collect(),
            query: again.query,
            headers,
            body: Ok(again.body.into()),
            upload: None,
            nulls: Nulls::Absent,
            makes: None,
            goes_on: true,
            caller: Caller { role: again.role, name: record.by.caller.clone() },
        };
        let shape = table.shape();
        tracing::info!(id = %running.id(), kind = record.kind, "an operation goes on");
        tokio::spawn(async move {
            let work = asked_by(record.by, shown_in(running.progress.clone(), handler(request)));
            let answer = operations.attend(&running, work).await;
            let response = answer.unwrap_or_else(|error| table::refuse(shape, error));
            conclude(&operations, &running, record.work, response).await;
        });
    }
}

async fn conclude(operations: &Operations, running: &Running, work: Work, response: Response) {
    match (work, response.status()) {
        // It has gone meanwhile, which is what was wanted.
        (Work::Delete, StatusCode::NOT_FOUND) => operations.end_without_answer(running).await,
        _ => operations.end(running, kept(response).await).await,
    }
}

/// Whether a client does not want to wait on the line, and how long it waits all the same.
fn prefers(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(',')).map(|preference| {
        let token = preference.split(';').next().unwrap_or_default();
        let (name, value) = token.split_once('=').unwrap_or((token, ""));
        (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned())
    });
    let (mut is_wanted, mut wait) = (false, None);
    for (name, value) in preferences {
        match name.as_str() {
            RESPOND_ASYNC => is_wanted = true,
            // Of several the first holds.
            "wait" => wait = wait.or(value.parse().ok().map(Duration::from_secs)),
            _ => {}
        }
    }
    is_wanted.then(|| wait.unwrap_or_default().min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;

    #[test]
    fn a_client_says_that_it_does_not_wait_in_any_notation_of_the_header() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PREFER, HeaderValue::from_str(value).unwrap());
            }
            prefers(&headers).map(|wait| wait.as_secs())
        };
        for (values, wanted) in [
            (&[][..], None),
            (&["return=minimal"], None),
            (&["wait=10"], None),
            (&["respond-async"], Some(0)),
            (&["Respond-Async"], Some(0)),
            (&["respond-async, wait=10"], Some(10)),
            (&["wait = \"10\"", "respond-async; foo=bar"], Some(10)),
            (&["respond-async, wait=1000000"], Some(60)),
            (&["respond-async, wait=soon"], Some(0)),
            (&["respond-asynchronously"], None),
        ] {
            assert_eq!(of(values), wanted, "{values:?}");
        }
    }

    #[tokio::test]
    async fn what_is_known_before_it_has_begun_is_no_operation() {
        let soon = || async { yield_now().await };
        for (wait, begun, wanted) in [
            (0, true, None),
            (0, false, Some(())),
            // Who waits on the line waits for its end.
            (60, true, Some(())),
        ] {
            let has_begun = async move {
                if begun {
                } else {
                    pending().await
                }
            };
            assert_eq!(early(Duration::from_secs(wait), has_begun, pin!(soon())).await, wanted, "{wait} {begun}");
        }
        // It was both admitted and done.
        assert_eq!(early(Duration::ZERO, async {}, pin!(async { 7 })).await, Some(7));
        // What nobody hears of is acknowledged in the end.
        assert_eq!(early(Duration::ZERO, pending(), pin!(pending::<()>())).await, None);
    }
}
