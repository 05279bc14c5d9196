//! Every request that changes something, in both dialects: it may be an operation, which ends with the answer that it has on the
//! line; and what is refused at once is refused on the line.

use std::collections::BTreeSet;

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    hyperv::{self, Client, Mount},
    operations_of::begin,
    support::Daemon,
};

/// A dialect of a daemon, as a client that does not wait on the line.
struct Patient<'a> {
    daemon: &'a Daemon,
    /// `""` or `/hyperv`.
    base: &'static str,
    tried: BTreeSet<&'static str>,
}

impl Patient<'_> {
    /// It is acknowledged, and ends with this status. Returns its body.
    async fn does(&mut self, operation: &'static str, wanted: (&str, &str), body: Value, status: u64) -> Value {
        let (method, path) = wanted;
        let request =
            self.daemon.http().request(method.parse().unwrap(), self.daemon.at(&format!("{}{path}", self.base)));
        let request = if body.is_null() { request } else { request.json(&body) };
        self.does_by(operation, path, request, status).await
    }

    /// The same, by a request that is made already.
    async fn does_by(&mut self, operation: &'static str, path: &str, request: RequestBuilder, status: u64) -> Value {
        self.tried.insert(operation);
        let (answer, place) = begin(self.daemon, request).await;
        let place = place.unwrap_or_else(|| panic!("{operation} was answered on the line: {answer:?}"));
        let ended = self.daemon.get(&format!("{place}?wait=120")).await.expect(200);
        let field = |name: &str, other: &str| ended.get(name).or(ended.get(other)).cloned().unwrap_or_default();
        assert_eq!(field("kind", "Kind"), operation, "{ended:#}");
        let result = field("result", "Result");
        let found = result.get("status").or(result.get("Status"));
        assert_eq!(found, Some(&json!(status)), "{operation}: {ended:#}");
        let about = match path.split('/').nth(1) {
            Some("switches") => Some(("switch_id", "SwitchId")),
            Some("images" | "volumes") => None,
            _ => Some(("vm_id", "VMId")),
        };
        assert!(about.is_none_or(|about| field(about.0, about.1).is_string()), "{operation}: {ended:#}");
        assert!(field("name", "Name").is_string(), "{operation}: {ended:#}");
        result.get("body").or(result.get("Body")).unwrap().clone()
    }

    /// All that changes something was tried, and says that it may be an operation.
    async fn has_tried_all(&self) {
        let document = self.daemon.get(&format!("{}/openapi.json", self.base)).await.expect(200);
        let mut known = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, about) in methods.as_object().unwrap().iter().filter(|(method, _)| *method != "get") {
                let prefers = about["parameters"].as_array().unwrap().iter().any(|param| param["name"] == "Prefer");
                let name = about["operationId"].as_str().unwrap();
                // There is no work in them that could go on without their client.
                let is_at_once = matches!(name, "cancelOperation" | "beginUpload" | "continueUpload" | "deleteUpload");
                assert_eq!(prefers, !is_at_once, "{method} {path}");
                assert_eq!(
                    about["responses"]["202"].is_object(),
                    prefers || name == "cancelOperation",
                    "{method} {path}"
                );
                known.extend(prefers.then_some(name));
            }
        }
        assert_eq!(self.tried, known, "what changes something is tried here");
    }
}

/// They need a guest, and are tried with one (`tests/guests/guest_agent.rs`).
const BY_AGENT: [&str; 5] = ["execInVM", "writeVMFile", "setVMTime", "freezeVM", "thawVM"];

fn id_of(made: &Value) -> String {
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn whatever_changes_something_may_be_an_operation_in_the_kvm_dialect() {
    let daemon = hyperv::started();
    let mut client = Patient { daemon: &daemon, base: "", tried: BTreeSet::new() };
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.55.0.0/24", "nat": true });
    let switch = id_of(&client.does("createSwitch", ("POST", "/switches"), lan, 201).await);
    let at_switch = format!("/switches/{switch}");
    client.does("updateSwitch", ("PUT", &at_switch), json!({ "mtu": 1400 }), 200).await;
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": switch }]);
    let vm = id_of(&client.does("createVM", ("POST", "/vms"), wish, 201).await);
    let at = |rest: &str| format!("/vms/{vm}{rest}");
    let forward = json!({ "protocol": "tcp", "host_port": 8443, "vm": vm, "guest_port": 443 });
    let forwards = format!("{at_switch}/forwards");
    let forward = id_of(&client.does("addSwitchForward", ("POST", &forwards), forward, 201).await);
    client.does("removeSwitchForward", ("DELETE", &format!("{forwards}/{forward}")), Value::Null, 200).await;
    let iso = daemon.bases().join("AlmaLinux.iso");
    for (operation, method, path, body, status) in [
        ("updateVM", "PUT", at(""), json!({ "description": "x" }), 200),
        ("updateVMCpu", "PUT", at("/cpu"), json!({ "vcpus": 2 }), 200),
        ("updateVMMemory", "PUT", at("/memory"), json!({ "memory": 128 }), 200),
        ("resizeVMDisk", "PUT", at("/disk"), json!({ "io_limits": { "iops": 100 } }), 200),
        ("updateVMPolicy", "PUT", at("/policy"), json!({ "restart_policy": "always" }), 200),
        ("changeVMIso", "PUT", at("/iso"), json!({ "iso": iso }), 200),
        ("ejectVMIso", "DELETE", at("/iso"), Value::Null, 200),
        ("updateVMMachine", "PUT", at("/machine"), json!({ "type": "pc-q35-7.1" }), 200),
        ("addVMDisk", "POST", at("/disks"), json!({ "disk_size": 1 }), 201),
        ("updateVMDisk", "PUT", at("/disks/disk1"), json!({ "io_limits": { "iops": 100 } }), 200),
        ("removeVMDisk", "DELETE", at("/disks/disk1"), Value::Null, 200),
        ("addVMNetwork", "POST", at("/networks"), json!({ "switch": switch }), 201),
        ("updateVMNetwork", "PUT", at("/networks/net1"), json!({ "isolated": true }), 200),
        ("removeVMNetwork", "DELETE", at("/networks/net1"), Value::Null, 200),
        ("startVM", "POST", at("/start"), Value::Null, 200),
        ("suspendVM", "POST", at("/suspend"), Value::Null, 200),
        ("resumeVM", "POST", at("/resume"), Value::Null, 200),
        ("rebootVM", "POST", at("/reboot"), json!({ "timeout": 1 }), 200),
        ("stopVM", "POST", at("/stop"), json!({ "force": true }), 200),
        ("deleteVM", "DELETE", at(""), Value::Null, 200),
        ("deleteSwitch", "DELETE", at_switch, Value::Null, 200),
        ("importImage", "POST", "/images".to_owned(), json!({ "name": "small:1", "path": "blank.raw" }), 201),
        ("updateImage", "PUT", "/images/small:1".to_owned(), json!({ "name": "small:2" }), 200),
        ("deleteImage", "DELETE", "/images/small:2".to_owned(), Value::Null, 200),
    ] {
        client.does(operation, (method, &path), body, status).await;
    }
    let volume = json!({ "name": "data", "disk_size": 1 });
    let volume = id_of(&client.does("createVolume", ("POST", "/volumes"), volume, 201).await);
    client.does("deleteVolume", ("DELETE", &format!("/volumes/{volume}")), Value::Null, 200).await;
    let upload = daemon.http().post(daemon.at("/images/uploads?name=sent:1"));
    client.does_by("uploadImage", "/images/uploads", upload.body(vec![7; 512]), 201).await;
    daemon.delete("/images/sent:1").await.expect(200);
    client.tried.extend(BY_AGENT);
    client.has_tried_all().await;
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn whatever_changes_something_may_be_an_operation_in_the_hyperv_dialect() {
    let daemon = hyperv::started();
    let mut client = Patient { daemon: &daemon, base: "/hyperv", tried: BTreeSet::new() };
    let lan = json!({ "name": "LAN", "type": "Internal", "subnet": "10.55.0.0/24", "nat": true });
    let switch = id_of(&client.does("createSwitch", ("POST", "/switches"), lan, 201).await);
    let at_switch = format!("/switches/{switch}");
    let mut wish = hyperv::wish("vm");
    wish["switchId"] = json!(switch);
    let vm = id_of(&client.does("createVM", ("POST", "/vms"), wish, 201).await);
    let at = |rest: &str| format!("/vms/{vm}{rest}");
    let forward = json!({ "hostPort": 8443, "vmId": vm, "guestPort": 443 });
    let forwards = format!("{at_switch}/forwards");
    let forward = id_of(&client.does("addSwitchForward", ("POST", &forwards), forward, 201).await);
    client.does("removeSwitchForward", ("DELETE", &format!("{forwards}/{forward}")), Value::Null, 200).await;
    let adapters = at("/network-adapters");
    let adapter = json!({ "switchId": switch });
    let adapter = id_of(&client.does("addNetworkAdapter", ("POST", &adapters), adapter, 201).await);
    let adapter = format!("{adapters}/{adapter}");
    for (operation, method, path, body) in [
        ("updateNetworkAdapter", "PUT", adapter.clone(), json!({ "isolated": true })),
        ("removeNetworkAdapter", "DELETE", adapter, Value::Null),
        ("updateSwitch", "PUT", at_switch.clone(), json!({ "mtu": 1400 })),
        ("updateVM", "PUT", at(""), json!({ "memoryMB": 128 })),
        ("startVM", "POST", at("/start"), Value::Null),
        ("suspendVM", "POST", at("/suspend"), Value::Null),
        ("resumeVM", "POST", at("/resume"), Value::Null),
        ("restartVM", "POST", at("/restart"), json!({ "force": true })),
        ("stopVM", "POST", at("/stop"), json!({ "force": true })),
        ("deleteVM", "DELETE", at(""), Value::Null),
        ("deleteSwitch", "DELETE", at_switch, Value::Null),
    ] {
        client.does(operation, (method, &path), body, 200).await;
    }
    client.tried.extend(BY_AGENT);
    client.has_tried_all().await;
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

/// By the route, by the body, by what there is, and by the VM's own task; with an idempotency key and without.
#[tokio::test]
async fn what_is_refused_at_once_is_refused_on_the_line_in_both_dialects() {
    let daemon = hyperv::started();
    let hyperv = Client::at(&daemon, Mount::Below);
    let mut wish = daemon.wish();
    wish["protected"] = json!(true);
    let (vm, gone) = (daemon.create(wish).await, "123e4567-e89b-42d3-a456-426614174000");
    hyperv.created("/switches", json!({ "name": "LAN", "type": "Internal", "subnet": "10.55.0.0/24" })).await;
    let again = json!({ "name": "LAN 2", "type": "internal", "subnet": "10.55.0.0/24" });
    let kvm = [
        ("POST", format!("/vms/{gone}/stop"), Value::Null, 404),
        ("POST", format!("/vms/{vm}/stop"), json!({ "timeout": 0 }), 400),
        ("POST", format!("/vms/{vm}/reboot"), Value::Null, 409),
        ("POST", format!("/vms/{vm}/suspend"), Value::Null, 409),
        ("POST", format!("/vms/{vm}/resume"), Value::Null, 409),
        ("DELETE", format!("/vms/{vm}"), Value::Null, 409),
        ("DELETE", format!("/vms/{vm}?graceful=true"), Value::Null, 409),
        ("PUT", format!("/vms/{vm}/disk"), json!({ "disk_size": 65_537 }), 400),
        ("DELETE", format!("/vms/{vm}/disks/root"), Value::Null, 409),
        ("POST", format!("/vms/{vm}/networks"), json!({ "switch": "none" }), 404),
        ("POST", "/vms".to_owned(), json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "none" }), 404),
        ("POST", "/switches".to_owned(), again, 409),
        ("DELETE", format!("/switches/{gone}"), Value::Null, 404),
        ("POST", "/images".to_owned(), json!({ "name": "a:b:c", "path": "blank.raw" }), 400),
        ("POST", "/images".to_owned(), json!({ "name": "debian", "path": "none" }), 400),
        ("POST", "/images/uploads?name=a:b:c".to_owned(), json!("whatever is sent"), 400),
        ("PUT", "/images/none".to_owned(), json!({ "description": "x" }), 404),
        ("DELETE", "/images/none".to_owned(), Value::Null, 404),
    ];
    let theirs = [
        ("POST", format!("/hyperv/vms/{gone}/start"), Value::Null, 404),
        ("POST", format!("/hyperv/vms/{vm}/stop"), Value::Null, 409),
        ("POST", format!("/hyperv/vms/{vm}/suspend"), Value::Null, 409),
        ("PUT", format!("/hyperv/vms/{vm}"), json!({ "memoryMB": 1 }), 400),
        ("DELETE", format!("/hyperv/vms/{vm}"), Value::Null, 409),
        ("POST", "/hyperv/switches".to_owned(), json!({ "name": "x", "type": "None" }), 400),
    ];
    for (number, (method, path, body, status)) in kvm.into_iter().chain(theirs).enumerate() {
        for key in [None, Some(format!("key-{number}"))] {
            let request = daemon.http().request(method.parse().unwrap(), daemon.at(&path));
            let request = if body.is_null() { request } else { request.json(&body) };
            let request = match &key {
                Some(key) => request.header("idempotency-key", key),
                None => request,
            };
            let (answer, _) = begin(&daemon, request).await;
            assert_eq!(answer.status, status, "{method} {path}, {key:?}: {answer:?}");
        }
    }
    assert_eq!(daemon.get("/operations").await.expect(200), json!([]));
}
