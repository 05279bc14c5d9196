//! What a request is called: in the `X-Request-Id` of its answer, in the log, and in what is told of it. A client may name it
//! itself, so that its own log says the same.

use uuid::Uuid;
use warp::http::{HeaderMap, HeaderName, HeaderValue};

use super::Response;
use crate::model::Asker;
use crate::service::access::Caller;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Ids of usual tracers are shorter. Each event of what a request does holds it.
const MOST_BYTES: usize = 64;
/// Of a caller's name, in an event.
const MOST_OF_NAME: usize = 128;

#[derive(Debug, Clone)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The client's own where it is well formed, else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(HEADER).iter();
        let own = match (given.next(), given.next()) {
            (Some(id), None) => id.to_str().ok().filter(|id| is_well_formed(id)),
            _ => None,
        };
        Self(own.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn asker(&self, caller: &Caller) -> Asker {
        let mut name: String = caller.name.chars().filter(|c| !c.is_control()).collect();
        while name.len() > MOST_OF_NAME {
            name.pop();
        }
        Asker { caller: name, request: self.0.clone() }
    }

    pub fn seal(&self, mut response: Response) -> Response {
        // Of what is visible ASCII a header is made.
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            response.headers_mut().insert(HEADER, value);
        }
        response
    }
}

/// What goes into a log and a header as it is.
fn is_well_formed(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:=+/".contains(&byte);
    (1..=MOST_BYTES).contains(&id.len()) && id.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_str(value).unwrap());
        }
        RequestId::of(&headers).0
    }

    #[test]
    fn a_clients_own_id_is_kept_where_it_is_well_formed() {
        let longest = "x".repeat(MOST_BYTES);
        for good in ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "Root=1-67891233-abcdef012345678912345678", &longest]
        {
            assert_eq!(id_of(&[good]), good);
        }
        let too_long = "x".repeat(MOST_BYTES + 1);
        for other in [&[][..], &[""], &["a b"], &["a\"b"], &["a", "b"], &[too_long.as_str()]] {
            let id = id_of(other);
            assert!(Uuid::try_parse(&id).is_ok(), "{other:?}: {id}");
            assert_ne!(id, id_of(other));
        }
    }
}
