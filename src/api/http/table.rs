//! A dialect's routes, arranged so that a path and a method find their handler.
//!
//! A path belongs to one pattern, the most literal one that fits: `/vms/by-name/{name}` before `/vms/{id}/{part}`.
//! The methods of that pattern are then all there is: another method is 405, whatever less literal patterns offer.
//! Reading requests and running handlers is `dispatch`'s task.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use warp::http::{HeaderValue, Method, header};

use super::route::{Answer, Output, OutputKind, Route, RouteInfo, param_name};
use super::{HttpError, Reply, Request, Response};
use crate::model::Role;
use crate::service::operations::Operation;

pub type ErrorShape = fn(HttpError) -> Response;
pub type OperationShape = fn(&Operation, Role) -> Reply;

/// A handler with its state already in it.
pub(super) type Bound = Arc<dyn Fn(Request) -> BoxFuture<'static, Answer> + Send + Sync>;

pub struct Table {
    routes: Vec<(RouteInfo, Bound)>,
    patterns: Vec<Pattern>,
    errors: ErrorShape,
    operations: Option<OperationShape>,
    dialect: &'static str,
}

/// All routes of one path.
struct Pattern {
    segments: Vec<Segment>,
    methods: Vec<(Method, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Literal(&'static str),
    Param(&'static str),
}

/// A route that a request belongs to.
pub(super) struct Found<'a> {
    pub info: &'a RouteInfo,
    pub handler: Bound,
    pub params: Vec<(&'static str, String)>,
}

impl Table {
    pub fn new<S>(state: S, routes: Vec<Route<S>>) -> Self
    where
        S: Clone + Send + Sync + 'static,
    {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut bound: Vec<(RouteInfo, Bound)> = Vec::new();
        for Route { info, handler } in routes {
            let segments = segments(info.path);
            let method = (info.method.clone(), bound.len());
            match patterns.iter_mut().find(|p| same_paths(&p.segments, &segments)) {
                Some(pattern) => pattern.methods.push(method),
                None => patterns.push(Pattern { segments, methods: vec![method] }),
            }
            let state = state.clone();
            bound.push((info, Arc::new(move |request| handler(state.clone(), request))));
        }
        // `false` (a literal) sorts first, and the earlier segment decides.
        patterns.sort_by_key(|p| p.segments.iter().map(is_param).collect::<Vec<_>>());
        Self { routes: bound, patterns, errors: plain, operations: None, dialect: "" }
    }

    /// How this dialect writes the plumbing's own objections.
    pub fn errors(mut self, shape: ErrorShape) -> Self {
        self.errors = shape;
        self
    }

    /// How this dialect writes an operation.
    pub fn operations(mut self, shape: OperationShape) -> Self {
        self.operations = Some(shape);
        self
    }

    pub(super) fn operation_shape(&self) -> Option<OperationShape> {
        self.operations
    }

    /// What was asked for by this operation id.
    pub(super) fn named(&self, operation_id: &str) -> Option<(&RouteInfo, Bound)> {
        let found = self.routes.iter().find(|(info, _)| info.operation_id == operation_id);
        found.map(|(info, handler)| (info, Arc::clone(handler)))
    }

    /// What its clients' idempotency keys belong to, wherever it is mounted.
    pub fn dialect(mut self, name: &'static str) -> Self {
        self.dialect = name;
        self
    }

    pub(super) fn dialect_name(&self) -> &'static str {
        self.dialect
    }

    pub fn routes(&self) -> impl Iterator<Item = &RouteInfo> {
        self.routes.iter().map(|(info, _)| info)
    }

    /// What is wrong with the table as such. Each dialect's tests assert that this is empty.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut ids = BTreeSet::new();
        for (info, _) in &self.routes {
            if !ids.insert(info.operation_id) {
                problems.push(format!("operation id {} is used twice", info.operation_id));
            }
            if !info.path.starts_with('/') || (info.path.len() > 1 && info.path.ends_with('/')) {
                problems.push(format!("{} must begin, and not end, with a slash", info.path));
            }
            let lasts = |output: &Output| matches!(output.kind, OutputKind::Stream(..) | OutputKind::Socket);
            if info.method != Method::GET && info.outputs.iter().any(lasts) {
                problems.push(format!("{} {} lasts, and only GET may", info.method, info.path));
            }
            let braces = info.path.matches(['{', '}']).count();
            let params: Vec<_> = info.path_params().collect();
            if braces != 2 * params.len() || params.contains(&"") {
                problems.push(format!("{} has a brace out of place", info.path));
            }
            if params.iter().collect::<BTreeSet<_>>().len() != params.len() {
                problems.push(format!("{} has a parameter twice", info.path));
            }
        }
        for pattern in &self.patterns {
            let methods: BTreeSet<&str> = pattern.methods.iter().map(|(m, _)| m.as_str()).collect();
            if methods.len() != pattern.methods.len() {
                problems.push(format!("{:?} has a method twice", pattern.segments));
            }
        }
        problems
    }

    pub(super) fn find(&self, method: &Method, path: &[Cow<'_, str>]) -> Result<Found<'_>, HttpError> {
        let pattern = self.patterns.iter().find(|p| fits(&p.segments, path)).ok_or(HttpError::NoSuchPath)?;
        // HEAD is GET without the body.
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let index = pattern.methods.iter().find(|(m, _)| m == wanted).map(|(_, index)| *index);
        let (info, handler) = index
            .and_then(|index| self.routes.get(index))
            .ok_or_else(|| HttpError::MethodNotAllowed { allow: pattern.allow() })?;
        // Of the route itself: two routes of one pattern may name the same parameter differently.
        let params = segments(info.path)
            .into_iter()
            .zip(path)
            .filter_map(|(segment, text)| match segment {
                Segment::Param(name) => Some((name, text.clone().into_owned())),
                Segment::Literal(_) => None,
            })
            .collect();
        Ok(Found { info, handler: Arc::clone(handler), params })
    }

    pub(super) fn shape(&self) -> ErrorShape {
        self.errors
    }
}

/// An objection in a dialect's shape. The headers that go with a status are added here, so that no dialect can forget them.
pub fn refuse(shape: ErrorShape, error: HttpError) -> Response {
    let allow = match &error {
        HttpError::MethodNotAllowed { allow } => names(allow),
        _ => None,
    };
    let challenge = error.challenge();
    let length = match &error {
        HttpError::RangeBeyondEnd { length } => HeaderValue::from_str(&format!("bytes */{length}")).ok(),
        _ => None,
    };
    let socket = matches!(error, HttpError::UpgradeRequired { .. });
    let soon = error.passes_soon();
    let mut response = shape(error);
    if let Some(challenge) = challenge {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_RANGE, length);
    }
    if socket {
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if soon {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn names(methods: &[Method]) -> Option<HeaderValue> {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).ok()
}

impl Pattern {
    fn allow(&self) -> Vec<Method> {
        let mut allow: Vec<Method> = Vec::new();
        for (method, _) in &self.methods {
            allow.push(method.clone());
            if *method == Method::GET {
                allow.push(Method::HEAD);
            }
        }
        allow
    }
}

fn segments(path: &'static str) -> Vec<Segment> {
    path.trim_start_matches('/')
        .split('/')
        .map(|text| param_name(text).map_or(Segment::Literal(text), Segment::Param))
        .collect()
}

fn is_param(segment: &Segment) -> bool {
    matches!(segment, Segment::Param(_))
}

fn same_paths(a: &[Segment], b: &[Segment]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (is_param(a) && is_param(b)))
}

fn fits(pattern: &[Segment], path: &[Cow<'_, str>]) -> bool {
    pattern.len() == path.len()
        && pattern.iter().zip(path).all(|(segment, text)| match segment {
            Segment::Literal(literal) => text == literal,
            Segment::Param(_) => !text.is_empty(),
        })
}

/// For tables that set no shape: tests, and a path that no dialect serves.
pub(super) fn plain(error: HttpError) -> Response {
    let body = serde_json::json!({"error": error.message()});
    Reply::json(error.status(), &body).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use warp::http::StatusCode;

    async fn nothing(_: (), _: Request) -> Reply {
        Reply::empty(StatusCode::OK)
    }

    fn table() -> Table {
        Table::new(
            (),
            vec![
                Route::get("/", "root", nothing).role(Role::Viewer),
                Route::get("/vms/{id}", "get", nothing).role(Role::Viewer),
                Route::delete("/vms/{vm_id}", "delete", nothing).at_once().role(Role::Viewer),
                Route::get("/vms/{id}/{part}", "part", nothing).role(Role::Viewer),
                Route::post("/vms/{id}/start", "start", nothing).at_once().role(Role::Viewer),
                Route::get("/vms/by-name/{name}", "byName", nothing).role(Role::Viewer),
            ],
        )
    }

    type Hit = (&'static str, Vec<(&'static str, String)>);

    fn find(method: Method, path: &'static str) -> Result<Hit, HttpError> {
        let path: Vec<Cow<'_, str>> = path.trim_start_matches('/').split('/').map(Cow::from).collect();
        table().find(&method, &path).map(|f| (f.info.operation_id, f.params))
    }

    #[test]
    fn the_most_literal_pattern_wins_whatever_the_order_of_the_table() {
        let id = |path| find(Method::GET, path).map(|(id, _)| id);
        assert_eq!(id("/"), Ok("root"));
        assert_eq!(id("/vms/a"), Ok("get"));
        assert_eq!(id("/vms/a/config"), Ok("part"));
        assert_eq!(id("/vms/by-name/x"), Ok("byName"));
        assert_eq!(id("/vms/by-name/start"), Ok("byName"));
        assert_eq!(id("/vms/by-name"), Ok("get"));
        assert_eq!(id("/nope"), Err(HttpError::NoSuchPath));
        assert_eq!(id("/vms/"), Err(HttpError::NoSuchPath));
        assert_eq!(id("/vms//start"), Err(HttpError::NoSuchPath));
    }

    #[test]
    fn each_route_sees_its_own_parameter_names() {
        assert_eq!(find(Method::GET, "/vms/a").unwrap().1, [("id", "a".to_owned())]);
        assert_eq!(find(Method::DELETE, "/vms/a").unwrap().1, [("vm_id", "a".to_owned())]);
    }

    #[test]
    fn another_method_is_told_what_is_allowed() {
        assert_eq!(
            find(Method::PUT, "/vms/a").unwrap_err(),
            HttpError::MethodNotAllowed { allow: vec![Method::GET, Method::HEAD, Method::DELETE] }
        );
        assert_eq!(
            find(Method::GET, "/vms/a/start").unwrap_err(),
            HttpError::MethodNotAllowed { allow: vec![Method::POST] }
        );
        assert_eq!(find(Method::HEAD, "/vms/a").unwrap().0, "get");
    }

    #[test]
    fn slips_in_a_table_are_told() {
        assert_eq!(table().problems(), Vec::<String>::new());
        let bad = Table::new(
            (),
            vec![
                Route::get("/a/{id}", "one", nothing).role(Role::Viewer),
                Route::get("/a/{other}", "one", nothing).role(Role::Viewer),
                Route::get("/b/", "three", nothing).role(Role::Viewer),
                Route::get("/c/{id", "four", nothing).role(Role::Viewer),
                Route::get("/d/{x}/{x}", "five", nothing).role(Role::Viewer),
            ],
        );
        assert_eq!(bad.problems().len(), 5, "{:?}", bad.problems());
    }
}
