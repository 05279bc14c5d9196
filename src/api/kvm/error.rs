//! How this dialect tells what went wrong. The document words the same failure differently from section to section
//! (ruling 13), so each endpoint carries its own sentences, and one exhaustive match puts them to use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use crate::{
    api::http::{self, HttpError, Reply, Response, table::refuse},
    model::{Error, Operation, Role, VmId},
};

/// The body of every error.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    pub error: ErrorFields,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorFields {
    /// The HTTP status.
    pub code: u16,
    /// What to know and what to change, for people.
    pub message: String,
    /// The cause, where the host failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a handler does not answer as asked.
#[derive(Debug)]
pub enum Problem {
    /// The path holds no UUID.
    BadId,
    Http(HttpError),
    Domain(Error),
    /// `performance` of a VM without a live process (ruling 23).
    NoProcess,
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

/// The sentences of one section of the document.
pub struct Endpoint {
    pub bad_id: &'static str,
    pub not_found: NotFound,
    /// The message of its 500.
    pub failed: &'static str,
}

/// One as most are.
pub const fn endpoint(not_found: NotFound, failed: &'static str) -> Endpoint {
    Endpoint { bad_id: "Invalid UUID format.", not_found, failed }
}

/// How a section words that there is no such VM.
pub enum NotFound {
    /// `VM not found: <id>.`
    Colon,
    /// `VM with ID <id> not found.`
    WithId,
    /// `VM not found`
    Short,
}

impl NotFound {
    fn text(&self, id: VmId) -> String {
        match self {
            Self::Colon => format!("VM not found: {id}."),
            Self::WithId => format!("VM with ID {id} not found."),
            Self::Short => "VM not found".to_owned(),
        }
    }
}

impl http::Problem for Problem {
    type Section = Endpoint;

    fn render(self, endpoint: &Endpoint, role: Role) -> Response {
        let detail_of = |why: String| (role >= Role::Operator).then_some(why);
        let (status, message, detail) = match self {
            Self::BadId => (StatusCode::BAD_REQUEST, endpoint.bad_id.to_owned(), None),
            Self::NoProcess => (StatusCode::NOT_FOUND, "VM is not running".to_owned(), None),
            Self::Http(error) => return refuse(http_error, error.for_role(role)),
            Self::Domain(error) => {
                let message = error.to_string();
                match error {
                    Error::Invalid { .. } | Error::AmbiguousSwitch { .. } => (StatusCode::BAD_REQUEST, message, None),
                    Error::VmNotFound(id) => (StatusCode::NOT_FOUND, endpoint.not_found.text(id), None),
                    Error::BaseImageNotFound { .. }
                    | Error::DiskNotFound { .. }
                    | Error::GuestFileNotFound { .. }
                    | Error::NicNotFound { .. }
                    | Error::ImageNotFound(_)
                    | Error::NotPulled(_)
                    | Error::UploadNotFound(_)
                    | Error::VolumeNotFound(_)
                    | Error::ForwardNotFound(_)
                    | Error::SwitchNotFound(_) => (StatusCode::NOT_FOUND, message, None),
                    Error::Fixed { .. }
                    | Error::GuestRefuses { .. }
                    | Error::AnswerLost
                    | Error::Conflict(_)
                    | Error::SwitchConflict(_)
                    | Error::ImageExists(_)
                    | Error::ImageConflict(_)
                    | Error::VolumeConflict(_)
                    | Error::Storage(_)
                    | Error::BeyondBounds(_)
                    | Error::PortTaken { .. }
                    | Error::BaseImageInUse { .. }
                    | Error::Unstartable { .. } => (StatusCode::CONFLICT, message, None),
                    Error::Elsewhere(_) => (StatusCode::BAD_GATEWAY, message, None),
                    Error::NoRoom { .. } => (StatusCode::INSUFFICIENT_STORAGE, message, None),
                    Error::MadeAndDeleted => (StatusCode::GONE, message, None),
                    Error::AgentLacks { .. } => (StatusCode::NOT_IMPLEMENTED, message, None),
                    Error::AgentFails { .. } => (StatusCode::BAD_GATEWAY, message, None),
                    Error::NoAgent { .. } => (StatusCode::UNPROCESSABLE_ENTITY, message, None),
                    Error::Unresponsive(_)
                    | Error::Busy(_)
                    | Error::BaseImageUnchecked { .. }
                    | Error::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, message, None),
                    Error::Failed { operation: Operation::Clone { base }, why } => {
                        let message = format!("Failed to clone base image: {}", base.display());
                        (StatusCode::INTERNAL_SERVER_ERROR, message, detail_of(why))
                    }
                    Error::Failed { operation, why } => {
                        tracing::warn!(%operation, why, "failed");
                        (StatusCode::INTERNAL_SERVER_ERROR, endpoint.failed.to_owned(), detail_of(why))
                    }
                }
            }
        };
        body(status, message, detail)
    }
}

/// How this dialect writes the objections of the plumbing.
pub fn http_error(error: HttpError) -> Response {
    body(error.status(), error.message(), error.detail().map(str::to_owned))
}

fn body(status: StatusCode, message: String, detail: Option<String>) -> Response {
    Reply::json(status, &ErrorBody { error: ErrorFields { code: status.as_u16(), message, detail } }).build()
}
