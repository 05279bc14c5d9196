//! Asks for operations, and looks at them.
#![allow(dead_code)] // Every test file uses its own part.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::{Answer, Daemon};

/// What a client that does not wait on the line is answered, and where its operation is.
pub async fn begin(daemon: &Daemon, request: RequestBuilder) -> (Answer, Option<String>) {
    let response = request.header("prefer", "respond-async").send().await;
    let response = response.unwrap_or_else(|error| panic!("{error:?}\n{}", daemon.log_text()));
    let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let place = header("location");
    assert_eq!(place.is_some(), response.status() == 202, "{response:?}");
    assert_eq!(header("preference-applied").is_some(), response.status() == 202, "{response:?}");
    let status = response.status().as_u16();
    (Answer { status, body: response.json().await.unwrap() }, place)
}

pub async fn post(daemon: &Daemon, path: &str, body: Value) -> String {
    let (answer, place) = begin(daemon, daemon.http().post(daemon.at(path)).json(&body)).await;
    answer.expect(202);
    place.unwrap()
}

pub async fn delete(daemon: &Daemon, path: &str) -> String {
    let (answer, place) = begin(daemon, daemon.http().delete(daemon.at(path))).await;
    answer.expect(202);
    place.unwrap()
}

/// The operation when it has ended.
pub async fn end(daemon: &Daemon, place: &str) -> Value {
    let operation = daemon.get(&format!("{place}?wait=120")).await.expect(200);
    assert!(!operation["ended_at"].is_null(), "{operation:#}\n{}", daemon.log_text());
    operation
}

/// When a phase with this name is under way.
pub async fn in_phase(daemon: &Daemon, place: &str, name: &str) -> Value {
    loop {
        let operation = daemon.get(place).await.expect(200);
        assert!(operation["ended_at"].is_null(), "{operation:#}");
        let phases = operation["phases"].as_array().unwrap();
        if let Some(phase) = phases.iter().find(|phase| phase["name"] == name) {
            return phase.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub async fn cancel(daemon: &Daemon, place: &str) -> Value {
    daemon.delete(place).await.expect(202);
    let operation = end(daemon, place).await;
    assert_eq!(operation["status"], "cancelled", "{operation:#}");
    assert_eq!(operation["error"]["status"], json!(409), "{operation:#}");
    operation
}
