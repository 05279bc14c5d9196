//! What VMs may have of the host together: beyond it a refusal with figures, and nothing is left behind.

use crate::support;

use crate::support::Daemon;
use futures_util::future::join_all;
use serde_json::{Value, json};

const GIB_64K: u64 = 65_536;

fn large(daemon: &Daemon) -> Value {
    let mut wish = daemon.wish();
    wish["disk_size"] = json!(GIB_64K);
    wish
}

/// Refused for what a figure would come to.
#[track_caller]
fn beyond(answer: support::Answer, words: &[&str]) {
    let message = answer.message().to_owned();
    answer.expect(409);
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
}

#[tokio::test]
async fn two_hundred_vms_of_64_tib_at_once_are_refused_and_those_that_fit_are_made() {
    let daemon = Daemon::start();
    let answers = join_all((0..200).map(|_| daemon.post("/vms", large(&daemon)))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 16, "1 PiB of 64 TiB each");
    for answer in refused {
        beyond(answer, &["GiB of disks defined, 65536 of them new", "at most 1048576 (--max-defined disk=…)"]);
    }
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 16);
    // One less makes room for one.
    let gone = made[0].body["id"].as_str().unwrap().to_owned();
    beyond(daemon.post("/vms", large(&daemon)).await, &["1114112 GiB"]);
    daemon.delete(&format!("/vms/{gone}")).await.expect(200);
    daemon.create(large(&daemon)).await;
    // The other dialect says so too.
    let wish =
        json!({ "name": "x", "memoryMB": 64, "vcpu": 1, "diskPath": daemon.state().join("images"), "diskGB": GIB_64K });
    let refused = daemon.post("/hyperv/vms", wish).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body["error"].as_str().unwrap().contains("--max-defined"), "{}", refused.body);
}

#[tokio::test]
async fn what_runs_grows_and_is_added_is_bounded_by_the_settings() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--max-running", "vms=1,memory=100"]);
    daemon.add_args(&["--max-defined", "vms=3,disk=10,vcpus=5"]);
    daemon.run();
    let (one, two) = (daemon.create(daemon.wish()).await, daemon.create(daemon.wish()).await);
    let start = async |id: &str| daemon.post(&format!("/vms/{id}/start"), json!({})).await;
    start(&one).await.expect(200);
    beyond(start(&two).await, &["2 VMs running, 1 of them new", "at most 1 (--max-running vms=…)"]);
    // Who runs has its place.
    start(&one).await.expect(200);
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    beyond(daemon.post("/vms", wish).await, &["2 VMs running"]);
    let put = async |id: &str, part: &str, body: Value| daemon.put(&format!("/vms/{id}/{part}"), body).await;
    beyond(put(&one, "memory", json!({ "memory": 128 })).await, &["128 MiB of memory running, 64 of them new"]);
    beyond(put(&one, "cpu", json!({ "vcpus": 5 })).await, &["6 vCPUs defined"]);
    beyond(put(&two, "disk", json!({ "disk_size": 10 })).await, &["11 GiB of disks defined, 9 of them new"]);
    let disk = daemon.post(&format!("/vms/{two}/disks"), json!({ "disk_size": 9 })).await;
    beyond(disk, &["11 GiB of disks defined"]);
    // Of several at once that fit only one by one, as many as fit.
    let disks = format!("/vms/{two}/disks");
    let disks = join_all((0..5).map(|_| daemon.post(&disks, json!({ "disk_size": 3 })))).await;
    let made: Vec<_> = disks.iter().filter(|answer| answer.status < 300).collect();
    assert_eq!(made.len(), 2, "{disks:?}");
    for disk in made {
        let name = disk.body["name"].as_str().unwrap();
        daemon.delete(&format!("/vms/{two}/disks/{name}")).await.expect(200);
    }
    // What is no value at all is that first, and less is never too much.
    assert_eq!(put(&one, "cpu", json!({ "vcpus": 1000 })).await.status, 400);
    assert_eq!(put(&one, "cpu", json!({ "vcpus": 1 })).await.status, 200);
    put(&two, "cpu", json!({ "vcpus": 4 })).await.expect(200);
    daemon.post(&format!("/vms/{one}/stop?force=true"), json!({})).await.expect(200);
    start(&two).await.expect(200);
    // After a restart of the daemon as before.
    daemon.kill();
    daemon.run();
    daemon.await_status(&two, "running").await;
    let answer = daemon.post(&format!("/vms/{one}/start"), json!({})).await;
    beyond(answer, &["2 VMs running"]);
}
