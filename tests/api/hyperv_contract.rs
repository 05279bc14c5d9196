//! Every JSON example of the Hyper-V document (tests/fixtures/README.md), against a real daemon on a real QEMU, at both
//! places where the dialect is mounted: status, documented fields with their JSON types, fixed texts literally. Its
//! paths are used as they are, by `--path-map`; its switches are real, in a network namespace of the test's own.

#![allow(unsafe_code)]

use crate::hyperv;

use std::os::unix::process::CommandExt;

use crate::hyperv::{Client, MOUNTS, Mount};
use crate::support::{Answer, netns};
use serde_json::{Value, json};

const EXAMPLES: &str = include_str!("../fixtures/hyperv-examples.json");
/// The ids in the document. Nothing here can have them: they are no UUIDs v4.
const VM: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const SWITCH: &str = "cccccccc-dddd-eeee-ffff-000000000001";
const ADAPTER: &str = "ffffffff-0000-0000-0000-000000000001";

fn all() -> Vec<Value> {
    serde_json::from_str(EXAMPLES).unwrap()
}

fn examples(section: &str) -> Vec<Value> {
    let found: Vec<Value> = all().into_iter().filter(|e| e["section"] == section).collect();
    assert!(!found.is_empty(), "no examples of {section}");
    found
}

/// What takes the place of the document's ids.
struct Ids {
    vm: String,
    switch: String,
    adapter: String,
}

impl Default for Ids {
    fn default() -> Self {
        Self { vm: VM.into(), switch: SWITCH.into(), adapter: ADAPTER.into() }
    }
}

impl Ids {
    fn put(&self, text: &str) -> String {
        text.replace(VM, &self.vm).replace(SWITCH, &self.switch).replace(ADAPTER, &self.adapter)
    }
}

/// What an example needs to be there, as the document's own examples make it.
async fn prepare(client: &Client<'_>, situation: &str) -> Ids {
    let mut ids = Ids::default();
    match situation {
        "nothing" | "not_json" | "no_vm" | "no_switch" => return ids,
        "adapter" => {
            netns::ip("link add Ethernet type veth peer name cable");
            netns::ip("link set Ethernet up");
            return ids;
        }
        _ => ids.switch = client.created("/switches", json!({ "name": "LAN", "type": "Internal" })).await,
    }
    if situation == "switch" || situation == "done" {
        return ids;
    }
    let create = examples("create").into_iter().find(|e| e["situation"] == "done").unwrap();
    ids.vm = client.created("/vms", create["body"].clone()).await;
    let path = format!("/vms/{}", ids.vm);
    match situation {
        "stopped_vm" => {
            let adapters = client.get(&format!("{path}/network-adapters")).await.expect(200);
            ids.adapter = adapters[0]["Id"].as_str().unwrap().to_owned();
        }
        "no_adapter" => {}
        "running_vm" | "suspended_vm" => {
            client.post(&format!("{path}/start"), json!({})).await.expect(200);
            if situation == "suspended_vm" {
                client.post(&format!("{path}/suspend"), json!({})).await.expect(200);
            }
        }
        other => panic!("{other}"),
    }
    ids
}

/// Takes everything away again, so that the next example finds what it expects.
async fn clear(client: &Client<'_>) {
    for kind in ["vms", "switches"] {
        for thing in client.get(&format!("/{kind}")).await.expect(200).as_array().unwrap() {
            client.delete(&format!("/{kind}/{}", thing["Id"].as_str().unwrap())).await.expect(200);
        }
    }
    assert_eq!(client.daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    assert_eq!(hyperv::in_disks(client.daemon), [] as [String; 0]);
    // Of the bridges nothing is left either.
    let links = netns::ip_json("link");
    let names: Vec<&str> = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with("qh")), "{names:?}");
    if names.contains(&"Ethernet") {
        netns::ip("link del Ethernet");
    }
}

async fn ask(client: &Client<'_>, example: &Value, ids: &Ids) -> Answer {
    let (method, path) = (example["method"].as_str().unwrap(), ids.put(example["path"].as_str().unwrap()));
    if example["situation"] == "not_json" {
        let request = client.daemon.http().post(format!("{}{path}", client.base));
        let request = request.header("content-type", "application/json").body("{\"name\": \"vm1\",");
        return client.daemon.send(request).await;
    }
    client.ask(method, &path, &example["body"]).await
}

/// Holds an answer against an example.
#[track_caller]
fn check(example: &Value, ids: &Ids, answer: &Answer) {
    let context = format!("{example}\n→ {} {}", answer.status, answer.body);
    assert_eq!(answer.status, example["status"], "{context}");
    let expected = &example["response"];
    same_shape(expected, &answer.body, &context);
    if answer.status >= 400 {
        // Every error text is the document's; a detail is our own.
        for (name, value) in expected.as_object().unwrap().iter().filter(|(name, _)| *name != "detail") {
            assert_eq!(&answer.body[name], value, "{name}: {context}");
        }
        return;
    }
    let (expected, found) = match (expected, &answer.body) {
        (Value::Array(expected), Value::Array(found)) => (&expected[0], &found[0]),
        whole => whole,
    };
    for field in example["literal"].as_array().unwrap() {
        let field = field.as_str().unwrap();
        assert_eq!(found[field], expected[field], "{field}: {context}");
    }
    let target = if example["path"].as_str().unwrap().contains("/network-adapters") {
        &ids.adapter
    } else if example["section"] == "switches" {
        &ids.switch
    } else {
        &ids.vm
    };
    // What is created has an id of its own.
    for field in ["Id", "id", "deleted"].into_iter().filter(|_| answer.status != 201) {
        if !expected[field].is_null() {
            assert_eq!(found[field], target.as_str(), "{field}: {context}");
        }
    }
    if answer.status == 201 {
        let id = uuid::Uuid::parse_str(found["id"].as_str().unwrap()).unwrap();
        assert_eq!((id.get_version_num(), id.hyphenated().to_string().as_str()), (4, found["id"].as_str().unwrap()));
    }
}

/// Every documented field is there, with the JSON type that it has in the example. More fields are fine.
#[track_caller]
fn same_shape(expected: &Value, actual: &Value, context: &str) {
    match (expected, actual) {
        (Value::Object(fields), Value::Object(_)) => {
            for (name, value) in fields {
                let found = actual.get(name).unwrap_or_else(|| panic!("{name} is missing: {context}"));
                same_shape(value, found, context);
            }
        }
        (Value::Array(items), Value::Array(found)) => {
            assert!(!found.is_empty(), "{context}");
            found.iter().for_each(|item| same_shape(&items[0], item, context));
        }
        (Value::Number(_), Value::Number(found)) => assert!(found.is_u64(), "{found} is not a whole number: {context}"),
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => {}
        _ => panic!("{actual} is not of the type of {expected}: {context}"),
    }
}

/// All examples of a section for which the host need not fail, at both mounts.
async fn section(name: &str) {
    let daemon = hyperv::started();
    for example in examples(name).into_iter().filter(|e| e["situation"] != "host_fails") {
        for mount in MOUNTS {
            let client = Client::at(&daemon, mount);
            let ids = prepare(&client, example["situation"].as_str().unwrap()).await;
            check(&example, &ids, &ask(&client, &example, &ids).await);
            clear(&client).await;
        }
    }
}

#[tokio::test]
async fn reading_vms_answers_as_documented() {
    section("vms").await;
}

#[tokio::test]
async fn create_answers_as_documented() {
    section("create").await;
}

#[tokio::test]
async fn update_answers_as_documented() {
    section("update").await;
}

#[tokio::test]
async fn delete_answers_as_documented() {
    section("delete").await;
}

#[tokio::test]
async fn start_answers_as_documented() {
    section("start").await;
}

#[tokio::test]
async fn stop_answers_as_documented() {
    section("stop").await;
}

#[tokio::test]
async fn restart_answers_as_documented() {
    section("restart").await;
}

#[tokio::test]
async fn suspend_answers_as_documented() {
    section("suspend").await;
}

#[tokio::test]
async fn resume_answers_as_documented() {
    section("resume").await;
}

#[tokio::test]
async fn network_adapters_answer_as_documented() {
    section("adapters").await;
}

#[tokio::test]
async fn switches_answer_as_documented() {
    section("switches").await;
}

/// A file system that makes no folders, as the daemon finds it at /proc.
#[tokio::test]
async fn a_disk_that_cannot_be_made_is_a_500_and_leaves_nothing() {
    let mut daemon = hyperv::prepared(&["--storage-dir", "/proc", "--path-map", "E:/Full=/proc/nowhere"]);
    daemon.run();
    let client = Client::at(&daemon, Mount::Root);
    let switch = client.created("/switches", json!({ "name": "LAN", "type": "Internal" })).await;
    let mut example = examples("create").into_iter().find(|e| e["situation"] == "host_fails").unwrap();
    example["body"]["diskPath"] = json!("E:/Full");
    let answer = ask(&client, &example, &Ids::default()).await;
    check(&example, &Ids::default(), &answer);
    assert!(answer.body["detail"].as_str().unwrap().contains("/proc/nowhere"), "{}", answer.body);
    assert_eq!(client.get("/vms").await.expect(200), json!([]));
    client.delete(&format!("/switches/{switch}")).await.expect(200);
    clear(&client).await;
}

#[tokio::test]
async fn without_the_capability_a_switch_is_a_500_that_names_it_and_everything_else_works() {
    let mut daemon = hyperv::prepared(&[]);
    let mut command = daemon.command();
    // SAFETY: one async-signal-safe system call. What is not in the bounding set, the program that is executed next lacks.
    unsafe {
        command.pre_exec(|| match nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    daemon.run_as(command);
    let client = Client::at(&daemon, Mount::Root);
    let example = examples("switches").into_iter().find(|e| e["situation"] == "host_fails").unwrap();
    let answer = ask(&client, &example, &Ids::default()).await;
    check(&example, &Ids::default(), &answer);
    assert!(answer.body["detail"].as_str().unwrap().contains("CAP_NET_ADMIN"), "{}", answer.body);
    assert_eq!(client.get("/switches").await.expect(200), json!([]));
    let id = client.vm("alone").await;
    client.post(&format!("/vms/{id}/network-adapters"), json!({ "switchName": "" })).await.expect(201);
    client.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(client.state(&id).await, "Running");
}

/// `CAP_NET_ADMIN` of linux/capability.h.
const CAP_NET_ADMIN: u64 = 12;

/// The scenario of the document's users, at both mounts.
#[tokio::test]
async fn a_client_goes_through_the_whole_life_of_a_vm_and_its_switch() {
    let host = netns::Host::leave();
    let daemon = hyperv::started();
    for mount in MOUNTS {
        let client = Client::at(&daemon, mount);
        assert_eq!(client.get("/health").await.expect(200)["status"], "ok");
        let document = client.get("/openapi.json").await.expect(200);
        assert_eq!(document["servers"][0]["url"], if mount == Mount::Root { "/" } else { "/hyperv" });
        life(&client).await;
        clear(&client).await;
    }
    drop(daemon);
    host.assert_untouched();
}

async fn life(client: &Client<'_>) {
    let switch = client.created("/switches", json!({ "name": "LAN", "type": "Internal" })).await;
    let shown = json!({ "Id": switch, "Name": "LAN", "SwitchType": "Internal", "Notes": "" });
    let is_shown = |found: &Value| shown.as_object().unwrap().iter().all(|(name, value)| found[name] == *value);
    let listed = client.get("/switches").await.expect(200);
    assert!(listed.as_array().unwrap().len() == 1 && is_shown(&listed[0]), "{listed}");
    assert!(is_shown(&client.get(&format!("/switches/{switch}")).await.expect(200)));
    assert_eq!(client.get("/switches/by-name/lan").await.expect(200)[0]["Id"], switch.as_str());
    assert_eq!(client.get("/switches/by-name/LA").await.expect(200), json!([]));
    client.put(&format!("/switches/{switch}"), json!({ "notes": "Terraform-managed switch" })).await.expect(200);
    let notes = client.get(&format!("/switches/{switch}")).await.expect(200)["Notes"].clone();
    assert_eq!(notes, "Terraform-managed switch");

    let wish = json!({ "name": "vm1", "memoryMB": 64, "vcpu": 2, "diskPath": "D:\\HyperV\\vm1", "diskGB": 1,
        "switchName": "lan", "isoPath": "d:\\isos\\AlmaLinux.iso" });
    let id = client.created("/vms", wish).await;
    let path = format!("/vms/{id}");
    let disk = hyperv::disks(client.daemon).join(format!("vm1/{id}.qcow2"));
    assert!(disk.is_file(), "{}", disk.display());
    client.post(&format!("{path}/start"), json!({})).await.expect(200);
    let running = client.get(&path).await.expect(200);
    assert_eq!((&running["State"], &running["MemoryAssigned"]), (&json!("Running"), &json!(64 << 20)), "{running}");
    let adapters = client.get(&format!("{path}/network-adapters")).await.expect(200);
    assert_eq!((&adapters[0]["SwitchName"], &adapters[0]["Status"]), (&json!("LAN"), &json!("Ok")), "{adapters}");
    // The same in every state.
    let same = json!({ "memoryMB": 64, "vcpu": 2, "switchName": "LAN", "isoPath": "D:/ISOs/AlmaLinux.iso",
    });
    assert_eq!(client.put(&path, same.clone()).await.expect(200)["unchanged"], true);
    assert_eq!(client.delete(&format!("/switches/{switch}")).await.status, 409);
    client.post(&format!("{path}/stop"), json!({ "force": true })).await.expect(200);
    let off = client.get(&path).await.expect(200);
    assert_eq!((&off["State"], &off["MemoryAssigned"]), (&json!("Off"), &json!(0)), "{off}");
    assert_eq!(client.put(&path, same).await.expect(200)["unchanged"], true);
    // Adapters are the client's to keep in order.
    let list = json!({ "networkAdapters": [{ "name": "Network Adapter", "switchName": "LAN" }] });
    assert_eq!(client.put(&path, list).await.expect(200)["unchanged"], true);
    let two = json!([{ "name": "Network Adapter", "switchName": "LAN" }, { "name": "second", "switchName": "LAN" }]);
    assert_eq!(client.put(&path, json!({ "networkAdapters": two })).await.expect(200)["updated"], true);
    let now = client.get(&format!("{path}/network-adapters")).await.expect(200);
    assert_eq!((now[0]["Id"].clone(), now.as_array().unwrap().len()), (adapters[0]["Id"].clone(), 2), "{now}");
    let added = client.created(&format!("{path}/network-adapters"), json!({ "switchName": "LAN" })).await;
    client.delete(&format!("{path}/network-adapters/{added}")).await.expect(200);
    assert_eq!(client.put(&path, json!({ "isoPath": null })).await.expect(200)["updated"], true);
    assert_eq!(client.put(&path, json!({ "isoPath": null })).await.expect(200)["unchanged"], true);
    client.delete(&path).await.expect(200);
    client.delete(&format!("/switches/{switch}")).await.expect(200);
    assert!(!disk.exists());
    assert!(!disk.parent().unwrap().exists(), "the folder had to be made for it");
    assert_eq!(client.get(&path).await.status, 404);
}

/// Each dialect operates what the other made.
#[tokio::test]
async fn a_vm_from_either_dialect_works_in_the_other() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let mut wish = daemon.wish();
    wish["name"] = json!("Größe 1");
    let theirs = daemon.create(wish).await;
    let found = client.get("/vms/by-name/gR%C3%B6SSE%201").await.expect(200);
    assert_eq!((&found[0]["Id"], &found[0]["State"]), (&json!(theirs), &json!("Off")), "{found}");
    client.post(&format!("/vms/{theirs}/start"), json!({})).await.expect(200);
    assert_eq!(daemon.status(&theirs).await, "running");
    let mac = daemon.get(&format!("/vms/{theirs}")).await.expect(200)["mac_address"].as_str().unwrap().to_owned();
    let adapters = client.get(&format!("/vms/{theirs}/network-adapters")).await.expect(200);
    assert_eq!((&adapters[0]["SwitchName"], &adapters[0]["Type"]), (&json!(""), &json!("Synthetic")), "{adapters}");
    assert_eq!(adapters[0]["MacAddress"], mac.replace(':', "").to_uppercase());
    client.post(&format!("/vms/{theirs}/suspend"), json!({})).await.expect(200);
    assert_eq!(daemon.status(&theirs).await, "paused");
    daemon.post(&format!("/vms/{theirs}/resume"), json!({})).await.expect(200);
    assert_eq!(client.state(&theirs).await, "Running");

    let ours = client.vm("ours").await;
    let config = daemon.get(&format!("/vms/{ours}/config")).await.expect(200);
    assert_eq!((&config["base_image"], &config["clone"], &config["iso"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(config["disk_file"], json!(hyperv::disks(&daemon).join(format!("{ours}.qcow2"))));
    assert_eq!(config["mac_address"], Value::Null, "without a switch there is no adapter: {config}");
    daemon.post(&format!("/vms/{ours}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    daemon.put(&format!("/vms/{ours}/disk"), json!({ "disk_size": 2 })).await.expect(200);
    daemon.post(&format!("/vms/{ours}/start"), json!({})).await.expect(200);
    assert_eq!(client.state(&ours).await, "Running");
    daemon.delete(&format!("/vms/{ours}")).await.expect(200);
    client.delete(&format!("/vms/{theirs}")).await.expect(200);
    clear(&client).await;
}

/// So that an example added to the fixture is not passed over.
#[test]
fn every_example_belongs_to_a_test() {
    let sections =
        ["vms", "create", "update", "delete", "start", "stop", "restart", "suspend", "resume", "adapters", "switches"];
    assert_eq!(sections.iter().map(|s| examples(s).len()).sum::<usize>(), all().len());
    let failing: Vec<_> =
        all().iter().filter(|e| e["situation"] == "host_fails").map(|e| e["section"].clone()).collect();
    assert_eq!(failing, [json!("create"), json!("switches")]);
}
