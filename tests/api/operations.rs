//! `Prefer: respond-async`: what takes long is acknowledged with an operation, which says how far it has come, ends with the
//! answer that a client on the line would have had, and can be cancelled.

use serde_json::{Value, json};

use crate::{
    hyperv,
    operations_of::{begin, cancel, delete, end, in_phase, post},
    slow_clone::SlowClone,
    support::Daemon,
};

async fn running(daemon: &Daemon) -> String {
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    daemon.create(wish).await
}

#[tokio::test]
async fn a_stop_that_waits_for_its_guest_is_shown_and_cancelled_and_ends_as_on_the_line() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let stop = format!("/vms/{id}/stop");
    let place = post(&daemon, &stop, json!({ "timeout": 3600 })).await;
    in_phase(&daemon, &place, "press_button").await;
    let operation = daemon.get(&format!("{place}?wait=1")).await.expect(200);
    assert_eq!(operation["status"], "running");
    assert_eq!((&operation["kind"], &operation["vm_id"]), (&json!("stopVM"), &json!(id)));
    assert!(operation["caller"].as_str().unwrap().starts_with("uid "), "{operation:#}");
    assert_eq!(daemon.status(&id).await, "stopping");
    for (query, count) in [
        ("", 1),
        ("?status=running", 1),
        ("?status=done", 0),
        (&format!("?vm={id}"), 1),
        ("?vm=123e4567-e89b-42d3-a456-426614174000", 0),
    ] {
        let found = daemon.get(&format!("/operations{query}")).await.expect(200);
        assert_eq!(found.as_array().unwrap().len(), count, "{query}: {found:#}");
    }

    let operation = cancel(&daemon, &place).await;
    assert!(operation["error"]["body"]["error"]["message"].as_str().unwrap().contains("cancelled"), "{operation:#}");
    assert_eq!(daemon.status(&id).await, "running");
    let again = daemon.delete(&place).await;
    assert!(again.message().contains("cancelled already"), "{again:?}");
    again.expect(409);

    // Of two that wait for the same stop each takes its own back, and the last one the stop.
    let two = [post(&daemon, &stop, json!({ "timeout": 3600 })).await, post(&daemon, &stop, json!({})).await];
    cancel(&daemon, &two[1]).await;
    assert_eq!(daemon.status(&id).await, "stopping");
    assert_eq!(daemon.get(&two[0]).await.expect(200)["status"], "running");
    cancel(&daemon, &two[0]).await;
    assert_eq!(daemon.status(&id).await, "running");
    let (one, other) = (post(&daemon, &stop, json!({ "timeout": 3600 })).await, post(&daemon, &stop, json!({})).await);
    let on_the_line = daemon.post(&stop, json!({ "timeout": 1 })).await.expect(200);
    for place in [&one, &other] {
        let operation = end(&daemon, place).await;
        assert_eq!(operation["status"], "done", "{operation:#}");
        assert_eq!(operation["result"], json!({ "status": 200, "body": on_the_line }));
    }
    assert_eq!(daemon.status(&id).await, "stopped");

    let mut heard = Vec::new();
    let events = daemon.get("/events?after=0&wait=0&type=operation").await.expect(200);
    for event in events["events"].as_array().unwrap().iter().filter(|event| event["type"] != "operation.progress") {
        assert_eq!(event["vm_id"], json!(id), "{event:#}");
        let place = format!("/operations/{}", event["operation_id"].as_str().unwrap());
        heard.push((place, event["outcome"].as_str().map(str::to_owned)));
    }
    let event = |place: &String, outcome: Option<&str>| (place.clone(), outcome.map(str::to_owned));
    let cancelled = Some("cancelled");
    let expected = [
        event(&place, None),
        event(&place, cancelled),
        event(&two[0], None),
        event(&two[1], None),
        event(&two[1], cancelled),
        event(&two[0], cancelled),
        event(&one, None),
        event(&other, None),
    ];
    assert_eq!(heard[..8], expected);
    assert_eq!(heard.len(), 10, "{heard:?}");
}

#[tokio::test]
async fn what_is_known_at_once_is_answered_on_the_line() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for (path, body, status) in [
        ("/vms/x/stop", json!({}), 400),
        ("/vms/123e4567-e89b-42d3-a456-426614174000/stop", json!({}), 404),
        (&format!("/vms/{id}/stop"), json!({ "timeout": 0 }), 400),
        (&format!("/vms/{id}/stop"), json!({ "tmeout": 1 }), 400),
        ("/vms", json!({ "vcpus": 1 }), 400),
    ] {
        let (answer, _) = begin(&daemon, daemon.http().post(daemon.at(path)).json(&body)).await;
        answer.expect(status);
    }
    // What takes no time has no operation, and within `wait` neither has what takes some.
    let get = daemon.http().get(daemon.at(&format!("/vms/{id}")));
    begin(&daemon, get).await.0.expect(200);
    let start = daemon.http().post(daemon.at(&format!("/vms/{id}/start"))).header("prefer", "wait=60");
    begin(&daemon, start).await.0.expect(200);
    assert_eq!(daemon.get("/operations").await.expect(200), json!([]));
    for (path, status) in [
        ("/operations/x", 400),
        ("/operations/123e4567-e89b-42d3-a456-426614174000", 404),
        ("/operations?status=gone", 400),
        ("/operations?limit=0", 400),
        ("/operations?page_token=x", 400),
        ("/operations?vm=x", 400),
    ] {
        daemon.get(path).await.expect(status);
    }
    daemon.delete("/operations/123e4567-e89b-42d3-a456-426614174000").await.expect(404);
}

#[tokio::test]
async fn a_full_clone_says_how_much_is_copied_and_leaves_nothing_when_it_is_cancelled() {
    let slow = SlowClone::new();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    slow.run(&mut daemon);
    let quick = daemon.create(daemon.wish()).await;
    let before = daemon.leftovers();
    let place = post(&daemon, "/vms", SlowClone::wish(&daemon)).await;
    let bytes = loop {
        let phase = in_phase(&daemon, &place, "make_image").await;
        assert_eq!(phase["device"], "root");
        if phase["bytes"]["done"].as_u64().is_some_and(|done| done > 0) {
            break phase["bytes"].clone();
        }
    };
    assert_eq!(bytes["done"].as_u64().unwrap(), bytes["total"].as_u64().unwrap() / 4, "{bytes}");
    let news = daemon.get("/events?after=0&wait=60&type=operation.progress").await.expect(200);
    let news = &news["events"][0];
    assert_eq!((&news["phase"], &news["device"]), (&json!("make_image"), &json!("root")), "{news}");
    assert_eq!((&news["bytes_done"], &news["bytes_total"]), (&bytes["done"], &bytes["total"]), "{news}");
    let operation = daemon.get(&place).await.expect(200);
    let id = operation["vm_id"].as_str().unwrap();
    daemon.get(&format!("/vms/{id}")).await.expect(404);
    cancel(&daemon, &place).await;
    daemon.get(&format!("/vms/{id}")).await.expect(404);
    assert_eq!(daemon.leftovers(), before);

    let disks = format!("/vms/{quick}/disks");
    let wish = json!({ "disk_size": 1, "base_image": "data.raw", "clone": "full" });
    let place = post(&daemon, &disks, wish).await;
    in_phase(&daemon, &place, "make_image").await;
    cancel(&daemon, &place).await;
    assert_eq!(daemon.get(&disks).await.expect(200).as_array().unwrap().len(), 1);
    assert_eq!(daemon.leftovers(), before);

    let place = post(&daemon, "/vms", SlowClone::wish(&daemon)).await;
    slow.let_go();
    let operation = end(&daemon, &place).await;
    assert_eq!((&operation["status"], &operation["result"]["status"]), (&json!("done"), &json!(201)), "{operation:#}");
    assert_eq!(operation["result"]["body"]["id"], operation["vm_id"]);
    let copied = operation["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "make_image").unwrap();
    assert_eq!(copied["bytes"]["done"], copied["bytes"]["total"], "{operation:#}");
    daemon.get(&format!("/vms/{}", operation["vm_id"].as_str().unwrap())).await.expect(200);
}

#[tokio::test]
async fn a_removal_waits_for_its_guest_for_as_long_as_nobody_cancels_it() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let nics = format!("/vms/{id}/networks");
    let nic = daemon.post(&nics, json!({ "user": {} })).await.expect(201)["id"].as_str().unwrap().to_owned();
    // There is no guest to let go of it.
    let place = delete(&daemon, &format!("{nics}/{nic}")).await;
    in_phase(&daemon, &place, "release_nic").await;
    let operation = daemon.get(&format!("{place}?wait=2")).await.expect(200);
    assert_eq!(operation["status"], "running", "a client on the line is answered within a second: {operation:#}");
    let of_nic = async || {
        let rows = daemon.get(&nics).await.expect(200);
        rows.as_array().unwrap().iter().find(|row| row["id"] == json!(nic)).cloned().unwrap()
    };
    assert_eq!(of_nic().await["status"], "removing");
    cancel(&daemon, &place).await;
    assert_ne!(of_nic().await["status"], "removing");
    // One whose end comes otherwise ends with that.
    let place = delete(&daemon, &format!("{nics}/{nic}")).await;
    in_phase(&daemon, &place, "release_nic").await;
    daemon.post(&format!("/vms/{id}/stop"), json!({ "timeout": 1 })).await.expect(200);
    let operation = end(&daemon, &place).await;
    assert_eq!(operation["status"], "done", "{operation:#}");
}

#[tokio::test]
async fn memory_that_no_guest_takes_is_taken_back() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    (wish["start"], wish["max_memory"]) = (json!(true), json!(1024));
    let id = daemon.create(wish).await;
    let put = daemon.http().put(daemon.at(&format!("/vms/{id}/memory"))).json(&json!({ "memory": 512 }));
    let place = begin(&daemon, put).await.1.unwrap();
    in_phase(&daemon, &place, "set_memory").await;
    assert_eq!(daemon.get(&format!("/vms/{id}/config")).await.expect(200)["memory"], 512);
    cancel(&daemon, &place).await;
    let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!((&config["memory"], &config["pending"]), (&json!(64), &json!({})), "{config}");
}

#[tokio::test]
async fn the_same_key_gets_the_same_operation() {
    let daemon = Daemon::start();
    let id = running(&daemon).await;
    let stop = daemon.at(&format!("/vms/{id}/stop"));
    let ask = async |timeout: u64| {
        let request = daemon.http().post(&stop).header("idempotency-key", "a").json(&json!({ "timeout": timeout }));
        begin(&daemon, request).await
    };
    let place = ask(3600).await.1.unwrap();
    assert_eq!(ask(3600).await.1.as_ref(), Some(&place));
    ask(3599).await.0.expect(422);
    cancel(&daemon, &place).await;
    // What was cancelled is asked for anew.
    let other = ask(3600).await.1.unwrap();
    assert_ne!(other, place);
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    assert_eq!(end(&daemon, &other).await["status"], "done");
    let (again, same) = ask(3600).await;
    assert_eq!((again.expect(202)["status"].clone(), same.as_ref()), (json!("done"), Some(&other)));

    // A create makes one VM, whoever asks for it again and how.
    let wish = daemon.wish();
    let create = || daemon.http().post(daemon.at("/vms")).header("idempotency-key", "b").json(&wish);
    let place = begin(&daemon, create()).await.1.unwrap();
    let operation = end(&daemon, &place).await;
    assert_eq!(operation["vm_id"], operation["result"]["body"]["id"], "{operation:#}");
    assert_eq!(daemon.send(create()).await.expect(201), operation["result"]["body"]);
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn operations_come_in_pages_the_newest_first() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let mut places = Vec::new();
    for timeout in 1..=5 {
        // Of a VM that is off; what it takes is a commit.
        let body = json!({ "timeout": timeout });
        places.extend(
            begin(&daemon, daemon.http().post(daemon.at(&format!("/vms/{id}/start"))).json(&json!({}))).await.1,
        );
        places.extend(begin(&daemon, daemon.http().post(daemon.at(&format!("/vms/{id}/stop"))).json(&body)).await.1);
    }
    for place in &places {
        end(&daemon, place).await;
    }
    let (mut path, mut found) = ("/operations?limit=3".to_owned(), Vec::new());
    loop {
        let response = daemon.http().get(daemon.at(&path)).send().await.unwrap();
        let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let page: Vec<Value> = response.json().await.unwrap();
        assert!(page.len() == 3 || link.is_none(), "{page:?}");
        found.extend(page.iter().map(|operation| format!("/operations/{}", operation["id"].as_str().unwrap())));
        let Some(link) = link else { break };
        path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    places.reverse();
    assert_eq!(found, places);
}

#[tokio::test]
async fn both_dialects_show_the_operations_of_both() {
    let daemon = hyperv::started();
    let id = running(&daemon).await;
    let stop = daemon.http().post(daemon.at(&format!("/hyperv/vms/{id}/stop")));
    // There is no agent in it, which is known at once.
    begin(&daemon, stop).await.0.expect(422);
    let iso = daemon.bases().join("gone.iso");
    std::fs::write(&iso, [0; 4096]).unwrap();
    let mut wish = daemon.wish();
    wish["iso"] = json!(iso);
    let lacking = daemon.create(wish).await;
    std::fs::remove_file(&iso).unwrap();
    let start = daemon.http().post(daemon.at(&format!("/hyperv/vms/{lacking}/start")));
    let (answer, place) = begin(&daemon, start).await;
    let (place, operation) = (place.unwrap(), answer.expect(202));
    let number = operation["Id"].as_str().unwrap();
    assert_eq!(place, format!("/hyperv/operations/{number}"));
    let ours = daemon.get(&format!("/operations/{number}?wait=60")).await.expect(200);
    assert_eq!((&ours["status"], &ours["error"]["status"]), (&json!("failed"), &json!(409)), "{ours:#}");
    let ended = daemon.get(&place).await.expect(200);
    assert_eq!((&ended["Status"], &ended["Error"]["Status"]), (&json!("Failed"), &json!(409)), "{ended:#}");
    assert_eq!(ended["Error"]["Body"], ours["error"]["body"], "in the words of the dialect that it was asked in");
    assert!(ended["Error"]["Body"]["error"].as_str().unwrap().contains("gone.iso"), "{ended:#}");
    let place = post(&daemon, &format!("/vms/{id}/stop"), json!({ "timeout": 3600 })).await;
    let braces = place.replace("/operations/", "/hyperv/operations/%7B") + "%7D";
    assert_eq!(daemon.delete(&braces).await.expect(202)["Dialect"], "kvm");
    assert_eq!(end(&daemon, &place).await["status"], "cancelled");
    for (path, status) in [("/hyperv/operations/x", 404), ("/hyperv/operations?vmId=x", 400)] {
        daemon.get(path).await.expect(status);
    }
    let listed = daemon.get(&format!("/hyperv/operations?vmId={lacking}&status=Failed")).await.expect(200);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["Id"]), (1, &json!(number)));
}
