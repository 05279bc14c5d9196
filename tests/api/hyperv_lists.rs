//! The routes of the Hyper-V dialect: its OpenAPI document at both mounts, methods that are not there, and names in any
//! case.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Daemon;
use serde_json::{Value, json};

/// Method, path and operation id of every route.
const ROUTES: [(&str, &str, &str); 43] = [
    ("get", "/vms", "listVMs"),
    ("post", "/vms", "createVM"),
    ("get", "/vms/{id}", "getVM"),
    ("get", "/vms/by-name/{name}", "getVMsByName"),
    ("put", "/vms/{id}", "updateVM"),
    ("delete", "/vms/{id}", "deleteVM"),
    ("post", "/vms/{id}/start", "startVM"),
    ("post", "/vms/{id}/stop", "stopVM"),
    ("post", "/vms/{id}/restart", "restartVM"),
    ("post", "/vms/{id}/suspend", "suspendVM"),
    ("post", "/vms/{id}/resume", "resumeVM"),
    ("get", "/vms/{id}/console", "openVMConsole"),
    ("get", "/vms/{id}/addresses", "listVMAddresses"),
    ("get", "/vms/{id}/agent", "getVMAgent"),
    ("post", "/vms/{id}/exec", "execInVM"),
    ("get", "/vms/{id}/files", "readVMFile"),
    ("put", "/vms/{id}/files", "writeVMFile"),
    ("post", "/vms/{id}/time", "setVMTime"),
    ("post", "/vms/{id}/freeze", "freezeVM"),
    ("post", "/vms/{id}/thaw", "thawVM"),
    ("get", "/vms/{id}/network-adapters", "listNetworkAdapters"),
    ("post", "/vms/{id}/network-adapters", "addNetworkAdapter"),
    ("put", "/vms/{id}/network-adapters/{adapterId}", "updateNetworkAdapter"),
    ("delete", "/vms/{id}/network-adapters/{adapterId}", "removeNetworkAdapter"),
    ("get", "/switches", "listSwitches"),
    ("post", "/switches", "createSwitch"),
    ("get", "/switches/{id}", "getSwitch"),
    ("get", "/switches/by-name/{name}", "getSwitchesByName"),
    ("put", "/switches/{id}", "updateSwitch"),
    ("delete", "/switches/{id}", "deleteSwitch"),
    ("get", "/switches/{id}/leases", "listSwitchLeases"),
    ("get", "/switches/{id}/forwards", "listSwitchForwards"),
    ("post", "/switches/{id}/forwards", "addSwitchForward"),
    ("delete", "/switches/{id}/forwards/{forwardId}", "removeSwitchForward"),
    ("get", "/operations", "listOperations"),
    ("get", "/operations/{operationId}", "getOperation"),
    ("delete", "/operations/{operationId}", "cancelOperation"),
    ("get", "/events", "listEvents"),
    ("get", "/health", "getHealth"),
    ("get", "/openapi.json", "getOpenAPI"),
    ("get", "/openapi.yaml", "getOpenAPIAsYAML"),
    ("get", "/docs", "getDocs"),
    ("get", "/docs/{file}", "getDocsFile"),
];
const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

fn daemon() -> Daemon {
    Daemon::start_with(&["--accel", "tcg", "--hyperv-listen", "127.0.0.1:0"])
}

/// The base of each mount, with what its document says of it.
fn mounts(daemon: &Daemon) -> [(String, &'static str); 2] {
    [(format!("{}/hyperv", daemon.url), "/hyperv"), (daemon.hyperv_url.clone(), "/")]
}

async fn get(daemon: &Daemon, url: String) -> Value {
    daemon.send(daemon.http().get(url)).await.expect(200)
}

#[tokio::test]
async fn the_openapi_document_describes_every_route_where_it_is_mounted() {
    let daemon = daemon();
    for (base, server) in mounts(&daemon) {
        let document = get(&daemon, format!("{base}/openapi.json")).await;
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        assert_eq!(document["servers"], json!([{ "url": server }]));
        let mut described = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                described.push((method.as_str(), path.as_str(), operation["operationId"].as_str().unwrap()));
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2') || status == "101"), "{method} {path}");
                assert!(responses.contains_key("4XX") && responses.contains_key("5XX"), "{method} {path}");
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let in_path = parameters.iter().filter(|p| p["in"] == "path" && p["required"] == true).count();
                assert_eq!(in_path, path.matches('{').count(), "{method} {path}");
            }
        }
        described.sort_unstable();
        let mut routes = ROUTES;
        routes.sort_unstable();
        assert_eq!(described, routes);
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
        }
        let error = document["paths"]["/vms"]["get"]["responses"]["4XX"]["content"]["application/json"].to_string();
        assert!(error.contains("ErrorBody"), "{error}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_there_is_a_405_that_says_which_are() {
    let daemon = daemon();
    let mut allowed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (method, path, _) in ROUTES {
        let methods = allowed.entry(path).or_default();
        methods.insert(method.to_uppercase());
        methods.extend((method == "get").then(|| "HEAD".to_owned()));
    }
    for (base, _) in mounts(&daemon) {
        for (path, methods) in &allowed {
            let url = format!("{base}{}", path.replace("{id}", ID).replace("{name}", "x").replace("{adapterId}", ID));
            let response = daemon.http().patch(url).send().await.unwrap();
            assert_eq!(response.status(), 405, "{path}");
            let allow = response.headers()["allow"].to_str().unwrap().to_owned();
            assert_eq!(&allow.split(", ").map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{path}");
            let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            assert!(body["error"].as_str().unwrap().contains(&allow), "{body}");
        }
    }
    // Each dialect is where it is, and nowhere else.
    let (kvm, hyperv) = (daemon.get("/vms/nope").await, get(&daemon, format!("{}/vms", daemon.hyperv_url)).await);
    assert_eq!((kvm.status, hyperv), (400, json!([])));
    let elsewhere = daemon.send(daemon.http().get(format!("{}/hyperv/vms", daemon.hyperv_url))).await;
    assert_eq!(
        (elsewhere.status, elsewhere.body),
        (404, json!({ "error": "No such path; openapi.json lists those that there are." }))
    );
}

#[tokio::test]
async fn a_name_is_found_whole_and_in_any_case() {
    let daemon = daemon();
    let mut ids = Vec::new();
    for name in ["Web 1", "WEB 1", "größe", "web"] {
        let mut wish = daemon.wish();
        wish["name"] = json!(name);
        ids.push(daemon.create(wish).await);
    }
    for (base, _) in mounts(&daemon) {
        for (name, found) in [
            ("web%201", vec![0, 1]),
            ("Web+1", vec![]),
            ("GR%C3%96SSE", vec![2]),
            ("gr%C3%B6%C3%9Fe", vec![2]),
            ("WEB", vec![3]),
            ("we", vec![]),
            ("web%2F1", vec![]),
            ("%FF", vec![]),
            ("start", vec![]),
        ] {
            let listed = get(&daemon, format!("{base}/vms/by-name/{name}")).await;
            let listed: Vec<&str> = listed.as_array().unwrap().iter().map(|vm| vm["Id"].as_str().unwrap()).collect();
            assert_eq!(listed, found.into_iter().map(|i: usize| &ids[i]).collect::<Vec<_>>(), "{name}");
        }
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| collect_references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}
