//! One line of a route table: what it answers to, what it takes and gives, and the handler.
//!
//! The description ([`RouteInfo`]) is apart from the handler, so that OpenAPI, authorization, metric labels and the
//! contract tests can read a table without a service behind it. Finding a route is `table`'s task.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use warp::http::Method;

use super::{HttpError, IntoResponse, Nulls, QueryParam, Request, Response, decode::object};
use crate::model::Role;
use crate::service::operations::Work;

pub type SchemaFn = fn(&mut SchemaGenerator) -> Schema;
/// Reads a body as a handler does, and keeps nothing of it.
pub type DecodeFn = fn(&[u8], Nulls) -> Result<(), HttpError>;
pub type Answer = Result<Response, HttpError>;
pub type Handler<S> = Arc<dyn Fn(S, Request) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A row of a table.
pub struct Route<S> {
    pub info: RouteInfo,
    pub handler: Handler<S>,
}

/// A row that changes something, and does not say yet what is done for it: no such route can forget that its clients need not
/// wait on the line.
#[must_use = "a row needs to say what it does"]
pub struct Changing<S>(Draft<S>);

impl<S> Changing<S> {
    /// With `Prefer: respond-async` it is an operation, as far as it does not end at once.
    pub fn does(self, work: Work) -> Draft<S> {
        let Self(Draft(mut route)) = self;
        route.info.work = Some(work);
        Draft(route)
    }

    /// What it does takes no time, and it is no operation.
    pub fn at_once(self) -> Draft<S> {
        self.0
    }
}

/// A row that does not say yet who may ask for it, so that no table takes it.
#[must_use = "a row needs a role"]
pub struct Draft<S>(Route<S>);

impl<S> Draft<S> {
    /// The least role that may ask for it.
    pub fn role(self, role: Role) -> Route<S> {
        let Self(mut route) = self;
        route.info.role = role;
        route
    }

    /// Whoever reaches this host may ask, known or not.
    pub fn open(self) -> Route<S> {
        let mut route = self.role(Role::Viewer);
        route.info.is_open = true;
        route
    }
}

#[derive(Debug, Clone)]
pub struct RouteInfo {
    pub role: Role,
    /// Whoever reaches this host may ask, known or not: it is the same everywhere, and says nothing of this host.
    pub is_open: bool,
    pub method: Method,
    /// `/vms/{id}/start`
    pub path: &'static str,
    pub operation_id: &'static str,
    pub summary: &'static str,
    pub tag: &'static str,
    pub query: &'static [QueryParam],
    pub input: Option<Input>,
    /// Its body is a file, which its handler takes piece by piece.
    pub upload: bool,
    pub outputs: Vec<Output>,
    pub urgency: Urgency,
    /// What it has begun goes on without it: a daemon that ends does not wait for the guest to finish.
    pub waits_for_guest: bool,
    /// It changes something: it is done beside its connection for who wants that.
    pub work: Option<Work>,
}

/// What is let through however much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// It has its turn like anything else.
    None,
    /// A look at whether all is well.
    Always,
    /// By an administrator who says `force`, in the query or the body.
    Forced,
}

#[derive(Debug, Clone, Copy)]
pub struct Input {
    pub schema: SchemaFn,
    pub decode: DecodeFn,
    pub required: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub status: u16,
    pub description: &'static str,
    pub kind: OutputKind,
}

#[derive(Debug, Clone, Copy)]
pub enum OutputKind {
    Json(SchemaFn),
    /// In the dialect's shape of an error.
    Error,
    /// The same as JSON, in another notation: its media type.
    Data(&'static str, SchemaFn),
    /// Of this media type, with an example of it.
    Text(&'static str, &'static str),
    /// Piece by piece, of this media type; with an example of what comes.
    Stream(&'static str, &'static str),
    /// Bytes.
    File,
    /// A WebSocket.
    Socket,
    Empty,
}

impl<S: 'static> Route<S> {
    pub fn get<H, F>(path: &'static str, operation_id: &'static str, handler: H) -> Draft<S>
    where
        H: Fn(S, Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        Self::draft(Method::GET, path, operation_id, handler)
    }

    pub fn post<H, F>(path: &'static str, operation_id: &'static str, handler: H) -> Changing<S>
    where
        H: Fn(S, Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        Changing(Self::draft(Method::POST, path, operation_id, handler))
    }

    pub fn put<H, F>(path: &'static str, operation_id: &'static str, handler: H) -> Changing<S>
    where
        H: Fn(S, Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        Changing(Self::draft(Method::PUT, path, operation_id, handler))
    }

    pub fn delete<H, F>(path: &'static str, operation_id: &'static str, handler: H) -> Changing<S>
    where
        H: Fn(S, Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        Changing(Self::draft(Method::DELETE, path, operation_id, handler))
    }

    fn draft<H, F>(method: Method, path: &'static str, operation_id: &'static str, handler: H) -> Draft<S>
    where
        H: Fn(S, Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        Draft(Self {
            info: RouteInfo {
                role: Role::Admin,
                is_open: false,
                method,
                path,
                operation_id,
                summary: "",
                tag: "",
                query: &[],
                input: None,
                upload: false,
                outputs: Vec::new(),
                urgency: Urgency::None,
                waits_for_guest: false,
                work: None,
            },
            handler: Arc::new(move |state, request| handler(state, request).map(IntoResponse::into_response).boxed()),
        })
    }

    pub fn tag(mut self, tag: &'static str) -> Self {
        self.info.tag = tag;
        self
    }

    pub fn summary(mut self, summary: &'static str) -> Self {
        self.info.summary = summary;
        self
    }

    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.info.urgency = urgency;
        self
    }

    /// Its handler asks a VM without waiting before, and only waits then for what goes on by itself.
    pub fn waits_for_guest(mut self) -> Self {
        self.info.waits_for_guest = true;
        self
    }

    pub fn query(mut self, query: &'static [QueryParam]) -> Self {
        self.info.query = query;
        self
    }

    /// The body that has to be sent; the handler reads it with [`Request::json`].
    pub fn input<T: JsonSchema + DeserializeOwned>(mut self) -> Self {
        self.info.input = Some(Input { schema: schema_of::<T>, decode: decode::<T>, required: true });
        self
    }

    /// A body that may be absent; the handler reads it with [`Request::json_or_default`].
    pub fn optional_input<T: JsonSchema + DeserializeOwned>(mut self) -> Self {
        self.info.input = Some(Input { schema: schema_of::<T>, decode: decode::<T>, required: false });
        self
    }

    /// The body is a file of any length; the handler takes it from [`Request::upload`].
    pub fn uploads(mut self) -> Self {
        self.info.upload = true;
        self
    }

    pub fn output<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.outcome(status, description, OutputKind::Json(schema_of::<T>))
    }

    pub fn output_text(self, status: u16, description: &'static str, example: &'static str) -> Self {
        self.outcome(status, description, OutputKind::Text("text/plain", example))
    }

    /// A body of this media type.
    pub fn output_as(self, media_type: &'static str, description: &'static str, example: &'static str) -> Self {
        self.outcome(200, description, OutputKind::Text(media_type, example))
    }

    /// The bytes of a file, or some of them.
    pub fn output_file(self, status: u16, description: &'static str) -> Self {
        self.outcome(status, description, OutputKind::File)
    }

    /// What could be JSON, in another notation.
    pub fn output_data<T: JsonSchema>(self, media_type: &'static str, description: &'static str) -> Self {
        self.outcome(200, description, OutputKind::Data(media_type, schema_of::<T>))
    }

    pub fn output_stream(self, description: &'static str, media_type: &'static str, example: &'static str) -> Self {
        self.outcome(200, description, OutputKind::Stream(media_type, example))
    }

    /// A WebSocket, which is asked for as RFC 6455 says.
    pub fn output_socket(self, description: &'static str) -> Self {
        self.outcome(101, description, OutputKind::Socket)
            .error(426, "The request does not ask for a WebSocket; `Upgrade` says what to ask for.")
    }

    pub fn output_empty(self, status: u16, description: &'static str) -> Self {
        self.outcome(status, description, OutputKind::Empty)
    }

    /// An error that deserves words of its own in the document; the others are there without being listed.
    pub fn error(self, status: u16, description: &'static str) -> Self {
        self.outcome(status, description, OutputKind::Error)
    }

    fn outcome(mut self, status: u16, description: &'static str, kind: OutputKind) -> Self {
        self.info.outputs.push(Output { status, description, kind });
        self
    }
}

impl RouteInfo {
    /// Whether it may turn out to be urgent when its body is there.
    pub(super) fn may_be_urgent(&self, role: Role) -> bool {
        match self.urgency {
            Urgency::None => false,
            Urgency::Always => true,
            Urgency::Forced => role == Role::Admin,
        }
    }

    pub(super) fn is_urgent(&self, request: &Request) -> bool {
        self.may_be_urgent(request.caller.role) && (self.urgency == Urgency::Always || request.is_forced())
    }

    /// The names in braces, in their order.
    pub fn path_params(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.path.split('/').filter_map(param_name)
    }
}

/// `{id}` → `id`
pub(super) fn param_name(segment: &'static str) -> Option<&'static str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

fn decode<T: DeserializeOwned>(body: &[u8], nulls: Nulls) -> Result<(), HttpError> {
    object::<T>(body, nulls).map(drop)
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}
