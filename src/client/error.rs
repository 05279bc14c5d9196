//! What can become of a request, as far as a client sees it. What a person does about it is said by who shows it.

use std::{io, time::Duration};

use http::StatusCode;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answers there.
    #[error("cannot reach qherd at {at}: {why}")]
    Unreachable { at: String, why: io::Error },
    /// It was there, and has gone before its answer was whole.
    #[error("the connection to qherd at {at} broke: {why}")]
    Lost { at: String, why: String },
    /// It is there, and says nothing.
    #[error("qherd at {at} has not answered within {}", humantime::format_duration(*after))]
    Late { at: String, after: Duration },
    /// It says no.
    #[error("{message}")]
    Refused { status: StatusCode, message: String, detail: Option<String> },
    /// It is a qherd, and speaks the other dialect there.
    #[error("qherd at {at} speaks the Hyper-V dialect there, and this is a client of the other one")]
    OtherDialect { at: String },
    /// It is no qherd, or one that speaks differently.
    #[error("what answers at {at} is no qherd of this version: {why}")]
    Garbled { at: String, why: String },
}

impl Failure {
    /// What the daemon said of an operation.
    pub fn refused(status: u16, message: String) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::Refused { status, message, detail: None }
    }

    /// Whether the VM, switch or the like is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}
