//! What a handler is given: path parameters, query, headers, and a body that was read but not yet judged.
//!
//! The contract orders the checks: syntax of the id, existence, body, state. So what is wrong with the body is told
//! when the handler asks for it, not before. Reading it is `dispatch`'s task.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;
use warp::http::{HeaderMap, header};

use super::{HttpError, Nulls, Upload, decode, query};
use crate::service::access::Caller;

#[derive(Debug, Clone)]
pub struct Request {
    pub params: Vec<(&'static str, String)>,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Result<Bytes, HttpError>,
    /// The body, of a route that takes a file.
    pub upload: Option<Upload>,
    /// What a null in the body says.
    pub nulls: Nulls,
    /// With an Idempotency-Key: the id that what this request makes is to have. A handler that makes something passes it
    /// on, so that the same request, after a crash, finds what it has made already.
    pub makes: Option<Uuid>,
    /// A daemon before has begun it, and it is asked again: what it finds done is what was wanted.
    pub goes_on: bool,
    /// Who asks; that it may ask this was looked at before.
    pub caller: Caller,
}

/// The body of an action that takes no parameters: absent or `{}`.
#[derive(Debug, Default, Clone, Copy, Deserialize, schemars::JsonSchema)]
pub struct NoFields {}

impl Request {
    /// A path parameter, percent-decoded. A name that the route does not have is a slip in the table; it reads as
    /// empty text, which no id is.
    pub fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(given, _)| *given == name);
        if found.is_none() {
            tracing::error!(name, "a handler asked for a path parameter its route does not have");
        }
        found.map_or("", |(_, value)| value)
    }

    /// The query as a type. That its parameters are known and not repeated was checked before.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        query::decode(&self.query)
    }

    /// Whether it says `force`, wherever it may say so.
    pub(super) fn is_forced(&self) -> bool {
        let body = self.body.as_ref().ok().and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
        let in_body = body.is_some_and(|body| body.get("force") == Some(&true.into()));
        in_body || self.query.iter().any(|(name, value)| name == "force" && value == "true")
    }

    /// A body that has to be there.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        match self.json_bytes()? {
            Some(bytes) => decode::object(bytes, self.nulls),
            None => Err(HttpError::MissingBody),
        }
    }

    /// As [`Self::json`], with what it has of the members of these names taken out before.
    pub fn json_beside<T: DeserializeOwned>(&self, names: &[&str]) -> Result<(T, Vec<(String, Value)>), HttpError> {
        match self.json_bytes()? {
            Some(bytes) => decode::object_beside(bytes, self.nulls, names),
            None => Err(HttpError::MissingBody),
        }
    }

    /// A body that may be absent, as with every action endpoint.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, HttpError> {
        match self.json_bytes()? {
            Some(bytes) => decode::object(bytes, self.nulls),
            None => Ok(T::default()),
        }
    }

    fn json_bytes(&self) -> Result<Option<&Bytes>, HttpError> {
        let bytes = self.body.as_ref().map_err(Clone::clone)?;
        // `curl -d ''` sends the type of a form with no form in it: there is nothing whose type could be wrong.
        if bytes.is_empty() {
            return Ok(None);
        }
        if !is_json(&self.headers) {
            return Err(HttpError::UnsupportedMediaType);
        }
        Ok(Some(bytes))
    }
}

/// A value that query and body may both give, as long as they agree (ruling 5).
pub fn agreed<T: PartialEq + std::fmt::Display>(
    name: &str,
    query: Option<T>,
    body: Option<T>,
) -> Result<Option<T>, HttpError> {
    match (query, body) {
        (Some(q), Some(b)) if q != b => {
            Err(HttpError::invalid(name, format!("be the same in query ({q}) and body ({b})")))
        }
        (query, body) => Ok(query.or(body)),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::HeaderValue;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    struct Stop {
        timeout: Option<i64>,
    }

    fn request(content_type: Option<&'static str>, body: &'static str) -> Request {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
        }
        Request {
            params: vec![("id", "a".into())],
            query: Vec::new(),
            headers,
            body: Ok(Bytes::from_static(body.as_bytes())),
            upload: None,
            nulls: Nulls::Absent,
            makes: None,
            goes_on: false,
            caller: Caller { role: crate::model::Role::Admin, name: "uid 0".into() },
        }
    }

    #[test]
    fn json_is_recognized_whatever_its_case_and_parameters() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"] {
            assert!(request(Some(good), "{}").json::<Stop>().is_ok(), "{good}");
        }
        for bad in [Some("text/plain"), Some("application/jsonp"), Some("application/x-www-form-urlencoded"), None] {
            let err = request(bad, "{}").json::<Stop>().unwrap_err();
            assert_eq!(err, HttpError::UnsupportedMediaType, "{bad:?}");
        }
    }

    #[test]
    fn an_absent_body_is_the_default_of_an_action_and_an_error_elsewhere() {
        for absent in [request(None, ""), request(Some("application/x-www-form-urlencoded"), "")] {
            assert_eq!(absent.json_or_default::<Stop>(), Ok(Stop::default()));
            assert_eq!(absent.json::<Stop>(), Err(HttpError::MissingBody));
        }
        let empty = request(Some("application/json"), "{}");
        assert_eq!(empty.json_or_default::<Stop>(), Ok(Stop::default()));
        assert!(empty.json_or_default::<NoFields>().is_ok());
        assert!(request(Some("application/json"), "{\"a\":1}").json_or_default::<NoFields>().is_err());
    }

    #[test]
    fn force_is_said_in_the_query_or_in_the_body() {
        assert!(request(Some("application/json"), "{\"force\": true, \"timeout\": 1}").is_forced());
        let mut query = request(None, "");
        assert!(!query.is_forced());
        query.query = vec![("force".to_owned(), "true".to_owned())];
        assert!(query.is_forced());
        for not in ["{\"force\": false}", "{\"force\": 1}", "{}", "{"] {
            assert!(!request(Some("application/json"), not).is_forced(), "{not}");
        }
    }

    #[test]
    fn a_parameter_the_route_lacks_reads_as_empty() {
        assert_eq!(request(None, "").param("id"), "a");
        assert_eq!(request(None, "").param("nope"), "");
    }
}
