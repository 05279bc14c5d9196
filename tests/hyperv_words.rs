//! What clients of the Hyper-V dialect write in another way than it is kept: ids, paths, empty words for nothing. And the
//! folders that come into being for a `diskPath`.

#[path = "support/hyperv.rs"]
mod hyperv;
mod support;

use hyperv::{Client, Mount, wish};
use serde_json::{Value, json};
use support::{Answer, crash::Side};

fn refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, answer.body["error"].as_str()), (status, Some(error)), "{answer:?}");
}

#[tokio::test]
async fn an_id_is_the_same_in_any_case_in_braces_and_without_hyphens() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let switch = client.created("/switches", json!({ "name": "LAN", "type": "Private" })).await;
    let mut vm = wish("vm");
    vm["switchId"] = json!(format!("{{{}}}", switch.to_uppercase()));
    let vm = client.created("/vms", vm).await;
    let adapters = client.get(&format!("/vms/{vm}/network-adapters")).await.expect(200);
    let adapter = adapters[0]["Id"].as_str().unwrap();
    let forms = |id: &str| {
        [id.to_uppercase(), id.replace('-', ""), format!("%7B{id}%7D"), format!("{{{}}}", id.to_uppercase())]
    };
    for id in forms(&vm) {
        assert_eq!(client.get(&format!("/vms/{id}")).await.expect(200)["Id"], vm);
        refused(&client.get(&format!("/vms/{id}/start%3Fforce=true")).await, 404, NO_PATH);
    }
    for id in forms(&switch) {
        assert_eq!(client.get(&format!("/switches/{id}")).await.expect(200)["Id"], switch);
    }
    for id in [format!("{{{vm}"), format!("{vm}}}"), format!("urn:uuid:{vm}"), vm[1..].to_owned()] {
        refused(&client.get(&format!("/vms/{id}")).await, 404, "VM not found");
    }
    let braced = format!("/vms/{}/network-adapters/{{{}}}", vm.replace('-', ""), adapter.to_uppercase());
    assert_eq!(client.delete(&braced).await.expect(200)["deleted"], adapter);
    // The main dialect gives one thing one address.
    assert_eq!(daemon.get(&format!("/vms/{}", vm.replace('-', ""))).await.status, 400);
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
        "Invalid parameter: notes, mtu, subnet, nat, dns, domain, hostAccess or ipv6 must be given, at least one of them.",
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
async fn folders_made_for_a_disk_go_with_the_last_disk_in_them_and_no_others_do() {
    let mut daemon = hyperv::started();
    let disks = hyperv::disks(&daemon);
    std::fs::create_dir(disks.join("theirs")).unwrap();
    let client = Client::at(&daemon, Mount::Root);
    let made = async |client: &Client<'_>, folder: &str| {
        let mut wish = wish("vm");
        wish["diskPath"] = json!(format!("D:/HyperV/{folder}"));
        client.created("/vms", wish).await
    };
    let (one, two, three) =
        (made(&client, "theirs/a/b").await, made(&client, "theirs/a").await, made(&client, "theirs/a/b").await);
    let gone = async |client: &Client<'_>, id: &str| drop(client.delete(&format!("/vms/{id}")).await.expect(200));
    gone(&client, &one).await;
    assert!(disks.join("theirs/a/b").exists(), "another disk is in it");
    daemon.kill();
    daemon.run();
    let client = Client::at(&daemon, Mount::Root);
    gone(&client, &three).await;
    assert!(!disks.join("theirs/a/b").exists() && disks.join("theirs/a").exists());
    gone(&client, &two).await;
    assert!(!disks.join("theirs/a").exists() && disks.join("theirs").exists(), "that one was there before");

    // Something else is in it; somebody put another in its place; a create that fails.
    let vm = made(&client, "b").await;
    std::fs::write(disks.join("b/notes"), "x").unwrap();
    gone(&client, &vm).await;
    assert!(disks.join("b/notes").exists());
    let vm = made(&client, "c").await;
    std::fs::rename(disks.join("c"), disks.join("d")).unwrap();
    std::fs::create_dir(disks.join("c")).unwrap();
    gone(&client, &vm).await;
    assert!(disks.join("c").exists(), "it is not the one that was made");
    let mut wish = wish("vm");
    wish["diskPath"] = json!("D:/HyperV/e/f");
    wish["isoPath"] = json!("D:/ISOs/missing.iso");
    assert_eq!(client.post("/vms", wish).await.status, 400);
    assert!(!disks.join("e").exists());
}

/// It is killed around each of its commits: what it made for a VM that nobody was told of goes.
#[tokio::test]
async fn a_create_that_a_crash_cuts_short_leaves_no_folder() {
    let mut daemon = hyperv::started();
    let mut body = wish("vm");
    body["diskPath"] = json!("D:/HyperV/new/deep");
    for (commit, side) in (1..=3).flat_map(|commit| Side::BOTH.map(|side| (commit, side))) {
        daemon.kill();
        let command = daemon.dying_at(commit, side);
        daemon.run_as(command);
        let post = daemon.http().post(daemon.at("/hyperv/vms")).json(&body);
        assert!(daemon.try_send(post).await.is_none(), "{side:?} commit {commit}");
        daemon.wait();
        daemon.run();
        // The last one was made: nobody was told, and it is there.
        for vm in daemon.get("/vms").await.expect(200).as_array().unwrap() {
            assert_eq!((commit, side), (3, Side::After));
            daemon.delete(&format!("/vms/{}", vm["id"].as_str().unwrap())).await.expect(200);
        }
        assert_eq!(hyperv::in_disks(&daemon), [] as [String; 0], "{side:?} commit {commit}");
        assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
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
