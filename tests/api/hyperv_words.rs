//! What clients of the Hyper-V dialect write in another way than it is kept: paths, empty words for nothing.

use crate::hyperv;
use crate::support;

use crate::hyperv::{Client, Mount, wish};
use crate::support::Answer;
use serde_json::{Value, json};

fn refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(error)), "{answer:?}");
}

const NO_PATH: &str = "No such path; openapi.json lists those that there are.";

#[tokio::test]
async fn a_path_that_leads_nowhere_does_not_read_as_if_the_vm_were_gone() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Below);
    let vm = client.vm("vm").await;
    for path in ["/vms/", "//vms", "/vms//", "/switches/", &format!("/vms/{vm}/"), &format!("/vms//{vm}"), ""] {
        refused(&client.get(path).await, 404, NO_PATH);
        let answer = daemon.get(path).await;
        assert!(path.is_empty() || answer.status == 404 && answer.message() == NO_PATH, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn empty_words_and_null_mean_what_they_mean_everywhere() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let with = |fields: Value| {
        let mut wish = wish("vm");
        wish.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        wish
    };
    let adapters = async |vm: &str| {
        let adapters = client.get(&format!("/vms/{vm}/network-adapters")).await.expect(200);
        adapters.as_array().unwrap().iter().map(|adapter| adapter["SwitchName"].clone()).collect::<Vec<_>>()
    };
    let user = client.created("/vms", with(json!({ "switchName": "", "isoPath": "" }))).await;
    assert_eq!(adapters(&user).await, [""]);
    assert_eq!(client.get(&format!("/vms/{user}")).await.expect(200)["IsoPath"], Value::Null);
    let none = client.created("/vms", with(json!({ "switchName": null, "switchId": null, "isoPath": null }))).await;
    assert_eq!(adapters(&none).await, [] as [Value; 0]);
    let path = format!("/vms/{none}");
    // Null is absent for what cannot be cleared, and clears the rest.
    let put =
        json!({ "memoryMB": null, "vcpu": null, "name": null, "switchName": null, "isoPath": "D:/ISOs/AlmaLinux.iso" });
    assert_eq!(client.put(&path, put).await.expect(200)["updated"], true);
    for eject in [json!(""), Value::Null] {
        client.put(&path, json!({ "isoPath": "D:/ISOs/AlmaLinux.iso" })).await.expect(200);
        assert_eq!(client.put(&path, json!({ "isoPath": eject })).await.expect(200)["updated"], true);
        assert_eq!(client.get(&path).await.expect(200)["IsoPath"], Value::Null);
    }
    assert_eq!(client.put(&path, json!({ "switchName": "" })).await.expect(200)["updated"], true);
    assert_eq!(adapters(&none).await, [""]);

    let switch =
        client.created("/switches", json!({ "name": "LAN", "type": "Private", "notes": null, "nat": null })).await;
    let path = format!("/switches/{switch}");
    client.put(&path, json!({ "notes": "x" })).await.expect(200);
    client.put(&path, json!({ "notes": null })).await.expect(200);
    assert_eq!(client.get(&path).await.expect(200)["Notes"], "");
    refused(
        &client.put(&path, json!({})).await,
        400,
        "Invalid parameter: notes, mtu, subnet, nat, dns, domain, hostAccess, ipv6, labels or protected must be given, at least one of them.",
    );
    let put = daemon.put(&path, json!({ "notes": null })).await.expect(200);
    assert_eq!(put["notes"], "");
}

#[tokio::test]
async fn paths_come_back_as_they_were_sent_and_the_hosts_beside_them() {
    let mut daemon = hyperv::started();
    let (disks, isos) = (hyperv::disks(&daemon), daemon.bases());
    let mut wish = wish("vm");
    wish["diskPath"] = json!("d:\\hyperv\\Sub");
    wish["isoPath"] = json!("D:\\ISOs\\AlmaLinux.iso");
    let vm = Client::at(&daemon, Mount::Root).created("/vms", wish).await;
    let (path, file) = (format!("/vms/{vm}"), disks.join("Sub").join(format!("{vm}.qcow2")));
    let shown = async |daemon: &support::Daemon| {
        let vm = Client::at(daemon, Mount::Root).get(&path).await.expect(200);
        ["DiskPath", "DiskFile", "IsoPath", "IsoFile"].map(|field| vm[field].clone())
    };
    let iso = isos.join("AlmaLinux.iso").canonicalize().unwrap();
    let sent = [json!("d:\\hyperv\\Sub"), json!(file), json!("D:\\ISOs\\AlmaLinux.iso"), json!(iso)];
    assert_eq!(shown(&daemon).await, sent);
    daemon.kill();
    daemon.run();
    assert_eq!(shown(&daemon).await, sent);
    let client = Client::at(&daemon, Mount::Root);
    client.post(&format!("{path}/start"), Value::Null).await.expect(200);
    // Another word for the same is no change, in any state; but it is the word from now on.
    let put = json!({ "diskPath": "D:/HyperV/Sub", "isoPath": "D:/ISOs/AlmaLinux.iso" });
    assert_eq!(client.put(&path, put).await.expect(200)["unchanged"], true);
    assert_eq!(shown(&daemon).await, [json!("D:/HyperV/Sub"), json!(file), json!("D:/ISOs/AlmaLinux.iso"), json!(iso)]);
}

#[tokio::test]
async fn what_cannot_be_changed_is_a_conflict_that_says_what_it_is() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let vm = client.vm("vm").await;
    let path = format!("/vms/{vm}");
    client.put(&path, json!({ "diskGB": 3 })).await.expect(200);
    for (field, other, is) in [
        ("Id", json!("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"), vm.as_str()),
        ("Id", json!("nonsense"), vm.as_str()),
        ("diskPath", json!("D:/HyperV/other"), "D:/HyperV"),
        ("diskGB", json!(2), "3 GiB, and a disk only grows"),
    ] {
        let answer = client.put(&path, json!({ field: other, "memoryMB": 128 })).await;
        refused(&answer, 409, &format!("{field} cannot be changed to that: it is {is}."));
    }
    let same =
        json!({ "Id": format!("{{{}}}", vm.to_uppercase()), "name": "vm", "diskPath": "D:\\HyperV\\", "diskGB": 3 });
    assert_eq!(client.put(&path, same).await.expect(200)["unchanged"], true);
    for (put, error) in [
        (json!({ "diskGB": 0 }), "Invalid parameter: diskGB must be greater than 0."),
        (json!({ "name": "" }), "Invalid parameter: name must have 1 to 64 characters."),
        (json!({ "diskPath": "E:/x" }), ""),
    ] {
        let answer = client.put(&path, put).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body["error"].as_str().unwrap().starts_with(error), "{answer:?}");
    }
    assert_eq!(client.get(&path).await.expect(200)["MemoryStartup"], 64 << 20, "nothing of it was done");
    client.post(&format!("{path}/start"), Value::Null).await.expect(200);
    for put in [json!({ "name": "other" }), json!({ "diskGB": 4 })] {
        assert_eq!(client.put(&path, put).await.status, 409);
    }
}

#[tokio::test]
async fn objections_name_the_field_that_was_sent() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let ids = [
        client.created("/switches", json!({ "name": "twice", "type": "Private" })).await,
        client.created("/switches", json!({ "name": "Twice", "type": "Private" })).await,
    ];
    let mut body = wish("vm");
    body["switchName"] = json!("TWICE");
    let answer = client.post("/vms", body).await;
    assert!(answer.status == 400 && ids.iter().all(|id| answer.body.to_string().contains(id)), "{answer:?}");
    assert!(
        answer.body["error"].as_str().unwrap().starts_with("Invalid parameter: switchName must name one"),
        "{answer:?}"
    );
    let vm = client.vm("vm").await;
    for (adapters, error) in [
        (json!([{}, {}]), "Invalid parameter: networkAdapters[0].switchName must be given, or switchId."),
        (
            json!([{ "switchName": "" }, { "switchName": "", "name": "" }]),
            "Invalid parameter: networkAdapters[1].name must have",
        ),
        (
            json!([{ "switchName": "" }, { "switchName": "twice" }]),
            "Invalid parameter: networkAdapters[1].switchName must name one",
        ),
        (json!([{ "switchId": "x" }]), "Invalid parameter: networkAdapters[0].switchId must be the Id of a switch"),
        (json!([{ "switchName": 1.0 }]), "Invalid parameter: networkAdapters[0].switchName must be a string, not 1."),
    ] {
        let answer = client.put(&format!("/vms/{vm}"), json!({ "networkAdapters": adapters })).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body["error"].as_str().unwrap().starts_with(error), "{answer:?}");
    }
    for (memory, taken) in [(json!(64.0), true), (json!(6.4e1), true), (json!(64.5), false), (json!(1e30), false)] {
        let mut body = wish("n");
        body["memoryMB"] = memory;
        let answer = client.post("/vms", body).await;
        assert_eq!(answer.status, if taken { 201 } else { 400 }, "{answer:?}");
        assert!(
            taken
                || answer.body["error"]
                    .as_str()
                    .unwrap()
                    .starts_with("Invalid parameter: memoryMB must be a whole number")
        );
    }
    let marked = format!("\u{feff}{}", wish("marked"));
    let post =
        daemon.http().post(format!("{}/vms", client.base)).header("content-type", "application/json").body(marked);
    daemon.send(post).await.expect(201);
}
