//! Events as clients follow them: a long poll in both dialects, its filters and bounds, who has asked, and what a restart and
//! a kill leave of all that; and waiting for what a VM comes to.

use std::time::Duration;

use crate::support::{Answer, Daemon};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// Types of the events about a VM, in order.
fn types(body: &Value) -> Vec<String> {
    body["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

async fn events(daemon: &Daemon, query: &str) -> Value {
    daemon.get(&format!("/events?{query}")).await.expect(200)
}

/// The answer, and the id that it says that its request had.
async fn named(request: reqwest::RequestBuilder) -> (Answer, String) {
    let response = request.send().await.unwrap();
    let id = |headers: &HeaderMap| headers["x-request-id"].to_str().unwrap().to_owned();
    let (status, id) = (response.status().as_u16(), id(response.headers()));
    let text = response.text().await.unwrap();
    (Answer { status, body: serde_json::from_str(&text).unwrap_or(json!(text)) }, id)
}

#[tokio::test]
async fn what_is_asked_and_what_becomes_of_it_is_told_with_who_asked() {
    let daemon = Daemon::start();
    let (made, create) = named(daemon.http().post(daemon.at("/vms")).json(&daemon.wish())).await;
    let id = made.expect(201)["vm_id"].as_str().unwrap().to_owned();
    let start = daemon.http().post(daemon.at(&format!("/vms/{id}/start"))).header("x-request-id", "my-own/1");
    let (started, own) = named(start).await;
    started.expect(200);
    assert_eq!(own, "my-own/1");
    daemon.put(&format!("/vms/{id}/cpu"), json!({ "vcpus": 2 })).await.expect(200);
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    let gone = daemon.http().delete(daemon.at(&format!("/hyperv/vms/{id}")));
    let (gone, delete) = named(gone).await;
    gone.expect(200);

    let all = events(&daemon, &format!("after=0&wait=0&vm={id}")).await;
    let heard: Vec<&Value> = all["events"].as_array().unwrap().iter().collect();
    let of = |kind: &str, field: &str, value: &str| {
        let found = heard.iter().position(|event| event["type"] == kind && event[field] == value);
        found.unwrap_or_else(|| panic!("no {kind} of {value} in {all:#}"))
    };
    let request_of = |at: usize| heard[at]["by"][0]["request_id"].as_str().unwrap_or_default().to_owned();
    assert_eq!((heard[0]["type"].as_str(), request_of(0)), (Some("vm.created"), create));
    let steps = [
        of("vm.goal", "goal", "start"),
        of("vm.status", "status", "starting"),
        of("vm.status", "status", "running"),
        of("vm.deleted", "name", heard[0]["name"].as_str().unwrap()),
    ];
    assert!(steps.is_sorted(), "{steps:?}");
    for at in &steps[..3] {
        assert_eq!((request_of(*at), heard[*at]["by"][0]["caller"].as_str()), ("my-own/1".to_owned(), Some("uid 0")));
    }
    assert_eq!(request_of(steps[3]), delete);
    let changed = heard.iter().find(|event| event["type"] == "vm.changed").unwrap();
    assert_eq!(changed["fields"], json!(["vcpus"]));
    assert_eq!(heard.last().unwrap()["type"], "vm.deleted");
    let numbers: Vec<u64> = heard.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    // The other dialect tells the same in its own words.
    let theirs = daemon.get(&format!("/hyperv/events?after=0&wait=0&vmId={id}")).await.expect(200);
    let theirs = theirs["Events"].as_array().unwrap();
    assert_eq!(theirs.len(), heard.len());
    for (ours, theirs) in heard.iter().zip(theirs) {
        assert_eq!((&ours["id"], &ours["type"], &ours["seq"]), (&theirs["Id"], &theirs["Type"], &theirs["Sequence"]));
    }
    assert!(theirs.iter().any(|event| event["State"] == "Running" && event["By"][0]["RequestId"] == "my-own/1"));
}

#[tokio::test]
async fn a_poll_waits_for_what_comes_and_goes_on_from_there() {
    let daemon = Daemon::start();
    let empty = events(&daemon, "wait=0").await;
    assert_eq!(empty["events"], json!([]));
    let from = empty["next"].as_str().unwrap().to_owned();
    let query = format!("after={from}&wait=60&type=vm.created");
    let (polled, id) = tokio::join!(events(&daemon, &query), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        daemon.create(daemon.wish()).await
    });
    assert_eq!((types(&polled), &polled["events"][0]["vm_id"]), (vec!["vm.created".to_owned()], &json!(id)));
    let next = polled["next"].as_str().unwrap();
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    let rest = events(&daemon, &format!("after={next}&wait=60&type=vm.deleted,switch")).await;
    assert_eq!(types(&rest), ["vm.deleted"]);
    // As EventSource says it when it connects again; it counts before the query.
    let again = daemon.http().get(daemon.at("/events?wait=0&after=0&type=vm&limit=1")).header("last-event-id", next);
    let again = daemon.send(again).await.expect(200);
    assert!(again["events"].as_array().unwrap().len() <= 1 && again["events"][0]["type"] != "vm.created", "{again}");
    let one = events(&daemon, "after=0&wait=0&limit=1&type=vm").await;
    assert_eq!(types(&one), ["vm.created"]);
    assert_eq!(one["events"][0]["id"], one["next"]);
}

#[tokio::test]
async fn events_are_found_by_the_labels_that_their_vm_had_then() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["labels"] = json!({ "env": "prod", "tier": "1" });
    let id = daemon.create(wish).await;
    let plain = daemon.create(daemon.wish()).await;
    let path = format!("/vms/{id}");
    daemon.put(&path, json!({ "labels": { "env": "test" } })).await.expect(200);
    daemon.put(&path, json!({ "description": "x" })).await.expect(200);
    daemon.put(&path, json!({ "labels": null })).await.expect(200);
    daemon.put(&path, json!({ "description": "y" })).await.expect(200);
    let start = daemon.http().post(daemon.at(&format!("{path}/start"))).header("prefer", "respond-async");
    let unlabelled = daemon.send(start).await.expect(202)["id"].clone();
    daemon.get(&format!("/operations/{}?wait=60", unlabelled.as_str().unwrap())).await.expect(200);
    daemon.put(&path, json!({ "labels": { "env": "prod" } })).await.expect(200);
    let stop = daemon.http().post(daemon.at(&format!("{path}/stop"))).header("prefer", "respond-async");
    let labelled = daemon.send(stop.json(&json!({ "timeout": 1 }))).await.expect(202)["id"].clone();
    daemon.get(&format!("/operations/{}?wait=60", labelled.as_str().unwrap())).await.expect(200);
    daemon.delete(&path).await.expect(200);
    daemon.delete(&format!("/vms/{plain}")).await.expect(200);
    // They are what they were then, also for the next daemon.
    for _ in 0..2 {
        let found = async |query: &str| events(&daemon, &format!("after=0&wait=0&{query}")).await;
        let changes = async |label: &str| {
            let found = found(&format!("type=vm.created,vm.changed,vm.deleted&label={label}")).await;
            assert!(found["events"].as_array().unwrap().iter().all(|event| event["vm_id"] == json!(id)), "{found:#}");
            types(&found).iter().map(|kind| kind.strip_prefix("vm.").unwrap().to_owned()).collect::<Vec<_>>()
        };
        // What gives a label away is found by it, and what takes it.
        assert_eq!(changes("env").await, ["created", "changed", "changed", "changed", "changed", "deleted"]);
        assert_eq!(changes("env=prod").await, ["created", "changed", "changed", "deleted"]);
        assert_eq!(changes("env=prod,tier").await, ["created", "changed"]);
        assert_eq!(changes("env=test").await, ["changed", "changed", "changed"]);
        assert_eq!(changes("tier=2").await, [""; 0]);
        let of_operations = found("type=operation&label=env=prod").await;
        let heard = of_operations["events"].as_array().unwrap();
        assert!(heard.len() >= 2 && heard.iter().all(|event| event["operation_id"] == labelled), "{heard:#?}");
        let theirs = daemon.get("/hyperv/events?after=0&wait=0&label=env=prod,tier").await.expect(200);
        let theirs = theirs["Events"].as_array().unwrap();
        let ours = found("label=env=prod,tier").await;
        let ours = ours["events"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.iter().zip(theirs).all(|(ours, theirs)| ours["id"] == theirs["Id"]));
        daemon.kill();
        daemon.run();
    }
}

#[tokio::test]
async fn what_is_not_understood_or_not_kept_is_said() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for (query, named) in [
        ("after=x", "after"),
        ("after=00000000-x", "after"),
        ("vm=x", "vm"),
        ("type=vm.gone", "type"),
        ("type=vm,", "type"),
        ("label=", "label"),
        ("label=a%20b", "label"),
        ("label=env=prod,", "label"),
        ("wait=-1", "wait"),
        ("wait=301", "wait"),
        ("wait=0&limit=0", "limit"),
        ("wait=0&limit=1001", "limit"),
        ("limit=1", "limit"),
        ("vmId=x", "vmId"),
    ] {
        let refused = daemon.get(&format!("/events?{query}")).await;
        let message = refused.message().to_owned();
        refused.expect(400);
        assert!(message.starts_with(&format!("Invalid parameter: {named} ")), "{query}: {message}");
    }
    let newest = events(&daemon, "after=0&wait=0").await["next"].as_str().unwrap().to_owned();
    let (log, number) = newest.split_once('-').unwrap();
    let ahead = format!("{log}-{}", number.parse::<u64>().unwrap() + 1);
    for gone in [ahead.as_str(), "00000000-1"] {
        let refused = daemon.get(&format!("/events?after={gone}&wait=0")).await.expect(410);
        let begin = refused["error"]["detail"].as_str().unwrap();
        let all = events(&daemon, &format!("after={begin}&wait=0&vm={id}")).await;
        assert_eq!(types(&all)[0], "vm.created");
        let theirs = daemon.get(&format!("/hyperv/events?after={gone}&wait=0")).await.expect(410);
        assert_eq!(theirs["detail"], begin);
    }
}

#[tokio::test]
async fn a_status_is_waited_for_in_both_dialects() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let wait = async |path: String| daemon.get(&path).await.expect(200);
    let at_once = wait(format!("/vms/{id}/status?wait=stopped")).await;
    assert_eq!((&at_once["status"], &at_once["reached"]), (&json!("stopped"), &json!(true)));
    let late = wait(format!("/vms/{id}/status?wait=agent&timeout=1")).await;
    assert_eq!((&late["status"], &late["reached"]), (&json!("stopped"), &json!(false)));
    let (ours, theirs, started) = tokio::join!(
        wait(format!("/vms/{id}/status?wait=running&timeout=120")),
        wait(format!("/hyperv/vms/{id}?wait=Running&timeout=120")),
        async { daemon.post(&format!("/vms/{id}/start"), json!({})).await },
    );
    started.expect(200);
    assert_eq!((&ours["status"], &ours["reached"]), (&json!("running"), &json!(true)));
    assert_eq!((&theirs["State"], &theirs["Reached"]), (&json!("Running"), &json!(true)));
    assert_eq!(daemon.get(&format!("/vms/{id}/status")).await.expect(200).get("reached"), None);
    let (gone, theirs, deleted) = tokio::join!(
        async { daemon.get(&format!("/vms/{id}/status?wait=agent&timeout=3600")).await },
        async { daemon.get(&format!("/hyperv/vms/{id}?wait=Agent&timeout=3600")).await },
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            daemon.delete(&format!("/vms/{id}")).await
        },
    );
    deleted.expect(200);
    gone.expect(404);
    theirs.expect(404);
    let id = daemon.create(daemon.wish()).await;
    for query in ["wait=saved", "timeout=1", "wait=running&timeout=0", "wait=running&timeout=3601"] {
        daemon.get(&format!("/vms/{id}/status?{query}")).await.expect(400);
        daemon.get(&format!("/hyperv/vms/{id}?{query}")).await.expect(400);
    }
}

#[tokio::test]
async fn every_answer_says_which_request_it_is_to() {
    let daemon = Daemon::start();
    for path in ["/health", "/vms/x/status", "/nowhere", "/hyperv/vms/x", "/events?x=1"] {
        let (_, id) = named(daemon.http().get(daemon.at(path))).await;
        assert!(uuid::Uuid::try_parse(&id).is_ok(), "{path}: {id}");
        let (_, id) = named(daemon.http().get(daemon.at(path)).header("x-request-id", "a b")).await;
        assert!(uuid::Uuid::try_parse(&id).is_ok(), "{path}: {id}");
    }
    let (_, id) = named(daemon.http().get(daemon.at("/health")).header("origin", "http://evil.example")).await;
    assert!(uuid::Uuid::try_parse(&id).is_ok(), "of what the gate refuses: {id}");
}
