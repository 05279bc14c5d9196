//! `Idempotency-Key`: a client that asks again, because its connection broke or the daemon died, gets the first answer
//! and not a second VM.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{Answer, Daemon, netns};
use qherd::{
    model::VmId,
    store::{Batch, Record, Store},
    vm::records,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const REPLAYED: &str = "idempotency-replayed";

/// A POST with a key: the answer, and whether it was one given before.
async fn post(daemon: &Daemon, path: &str, key: &str, body: &Value) -> (Answer, bool) {
    let request = daemon.http().post(daemon.at(path)).header("idempotency-key", key).json(body);
    let response = request.send().await.unwrap_or_else(|e| panic!("{e:?}\n{}", daemon.log_text()));
    let replayed = response.headers().contains_key(REPLAYED);
    let json = response.headers()["content-type"] == "application/json";
    assert!(json, "{response:?}");
    (Answer { status: response.status().as_u16(), body: response.json().await.unwrap() }, replayed)
}

async fn ids(daemon: &Daemon) -> Vec<String> {
    let list = daemon.get("/vms").await.expect(200);
    list.as_array().unwrap().iter().map(|vm| vm["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_same_key_gets_the_first_answer_also_after_the_daemon_died() {
    let mut daemon = Daemon::start();
    let wish = daemon.wish();
    let (first, replayed) = post(&daemon, "/vms", "a", &wish).await;
    let first = first.expect(201);
    assert!(!replayed);
    let id = first["id"].as_str().unwrap();
    let disks = format!("/vms/{id}/disks");
    let (disk, _) = post(&daemon, &disks, "disk", &json!({"disk_size": 1})).await;
    let disk = disk.expect(201);
    for end in [Daemon::kill, |daemon: &mut Daemon| assert!(daemon.terminate().success())] {
        let (again, replayed) = post(&daemon, "/vms", "\"a\"", &wish).await;
        assert!(replayed);
        assert_eq!(again.expect(201), first);
        let (again, replayed) = post(&daemon, &disks, "disk", &json!({"disk_size": 1})).await;
        assert!(replayed);
        assert_eq!(again.expect(201), disk);
        end(&mut daemon);
        daemon.run();
    }
    assert_eq!(ids(&daemon).await, [id]);
    assert_eq!(daemon.get(&disks).await.expect(200).as_array().unwrap().len(), 2);
    // Without the key, or with another, it is another request.
    let other = post(&daemon, "/vms", "b", &wish).await.0.expect(201);
    assert_ne!(other["id"], first["id"]);
    daemon.create(wish).await;
    assert_eq!(ids(&daemon).await.len(), 3);
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let daemon = Daemon::start();
    let wish = daemon.wish();
    post(&daemon, "/vms", "a", &wish).await.0.expect(201);
    let mut other = wish.clone();
    other["memory"] = json!(65);
    let (refused, _) = post(&daemon, "/vms", "a", &other).await;
    assert!(refused.message().contains("Idempotency-Key"), "{refused:?}");
    refused.expect(422);
    let id = &ids(&daemon).await[0];
    post(&daemon, &format!("/vms/{id}/start"), "a", &json!({})).await.0.expect(422);
    assert_eq!(ids(&daemon).await.len(), 1);
    assert_eq!(daemon.status(id).await, "stopped");
    for bad in ["", "a b", &"x".repeat(256)] {
        let (refused, _) = post(&daemon, "/vms", bad, &wish).await;
        assert!(refused.message().starts_with("Invalid parameter: Idempotency-Key must "), "{refused:?}");
        refused.expect(400);
    }
    // Elsewhere than on POST it means nothing: those are idempotent by themselves.
    let again = daemon.http().get(daemon.at("/vms")).header("idempotency-key", "a");
    assert_eq!(daemon.send(again).await.expect(200).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_done_once_is_not_done_again() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let (start, stop) = (format!("/vms/{id}/start"), format!("/vms/{id}/stop"));
    post(&daemon, &start, "on", &json!({})).await.0.expect(200);
    post(&daemon, &stop, "off", &json!({"force": true})).await.0.expect(200);
    daemon.post(&start, json!({})).await.expect(200);
    let (again, replayed) = post(&daemon, &stop, "off", &json!({"force": true})).await;
    assert!(replayed && again.body["forced"] == true, "{again:?}");
    assert_eq!(daemon.status(&id).await, "running", "the stop was that of an earlier run");
    daemon.post(&stop, json!({"force": true})).await.expect(200);
    // It was off, and it was running: nothing was done, the next time it may be, and the key is free.
    let same = async |path: &str| {
        for _ in 0..2 {
            let (again, replayed) = post(&daemon, path, "same", &json!({})).await;
            assert!(!replayed && again.status == 200, "{path}: {again:?}");
        }
    };
    same(&stop).await;
    daemon.post(&start, json!({})).await.expect(200);
    same(&start).await;
    same(&format!("/hyperv{start}")).await;
    daemon.post(&stop, json!({"force": true})).await.expect(200);
    // Nor was anything where it is refused.
    let reboot = format!("/vms/{id}/reboot");
    for _ in 0..2 {
        let (refused, replayed) = post(&daemon, &reboot, "re", &json!({})).await;
        assert!(!replayed && refused.status == 409, "{refused:?}");
    }
}

#[tokio::test]
async fn a_key_belongs_to_a_dialect() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let (kvm, _) = post(&daemon, &format!("/vms/{id}/start"), "on", &json!({})).await;
    let kvm = kvm.expect(200);
    let (hyperv, replayed) = post(&daemon, &format!("/hyperv/vms/{id}/start"), "on", &json!({})).await;
    assert!(!replayed, "each has its own answers");
    assert_ne!(hyperv.body, kvm);
}

#[tokio::test]
async fn what_was_refused_can_be_asked_again_in_another_way_under_its_key() {
    let daemon = Daemon::start();
    let wish = daemon.wish();
    let untyped = daemon.http().post(daemon.at("/vms")).header("idempotency-key", "a").body(wish.to_string());
    daemon.send(untyped).await.expect(415);
    let mut bad = wish.clone();
    bad["vcpus"] = json!(0);
    post(&daemon, "/vms", "a", &bad).await.0.expect(400);
    let (made, replayed) = post(&daemon, "/vms", "a", &wish).await;
    assert!(!replayed);
    let made = made.expect(201);
    assert_eq!(post(&daemon, "/vms", "a", &wish).await.0.expect(201), made);
    assert_eq!(ids(&daemon).await.len(), 1);
}

#[tokio::test]
async fn a_failure_of_the_host_is_not_kept() {
    let daemon = Daemon::start();
    let wish = daemon.wish();
    // Nothing can be made where a file stands in the way.
    let images = daemon.state().join("images");
    std::fs::remove_dir_all(&images).unwrap();
    std::fs::write(&images, "").unwrap();
    post(&daemon, "/vms", "a", &wish).await.0.expect(500);
    post(&daemon, "/vms", "a", &wish).await.0.expect(500);
    std::fs::remove_file(&images).unwrap();
    let (made, replayed) = post(&daemon, "/vms", "a", &wish).await;
    let id = made.expect(201)["id"].clone();
    assert!(!replayed);
    let (again, replayed) = post(&daemon, "/vms", "a", &wish).await;
    assert!(replayed);
    assert_eq!(again.expect(201)["id"], id);
    assert_eq!(ids(&daemon).await.len(), 1);
}

#[tokio::test]
async fn a_broken_connection_and_many_retries_at_once_make_one_vm() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let body = wish.to_string();
    let head = format!(
        "POST /vms HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nidempotency-key: k\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let address = daemon.url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    // The request is under way, or is about to be.
    drop(socket);
    let retries = (0..20).map(|_| post(&daemon, "/vms", "k", &wish));
    let answers = futures_util::future::join_all(retries).await;
    let made: BTreeSet<String> =
        answers.into_iter().map(|(answer, _)| answer.expect(201)["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(made.len(), 1);
    assert_eq!(ids(&daemon).await, made.into_iter().collect::<Vec<_>>());
    assert_eq!(daemon.qemus().len(), 1);
}

/// The daemon is killed at instants that sweep over the whole of a create.
#[tokio::test]
async fn whenever_the_daemon_dies_a_retry_makes_no_second_vm() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let mut made = Vec::new();
    let mut cut = 0;
    for round in 0..16_u64 {
        let key = format!("round{round}");
        let request = daemon.http().post(daemon.at("/vms")).header("idempotency-key", &key).json(&wish);
        let requested = tokio::spawn(request.send());
        tokio::time::sleep(Duration::from_millis(12 * round)).await;
        daemon.kill();
        cut += u32::from(requested.await.unwrap().is_err());
        daemon.run();
        let answer = post(&daemon, "/vms", &key, &wish).await.0.expect(201);
        made.push(answer["id"].as_str().unwrap().to_owned());
        assert_eq!(ids(&daemon).await, made, "round {round}");
        let id = made.last().unwrap();
        daemon.await_status(id, "running").await;
        let qemus = daemon.qemus().len();
        assert_eq!(qemus, made.len(), "round {round}");
    }
    assert!(cut > 0, "no answer was ever lost");
}

/// As the daemon stores it, as far as this test needs to know.
#[derive(Serialize, Deserialize)]
struct Key(serde_json::Map<String, Value>);

impl Record for Key {
    const KIND: &'static str = "key";
    const VERSION: u32 = 1;
}

/// What a daemon leaves that dies after the effect, and before the answer is stored; or, where it forgets that something was
/// `made` as well, before the effect.
async fn forget_answers(daemon: &Daemon, made: bool) {
    let dir = daemon.state().join("db");
    let store = tokio::task::spawn_blocking(move || Store::open(&dir).unwrap()).await.unwrap();
    let keys = store.scan::<Key>().unwrap();
    assert!(!keys.is_empty());
    for (name, key) in keys {
        let mut key = key.unwrap();
        assert!(key.0.insert("answer".into(), Value::Null).is_some_and(|answer| answer.is_object()));
        assert_eq!(key.0["made"], true);
        if !made {
            key.0.remove("made");
        }
        store.commit(Batch::new().put(&name, &key).unwrap()).await.unwrap();
    }
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_dies_between_effect_and_answer_finds_what_it_has_made() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let vm = post(&daemon, "/vms", "vm", &wish).await.0.expect(201);
    let id = vm["id"].as_str().unwrap().to_owned();
    let disks = format!("/vms/{id}/disks");
    let disk = post(&daemon, &disks, "disk", &json!({"disk_size": 1})).await.0.expect(201);
    let pid = daemon.qemus();
    daemon.kill();
    forget_answers(&daemon, true).await;
    daemon.run();
    for replayed_now in [false, true] {
        let (again, replayed) = post(&daemon, "/vms", "vm", &wish).await;
        assert_eq!((again.expect(201), replayed), (vm.clone(), replayed_now));
        let (again, replayed) = post(&daemon, &disks, "disk", &json!({"disk_size": 1})).await;
        assert_eq!((again.expect(201), replayed), (disk.clone(), replayed_now));
    }
    assert_eq!(ids(&daemon).await, [id.as_str()]);
    assert_eq!(daemon.get(&disks).await.expect(200).as_array().unwrap().len(), 2);
    assert_eq!(daemon.qemus(), pid);
    // A key that is still known does not stand in the way of a delete.
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
    let (again, replayed) = post(&daemon, "/vms", "vm", &wish).await;
    assert_eq!((again.expect(201), replayed), (vm, true), "the first answer, though the VM is gone since");
    assert!(ids(&daemon).await.is_empty());
}

#[tokio::test]
async fn switches_nics_and_vms_of_both_dialects_are_found_again() {
    let _ = netns::Host::leave();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let disks = daemon.dir.path().join("disks");
    std::fs::create_dir(&disks).unwrap();
    daemon.add_args(&["--storage-dir", disks.to_str().unwrap()]);
    daemon.run();
    // The subnet would overlap with its own, were the switch made twice.
    let lan = json!({"name": "LAN", "type": "internal", "subnet": "10.77.0.0/24"});
    let lan_id = post(&daemon, "/switches", "lan", &lan).await.0.expect(201)["id"].clone();
    let wan = json!({"name": "WAN", "type": "Private"});
    let vm = json!({"name": "vm1", "memoryMB": 64, "vcpu": 1, "diskPath": disks, "diskGB": 1, "switchName": "LAN"});
    let vm_id = post(&daemon, "/hyperv/vms", "vm", &vm).await.0.expect(201)["id"].clone();
    let vm_path = format!("/vms/{}", vm_id.as_str().unwrap());
    let (nic, adapter) = (format!("{vm_path}/networks"), format!("/hyperv{vm_path}/network-adapters"));
    let requests = [
        ("/switches", "lan", lan),
        ("/hyperv/switches", "wan", wan),
        ("/hyperv/vms", "vm", vm),
        (nic.as_str(), "NIC", json!({"switch": lan_id})),
        (adapter.as_str(), "adapter", json!({"switchName": "WAN"})),
    ];
    let mut first = Vec::new();
    for (path, key, body) in &requests {
        first.push(post(&daemon, path, key, body).await.0.expect(201));
    }
    daemon.kill();
    forget_answers(&daemon, true).await;
    daemon.run();
    for ((path, key, body), first) in requests.iter().zip(first) {
        let (again, replayed) = post(&daemon, path, key, body).await;
        assert!(!replayed, "{path}: carried out once more");
        assert_eq!(again.expect(201)["id"], first["id"], "{path}");
    }
    assert_eq!(daemon.get("/switches").await.expect(200).as_array().unwrap().len(), 2);
    assert_eq!(daemon.get(&nic).await.expect(200).as_array().unwrap().len(), 3);
    assert_eq!(ids(&daemon).await, [vm_id.as_str().unwrap()]);
}

/// A key outlives the record of the VM that was made under it, which somebody may have lost; the id is drawn already.
#[tokio::test]
async fn a_create_does_not_touch_disks_of_which_no_record_tells() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let disks = daemon.dir.path().join("disks");
    std::fs::create_dir(&disks).unwrap();
    daemon.add_args(&["--storage-dir", disks.to_str().unwrap()]);
    daemon.run();
    let mut plain = daemon.wish();
    plain["start"] = json!(true);
    let hyperv = json!({"name": "vm1", "memoryMB": 64, "vcpu": 1, "diskPath": disks, "diskGB": 1});
    let plain_id = post(&daemon, "/vms", "plain", &plain).await.0.expect(201)["id"].as_str().unwrap().to_owned();
    let hyperv_id =
        post(&daemon, "/hyperv/vms", "hyperv", &hyperv).await.0.expect(201)["id"].as_str().unwrap().to_owned();
    daemon.post(&format!("/vms/{plain_id}/stop"), json!({"force": true})).await.expect(200);
    daemon.kill();
    forget_answers(&daemon, false).await;
    let dir = daemon.state().join("db");
    let store = tokio::task::spawn_blocking(move || Store::open(&dir).unwrap()).await.unwrap();
    for id in [&plain_id, &hyperv_id] {
        let vm = records::get(&store, id).unwrap().unwrap();
        store.commit(vm.known.remove(Batch::new(), VmId::parse(id).unwrap()).unwrap().0).await.unwrap();
    }
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
    let folder = daemon.state().join("images").join(&plain_id);
    let files = [folder.join("root.qcow2"), folder.join("disk1.qcow2"), disks.join(format!("{hyperv_id}.qcow2"))];
    for file in &files {
        std::fs::write(file, "precious").unwrap();
    }
    let are_there = || files.iter().all(|file| std::fs::read(file).unwrap() == b"precious");
    daemon.run();
    for (path, key, body, file) in [("/vms", "plain", &plain, &files[0]), ("/hyperv/vms", "hyperv", &hyperv, &files[2])]
    {
        let refused = post(&daemon, path, key, body).await.0.expect(409).to_string();
        assert!(refused.contains(file.to_str().unwrap()) && refused.contains("another idempotency key"), "{refused}");
        assert!(are_there(), "{path}");
    }
    assert!(ids(&daemon).await.is_empty());
    // As it says.
    post(&daemon, "/vms", "again", &plain).await.0.expect(201);
    post(&daemon, "/hyperv/vms", "again-too", &hyperv).await.0.expect(201);
    daemon.kill();
    daemon.run();
    assert!(are_there());
}
