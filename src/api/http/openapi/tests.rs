//! The structure of a document, over a toy table.

use super::*;
use crate::api::http::{QueryParam, Reply, Request, Route, Table};
use crate::model::Role;
use crate::service::operations::Work;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Disk {
    #[serde(default)]
    size: i64,
}
#[derive(Serialize, Deserialize, JsonSchema)]
struct Holder {
    disk: Disk,
    parent: Option<Box<Holder>>,
}
#[derive(Serialize, Deserialize, JsonSchema)]
struct Same {
    name: String,
}
#[derive(Serialize, JsonSchema)]
struct Failure {
    error: String,
}
#[derive(Serialize, JsonSchema)]
struct Running {
    since: u64,
}

async fn nothing(_: (), _: Request) -> Reply {
    Reply::empty(StatusCode::OK)
}

fn table() -> Table {
    const FORCE: QueryParam = QueryParam::boolean("force", "At once.");
    const ORDER: QueryParam = QueryParam::one_of("order", &["up", "down"], "Which way.");
    Table::new(
        (),
        vec![
            Route::get("/things", "list", nothing)
                .role(Role::Viewer)
                .tag("Things")
                .query(&[ORDER])
                .output::<Vec<Holder>>(200, "All."),
            Route::post("/things", "make", nothing)
                .does(Work::Create)
                .role(Role::Viewer)
                .tag("Things")
                .input::<Holder>()
                .output::<Holder>(201, "Made."),
            Route::put("/things/{id}", "change", nothing)
                .does(Work::Change)
                .role(Role::Viewer)
                .optional_input::<Same>()
                .output::<Same>(200, "Changed."),
            Route::delete("/things/{id}", "remove", nothing)
                .at_once()
                .role(Role::Viewer)
                .query(&[FORCE])
                .output_empty(204, "Gone.")
                .error(404, "No such thing."),
            Route::get("/events", "follow", nothing).role(Role::Viewer).output_stream(
                "As they come.",
                "text/event-stream",
                "data: 1\n\n",
            ),
            Route::get("/talk", "talk", nothing).role(Role::Viewer).output_socket("Two-way."),
            Route::get("/metrics", "metrics", nothing).role(Role::Viewer).output_text(200, "Numbers.", "one 1"),
        ],
    )
}

fn written() -> Value {
    let about = About {
        title: "toy",
        version: "1",
        description: "A toy.",
        server: "/",
        error: |generator| generator.subschema_for::<Failure>(),
        operation: |generator| generator.subschema_for::<Running>(),
        path_params: &[PathParam { name: "id", description: "The thing.", format: Some("uuid") }],
    };
    document(&about, table().routes())
}

fn refs(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(text) if key == "$ref" => found.push(text.clone()),
                    other => refs(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| refs(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let doc = written();
    let mut found = Vec::new();
    refs(&doc, &mut found);
    assert!(found.len() > 8);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(doc.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn operations_are_unique_and_declare_their_path_parameters() {
    let doc = written();
    let mut ids = BTreeSet::new();
    for (path, methods) in doc["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            let in_path: Vec<String> =
                path.split('/').filter_map(|s| Some(s.strip_prefix('{')?.strip_suffix('}')?.to_owned())).collect();
            let declared: Vec<String> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|p| p["in"] == "path" && p["required"] == true)
                .map(|p| p["name"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(in_path, declared, "{method} {path}");
            assert!(operation["responses"].as_object().unwrap().len() > 2, "{method} {path}");
        }
    }
    assert_eq!(ids.len(), 7);
}

#[test]
fn a_post_and_nothing_else_takes_an_idempotency_key() {
    let doc = written();
    for (path, methods) in doc["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let keys = parameters.filter(|p| p["in"] == "header" && p["name"] == "Idempotency-Key").count();
            assert_eq!(keys, usize::from(method == "post"), "{method} {path}");
        }
    }
}

#[test]
fn what_changes_something_may_be_an_operation_and_says_so() {
    let doc = written();
    for (path, methods) in doc["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let expected = ["post", "put"].contains(&method.as_str());
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let preferences = parameters.filter(|p| p["in"] == "header" && p["name"] == "Prefer").count();
            assert_eq!(preferences, usize::from(expected), "{method} {path}");
            let acknowledged = &operation["responses"]["202"];
            assert_eq!(acknowledged["headers"]["Location"].is_object(), expected, "{method} {path}");
            let body = &acknowledged["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(body == "#/components/schemas/Running", expected, "{method} {path}");
        }
    }
}

#[test]
fn a_type_that_reads_and_writes_differently_is_two_components_and_so_is_what_holds_it() {
    let doc = written();
    let schemas = doc["components"]["schemas"].as_object().unwrap();
    let names: Vec<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(names, ["Disk", "DiskInput", "Failure", "Holder", "HolderInput", "Running", "Same"]);
    assert_eq!(schemas["Disk"]["required"], json!(["size"]));
    assert_eq!(schemas["DiskInput"].get("required"), None);
    assert_eq!(schemas["HolderInput"]["properties"]["disk"]["$ref"], "#/components/schemas/DiskInput");
    let body = &doc["paths"]["/things"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["$ref"], "#/components/schemas/HolderInput");
}

#[test]
fn the_same_table_makes_the_same_text() {
    assert_eq!(written().to_string(), written().to_string());
}

#[test]
fn queries_bodies_and_answers_are_described() {
    let doc = written();
    let paths = &doc["paths"];
    assert_eq!(paths["/things"]["get"]["parameters"][0]["schema"]["enum"], json!(["up", "down"]));
    assert_eq!(paths["/things/{id}"]["put"]["requestBody"]["required"], false);
    assert_eq!(paths["/things/{id}"]["delete"]["parameters"][0]["schema"]["format"], "uuid");
    assert_eq!(paths["/things/{id}"]["delete"]["parameters"][1]["schema"]["type"], "boolean");
    assert!(paths["/things/{id}"]["delete"]["responses"]["204"].get("content").is_none());
    let failure = &paths["/things/{id}"]["delete"]["responses"]["404"]["content"]["application/json"]["schema"];
    assert_eq!(failure["$ref"], "#/components/schemas/Failure");
}

#[test]
fn streams_and_upgrades_are_described_with_how_they_are_refused() {
    let document = written();
    let stream = &document["paths"]["/events"]["get"]["responses"]["200"];
    assert_eq!(stream["content"]["text/event-stream"]["schema"]["examples"], json!(["data: 1\n\n"]));
    assert!(stream["headers"]["Transfer-Encoding"]["description"].as_str().unwrap().contains("chunked"));
    let socket = &document["paths"]["/talk"]["get"];
    assert_eq!(socket["x-websocket"], true);
    assert!(socket["responses"]["101"]["headers"]["Sec-WebSocket-Accept"].is_object());
    assert!(socket["responses"]["426"]["content"]["application/json"].is_object());
}
