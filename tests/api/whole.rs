//! The whole definition of a VM in one update, as clients send it that hold one; what is noted of a VM beside its hardware;
//! and lists that answer with it.

use crate::{
    hyperv,
    support::{Daemon, netns},
};
use serde_json::{Value, json};

/// Reads it, and sees that each field is as it was sent.
async fn is_as_sent(daemon: &Daemon, id: &str, sent: &Value) -> Value {
    let read = daemon.get(&format!("/vms/{id}")).await.expect(200);
    for (field, value) in sent.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field} would be a change");
    }
    read
}

/// A file of its own in the image directory, named as people do: without its folder.
fn image(daemon: &Daemon, name: &str) {
    std::fs::copy(daemon.bases().join("blank.raw"), daemon.bases().join(name)).unwrap();
}

#[tokio::test]
async fn what_is_read_is_what_was_sent_and_sending_it_again_changes_nothing() {
    let _ = netns::Host::leave();
    let daemon = Daemon::start();
    image(&daemon, "base.raw");
    image(&daemon, "tools.iso");
    daemon.post("/switches", json!({ "name": "LAN", "type": "private" })).await.expect(201);
    let mut sent = json!({
        "name": "web", "vcpus": 2, "memory": 64, "disk_size": 1, "base_image": "base.raw", "clone": "full", "profile": "q35",
        "max_vcpus": 4, "max_memory": 512, "cpu_pinning": { "cores": [0] }, "io_limits": { "iops": 500 },
        "disks": [{ "disk_size": 1 }, { "disk_size": 1, "base_image": "base.raw" }],
        "networks": [{ "switch": "LAN", "isolated": true }, { "user": {}, "name": "out" }],
        "iso": "tools.iso", "restart_policy": "on-failure", "max_restarts": 3, "on_io_error": "retry",
        "autostart": { "enabled": true, "order": 1, "delay": 2 },
        "labels": { "env": "prod", "qherd.io/team": "größe" }, "description": "two\nlines", "protected": true, "start": true,
    });
    let id = daemon.create(sent.clone()).await;
    assert_eq!(is_as_sent(&daemon, &id, &sent).await["status"], "running");
    let path = format!("/vms/{id}");
    let same = daemon.put(&path, sent.clone()).await.expect(200);
    assert_eq!((&same["status"], &same["applied"], &same["pending"]), (&json!("updated"), &json!("live"), &json!({})));
    is_as_sent(&daemon, &id, &sent).await;

    // The whole again, with what is to be different, of a VM that runs.
    sent["name"] = json!("web 2");
    sent["io_limits"] = json!({ "iops": 900 });
    sent["disks"][0]["disk_size"] = json!(2);
    sent["networks"][0] = json!({ "switch": "LAN", "allow_spoofing": true });
    sent["labels"] = json!({ "env": "test" });
    sent["iso"] = Value::Null;
    sent["protected"] = json!(false);
    let changed = daemon.put(&path, sent.clone()).await.expect(200);
    for (field, value) in sent.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field} in the answer");
    }
    assert_eq!((&changed["applied"], &changed["vm_id"]), (&json!("live"), &json!(id)), "{changed}");
    is_as_sent(&daemon, &id, &sent).await;
    let disks = daemon.get(&format!("{path}/disks")).await.expect(200);
    assert_eq!((&disks[1]["disk_size"], &disks[0]["io_limits"]["iops"]), (&json!(2), &json!(900)));
    let nics = daemon.get(&format!("{path}/networks")).await.expect(200);
    assert_eq!((&nics[0]["isolated"], &nics[0]["allow_spoofing"]), (&json!(false), &json!(true)));

    // Further devices come, and a part is enough.
    let more =
        json!({ "disks": [{ "disk_size": 2 }, { "disk_size": 1, "base_image": "base.raw" }, { "disk_size": 3 }] });
    daemon.put(&path, more.clone()).await.expect(200);
    is_as_sent(&daemon, &id, &more).await;
    assert_eq!(daemon.get(&format!("{path}/disks")).await.expect(200).as_array().unwrap().len(), 4);
    // What a single request has changed since is told as it is.
    daemon.put(&format!("{path}/disks/disk3"), json!({ "disk_size": 4 })).await.expect(200);
    assert_eq!(daemon.get(&path).await.expect(200)["disks"][2], json!({ "disk_size": 4 }));
    daemon.put(&path, json!({ "memory": 96, "cpu_pinning": null })).await.expect(200);
    let config = daemon.get(&format!("{path}/config")).await.expect(200);
    assert_eq!((&config["memory"], &config["cpu_pinning"], &config["vcpus"]), (&json!(96), &Value::Null, &json!(2)));
}

#[tokio::test]
async fn each_part_is_told_in_the_form_in_which_it_was_sent_last() {
    let theirs = tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap();
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", theirs.path().to_str().unwrap()]);
    std::os::unix::fs::symlink(daemon.bases().join("blank.raw"), daemon.bases().join("newest.raw")).unwrap();
    let disk = theirs.path().join("disk.raw");
    std::fs::copy(daemon.bases().join("blank.raw"), &disk).unwrap();
    std::os::unix::fs::symlink(&disk, theirs.path().join("link.raw")).unwrap();
    let attached = |name: &str| json!({ "format": "raw", "path": theirs.path().join(name) });
    // Nothing that has a default says it, and files have names of the client's.
    let brief = json!({
        "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "newest.raw", "autostart": { "enabled": true },
        "io_limits": { "iops": 500, "bps": null }, "cpu_pinning": { "cores": [0], "emulator": null },
        "disks": [{ "disk_size": 1, "base_image": "newest.raw", "io_limits": null }, attached("link.raw")],
        "networks": [{ "user": { "forwards": [{ "host_port": 24001, "guest_port": 22 }] } }, { "user": {}, "mac": "52:54:00:AA:BB:0C" }],
    });
    let id = daemon.create(brief.clone()).await;
    is_as_sent(&daemon, &id, &brief).await;
    // The same, with all of it.
    let blank = daemon.bases().join("blank.raw");
    let forward = json!({ "protocol": "tcp", "host_address": "127.0.0.1", "host_port": 24001, "guest_port": 22 });
    let long = json!({
        "base_image": blank, "autostart": { "enabled": true, "order": 0, "delay": 0 }, "io_limits": { "iops": 500 },
        "cpu_pinning": { "cores": [0] },
        "disks": [{ "disk_size": 1, "base_image": blank, "clone": "linked" }, attached("disk.raw")],
        "networks": [{ "user": { "forwards": [forward] }, "name": "Network Adapter" }, { "user": { "forwards": null }, "mac": "52:54:00:aa:bb:0c" }],
    });
    let path = format!("/vms/{id}");
    for sent in [&long, &brief, &long, &brief] {
        let answer = daemon.put(&path, sent.clone()).await.expect(200);
        for (field, value) in sent.as_object().unwrap() {
            assert_eq!(&answer[field], value, "{field} in the answer");
        }
        assert_eq!(answer["pending"], json!({}));
        is_as_sent(&daemon, &id, sent).await;
    }
    daemon.kill();
    daemon.run();
    let read = is_as_sent(&daemon, &id, &brief).await;
    // What was changed since is told as it is, and what was read can be sent.
    daemon.put(&format!("{path}/policy"), json!({ "autostart": { "enabled": true, "order": 7 } })).await.expect(200);
    daemon.put(&format!("{path}/disk"), json!({ "io_limits": { "iops": 900 } })).await.expect(200);
    let changed = daemon.get(&path).await.expect(200);
    assert_eq!(changed["autostart"], json!({ "enabled": true, "order": 7, "delay": 0 }));
    assert_eq!((&changed["io_limits"], &changed["disks"]), (&json!({ "iops": 900 }), &read["disks"]));
    daemon.put(&path, read).await.expect(200);
    is_as_sent(&daemon, &id, &brief).await;
    // Too long to be kept: it is told as it is.
    let folder = format!("./{}", "./".repeat(1200));
    let far =
        json!({ "disks": [{ "disk_size": 1, "base_image": format!("{folder}blank.raw") }, attached("disk.raw")] });
    let answer = daemon.put(&path, far).await.expect(200);
    assert_eq!(answer["disks"][0]["base_image"], json!(blank.canonicalize().unwrap()));
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_by_its_name_with_nothing_changed() {
    let daemon = Daemon::start();
    image(&daemon, "other.raw");
    let mut wish = daemon.wish();
    (wish["disks"], wish["disk_size"]) = (json!([{ "disk_size": 2 }]), json!(2));
    let id = daemon.create(wish.clone()).await;
    let path = format!("/vms/{id}");
    let before = daemon.get(&path).await.expect(200);
    for (field, value, says) in [
        ("base_image", json!("other.raw"), "base_image cannot be changed to that: it is "),
        ("profile", json!("pc"), "profile cannot be changed to that: it is q35."),
        ("clone", json!("full"), "clone cannot be changed to that: it is linked."),
        ("max_vcpus", json!(20), "max_vcpus cannot be changed to that: it is 16, "),
        ("disk_size", json!(1), "disk_size cannot be changed to that: it is 2 GiB, and a disk only grows."),
        ("disks", json!([]), "disks cannot be changed to that: it is 1 long, "),
        ("disks", json!([{ "disk_size": 1 }]), "disks[0].disk_size cannot be changed to that: it is 2 GiB"),
        ("disks", json!([{ "disk_size": 2, "base_image": "other.raw" }]), "disks[0].base_image cannot be changed"),
        ("networks", json!([]), "networks cannot be changed to that: it is 1 long"),
        ("networks", json!([{ "user": {}, "mac": "52:54:00:00:00:01" }]), "networks[0].mac cannot be changed"),
    ] {
        let answer = daemon.put(&path, json!({ "memory": 128, field: value })).await;
        assert_eq!(answer.status, 409, "{field}: {answer:?}");
        assert!(answer.message().contains(says), "{field}: {answer:?}");
    }
    for (field, value, says) in [
        ("vcpus", json!(0), "vcpus must"),
        ("disk_size", json!(0), "disk_size must"),
        ("name", json!("a/b"), "name must"),
        ("labels", json!({ "a b": "" }), "labels must have keys"),
        ("labels", json!({ "a": 1 }), "labels.a"),
        ("description", json!("\u{7}"), "description must"),
        ("disks", json!([{ "disk_size": 2 }, { "disk_size": 1, "base_image": "/etc/passwd" }]), "disks[1].base_image"),
        ("networks", json!([{ "user": {}, "vlan": 3 }]), "networks[0].vlan"),
        ("hostname", json!("x"), "hostname"),
    ] {
        let answer = daemon.put(&path, json!({ "memory": 128, field: value })).await;
        assert_eq!(answer.status, 400, "{field}: {answer:?}");
        assert!(answer.message().contains(says), "{field}: {answer:?}");
    }
    assert_eq!(daemon.get(&path).await.expect(200), before);
    assert_eq!(daemon.put("/vms/00000000-0000-4000-8000-000000000000", json!({})).await.status, 404);
    // The same image in other words is the same.
    daemon.put(&path, json!({ "base_image": "./blank.raw", "disk_size": 3 })).await.expect(200);
    daemon.put(&path, json!({})).await.expect(200);
}

#[tokio::test]
async fn the_same_lists_sent_at_once_by_several_are_made_once() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["networks"] = json!([]);
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}");
    let whole =
        json!({ "disks": [{ "disk_size": 1 }, { "disk_size": 2 }], "networks": [{ "user": {}, "name": "out" }] });
    for _ in 0..2 {
        let answers = futures_util::future::join_all((0..6).map(|_| daemon.put(&path, whole.clone()))).await;
        answers.into_iter().for_each(|answer| drop(answer.expect(200)));
        is_as_sent(&daemon, &id, &whole).await;
        assert_eq!(daemon.get(&format!("{path}/disks")).await.expect(200).as_array().unwrap().len(), 3);
    }
    // A bound that nobody has set rises with what it bounds, and may be said.
    daemon.put(&path, json!({ "vcpus": 17, "max_vcpus": 17 })).await.expect(200);
    assert_eq!(daemon.put(&path, json!({ "max_vcpus": 0 })).await.status, 400);
}

#[tokio::test]
async fn a_protected_vm_is_neither_deleted_nor_forced_off_by_either_dialect_until_that_is_taken_away() {
    let daemon = hyperv::started();
    let windows = hyperv::Client::at(&daemon, hyperv::Mount::Root);
    let mut wish = daemon.wish();
    (wish["protected"], wish["start"]) = (json!(true), json!(true));
    let id = daemon.create(wish).await;
    let path = format!("/vms/{id}");
    let refusals = [
        daemon.delete(&path).await,
        daemon.delete(&format!("{path}?graceful=true")).await,
        daemon.post(&format!("{path}/stop?force=true"), json!({})).await,
        windows.delete(&path).await,
        windows.post(&format!("{path}/stop"), json!({ "force": true })).await,
    ];
    for refused in refusals {
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.body.to_string().contains("protected"), "{refused:?}");
    }
    let disk = daemon.post(&format!("{path}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    let disk = format!("{path}/disks/{}", disk["name"].as_str().unwrap());
    assert_eq!(daemon.delete(&disk).await.status, 409);
    assert_eq!(daemon.status(&id).await, "running");
    // That a guest is asked to stop, and its time passes, is no forced stop.
    daemon.post(&format!("{path}/stop?timeout=1"), json!({})).await.expect(200);
    assert_eq!(daemon.delete(&path).await.status, 409);
    // It is off already.
    daemon.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    windows.put(&path, json!({ "protected": false })).await.expect(200);
    daemon.delete(&path).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn labels_and_notes_are_one_in_both_dialects_outlive_the_daemon_and_change_while_it_runs() {
    let mut daemon = hyperv::started();
    let id = {
        let windows = hyperv::Client::at(&daemon, hyperv::Mount::Root);
        let mut wish = hyperv::wish("noted");
        (wish["labels"], wish["notes"]) = (json!({ "env": "prod" }), json!("mine"));
        let id = windows.created("/vms", wish).await;
        let path = format!("/vms/{id}");
        windows.post(&format!("{path}/start"), Value::Null).await.expect(200);
        let read = daemon.get(&path).await.expect(200);
        assert_eq!((&read["labels"], &read["description"]), (&json!({ "env": "prod" }), &json!("mine")));
        let done = windows.put(&path, json!({ "labels": { "env": "test", "a": "" }, "notes": "" })).await.expect(200);
        assert_eq!(done["updated"], true, "{done}");
        let refused = windows.put(&path, json!({ "notes": "x".repeat(1025) })).await;
        assert!(refused.status == 400 && refused.body.to_string().contains("notes"), "{refused:?}");
        id
    };
    daemon.kill();
    daemon.run();
    let windows = hyperv::Client::at(&daemon, hyperv::Mount::Root);
    let shown = windows.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(
        (&shown["Labels"], &shown["Notes"], &shown["Protected"], &shown["State"]),
        (&json!({ "a": "", "env": "test" }), &Value::Null, &json!(false), &json!("Running"))
    );
    // What was changed is told by its name.
    let events = daemon.get("/events?after=0&wait=0").await.expect(200);
    let fields: Vec<&Value> = events["events"].as_array().unwrap().iter().map(|event| &event["fields"]).collect();
    assert!(fields.contains(&&json!(["labels", "description"])), "{events}");
}

#[tokio::test]
async fn a_list_answers_with_what_a_table_shows_filtered_by_labels_sorted_and_cut_to_fields() {
    let daemon = Daemon::start();
    for (name, memory, labels) in [
        ("c", 64, json!({ "env": "prod", "tier": "web" })),
        ("a", 128, json!({ "env": "prod" })),
        ("b", 96, json!({ "env": "test" })),
    ] {
        let mut wish = daemon.wish();
        (wish["name"], wish["memory"], wish["labels"]) = (json!(name), json!(memory), labels);
        daemon.create(wish).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let rows = daemon.get(&format!("/vms?{query}")).await.expect(200);
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("").await, ["c", "a", "b"]);
    assert_eq!(names("label=env=prod").await, ["c", "a"]);
    assert_eq!(names("label=env=prod,tier").await, ["c"]);
    assert_eq!(names("label=tier=").await, [""; 0]);
    assert_eq!(names("sort=name").await, ["a", "b", "c"]);
    assert_eq!(names("sort=-memory&limit=2").await, ["a", "b"]);
    assert_eq!(names("sort=memory&label=env=prod").await, ["c", "a"]);
    let rows = daemon.get("/vms?name=c").await.expect(200);
    let row = &rows[0];
    assert_eq!(
        (&row["vcpus"], &row["memory"], &row["profile"], &row["addresses"], &row["uptime"], &row["labels"]["tier"]),
        (&json!(1), &json!(64), &json!("q35"), &json!([]), &Value::Null, &json!("web"))
    );
    let cut = daemon.get("/vms?fields=name,memory&sort=name").await.expect(200);
    assert_eq!(cut[0], json!({ "name": "a", "memory": 128 }));
    let page =
        daemon.http().get(format!("{}/vms?limit=1&label=env%3Dprod&fields=name", daemon.url)).send().await.unwrap();
    let link = page.headers()["link"].to_str().unwrap().to_owned();
    assert!(link.contains("label=env%3Dprod") && link.contains("fields=name"), "{link}");
    for (query, says) in [
        ("fields=name,colour", "fields must name fields of a line"),
        ("label=a%20b", "label must name labels"),
        ("sort=colour", "sort"),
        ("sort=name&page_token=1.00000000-0000-4000-8000-000000000000", "page_token must not be combined with sort"),
    ] {
        let refused = daemon.get(&format!("/vms?{query}")).await;
        assert_eq!(refused.status, 400, "{query}: {refused:?}");
        assert!(refused.message().contains(says), "{query}: {refused:?}");
    }
}
