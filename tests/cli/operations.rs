//! The work for requests whose clients did not wait: seen, waited for and taken back.

use crate::{
    screen::{done, run},
    support::Daemon,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_listed_taken_back_and_waited_for() {
    let daemon = Daemon::start();
    done(&daemon, &["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--name", "web", "--start"]);
    let vm = done(&daemon, &["ls", "-q"]).trim().to_owned();
    // Nothing that runs in it heeds the power button.
    let stop = daemon.http().post(format!("{}/vms/{vm}/stop?timeout=3600", daemon.url));
    let begun = daemon.send(stop.header("Prefer", "respond-async")).await.expect(202);
    let id = begun["id"].as_str().unwrap();
    let listed = done(&daemon, &["op", "ls", "--vm", "web", "--status", "running"]);
    assert!(listed.contains(id) && listed.contains("stopVM") && listed.contains("web"), "{listed}");
    assert!(done(&daemon, &["op", "show", id]).contains("running"));
    assert!(done(&daemon, &["op", "cancel", id]).contains("is taken back"));
    let shown = done(&daemon, &["op", "show", id, "--wait"]);
    assert!(shown.contains("cancelled") && shown.contains("409"), "{shown}");
    let value: serde_json::Value = serde_json::from_str(&done(&daemon, &["op", "show", id, "-o", "json"])).unwrap();
    assert_eq!((&value["id"], &value["status"]), (&id.into(), &"cancelled".into()));
    assert_eq!(daemon.status(&vm).await, "running");
    assert_eq!(run(&daemon, &["op", "cancel", id]).code, 4);
    assert_eq!(run(&daemon, &["op", "show", &vm]).code, 3);
    done(&daemon, &["rm", "web"]);
}
