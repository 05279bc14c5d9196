//! Events as this dialect writes them.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    error::{Endpoint, NotFound, Problem},
};
use crate::{
    api::{
        events::{self, AFTER, LABEL, LIMIT, Subject, TYPE, WAIT, written},
        http::{HttpError, QueryParam, Reply, Request, Route, given, in_section},
        operations::UUID,
    },
    model::{Asker, Incident, OperationNews, Status, VmId, Wanted, What},
    service::events::{Entry, Place},
};

/// Something that has happened. Which of the fields from `fields` on are there depends on `type`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(example = example())]
pub struct EventBody {
    /// What `after` and `Last-Event-ID` take.
    pub id: String,
    /// One more with each event.
    pub seq: u64,
    /// When, in UTC.
    pub time: String,
    pub r#type: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// Of an operation: which request it is the work for, by its operation id in this document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Of the VM, the switch, the image or the volume, at that time; `host` of the host.
    pub name: String,
    /// Who has asked for it; empty where nobody has.
    pub by: Vec<AskerBody>,
    #[serde(flatten)]
    pub details: Details,
}

/// Who has asked, and in which request.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AskerBody {
    pub caller: String,
    /// As in the reply's `X-Request-Id`.
    pub request_id: String,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Details {
    /// `vm.changed`, `switch.changed`, `image.changed`, `vm.in_effect`: what differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// `vm.goal`: what is wanted of the VM from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// `vm.status`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// `vm.status`: why, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `vm.agent`: the guest's agent is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// `vm.in_effect`: vCPUs that the guest has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// `vm.in_effect`: MiB that the guest has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// `vm.in_effect`: disks and NICs that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<Vec<String>>,
    /// `vm.in_effect`: disks and NICs that went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Vec<String>>,
    /// `vm.reset`, `vm.powered_off`, `vm.panicked`, `vm.io_error`, `vm.watchdog`: how often since the last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// `vm.io_error`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// `vm.io_error`: `read` or `write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// `vm.io_error`: for want of space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_space: Option<bool>,
    /// `vm.watchdog`: what QEMU did about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// `vm.guest`: what the guest was told to do by its agent: `exec`, `write_file`, `set_time`, `freeze` or `thaw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Cow<'static, str>>,
    /// `vm.guest`: the command, without its arguments, or the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `vm.problem`, `switch.problem`: what is not as it should be; null where it is again.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub problem: Option<Option<String>>,
    /// `host.warnings`: all that somebody should see to, as in `/health`; empty where there is nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
    /// `operation.progress`: what is done now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// `operation.progress`: the disk or the NIC that it is done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// `operation.progress`: bytes that are copied, where some are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<u64>,
    /// `operation.progress`: bytes that there are to copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// `operation.ended`: `done`, `failed` or `cancelled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Cow<'static, str>>,
}

/// What is wanted of a VM.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    Start,
    Stop,
    Reboot,
    Suspend,
    Resume,
    Reset,
    ForceOff,
    Delete,
}

impl From<Wanted> for Goal {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Start => Self::Start,
            Wanted::Stop => Self::Stop,
            Wanted::Reboot => Self::Reboot,
            Wanted::Suspend => Self::Suspend,
            Wanted::Resume => Self::Resume,
            Wanted::Reset => Self::Reset,
            Wanted::ForceOff => Self::ForceOff,
            Wanted::Delete => Self::Delete,
        }
    }
}

/// Events, and where to go on.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventsBody {
    /// In the order in which they happened; none where there was none in the time.
    pub events: Vec<EventBody>,
    /// The next `after`.
    pub next: String,
}

impl EventBody {
    pub fn of(place: Place, entry: &Entry) -> Self {
        let event = &entry.event;
        let Subject { vm, switch, image, volume, operation, kind, name } = Subject::of(&event.about);
        Self {
            id: place.to_string(),
            seq: entry.number,
            time: written(event.at),
            r#type: event.kind().into(),
            vm_id: vm,
            switch_id: switch,
            image_id: image,
            volume_id: volume,
            operation_id: operation,
            kind,
            name: name.clone(),
            by: event.by.iter().cloned().map(AskerBody::from).collect(),
            details: Details::of(&event.what),
        }
    }
}

impl From<Asker> for AskerBody {
    fn from(Asker { caller, request }: Asker) -> Self {
        Self { caller, request_id: request }
    }
}

impl Details {
    fn of(what: &What) -> Self {
        let none = Self::default();
        match what.clone() {
            What::Created | What::Deleted => none,
            What::Changed { fields } => Self { fields: Some(fields), ..none },
            What::Goal { goal } => Self { goal: Some(goal.into()), ..none },
            What::Status { status, reason } => Self { status: Some(status), reason, ..none },
            What::Agent { connected } => Self { connected: Some(connected), ..none },
            What::InEffect { fields, vcpus, memory, added, removed } => Self {
                fields: Some(fields),
                vcpus: Some(vcpus),
                memory: Some(memory),
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
            What::Guest { request, target } => Self { request: Some(request.as_str().into()), target, ..none },
            What::Problem { problem } => Self { problem: Some(problem), ..none },
            What::Warnings { warnings } => Self { warnings: Some(warnings), ..none },
            What::Operation(news) => match news {
                OperationNews::Begun => none,
                OperationNews::Progress { phase, device, bytes } => {
                    let (bytes_done, bytes_total) = bytes.unzip();
                    Self { phase: Some(phase), device, bytes_done, bytes_total, ..none }
                }
                OperationNews::Ended { outcome } => Self { outcome: Some(outcome.as_str().into()), ..none },
            },
        }
    }
}

/// As a stream has it.
const STREAM_EXAMPLE: &str = "id: 5f2c9e1a-4711\nevent: vm.status\ndata: {\"id\":\"5f2c9e1a-4711\",\"seq\":4711,\"time\":\"2026-11-27T20:50:00.123Z\",\
    \"type\":\"vm.status\",\"vm_id\":\"123e4567-e89b-42d3-a456-426614174000\",\"name\":\"web\",\"by\":[],\"status\":\"running\"}\n\n";

fn example() -> serde_json::Value {
    serde_json::json!({
        "id": "5f2c9e1a-4711", "seq": 4711, "time": "2026-11-27T20:50:00.123Z", "type": "vm.status",
        "vm_id": "123e4567-e89b-42d3-a456-426614174000", "name": "web",
        "by": [{"caller": "uid 1000", "request_id": "8e03978e-40d5-43e8-bc93-6894a57f9324"}], "status": "running"
    })
}

const EVENTS: Endpoint = Endpoint {
    bad_id: "Invalid UUID format.",
    not_found: NotFound::Short,
    failed: "Internal server error while reading the events.",
};

const QUERY: &[QueryParam] = &[
    AFTER,
    QueryParam::form("vm", UUID, "Only events of the VM with this UUID, also of one that is gone."),
    TYPE,
    LABEL,
    WAIT,
    LIMIT,
];

/// Its row of the route table.
pub fn route() -> Route<Shared> {
    let draft = Route::get("/events", "listEvents", in_section(&EVENTS, self::events));
    events::route::<_, EventsBody>(draft, "Monitoring", QUERY, STREAM_EXAMPLE)
}

#[derive(Deserialize)]
struct VmQuery {
    vm: Option<String>,
}

async fn events(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let VmQuery { vm } = request.query()?;
    let read = |text: String| VmId::parse(&text).ok_or_else(|| HttpError::invalid("vm", "be the UUID of a VM"));
    let vm = vm.map(read).transpose()?;
    let several = |events, next| EventsBody { events, next };
    Ok(events::answer(&shared.service, &request, vm, EventBody::of, several).await?)
}
