//! What the host says of itself is for operators: whatever a viewer is refused, or reads of what others were refused, no path of
//! the host is in it. Every row of both tables that he may ask is asked, and what an operator is told there shows that there was one.

use crate::callers::token;
use crate::operations_of as operations;
use crate::support::Daemon;
use serde_json::{Value, json};

/// Every row that reads, with this VM, and these operations, in the place of those that it names.
fn reads(vm: &str, operation: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (prefix, document) in [("", qherd::api::kvm::openapi()), ("/hyperv", qherd::api::hyperv::openapi("/hyperv"))] {
        for (path, operations) in document["paths"].as_object().unwrap() {
            let Some(row) = operations.get("get").filter(|row| row["x-role"] == "viewer") else { continue };
            let id = if path.contains("operation") { operation } else { vm };
            let parts = path.split('/').map(|part| if part.starts_with('{') { id } else { part });
            let path = format!("{prefix}{}", parts.collect::<Vec<_>>().join("/"));
            paths.push(path.clone());
            if path.ends_with("/events") {
                paths.push(format!("{path}?wait=0"));
            }
            for query in row["parameters"].as_array().into_iter().flatten().filter(|named| named["in"] == "query") {
                paths.push(format!("{path}?{}=%2Fx", query["name"].as_str().unwrap()));
            }
        }
    }
    assert!(paths.len() > 60, "{}", paths.len());
    paths
}

/// Fields of an answer that tell what has failed.
const TELLING: [&str; 8] = ["error", "Error", "reason", "Reason", "last_failure", "Health", "problem", "Problem"];

/// What is an error in an answer: all of it, or what an operation, a start or a run came to.
fn errors(status: u16, body: &Value) -> Vec<String> {
    if status >= 400 {
        return vec![body.to_string()];
    }
    let rows = body["events"]
        .as_array()
        .or(body["Events"].as_array())
        .or(body.as_array())
        .cloned()
        .unwrap_or_else(|| vec![body.clone()]);
    let found = rows.iter().flat_map(|row| TELLING.map(|name| row[name].clone()));
    found.filter(|error| !error.is_null()).map(|error| error.to_string()).collect()
}

#[tokio::test]
async fn no_error_that_a_viewer_is_told_names_a_path_of_the_host() {
    let daemon = Daemon::start();
    let tokens = ["viewer", "operator"].map(|role| token(&daemon.state(), &["create", "--role", role]));
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    // Its disk is gone, and a folder is in the place of what its console said.
    let disk = daemon.get(&format!("/vms/{id}")).await.expect(200)["disk_file"].as_str().unwrap().to_owned();
    std::fs::remove_file(&disk).unwrap();
    let log = daemon.run_dir(&id).join("console.log");
    let _ = std::fs::remove_file(&log);
    std::fs::create_dir_all(&log).unwrap();
    let begun = operations::post(&daemon, &format!("/vms/{id}/start"), json!({})).await;
    operations::end(&daemon, &begun).await;

    let state = daemon.state().display().to_string();
    let mut named = [0, 0];
    for path in reads(&id, begun.rsplit('/').next().unwrap()) {
        for (token, named) in tokens.iter().zip(&mut named) {
            let request = daemon.http().get(daemon.at(&path)).bearer_auth(token);
            let answer = request.send().await.unwrap();
            // What has no end is not waited for.
            if answer.headers()["content-type"] == "text/event-stream" {
                continue;
            }
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            for error in errors(status, &body) {
                *named += usize::from(error.contains(&state));
                assert!(token == &tokens[1] || !error.contains(&state), "{path}: {error}");
            }
        }
    }
    assert!(named[0] == 0 && named[1] >= 9, "{named:?}");
}
