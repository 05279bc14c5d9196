//! Events as this dialect writes them: the same, in its words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    error::{Endpoint, Problem},
    operations,
    state::State,
};
use crate::{
    api::{
        events::{self, AFTER, LABEL, LIMIT, Subject, TYPE, WAIT, written},
        http::{HttpError, QueryParam, Reply, Request, Route, in_section},
    },
    model::{Incident, OperationNews, Status, VmId, What},
    service::events::{Entry, Place},
};

/// Something that has happened. Which of the fields from `Fields` on are there depends on `Type`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(example = example())]
pub struct EventBody {
    /// What `after` and `Last-Event-ID` take.
    id: String,
    /// One more with each event.
    sequence: u64,
    /// When, in UTC.
    time: String,
    r#type: &'static str,
    #[serde(rename = "VMId", skip_serializing_if = "Option::is_none")]
    vm_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    switch_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation_id: Option<String>,
    /// Of an operation: which request it is the work for, by its operation id in the document of its dialect.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Of the VM, the switch, the image or the volume, at that time; `host` of the host.
    name: String,
    /// Who has asked for it; empty where nobody has.
    by: Vec<AskerBody>,
    #[serde(flatten)]
    details: Details,
}

/// Who has asked, and in which request.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct AskerBody {
    caller: String,
    /// As in the reply's `X-Request-Id`.
    request_id: String,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct Details {
    /// `vm.changed`, `switch.changed`, `vm.in_effect`: what differs, by the names of the KVM dialect.
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<String>>,
    /// `vm.goal`: what is wanted of the VM from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<&'static str>,
    /// `vm.status`
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    /// `vm.status`: what the state does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<String>,
    /// `vm.agent`: the guest's agent is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    connected: Option<bool>,
    /// `vm.in_effect`: vCPUs that the guest has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    processor_count: Option<u32>,
    /// `vm.in_effect`: bytes that the guest has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_assigned: Option<u64>,
    /// `vm.in_effect`: disks and adapters that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<Vec<String>>,
    /// `vm.in_effect`: disks and adapters that went.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<Vec<String>>,
    /// `vm.reset`, `vm.powered_off`, `vm.panicked`, `vm.io_error`, `vm.watchdog`: how often since the last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    /// `vm.io_error`
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<String>,
    /// `vm.io_error`: `read` or `write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    /// `vm.io_error`: for want of space.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_space: Option<bool>,
    /// `vm.watchdog`: what QEMU did about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    /// `vm.guest`: what the guest was told to do by its agent: `exec`, `write_file`, `set_time`, `freeze` or `thaw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'static str>,
    /// `vm.guest`: the command, without its arguments, or the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// `vm.problem`, `switch.problem`: what is not as it should be; null where it is again.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Option<String>>,
    /// `host.warnings`: all that somebody should see to, as in `/health`; empty where there is nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
    /// `operation.progress`: what is done now.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    /// `operation.progress`: the disk or the adapter that it is done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// `operation.progress`: bytes that are copied, where some are.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_done: Option<u64>,
    /// `operation.progress`: bytes that there are to copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_total: Option<u64>,
    /// `operation.ended`: `Done`, `Failed` or `Cancelled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
}

/// Events, and where to go on.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct EventsBody {
    /// In the order in which they happened; none where there was none in the time.
    events: Vec<EventBody>,
    /// The next `after`.
    next: String,
}

impl EventBody {
    pub fn of(place: Place, entry: &Entry) -> Self {
        let event = &entry.event;
        let Subject { vm, switch, image, volume, operation, kind, name } = Subject::of(&event.about);
        let by = event.by.iter();
        Self {
            id: place.to_string(),
            sequence: entry.number,
            time: written(event.at),
            r#type: event.kind(),
            vm_id: vm,
            switch_id: switch,
            image_id: image,
            volume_id: volume,
            operation_id: operation,
            kind,
            name: name.clone(),
            by: by.map(|by| AskerBody { caller: by.caller.clone(), request_id: by.request.clone() }).collect(),
            details: Details::of(&event.what),
        }
    }
}

impl Details {
    fn of(what: &What) -> Self {
        let none = Self::default();
        match what.clone() {
            What::Created | What::Deleted => none,
            What::Changed { fields } => Self { fields: Some(fields), ..none },
            What::Goal { goal } => Self { goal: Some(goal.as_str()), ..none },
            What::Status { status, reason } => Self::status(status, reason),
            What::Agent { connected } => Self { connected: Some(connected), ..none },
            What::InEffect { fields, vcpus, memory, added, removed } => Self {
                fields: Some(fields),
                processor_count: Some(vcpus),
                memory_assigned: Some(memory << 20),
                added: Some(added),
                removed: Some(removed),
                ..none
            },
            What::Incident { incident, times } => {
                let times = Some(times);
                match incident {
                    Incident::Reset | Incident::PoweredOff | Incident::Panicked => Self { times, ..none },
                    Incident::IoError { disk, operation, no_space } => {
                        Self { times, disk: Some(disk), operation: Some(operation), no_space: Some(no_space), ..none }
                    }
                    Incident::Watchdog { action } => Self { times, action: Some(action), ..none },
                }
            }
            What::Guest { request, target } => Self { request: Some(request.as_str()), target, ..none },
            What::Problem { problem } => Self { problem: Some(problem), ..none },
            What::Warnings { warnings } => Self { warnings: Some(warnings), ..none },
            What::Operation(news) => match news {
                OperationNews::Begun => none,
                OperationNews::Progress { phase, device, bytes } => {
                    let (bytes_done, bytes_total) = bytes.unzip();
                    Self { phase: Some(phase), device, bytes_done, bytes_total, ..none }
                }
                OperationNews::Ended { outcome } => Self { outcome: Some(operations::outcome(outcome)), ..none },
            },
        }
    }

    fn status(status: Status, reason: Option<String>) -> Self {
        let said = match status {
            Status::Crashed | Status::Unresponsive | Status::Rebooting => Some(status.as_str()),
            Status::Stopped | Status::Starting | Status::Running | Status::Paused | Status::Stopping => None,
        };
        let health: Vec<&str> = said.into_iter().chain(reason.as_deref()).collect();
        let health = (!health.is_empty()).then(|| health.join(": "));
        Self { state: Some(status.into()), health, ..Self::default() }
    }
}

/// As a stream has it.
const STREAM_EXAMPLE: &str = "id: 5f2c9e1a-4711\nevent: vm.status\ndata: {\"Id\":\"5f2c9e1a-4711\",\"Sequence\":4711,\"Time\":\"2026-11-27T20:50:00.123Z\",\
    \"Type\":\"vm.status\",\"VMId\":\"123e4567-e89b-42d3-a456-426614174000\",\"Name\":\"web\",\"By\":[],\"State\":\"Running\"}\n\n";

fn example() -> serde_json::Value {
    serde_json::json!({
        "Id": "5f2c9e1a-4711", "Sequence": 4711, "Time": "2026-11-27T20:50:00.123Z", "Type": "vm.status",
        "VMId": "123e4567-e89b-42d3-a456-426614174000", "Name": "web",
        "By": [{"Caller": "uid 1000", "RequestId": "8e03978e-40d5-43e8-bc93-6894a57f9324"}], "State": "Running"
    })
}

const EVENTS: Endpoint = Endpoint { not_found: "VM not found", failed: "Failed to read the events" };
const QUERY: &[QueryParam] = &[
    AFTER,
    QueryParam::text("vmId", "Only events of the VM with this id, also of one that is gone."),
    TYPE,
    LABEL,
    WAIT,
    LIMIT,
];

/// Its row of the route table.
pub fn route() -> Route<Shared> {
    let draft = Route::get("/events", "listEvents", in_section(&EVENTS, self::events));
    events::route::<_, EventsBody>(draft, "Service", QUERY, STREAM_EXAMPLE)
}

#[derive(Deserialize)]
struct VmQuery {
    #[serde(rename = "vmId")]
    vm: Option<String>,
}

async fn events(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let VmQuery { vm } = request.query()?;
    let read = |text: String| VmId::parse_guid(&text).ok_or_else(|| HttpError::invalid("vmId", "be the id of a VM"));
    let vm = vm.map(read).transpose()?;
    let several = |events, next| EventsBody { events, next };
    Ok(events::answer(&shared.service, &request, vm, EventBody::of, several).await?)
}
