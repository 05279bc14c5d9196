//! What is noted of switches: labels with the filters of both dialects' lists, and protection, from the command line too.

use std::process::{Command, Output};

use crate::support::{Daemon, netns::Host};
use serde_json::{Value, json};

/// The names in a list.
async fn names(daemon: &Daemon, path: &str) -> Vec<String> {
    let list = daemon.get(path).await.expect(200);
    let name = |row: &Value| row["name"].as_str().or(row["Name"].as_str()).unwrap().to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn switches_have_labels_that_lists_are_filtered_by_and_that_outlive_the_daemon() {
    let _host = Host::leave();
    let mut daemon = Daemon::start();
    let labels = json!({ "env": "prod", "tier": "web" });
    let kvm = json!({ "name": "front", "type": "private", "labels": labels });
    let front = daemon.post("/switches", kvm).await.expect(201);
    assert_eq!((&front["labels"], &front["protected"]), (&labels, &json!(false)));
    let hyperv = json!({ "name": "back", "type": "Private", "labels": { "env": "test" }, "protected": true });
    let back = daemon.post("/hyperv/switches", hyperv).await.expect(201)["id"].as_str().unwrap().to_owned();
    daemon.post("/switches", json!({ "name": "bare", "type": "private" })).await.expect(201);
    let shown = daemon.get(&format!("/hyperv/switches/{back}")).await.expect(200);
    assert_eq!((&shown["Labels"], &shown["Protected"]), (&json!({ "env": "test" }), &json!(true)));

    daemon.kill();
    daemon.run();
    for dialect in ["", "/hyperv"] {
        for (filter, expected) in
            [("env", &["front", "back"][..]), ("env=prod,tier", &["front"]), ("env=test", &["back"]), ("owner", &[])]
        {
            assert_eq!(
                names(&daemon, &format!("{dialect}/switches?label={filter}")).await,
                expected,
                "{dialect} {filter}"
            );
        }
        let refused = daemon.get(&format!("{dialect}/switches?label=a%20b")).await;
        assert_eq!(refused.status, 400);
        assert!(refused.body.to_string().contains("label must name labels, as in env=prod,tier"), "{}", refused.body);
    }

    let path = format!("/switches/{}", front["id"].as_str().unwrap());
    let changed = daemon.put(&path, json!({ "labels": { "env": "dev" } })).await.expect(200);
    assert_eq!((&changed["labels"], &changed["notes"]), (&json!({ "env": "dev" }), &json!("")));
    daemon.put(&format!("/hyperv{path}"), json!({ "labels": null, "notes": "n" })).await.expect(200);
    let read = daemon.get(&path).await.expect(200);
    assert_eq!((&read["labels"], &read["notes"]), (&json!({}), &json!("n")));
    let events = daemon.get("/events?after=0&wait=1&type=switch.changed").await.expect(200);
    let fields: Vec<&Value> = events["events"].as_array().unwrap().iter().map(|event| &event["fields"]).collect();
    assert_eq!(fields, [&json!(["labels"]), &json!(["notes", "labels"])]);
    for (body, expected) in [
        (json!({ "labels": { "a b": "" } }), "labels must have keys of 1 to 63"),
        (json!({ "labels": { "a": 1 } }), "labels.a must be a string"),
        (json!({ "protected": "yes" }), "protected must be"),
    ] {
        let refused = daemon.put(&path, body).await;
        assert_eq!(refused.status, 400);
        assert!(refused.message().contains(expected), "{}", refused.body);
    }
}

#[tokio::test]
async fn vms_of_the_hyperv_dialect_are_filtered_by_labels_too() {
    let _host = Host::leave();
    let daemon = Daemon::start();
    for (name, labels) in [("one", json!({ "env": "prod" })), ("two", json!({}))] {
        let mut wish = daemon.wish();
        (wish["name"], wish["labels"]) = (json!(name), labels);
        daemon.create(wish).await;
    }
    assert_eq!(names(&daemon, "/hyperv/vms?label=env=prod").await, ["one"]);
    assert_eq!(names(&daemon, "/hyperv/vms").await, ["one", "two"]);
    assert_eq!(daemon.get("/hyperv/vms?label=,").await.status, 400);
}

#[tokio::test]
async fn a_protected_switch_is_not_deleted_until_that_is_taken_away() {
    let _host = Host::leave();
    let daemon = Daemon::start();
    let wish = json!({ "name": "LAN", "type": "private", "protected": true });
    let made = daemon.post("/switches", wish).await.expect(201);
    let path = format!("/switches/{}", made["id"].as_str().unwrap());
    for dialect in ["", "/hyperv"] {
        let refused = daemon.delete(&format!("{dialect}{path}")).await;
        assert_eq!(refused.status, 409);
        let expected = "The switch LAN is protected against deletion; update it with protected=false first.";
        assert!(refused.body.to_string().contains(expected), "{}", refused.body);
    }
    daemon.put(&path, json!({ "protected": false })).await.expect(200);
    daemon.delete(&path).await.expect(200);
}

#[tokio::test]
async fn the_command_line_labels_protects_lists_and_shows_switches() {
    let _host = Host::leave();
    let daemon = Daemon::start();
    // What it has done is on one stream, and why it has not on the other.
    let qherd = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
        let Output { status, stdout, stderr } =
            command.args(args).arg("--state-dir").arg(daemon.state()).output().unwrap();
        let (said, why) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert!(status.success() == why.is_empty(), "{args:?}: {status} {why}");
        (status.code().unwrap(), if status.success() { said } else { why })
    };
    let (code, said) = qherd(&[
        "switch",
        "create",
        "LAN",
        "--type",
        "private",
        "--label",
        "env=prod",
        "--label",
        "tier=web",
        "--protected",
    ]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(qherd(&["switch", "create", "other", "--type", "private"]).0, 0);
    let (_, listed) = qherd(&["switch", "ls", "--label", "env=prod,tier", "-o", "wide"]);
    assert!(listed.contains("LABELS") && listed.contains("env=prod tier=web") && !listed.contains("other"), "{listed}");
    let (_, shown) = qherd(&["switch", "show", "LAN"]);
    let lines: Vec<String> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in ["Labels: env=prod tier=web", "Protected: yes"] {
        assert!(lines.iter().any(|shown| shown == line), "{shown}");
    }
    let (code, said) = qherd(&["switch", "rm", "LAN"]);
    assert!(code == 4 && said.ends_with("; qherd switch set LAN --protected false permits it\n"), "{code} {said}");
    let change =
        ["switch", "set", "LAN", "--label", "env=test", "--unlabel", "tier", "--notes", "n", "--protected", "false"];
    assert_eq!(qherd(&change), (0, "LAN: set\n".to_owned()));
    let read = daemon.get("/switches?label=env").await.expect(200);
    assert_eq!((&read[0]["labels"], &read[0]["notes"]), (&json!({ "env": "test" }), &json!("n")));
    assert_eq!(qherd(&["switch", "set", "LAN"]).0, 2, "there is nothing to set");
    assert_eq!(qherd(&["switch", "rm", "LAN"]).0, 0);
}
