//! Everything the plumbing itself can object to, before or instead of a handler's own answer.
//!
//! Only the facts and a plain sentence are here; how an error looks on the wire is each dialect's business.

use warp::http::{Method, StatusCode};

use crate::model::{Role, nearest};

/// An objection of the plumbing. Dialects convert it into their own error type (`From<HttpError>`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Of a path, never of what a path could lead to: it must not read as if something were gone.
    #[error("No such path; openapi.json lists those that there are.")]
    NoSuchPath,
    #[error("Method not allowed; allowed: {}.", names(allow))]
    MethodNotAllowed { allow: Vec<Method> },
    /// Of what is no request at all, or could be taken for different ones.
    #[error("The request is not valid HTTP: {why}.")]
    BadHead { why: &'static str },
    #[error("The headers are too large; the limits are {limit} bytes and {fields} fields.")]
    HeadTooLarge { limit: usize, fields: usize },
    #[error("The path and its query are too long; the limit is {limit} bytes.")]
    TargetTooLong { limit: usize },
    #[error("The headers did not arrive within {seconds} seconds.")]
    HeadTimeout { seconds: u64 },
    #[error("The body is too large; the limit is {limit} bytes.")]
    TooLarge { limit: usize },
    #[error("A body must be sent with Content-Type: application/json.")]
    UnsupportedMediaType,
    #[error("The body did not arrive within {seconds} seconds.")]
    BodyTimeout { seconds: u64 },
    #[error("The body ended too early.")]
    BodyIncomplete,
    #[error("The body is missing: a JSON object is required.")]
    MissingBody,
    #[error("The body must be a JSON object, not {found}.")]
    NotAnObject { found: String },
    #[error("The body is not valid JSON: {why} (line {line}, column {column}).")]
    NotJson { line: usize, column: usize, why: String },
    /// `must` continues the sentence: `be a whole number, not "x"`.
    #[error("Invalid parameter: {name} must {must}.")]
    InvalidParameter { name: String, must: String },
    /// `known` are the names that would have been accepted at that place, `suggestion` the one that was likely meant.
    #[error("Invalid parameter: {name} is not known{}", hint(suggestion.as_deref(), known))]
    UnknownParameter { name: String, suggestion: Option<String>, known: Vec<String> },
    /// A bug of ours. `why` is for the log and for `detail`, not for decisions.
    #[error("Internal error")]
    Internal { why: String },
    /// What is there is no answer of HTTP.
    #[error("This is a WebSocket: {why}.")]
    UpgradeRequired { why: &'static str },
    #[error("The range begins beyond the end: there are {length} bytes.")]
    RangeBeyondEnd { length: u64 },
    /// The daemon is going down, and did not begin.
    #[error("qherd is shutting down; ask again when it is back.")]
    ShuttingDown,
    /// The daemon is going down, and does not wait for the end of what it has begun.
    #[error(
        "qherd is shutting down before this request has finished. A graceful stop or reboot goes on after the restart; \
         what was half made or changed is finished or taken back. Ask again when it is back."
    )]
    Unfinished,
    /// By a web page that is not ours.
    #[error("Requests by web pages of another origin are refused; remove the Origin header if this is none.")]
    CrossOrigin,
    /// DNS rebinding: any name can be made to lead here.
    #[error(
        "The Host {host:?} is not one of this qherd: use its address or localhost, or allow the name with --host-name."
    )]
    Misdirected { host: String },
    #[error(
        "Nobody who may ask is known by this connection ({why}). Send a token that `qherd token create` makes, as Authorization: Bearer TOKEN."
    )]
    Unauthenticated { why: String },
    #[error("{why}")]
    TokenRefused { why: String },
    #[error("From another host this qherd is asked over TLS only: use https.")]
    InTheClear,
    #[error("Answers that other clients have not taken yet fill the room for them; ask again, or for less.")]
    NoRoomForAnswer,
    /// One caller has more than his share.
    #[error("{name} {why}; ask again in a moment.")]
    TooManyRequests { name: String, why: String },
    #[error("{under_way} requests are under way; ask again in a moment.")]
    Crowded { under_way: usize },
    #[error("{name} has the role {role}; this needs {needed}.")]
    Forbidden { name: String, role: Role, needed: Role },
    /// `begin` is where all that are kept follow.
    #[error(
        "The events after that one are not all kept any more, or it is none of this qherd's; read anew what they would have told, and \
         begin with after={begin}."
    )]
    EventsGone { begin: String },
    #[error("There is no such operation; one is kept for 24 hours after its end.")]
    NoSuchOperation,
    /// `why` it goes on, or is over.
    #[error("The operation cannot be cancelled: {why}.")]
    NotCancelled { why: String },
    #[error("The Idempotency-Key was used for another request before; each request needs a key of its own.")]
    KeyReused,
    #[error("The Idempotency-Key cannot be stored, so nothing was done; ask again later, or without a key.")]
    KeyNotStored { why: String },
    #[error(
        "100,000 Idempotency-Keys of the last 24 hours are in use, and none is forgotten before its time; ask again later, \
         or without a key."
    )]
    NoRoomForKey,
}

impl HttpError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath | Self::NoSuchOperation => StatusCode::NOT_FOUND,
            Self::NotCancelled { .. } => StatusCode::CONFLICT,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::BodyTimeout { .. } | Self::HeadTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BadHead { .. }
            | Self::BodyIncomplete
            | Self::MissingBody
            | Self::NotAnObject { .. }
            | Self::NotJson { .. }
            | Self::InvalidParameter { .. }
            | Self::UnknownParameter { .. } => StatusCode::BAD_REQUEST,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::UpgradeRequired { .. } => StatusCode::UPGRADE_REQUIRED,
            Self::RangeBeyondEnd { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Unauthenticated { .. } | Self::TokenRefused { .. } => StatusCode::UNAUTHORIZED,
            Self::CrossOrigin | Self::InTheClear | Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::EventsGone { .. } => StatusCode::GONE,
            Self::ShuttingDown
            | Self::Unfinished
            | Self::NoRoomForAnswer
            | Self::Crowded { .. }
            | Self::KeyNotStored { .. }
            | Self::NoRoomForKey => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// One sentence for people.
    pub fn message(&self) -> String {
        self.to_string()
    }

    /// What is known beyond the sentence and may be shown to the client.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Internal { why } | Self::KeyNotStored { why } => Some(why.as_str()).filter(|why| !why.is_empty()),
            Self::EventsGone { begin } => Some(begin),
            _ => None,
        }
    }

    /// As this role may read it: what the host says of itself, paths and all, is for those who work with it.
    pub fn for_role(self, role: Role) -> Self {
        match self {
            Self::Internal { .. } if role < Role::Operator => Self::Internal { why: String::new() },
            other => other,
        }
    }

    /// It is refused because of others, or of too many at once.
    pub fn passes_soon(&self) -> bool {
        matches!(self, Self::NoRoomForAnswer | Self::TooManyRequests { .. } | Self::Crowded { .. })
    }

    /// The challenge that goes with a 401.
    pub fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated { .. } => Some("Bearer"),
            Self::TokenRefused { .. } => Some("Bearer error=\"invalid_token\""),
            _ => None,
        }
    }

    pub fn invalid(name: impl Into<String>, must: impl Into<String>) -> Self {
        Self::InvalidParameter { name: name.into(), must: must.into() }
    }

    /// The same about the field of something that is itself at `place`, such as `networks[1].`
    pub fn within(self, place: &str) -> Self {
        match self {
            Self::InvalidParameter { name, must } => Self::InvalidParameter { name: format!("{place}{name}"), must },
            other => other,
        }
    }

    /// `full` is the name as the client should read it, `last` the part that is compared with the known ones.
    pub fn unknown(full: String, last: &str, known: &[&str]) -> Self {
        Self::UnknownParameter {
            name: full,
            suggestion: nearest(last, known).map(str::to_owned),
            known: known.iter().map(|k| (*k).to_owned()).collect(),
        }
    }
}

fn names(methods: &[Method]) -> String {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    names.join(", ")
}

fn hint(suggestion: Option<&str>, known: &[String]) -> String {
    match suggestion {
        Some(meant) => format!("; did you mean {meant}?"),
        None if known.is_empty() => "; none is expected here.".to_owned(),
        None => format!("; known here: {}.", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_sentences() {
        let unknown = |n: &str, k: &[&str]| HttpError::unknown(n.into(), n, k).message();
        assert_eq!(unknown("vcpu", &["vcpus"]), "Invalid parameter: vcpu is not known; did you mean vcpus?");
        assert_eq!(unknown("x", &["vcpus", "name"]), "Invalid parameter: x is not known; known here: vcpus, name.");
        assert_eq!(unknown("x", &[]), "Invalid parameter: x is not known; none is expected here.");
    }
}
