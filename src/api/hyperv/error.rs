//! How this dialect tells what went wrong: `{"error","detail"}`, with the flags of the document's idempotency rules in
//! the body (ruling 25). One exhaustive match gives every domain error its words.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;
use warp::http::StatusCode;

use super::state::State;
use crate::{
    api::http::{self, HttpError, Reply, Response, table::refuse},
    model::{Conflict, Error, Role, SwitchId},
};

/// What an endpoint of switches says of one that is not there.
pub const SWITCH_NOT_FOUND: &str = "Switch not found";

/// The body of every error.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct ErrorBody {
    /// What to know and what to change, for people.
    error: String,
    /// The cause, in technical words.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// What the VM is doing, where that is in the way.
    #[serde(rename = "State", skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(rename = "AlreadyStopped", skip_serializing_if = "Option::is_none")]
    already_stopped: Option<bool>,
    #[serde(rename = "AlreadySuspended", skip_serializing_if = "Option::is_none")]
    already_suspended: Option<bool>,
    #[serde(rename = "AlreadyRunning", skip_serializing_if = "Option::is_none")]
    already_running: Option<bool>,
    /// The switches that bear the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<String>>,
}

/// Why a handler does not answer as asked.
#[derive(Debug)]
pub enum Problem {
    /// The path holds no id of a VM.
    NoVm,
    /// The path holds no id of a switch.
    NoSwitch,
    /// The path holds no id of a network adapter.
    NoAdapter,
    NoForward,
    AlreadyStopped,
    Http(HttpError),
    Domain(Error),
}

impl From<HttpError> for Problem {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Domain(error)
    }
}

/// What differs from one section of the document to the other.
pub struct Endpoint {
    /// The error of its 404.
    pub not_found: &'static str,
    /// The error of its 500.
    pub failed: &'static str,
}

impl http::Problem for Problem {
    type Section = Endpoint;

    fn render(self, endpoint: &Endpoint, role: Role) -> Response {
        let (status, body) = match self {
            Self::NoVm | Self::NoSwitch | Self::NoAdapter => (StatusCode::NOT_FOUND, said(endpoint.not_found)),
            Self::NoForward => (StatusCode::NOT_FOUND, said("Port forward not found")),
            Self::AlreadyStopped => {
                let body = ErrorBody { already_stopped: Some(true), ..said("VM is already stopped") };
                (StatusCode::CONFLICT, body)
            }
            Self::Http(error) => return refuse(http_error, error.for_role(role)),
            Self::Domain(error) => domain(error, endpoint, role),
        };
        Reply::json(status, &body).build()
    }
}

fn domain(error: Error, endpoint: &Endpoint, role: Role) -> (StatusCode, ErrorBody) {
    let message = error.to_string();
    match error {
        Error::Invalid { param, must } => {
            let param = param_name(&param);
            (StatusCode::BAD_REQUEST, said(format!("Invalid parameter: {param} must {must}.")))
        }
        Error::Fixed { param, is } => {
            let error = Error::Fixed { param: param_name(&param).into_owned().into(), is };
            (StatusCode::CONFLICT, said(error.to_string()))
        }
        Error::VmNotFound(_) => (StatusCode::NOT_FOUND, said(endpoint.not_found)),
        Error::SwitchNotFound(named) => switch_not_found(&named, endpoint),
        Error::AmbiguousSwitch { param, name, ids } => {
            let param = param_name(&param);
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let error = format!(
                "Invalid parameter: {param} must name one switch, but {} bear the name {name:?}: {}. Give a switchId instead.",
                ids.len(),
                ids.join(", ")
            );
            (StatusCode::BAD_REQUEST, ErrorBody { ids: Some(ids), ..said(error) })
        }
        // What this dialect calls the way out.
        Error::SwitchConflict(message) => {
            (StatusCode::CONFLICT, said(message.replace("allow_management_os", "allowManagementOS")))
        }
        Error::PortTaken { .. }
        | Error::Storage(_)
        | Error::BeyondBounds(_)
        | Error::ImageExists(_)
        | Error::ImageConflict(_)
        | Error::GuestRefuses { .. }
        | Error::AnswerLost
        | Error::VolumeConflict(_)
        | Error::BaseImageInUse { .. }
        | Error::Unstartable { .. } => (StatusCode::CONFLICT, said(message)),
        Error::NoRoom { .. } => (StatusCode::INSUFFICIENT_STORAGE, said(message)),
        Error::Elsewhere(_) => (StatusCode::BAD_GATEWAY, said(message)),
        Error::MadeAndDeleted => (StatusCode::GONE, said(message)),
        Error::NicNotFound { .. } => (StatusCode::NOT_FOUND, said(endpoint.not_found)),
        Error::ForwardNotFound(_) => (StatusCode::NOT_FOUND, said("Port forward not found")),
        Error::BaseImageNotFound { .. }
        | Error::DiskNotFound { .. }
        | Error::GuestFileNotFound { .. }
        | Error::ImageNotFound(_)
        | Error::NotPulled(_)
        | Error::UploadNotFound(_)
        | Error::VolumeNotFound(_) => (StatusCode::NOT_FOUND, said(message)),
        Error::AgentLacks { .. } => (StatusCode::NOT_IMPLEMENTED, said(message)),
        Error::AgentFails { .. } => (StatusCode::BAD_GATEWAY, said(message)),
        Error::Conflict(conflict) => (StatusCode::CONFLICT, in_the_way(conflict, message)),
        Error::NoAgent { why } => {
            let body = said("Shutdown integration service not available or not enabled");
            (StatusCode::UNPROCESSABLE_ENTITY, ErrorBody { detail: Some(why), ..body })
        }
        Error::Unresponsive(_) | Error::Busy(_) | Error::BaseImageUnchecked { .. } | Error::ShuttingDown => {
            (StatusCode::SERVICE_UNAVAILABLE, said(message))
        }
        Error::Failed { operation, why } => {
            tracing::warn!(%operation, why, "failed");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorBody { detail: (role >= Role::Operator).then_some(why), ..said(endpoint.failed) },
            )
        }
    }
}

fn said(error: impl Into<String>) -> ErrorBody {
    ErrorBody { error: error.into(), ..ErrorBody::default() }
}

/// The switch of the path, or one that a body names (ruling 28).
fn switch_not_found(named: &str, endpoint: &Endpoint) -> (StatusCode, ErrorBody) {
    if endpoint.not_found == SWITCH_NOT_FOUND {
        return (StatusCode::NOT_FOUND, said(endpoint.not_found));
    }
    let param = if SwitchId::parse_guid(named).is_some() { "switchId" } else { "switchName" };
    (
        StatusCode::BAD_REQUEST,
        said(format!("Invalid parameter: {param} must name a switch that exists; there is no {named:?}.")),
    )
}

/// What of the VM's state is in the way.
fn in_the_way(conflict: Conflict, message: String) -> ErrorBody {
    let body = said(message);
    match conflict {
        Conflict::NotRunning | Conflict::Off => ErrorBody { state: Some(State::Off), ..body },
        Conflict::AlreadySuspended => ErrorBody { already_suspended: Some(true), ..body },
        Conflict::AlreadyRunning => ErrorBody { already_running: Some(true), ..body },
        Conflict::MustBeOff(status) => ErrorBody { state: Some(status.into()), ..body },
        Conflict::Stopping => ErrorBody { state: Some(State::Stopping), ..body },
        Conflict::Rebooting => ErrorBody { state: Some(State::Running), ..body },
        Conflict::Halted | Conflict::Suspended => ErrorBody { state: Some(State::Paused), ..body },
        Conflict::NoFreeSlot
        | Conflict::DiskInUse
        | Conflict::Frozen
        | Conflict::NoWayOut
        | Conflict::Protected
        | Conflict::Outdated
        | Conflict::Deleting
        | Conflict::Overtaken
        | Conflict::Cancelled => body,
    }
}

/// What this dialect calls a field.
fn param_name(param: &str) -> Cow<'_, str> {
    let of_adapter = param.strip_prefix("networks[").and_then(|rest| rest.split_once("]."));
    if let Some((index, field)) = of_adapter {
        return Cow::from(format!("networkAdapters[{index}].{}", param_name(field)));
    }
    Cow::from(match param {
        "memory" => "memoryMB",
        "vcpus" => "vcpu",
        "disk_size" => "diskGB",
        "disk_folder" => "diskPath",
        "iso" => "isoPath",
        "switch" => "switchName",
        "adapter" => "netAdapterName",
        "allow_management_os" => "allowManagementOS",
        "host_access" => "hostAccess",
        "host_address" => "hostAddress",
        "host_port" => "hostPort",
        "guest_port" => "guestPort",
        "allow_spoofing" => "allowSpoofing",
        "max_addresses" => "maxAddresses",
        "description" => "notes",
        "bandwidth.in_bits_per_second" => "bandwidth.inBitsPerSecond",
        "bandwidth.out_bits_per_second" => "bandwidth.outBitsPerSecond",
        "vlan" => "vlanSetting",
        "trunk" => "vlanSetting.allowedVlanIdList",
        "networks" => "networkAdapters",
        other => other,
    })
}

/// How this dialect writes the objections of the plumbing.
pub fn http_error(error: HttpError) -> Response {
    let status = error.status();
    let body = match &error {
        HttpError::NotJson { .. } => ErrorBody { detail: Some(error.message()), ..said("Invalid JSON") },
        _ => ErrorBody { detail: error.detail().map(str::to_owned), ..said(error.message()) },
    };
    Reply::json(status, &body).build()
}
