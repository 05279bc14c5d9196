//! Operations as this dialect writes them: the work for requests whose clients do not wait on the line.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use warp::http::StatusCode;

use super::{
    Shared,
    error::{Endpoint, NotFound, Problem},
    events::UUID,
    times::time,
};
use crate::{
    api::{
        http::{HttpError, QueryParam, Reply, Request, Route, in_section},
        operations::{self, LIMIT},
    },
    model::{Role, VmId},
    service::{Phase, operations::Operation},
};

/// The work for a request that was answered with 202.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(example = example())]
pub struct OperationBody {
    pub id: String,
    /// Which request it is, by its operation id in this document or in that of the other dialect.
    pub kind: String,
    /// `kvm` or `hyperv`: whose words `result` and `error` are in.
    pub dialect: String,
    /// `pending` while it waits for its turn, `running`, `done`, `failed` or `cancelled`.
    pub status: Cow<'static, str>,
    /// What it is about; of one that creates, the id that the VM has or is to have.
    pub vm_id: Option<String>,
    /// The same, of one that is about a switch.
    pub switch_id: Option<String>,
    /// Of the VM or the switch.
    pub name: Option<String>,
    /// Who has asked for it.
    pub caller: String,
    /// As in the `X-Request-Id` of its reply.
    pub request_id: String,
    pub created_at: String,
    pub ended_at: Option<String>,
    /// What is done for it, and beside it on the same VM, in the order in which it began.
    pub phases: Vec<PhaseBody>,
    /// What it would have been answered; null while it runs, and where it failed.
    pub result: Option<AnswerBody>,
    /// As `result`, of one that failed or was cancelled.
    pub error: Option<AnswerBody>,
    /// Where qherd itself ended over it: what has become of it, and what to do.
    pub interrupted: Option<String>,
}

/// One kind of step.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct PhaseBody {
    /// What is done, as `make_image`, `spawn`, `ask_guest`.
    pub name: String,
    /// The disk, or the id of the NIC, that it is done to.
    pub device: Option<String>,
    pub began_at: String,
    /// Null while it is done.
    pub ended_at: Option<String>,
    /// How often it was done.
    pub times: u32,
    /// How much is copied, where something is.
    pub bytes: Option<BytesBody>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BytesBody {
    pub done: u64,
    pub total: u64,
}

/// An answer as a client that waits has it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AnswerBody {
    pub status: u16,
    pub body: Value,
}

impl OperationBody {
    fn of(operation: &Operation, role: Role) -> Self {
        let record = &operation.record;
        let end = record.end.as_ref();
        let [result, error] =
            operations::answers(operation, role).map(|answer| answer.map(|(status, body)| AnswerBody { status, body }));
        Self {
            id: operation.id.to_string(),
            kind: record.kind.clone(),
            dialect: record.dialect.clone(),
            status: operation.status.as_str().into(),
            vm_id: record.vm.map(|vm| vm.to_string()),
            switch_id: record.switch.map(|switch| switch.to_string()),
            name: record.name.clone(),
            caller: record.by.caller.clone(),
            request_id: record.by.request.clone(),
            created_at: time(record.at),
            ended_at: end.map(|end| time(end.at)),
            phases: operation.phases.iter().map(PhaseBody::of).collect(),
            result,
            error,
            interrupted: end.and_then(|end| end.interrupted.clone()),
        }
    }
}

impl PhaseBody {
    fn of(phase: &Phase) -> Self {
        Self {
            name: phase.name.clone(),
            device: phase.device.clone(),
            began_at: time(phase.began),
            ended_at: phase.ended.map(time),
            times: phase.times,
            bytes: phase.bytes.map(|bytes| BytesBody { done: bytes.done, total: bytes.total }),
        }
    }
}

/// For people.
impl fmt::Display for PhaseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(device) = &self.device {
            write!(f, " {device}")?;
        }
        if let Some(BytesBody { done, total }) = self.bytes {
            write!(f, ", {} of {} MiB", done >> 20, total >> 20)?;
        }
        f.write_str(if self.ended_at.is_some() { ", done" } else { "" })
    }
}

fn example() -> Value {
    serde_json::json!({
        "id": "9b2f6c1e-3a4d-4c5b-8e6f-7a8b9c0d1e2f", "kind": "createVM", "dialect": "kvm", "status": "running",
        "vm_id": "123e4567-e89b-42d3-a456-426614174000", "switch_id": null, "name": "web", "caller": "uid 1000",
        "request_id": "8e03978e-40d5-43e8-bc93-6894a57f9324", "created_at": "2026-11-28T00:30:00.000Z", "ended_at": null,
        "phases": [{
            "name": "make_image", "device": "root", "began_at": "2026-11-28T00:30:00.020Z", "ended_at": null, "times": 1,
            "bytes": { "done": 1_073_741_824_u64, "total": 2_147_483_648_u64 }
        }],
        "result": null, "error": null, "interrupted": null
    })
}

/// As everybody is answered who does not wait on the line.
pub fn shape(operation: &Operation, role: Role) -> Reply {
    Reply::json(StatusCode::OK, &OperationBody::of(operation, role))
}

const OPERATIONS: Endpoint = Endpoint {
    bad_id: "Invalid UUID format.",
    not_found: NotFound::Short,
    failed: "Internal server error while reading the operations.",
};
const QUERY: &[QueryParam] = &[
    QueryParam::form("vm", UUID, "Only those about the VM with this UUID, also of one that is gone."),
    QueryParam::one_of(
        "status",
        &["pending", "running", "done", "failed", "cancelled"],
        "Only those with this status.",
    ),
    LIMIT,
    QueryParam::form("page_token", operations::TOKEN, "Where the page begins, as a Link header gave it."),
];

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    operations::routes::<_, OperationBody>(
        Route::get("/operations", "listOperations", in_section(&OPERATIONS, list)),
        QUERY,
        Route::get("/operations/{operation}", "getOperation", in_section(&OPERATIONS, get)),
        Route::delete("/operations/{operation}", "cancelOperation", in_section(&OPERATIONS, cancel)).at_once(),
    )
}

#[derive(Deserialize)]
struct VmQuery {
    vm: Option<String>,
}

async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let VmQuery { vm } = request.query()?;
    let read = |text: String| VmId::parse(&text).ok_or_else(|| HttpError::invalid("vm", "be the UUID of a VM"));
    let vm = vm.map(read).transpose()?;
    let (service, links) = (&shared.service, ("/operations", "page_token"));
    Ok(operations::list(service, &request, vm, links, OperationBody::of).await?)
}

async fn get(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let operation = operations::get(&shared.service, &request, operation_id(&request)?).await?;
    Ok(shape(&operation, request.caller.role))
}

async fn cancel(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let operation = operations::cancel(&shared.service, operation_id(&request)?).await?;
    Ok(shape(&operation, request.caller.role).status(StatusCode::ACCEPTED))
}

fn operation_id(request: &Request) -> Result<Uuid, Problem> {
    VmId::parse(request.param("operation")).map(Uuid::from).ok_or(Problem::BadId)
}
