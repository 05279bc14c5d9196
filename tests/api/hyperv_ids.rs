//! Every notation that Windows takes for a GUID, wherever the Hyper-V dialect takes an id: in every path and every field.

use crate::hyperv;

use std::collections::BTreeSet;

use crate::hyperv::{Client, Mount, wish};
use crate::support::{Answer, Daemon};
use serde_json::{Value, json};

/// How an id is written.
type Form = fn(&str) -> String;

const FORMS: [(&str, Form); 5] = [
    ("as it is told", str::to_owned),
    ("in upper case", str::to_uppercase),
    ("without hyphens", |id| id.replace('-', "")),
    ("in braces", |id| format!("{{{id}}}")),
    ("in braces, in upper case", |id| format!("{{{}}}", id.to_uppercase())),
];

/// Things that every operation is tried on.
struct Things {
    switch: String,
    vm: String,
    adapter: String,
    forward: String,
    operation: String,
}

impl Things {
    async fn make(client: &Client<'_>, form: Form) -> Self {
        let lan = json!({ "name": "LAN", "type": "Internal", "subnet": "10.55.0.0/24", "nat": true });
        let switch = client.created("/switches", lan).await;
        let mut body = wish("vm");
        body["switchId"] = json!(form(&switch));
        let vm = client.created("/vms", body).await;
        let adapters = client.get(&format!("/vms/{vm}/network-adapters")).await.expect(200);
        let adapter = adapters[0]["Id"].as_str().unwrap().to_owned();
        let forward = json!({ "hostPort": 8443, "vmId": form(&vm), "adapterId": form(&adapter), "guestPort": 443 });
        let forward = client.created(&format!("/switches/{switch}/forwards"), forward).await;
        let start = client.daemon.http().post(format!("{}/vms/{}/start", client.base, form(&vm)));
        let begun = client.daemon.send(start.header("prefer", "respond-async")).await.expect(202);
        let operation = begun["Id"].as_str().unwrap().to_owned();
        client.get(&format!("/operations/{operation}?wait=60")).await.expect(200);
        client.post(&format!("/vms/{vm}/stop"), json!({ "force": true })).await.expect(200);
        Self { switch, vm, adapter, forward, operation }
    }

    /// The path of an operation, with its ids.
    fn path(&self, pattern: &str, form: Form) -> String {
        let id = if pattern.starts_with("/switches") { &self.switch } else { &self.vm };
        let path = pattern.replace("{adapterId}", &form(&self.adapter)).replace("{forwardId}", &form(&self.forward));
        path.replace("{id}", &form(id)).replace("{operationId}", &form(&self.operation))
    }

    /// Everything that takes an id, in an order in which it can all be done, with a body and the answer's status.
    fn operations(&self, form: Form) -> Vec<(&'static str, Value, u16)> {
        let forward =
            json!({ "hostPort": 8444, "vmId": form(&self.vm), "adapterId": form(&self.adapter), "guestPort": 1 });
        let adapters = json!([{ "switchId": form(&self.switch) }, { "switchId": form(&self.switch) }]);
        vec![
            ("getOperation", Value::Null, 200),
            // It is over.
            ("cancelOperation", Value::Null, 409),
            ("getVM", Value::Null, 200),
            ("updateVM", json!({ "Id": form(&self.vm), "networkAdapters": adapters }), 200),
            ("listVMAddresses", Value::Null, 200),
            ("listNetworkAdapters", Value::Null, 200),
            ("addNetworkAdapter", json!({ "switchId": form(&self.switch) }), 201),
            ("updateNetworkAdapter", json!({ "isolated": true }), 200),
            ("startVM", Value::Null, 200),
            ("suspendVM", Value::Null, 200),
            ("resumeVM", Value::Null, 200),
            // Nobody is there who could be asked.
            ("getVMAgent", Value::Null, 422),
            ("execInVM", json!({ "argv": ["true"] }), 422),
            ("setVMTime", json!({}), 422),
            ("freezeVM", json!({}), 422),
            ("thawVM", json!({}), 422),
            // Which file is not said.
            ("readVMFile", Value::Null, 400),
            ("writeVMFile", Value::Null, 400),
            ("restartVM", json!({ "force": true }), 200),
            // That it is a WebSocket is told of a VM that is found.
            ("openVMConsole", Value::Null, 426),
            ("stopVM", json!({ "force": true }), 200),
            ("getSwitch", Value::Null, 200),
            ("updateSwitch", json!({ "notes": "x" }), 200),
            ("listSwitchLeases", Value::Null, 200),
            ("listSwitchForwards", Value::Null, 200),
            ("addSwitchForward", forward, 201),
            ("removeSwitchForward", Value::Null, 200),
            ("removeNetworkAdapter", Value::Null, 200),
            ("deleteVM", Value::Null, 200),
            ("deleteSwitch", Value::Null, 200),
        ]
    }
}

/// Operations with an id in their path: name, method, path.
async fn with_ids(client: &Client<'_>) -> Vec<(String, String, String)> {
    let document = client.get("/openapi.json").await.expect(200);
    let mut found = Vec::new();
    for (path, methods) in
        document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.to_lowercase().contains("id}"))
    {
        for (method, operation) in
            methods.as_object().unwrap().iter().filter(|(_, about)| about["operationId"].is_string())
        {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            found.push((name, method.to_uppercase(), path.clone()));
        }
    }
    found
}

#[tokio::test]
async fn every_operation_takes_an_id_in_every_notation_of_a_guid() {
    let daemon = hyperv::started();
    for (form, (name, spelled)) in FORMS.into_iter().enumerate() {
        let client = Client::at(&daemon, hyperv::MOUNTS[form % 2]);
        let known = with_ids(&client).await;
        let things = Things::make(&client, spelled).await;
        let operations = things.operations(spelled);
        let tried: BTreeSet<&str> = operations.iter().map(|(operation, ..)| *operation).collect();
        assert_eq!(
            tried,
            known.iter().map(|(operation, ..)| operation.as_str()).collect(),
            "an operation takes an id and is not tried"
        );
        for (operation, body, status) in operations {
            let (_, method, path) = known.iter().find(|(known, ..)| known == operation).unwrap();
            let answer = client.ask(method, &things.path(path, spelled), &body).await;
            assert_eq!(answer.status, status, "{operation} with an id {name}: {answer:?}");
        }
    }
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

fn refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(error)), "{answer:?}");
}

#[tokio::test]
async fn what_is_told_is_one_notation_and_what_is_none_is_not_found() {
    let daemon: Daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let vm = client.vm("vm").await;
    for id in FORMS.map(|(_, form)| form(&vm)).into_iter().chain([format!("%7B{vm}%7D")]) {
        assert_eq!(client.get(&format!("/vms/{id}")).await.expect(200)["Id"], vm);
        let no_path = "No such path; openapi.json lists those that there are.";
        refused(&client.get(&format!("/vms/{id}/start%3Fforce=true")).await, 404, no_path);
    }
    for id in [format!("{{{vm}"), format!("{vm}}}"), format!("urn:uuid:{vm}"), vm[1..].to_owned()] {
        refused(&client.get(&format!("/vms/{id}")).await, 404, "VM not found");
    }
    // The main dialect gives one thing one address.
    assert_eq!(daemon.get(&format!("/vms/{}", vm.replace('-', ""))).await.status, 400);
}
