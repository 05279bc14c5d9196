//! An OpenAPI 3.1 document out of a route table.
//!
//! OpenAPI 3.1 schemas are JSON Schema 2020-12, which is what schemars writes; so types are taken over as they are.
//! A type can read and write differently (a default makes a field optional to read, and it is always written): then
//! it gets two components, `Thing` as answered and `ThingInput` as sent. The order is that of the names: the same
//! table always makes the same text.

use std::collections::BTreeSet;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use warp::http::Method;

use super::query_param::QueryKind;
use super::route::{OutputKind, RouteInfo, SchemaFn};

const COMPONENTS: &str = "#/components/schemas/";

/// What a document says beyond its table.
#[derive(Debug, Clone)]
pub struct About {
    pub title: &'static str,
    pub version: &'static str,
    pub description: &'static str,
    /// Where the table is mounted: `/` or `/hyperv`.
    pub server: &'static str,
    /// The dialect's shape of an error.
    pub error: SchemaFn,
    /// The dialect's shape of an operation.
    pub operation: SchemaFn,
    /// Path parameters by name. Those not listed are described by their name alone.
    pub path_params: &'static [PathParam],
}

#[derive(Debug, Clone, Copy)]
pub struct PathParam {
    pub name: &'static str,
    pub description: &'static str,
    pub format: Option<&'static str>,
}

/// What holds for every request of every dialect.
const CONVENTIONS: &str = "Bodies are JSON in UTF-8; a byte order mark is skipped. A number without a fraction is an \
    integer, however it is written (2.0, 1e3). Unknown fields and query parameters are refused by name. `null` is absent in \
    what makes something or acts; in a PUT it clears a field of the body that can be cleared, and is absent for the rest. \
    A list has at most 1024 entries where it says nothing narrower. Every refusal has the same shape, also of what is no \
    valid HTTP. `X-Request-Id` of every answer says which request it is to: a client's own well-formed id is kept. `x-role` is the least role that may ask: viewer, operator or admin.";

/// What any request may be answered.
const REFUSALS: &[(&str, &str)] = &[
    ("4XX", "The request was refused."),
    ("401", "Nobody who may ask is known by this connection or token."),
    ("403", "The caller's role is too low, or the request is from a web page of another origin."),
    ("421", "The Host is not one of this qherd."),
    ("429", "The caller has more than its share; `Retry-After` says when to ask again."),
    ("5XX", "The host failed."),
];

pub fn document<'a>(about: &About, routes: impl IntoIterator<Item = &'a RouteInfo>) -> Value {
    let mut writer = Writer {
        about,
        inputs: generator(SchemaSettings::draft2020_12().for_deserialize()),
        outputs: generator(SchemaSettings::draft2020_12().for_serialize()),
    };
    let mut paths: Map<String, Value> = Map::new();
    let mut tags = BTreeSet::new();
    for route in routes {
        let operation = writer.operation(route);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
        if !route.tag.is_empty() {
            tags.insert(route.tag);
        }
    }
    let mut paths = Value::Object(paths);
    let schemas = writer.components(&mut paths);
    let tags: Vec<Value> = tags.into_iter().map(|name| json!({"name": name})).collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": about.version, "description": format!("{} {CONVENTIONS}", about.description)},
        "servers": [{"url": about.server}],
        "tags": tags,
        "paths": paths,
        // On the host itself one is known by one's user, without any.
        "security": [{}, {"bearer": []}, {"certificate": []}],
        "components": {"schemas": schemas, "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A token of `qherd token create`."},
            "certificate": {"type": "mutualTLS", "description": "A certificate with a role (`--allow certificate:NAME=ROLE`)."},
        }},
    });
    without_true(&mut document);
    document
}

fn generator(settings: SchemaSettings) -> SchemaGenerator {
    settings.with(|s| s.definitions_path = "/components/schemas".into()).into_generator()
}

/// A schema that takes anything is written as an object: readers of OpenAPI 3.1 do not all know `true`.
fn without_true(document: &mut Value) {
    let as_object = |schema: &mut Value| {
        if *schema == Value::Bool(true) {
            *schema = json!({});
        }
    };
    match document {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &mut *value) {
                    ("schema", schema) => as_object(schema),
                    ("properties", Value::Object(properties)) => properties.values_mut().for_each(as_object),
                    _ => {}
                }
                without_true(value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_true),
        _ => {}
    }
}

struct Writer<'a> {
    about: &'a About,
    inputs: SchemaGenerator,
    outputs: SchemaGenerator,
}

impl Writer<'_> {
    fn operation(&mut self, route: &RouteInfo) -> Value {
        let mut operation = json!({
            "operationId": route.operation_id,
            "summary": route.summary,
            "x-role": route.role.as_str(),
            "responses": self.responses(route),
        });
        if route.is_open {
            operation["security"] = json!([{}]);
        }
        if !route.tag.is_empty() {
            operation["tags"] = json!([route.tag]);
        }
        let socket = route.outputs.iter().any(|output| matches!(output.kind, OutputKind::Socket));
        if socket {
            operation["x-websocket"] = json!(true);
        }
        let path = route.path_params().map(|name| self.path_param(name));
        let key = (route.method == Method::POST).then(idempotency_key);
        let params: Vec<Value> =
            path.chain(route.query.iter().map(query_param)).chain(key).chain(route.work.map(|_| prefer())).collect();
        if !params.is_empty() {
            operation["parameters"] = Value::Array(params);
        }
        if route.upload {
            let file = json!({"type": "string", "format": "binary"});
            operation["requestBody"] =
                json!({ "required": true, "content": content("application/octet-stream", file) });
        }
        if let Some(input) = route.input {
            operation["requestBody"] = json!({
                "required": input.required,
                "content": content("application/json", (input.schema)(&mut self.inputs).to_value()),
            });
        }
        operation
    }

    fn path_param(&self, name: &str) -> Value {
        let known = self.about.path_params.iter().find(|param| param.name == name);
        let mut schema = json!({"type": "string"});
        if let Some(format) = known.and_then(|param| param.format) {
            schema["format"] = json!(format);
        }
        let mut param = json!({"name": name, "in": "path", "required": true, "schema": schema});
        if let Some(known) = known {
            param["description"] = json!(known.description);
        }
        param
    }

    fn responses(&mut self, route: &RouteInfo) -> Value {
        let error = content("application/json", (self.about.error)(&mut self.outputs).to_value());
        let mut responses = Map::new();
        for (range, description) in REFUSALS {
            responses.insert((*range).into(), json!({"description": description, "content": error}));
        }
        if route.method == Method::POST && route.outputs.iter().any(|output| output.status == 201) {
            let gone = "Under its Idempotency-Key it was made before, and has been deleted since.";
            responses.insert("410".into(), json!({"description": gone, "content": error}));
        }
        if route.work.is_some() {
            let operation = content("application/json", (self.about.operation)(&mut self.outputs).to_value());
            let acknowledged =
                "With `Prefer: respond-async`: it is acknowledged, and `Location` is where its operation is.";
            let response = json!({"description": acknowledged, "content": operation, "headers": operation_headers()});
            responses.insert("202".into(), response);
        }
        for output in &route.outputs {
            let mut response = json!({"description": output.description});
            let body = match output.kind {
                OutputKind::Json(schema) => Some(content("application/json", schema(&mut self.outputs).to_value())),
                OutputKind::Data(media_type, schema) => Some(content(media_type, schema(&mut self.outputs).to_value())),
                OutputKind::Error => Some(error.clone()),
                OutputKind::Text(media_type, example) => {
                    Some(content(media_type, json!({"type": "string", "examples": [example]})))
                }
                OutputKind::Stream(media_type, example) => {
                    response["headers"] = json!({"Transfer-Encoding": stream_header()});
                    Some(content(media_type, json!({"type": "string", "examples": [example]})))
                }
                OutputKind::File => {
                    Some(content("application/octet-stream", json!({"type": "string", "format": "binary"})))
                }
                OutputKind::Socket => {
                    response["headers"] = socket_headers();
                    None
                }
                OutputKind::Empty => None,
            };
            if let Some(body) = body {
                response["content"] = body;
            }
            match responses.get_mut(&output.status.to_string()) {
                // The same in another form.
                Some(Value::Object(known)) if !matches!(output.kind, OutputKind::Error) => add_form(known, response),
                _ => drop(responses.insert(output.status.to_string(), response)),
            }
        }
        Value::Object(responses)
    }

    /// The types of both directions under one roof; `paths` is brought up to date with the names they get.
    fn components(&mut self, paths: &mut Value) -> Map<String, Value> {
        let mut inputs = self.inputs.take_definitions(true);
        let mut schemas = self.outputs.take_definitions(true);
        let split = differing(&inputs, &schemas);
        for schema in inputs.values_mut() {
            rename(schema, &split);
        }
        for operation in paths.as_object_mut().into_iter().flat_map(Map::values_mut) {
            for method in operation.as_object_mut().into_iter().flat_map(Map::values_mut) {
                if let Some(body) = method.get_mut("requestBody") {
                    rename(body, &split);
                }
            }
        }
        for (name, schema) in inputs {
            let name = if split.contains(&name) { format!("{name}Input") } else { name };
            schemas.insert(name, schema);
        }
        schemas
    }
}

/// The names that mean different things in the two directions, by themselves or by what they refer to.
fn differing(inputs: &Map<String, Value>, outputs: &Map<String, Value>) -> BTreeSet<String> {
    let shared = || inputs.iter().filter(|(name, _)| outputs.contains_key(*name));
    let mut split: BTreeSet<String> =
        shared().filter(|(name, schema)| outputs.get(*name) != Some(schema)).map(|(name, _)| name.clone()).collect();
    loop {
        let drawn: Vec<String> = shared()
            .filter(|(name, _)| !split.contains(*name))
            .filter(|(_, schema)| {
                let mut copy = (*schema).clone();
                rename(&mut copy, &split);
                copy != **schema
            })
            .map(|(name, _)| name.clone())
            .collect();
        if drawn.is_empty() {
            return split;
        }
        split.extend(drawn);
    }
}

/// Points every reference to a split name at its input half.
fn rename(value: &mut Value, split: &BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(text) if key == "$ref" => {
                        let name = text.strip_prefix(COMPONENTS).map(str::to_owned);
                        if let Some(name) = name.filter(|name| split.contains(name)) {
                            *text = format!("{COMPONENTS}{name}Input");
                        }
                    }
                    other => rename(other, split),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, split)),
        _ => {}
    }
}

/// Of an answer that comes as JSON or as a stream, as the request wants it.
fn add_form(known: &mut Map<String, Value>, other: Value) {
    let Value::Object(other) = other else { return };
    for (field, value) in other {
        match (known.get_mut(&field), value) {
            (Some(Value::Object(forms)), Value::Object(more)) => forms.extend(more),
            (Some(Value::String(said)), Value::String(more)) => *said = format!("{said} {more}"),
            (_, value) => drop(known.insert(field, value)),
        }
    }
}

fn query_param(param: &super::QueryParam) -> Value {
    let schema = match param.kind {
        QueryKind::Text => json!({"type": "string"}),
        QueryKind::Integer => json!({"type": "integer"}),
        QueryKind::Whole(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        QueryKind::Form(pattern) => json!({"type": "string", "pattern": pattern}),
        QueryKind::Boolean => json!({"type": "boolean"}),
        QueryKind::OneOf(values) => json!({"type": "string", "enum": values}),
    };
    let (name, required, description) = (param.name, param.is_required, param.description);
    json!({"name": name, "in": "query", "required": required, "description": description, "schema": schema})
}

fn stream_header() -> Value {
    json!({
        "description": "`chunked`: it comes as it is made, and a connection that ends before the last chunk has lost something. \
            In HTTP/1.0 it ends with the connection.",
        "schema": {"type": "string"},
    })
}

fn socket_headers() -> Value {
    let header = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    json!({
        "Upgrade": header("`websocket`."),
        "Connection": header("`upgrade`."),
        "Sec-WebSocket-Accept": header("The answer to `Sec-WebSocket-Key` (RFC 6455)."),
    })
}

fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header", "required": false,
        "description": "For 24 hours the same key and request get the first answer again; nothing happens twice.",
        "schema": {"type": "string", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": super::idempotency::MOST_BYTES},
    })
}

fn prefer() -> Value {
    json!({
        "name": "Prefer", "in": "header", "required": false,
        "description": "`respond-async`: answer with 202 and an operation, unless the answer is known at once, as that of what is refused, or within `wait` seconds (RFC 7240).",
        "schema": {"type": "string", "examples": ["respond-async", "respond-async, wait=5"]},
    })
}

fn operation_headers() -> Value {
    let header = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    json!({
        "Location": header("Where the operation is."),
        "Preference-Applied": header("`respond-async`."),
    })
}

fn content(media_type: &str, schema: Value) -> Value {
    json!({media_type: {"schema": schema}})
}

#[cfg(test)]
mod tests;
