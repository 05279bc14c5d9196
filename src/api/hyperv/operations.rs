//! Operations as this dialect writes them: the same, in its words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use warp::http::StatusCode;

use super::{
    Shared,
    error::{Endpoint, Problem},
};
use crate::{
    api::{
        events::written,
        http::{HttpError, QueryParam, Reply, Request, Route, in_section},
        operations::{self, LIMIT},
    },
    model::{Outcome, Role, VmId},
    service::{
        Phase,
        operations::{Operation, OperationStatus},
    },
};

/// The work for a request that was answered with 202.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(example = example())]
pub struct OperationBody {
    id: String,
    /// Which request it is, by its operation id in this document or in that of the other dialect.
    kind: String,
    /// `kvm` or `hyperv`: whose words `Result` and `Error` are in.
    dialect: String,
    /// `Pending` while it waits for its turn, `Running`, `Done`, `Failed` or `Cancelled`.
    status: &'static str,
    /// What it is about; of one that creates, the Id that the VM has or is to have.
    #[serde(rename = "VMId")]
    vm_id: Option<String>,
    /// The same, of one that is about a switch.
    switch_id: Option<String>,
    /// Of the VM or the switch.
    name: Option<String>,
    /// Who has asked for it.
    caller: String,
    /// As in the `X-Request-Id` of its reply.
    request_id: String,
    created_at: String,
    ended_at: Option<String>,
    /// What is done for it, and beside it on the same VM, in the order in which it began.
    phases: Vec<PhaseBody>,
    /// What it would have been answered; null while it runs, and where it failed.
    result: Option<AnswerBody>,
    /// As `Result`, of one that failed or was cancelled.
    error: Option<AnswerBody>,
    /// Where qherd itself ended over it: what has become of it, and what to do.
    interrupted: Option<String>,
}

/// One kind of step.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct PhaseBody {
    /// What is done, as `make_image`, `spawn`, `ask_guest`.
    name: String,
    /// The disk, or the Id of the adapter, that it is done to.
    device: Option<String>,
    began_at: String,
    /// Null while it is done.
    ended_at: Option<String>,
    /// How often it was done.
    times: u32,
    /// How much is copied, where something is.
    bytes_done: Option<u64>,
    bytes_total: Option<u64>,
}

/// An answer as a client that waits has it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct AnswerBody {
    status: u16,
    body: Value,
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
            status: status(operation.status),
            vm_id: record.vm.map(|vm| vm.to_string()),
            switch_id: record.switch.map(|switch| switch.to_string()),
            name: record.name.clone(),
            caller: record.by.caller.clone(),
            request_id: record.by.request.clone(),
            created_at: written(record.at),
            ended_at: end.map(|end| written(end.at)),
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
            began_at: written(phase.began),
            ended_at: phase.ended.map(written),
            times: phase.times,
            bytes_done: phase.bytes.map(|bytes| bytes.done),
            bytes_total: phase.bytes.map(|bytes| bytes.total),
        }
    }
}

fn status(status: OperationStatus) -> &'static str {
    match status {
        OperationStatus::Pending => "Pending",
        OperationStatus::Running => "Running",
        OperationStatus::Ended(end) => outcome(end),
    }
}

pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "Done",
        Outcome::Failed => "Failed",
        Outcome::Cancelled => "Cancelled",
    }
}

fn example() -> Value {
    serde_json::json!({
        "Id": "9b2f6c1e-3a4d-4c5b-8e6f-7a8b9c0d1e2f", "Kind": "stopVM", "Dialect": "hyperv", "Status": "Running",
        "VMId": "123e4567-e89b-42d3-a456-426614174000", "SwitchId": null, "Name": "web", "Caller": "uid 1000",
        "RequestId": "8e03978e-40d5-43e8-bc93-6894a57f9324", "CreatedAt": "2026-11-28T00:30:00.000Z", "EndedAt": null,
        "Phases": [{
            "Name": "ask_guest", "Device": null, "BeganAt": "2026-11-28T00:30:00.020Z",
            "EndedAt": "2026-11-28T00:30:00.110Z", "Times": 1, "BytesDone": null, "BytesTotal": null
        }],
        "Result": null, "Error": null, "Interrupted": null
    })
}

/// As everybody is answered who does not wait on the line.
pub fn shape(operation: &Operation, role: Role) -> Reply {
    Reply::json(StatusCode::OK, &OperationBody::of(operation, role))
}

const OPERATIONS: Endpoint = Endpoint { not_found: "VM not found", failed: "Failed to read the operations" };
const QUERY: &[QueryParam] = &[
    QueryParam::text("vmId", "Only those about the VM with this id, also of one that is gone."),
    QueryParam::one_of(
        "status",
        &["Pending", "Running", "Done", "Failed", "Cancelled"],
        "Only those with this status.",
    ),
    LIMIT,
    QueryParam::form("pageToken", operations::TOKEN, "Where the page begins, as a Link header gave it."),
];

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    operations::routes::<_, OperationBody>(
        Route::get("/operations", "listOperations", in_section(&OPERATIONS, list)),
        QUERY,
        Route::get("/operations/{operationId}", "getOperation", in_section(&OPERATIONS, get)),
        Route::delete("/operations/{operationId}", "cancelOperation", in_section(&OPERATIONS, cancel)).at_once(),
    )
}

#[derive(Deserialize)]
struct VmQuery {
    #[serde(rename = "vmId")]
    vm_id: Option<String>,
}

async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let VmQuery { vm_id } = request.query()?;
    let read = |text: String| VmId::parse_guid(&text).ok_or_else(|| HttpError::invalid("vmId", "be the Id of a VM"));
    let vm = vm_id.map(read).transpose()?;
    let (service, links) = (&shared.service, ("", "pageToken"));
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

/// A malformed id is the id of none (ruling 29).
fn operation_id(request: &Request) -> Result<Uuid, Problem> {
    let id = VmId::parse_guid(request.param("operationId")).map(Uuid::from);
    id.ok_or_else(|| HttpError::NoSuchOperation.into())
}
