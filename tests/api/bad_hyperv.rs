//! Odd input at the Hyper-V dialect: each is refused with what to change, in its own shape, and leaves nothing behind.

use crate::hyperv;

use std::path::PathBuf;

use crate::hyperv::{Client, Mount, wish};
use crate::support::{Answer, Daemon};
use serde_json::{Value, json};

/// Refused, and the error holds every one of `words` (separated by `|`).
#[track_caller]
fn refused(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{words}: {}", answer.body);
    let error = answer.body["error"].as_str().unwrap_or_else(|| panic!("no error: {}", answer.body));
    for word in words.split('|') {
        assert!(error.contains(word), "no {word:?} in {error:?}");
    }
}

async fn nothing_is_left(client: &Client<'_>) {
    assert_eq!(client.get("/vms").await.expect(200), json!([]));
    assert_eq!(client.daemon.leftovers(), [] as [PathBuf; 0]);
    assert_eq!(hyperv::in_disks(client.daemon), [] as [String; 0]);
}

fn with(field: &str, value: Value) -> Value {
    let mut wish = wish("vm1");
    wish[field] = value;
    wish
}

#[tokio::test]
async fn a_vm_that_cannot_be_is_refused_with_the_field_in_the_words_of_the_dialect() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    for (field, value, words) in [
        ("memoryMB", json!(0), "Invalid parameter: memoryMB must be greater than 0."),
        ("memoryMB", json!(15), "memoryMB must be at least 16 MiB"),
        ("memoryMB", json!("64"), "memoryMB must be a whole number, not \"64\""),
        ("memoryMB", Value::Null, "memoryMB must be given"),
        ("vcpu", json!(256), "vcpu must be at most 255."),
        ("vcpu", json!(1.5), "vcpu must be a whole number"),
        ("diskGB", json!(0), "diskGB must be greater than 0."),
        ("diskGB", json!(65_537), "diskGB must be at most 65536 GiB."),
        ("name", json!(""), "name must have 1 to 64 characters"),
        ("name", json!("a\nb"), "name must consist of"),
        ("switchName", json!("nowhere"), "switchName must name a switch that exists|nowhere"),
        ("switchId", json!("00000000-0000-4000-8000-000000000000"), "switchId must name a switch that exists"),
        ("switchId", json!("7"), "switchId must be the Id of a switch"),
        ("isoPath", json!("D:/ISOs/missing.iso"), "isoPath must exist|D:/ISOs/missing.iso"),
        ("isoPath", json!("E:/ISOs/x.iso"), "isoPath must be a path of this host|--path-map"),
        ("isoPath", json!("/etc/passwd"), "isoPath must lie in an image directory|--image-dir"),
        ("isoPath", json!("D:/ISOs/../vms"), "isoPath must lie in an image directory"),
        ("isoPath", json!("D:/ISOs"), "isoPath must lie in an image directory"),
        ("isoPath", json!("\0"), "isoPath must be the path of an image file"),
        ("memoryMb", json!(64), "memoryMb is not known; did you mean memoryMB?"),
        ("colour", json!("red"), "colour is not known"),
    ] {
        refused(&client.post("/vms", with(field, value)).await, 400, words);
    }
    for field in ["name", "memoryMB", "vcpu", "diskPath", "diskGB"] {
        let mut wish = wish("vm1");
        wish.as_object_mut().unwrap().remove(field);
        refused(&client.post("/vms", wish).await, 400, &format!("Invalid parameter: {field} must be given"));
    }
    let mut both = with("switchName", json!("LAN"));
    both["switchId"] = json!("00000000-0000-4000-8000-000000000000");
    refused(&client.post("/vms", both).await, 400, "switchId must not be combined with switchName");
    nothing_is_left(&client).await;
}

#[tokio::test]
async fn a_disk_path_is_bounded_by_the_storage_directories() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let disks = hyperv::disks(&daemon);
    let outside = daemon.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, disks.join("leads out")).unwrap();
    std::fs::write(disks.join("file"), "x").unwrap();
    let text = |path: &std::path::Path| path.display().to_string();
    for (path, words) in [
        (text(&outside), "diskPath must lie in a storage directory|--storage-dir"),
        (text(&disks.join("leads out")), "diskPath must lie in a storage directory"),
        (text(&disks.join("leads out/deeper")), "diskPath must lie in a storage directory"),
        (text(&disks.join("../outside")), "diskPath must lie in a storage directory"),
        (text(&disks.join("missing/../../outside")), "diskPath must lie in a storage directory"),
        ("D:/HyperV/../outside".to_owned(), "diskPath must lie in a storage directory"),
        ("D:\\HyperV\\..\\outside".to_owned(), "diskPath must lie in a storage directory"),
        (
            "D:/HyperVisor".to_owned(),
            "diskPath must be a path of this host, not one of Windows (D:/HyperVisor)|--path-map",
        ),
        ("C:\\VMs".to_owned(), "not one of Windows|--path-map"),
        ("\\\\nas\\vms".to_owned(), "not one of Windows"),
        ("relative".to_owned(), "diskPath must be an absolute path"),
        (String::new(), "diskPath must be the path of a folder"),
        ("/etc".to_owned(), "diskPath must lie in a storage directory"),
        (text(&disks.join("file")), "diskPath must be a folder"),
        (text(&disks.join("file/below")), "diskPath must be a folder"),
    ] {
        refused(&client.post("/vms", with("diskPath", json!(path))).await, 400, words);
    }
    // Of another VM: it goes with it.
    let other = daemon.create(daemon.wish()).await;
    let own = daemon.state().join("images").join(&other);
    refused(&client.post("/vms", with("diskPath", json!(own))).await, 400, "diskPath must not lie in the folder of");
    // A folder that had to be made goes again when something later fails.
    let mut wish = with("diskPath", json!("D:/HyperV/new/deep"));
    wish["isoPath"] = json!("D:/ISOs/missing.iso");
    refused(&client.post("/vms", wish).await, 400, "isoPath");
    assert!(!disks.join("new").exists());

    // Where disks may be, they are, and they are no base images.
    let inside = daemon.state().join("images").join("fast");
    for path in ["D:/HyperV".to_owned(), "D:/HyperV/new/deep".to_owned(), text(&inside), text(&disks)] {
        let id = client.created("/vms", with("diskPath", json!(path))).await;
        let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
        let disk = PathBuf::from(config["disk_file"].as_str().unwrap());
        assert_eq!(disk.file_name().unwrap().to_str().unwrap(), format!("{id}.qcow2"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&disk).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{}", disk.display());
        client.delete(&format!("/vms/{id}")).await.expect(200);
        assert!(!disk.exists());
    }
    daemon.delete(&format!("/vms/{other}")).await.expect(200);
}

#[tokio::test]
async fn a_disk_that_qherd_made_is_neither_a_base_image_nor_an_iso() {
    // One folder for everything.
    let mut daemon = hyperv::prepared(&[]);
    let disks = hyperv::disks(&daemon).display().to_string();
    daemon.add_args(&["--image-dir", &disks]);
    daemon.run();
    let client = Client::at(&daemon, Mount::Below);
    let id = client.vm("vm1").await;
    let disk = hyperv::disks(&daemon).join(format!("{id}.qcow2"));
    std::os::unix::fs::symlink(&disk, hyperv::disks(&daemon).join("innocent.iso")).unwrap();
    for path in [format!("{disks}/innocent.iso"), format!("D:/HyperV/{id}.qcow2"), format!("{id}.qcow2")] {
        let answer = client.post("/vms", with("isoPath", json!(path))).await;
        refused(&answer, 400, "isoPath must not be a disk of a VM");
        let mut wish = daemon.wish();
        wish["base_image"] = json!(path);
        let answer = daemon.post("/vms", wish).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(answer.message().contains("base_image must not be a disk of a VM"), "{}", answer.body);
    }
    client.delete(&format!("/vms/{id}")).await.expect(200);
}

#[tokio::test]
async fn a_body_is_told_apart_by_what_is_wrong_with_it() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Below);
    let send = async |path: &str, kind: &str, body: String| {
        let request = daemon.http().post(format!("{}{path}", client.base)).header("content-type", kind).body(body);
        daemon.send(request).await
    };
    for path in ["/vms", "/switches"] {
        for text in ["{", "name=vm1", "{\"name\": \"x\"} {}", "{'name': 1}"] {
            let answer = send(path, "application/json", text.into()).await;
            assert_eq!((answer.status, &answer.body["error"]), (400, &json!("Invalid JSON")), "{text}");
            assert!(answer.body["detail"].as_str().unwrap().contains("line 1"), "{}", answer.body);
        }
        // These parse.
        refused(&send(path, "application/json", "[]".into()).await, 400, "must be a JSON object, not an array");
        refused(&send(path, "application/json", String::new()).await, 400, "The body is missing");
        refused(&send(path, "text/plain", "{}".into()).await, 415, "application/json");
        refused(&send(path, "application/json", " ".repeat((1 << 20) + 1)).await, 413, "too large");
        refused(&client.delete(path).await, 405, "Method not allowed");
    }
    refused(&client.get("/nowhere").await, 404, "No such path; openapi.json lists those that there are.");
    refused(&client.get("/vms?colour=red").await, 400, "colour is not known");
    refused(&client.get("/vms/by-name").await, 404, "VM not found");
    nothing_is_left(&client).await;
}

#[tokio::test]
async fn a_malformed_id_is_the_id_of_nothing() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let id = client.vm("vm1").await;
    for bad in
        ["x", "123", "%00", "{}", &id.replace('-', "_"), &format!("{{{id}"), "00000000-0000-4000-8000-000000000000"]
    {
        refused(&client.get(&format!("/vms/{bad}")).await, 404, "VM not found");
        refused(&client.put(&format!("/vms/{bad}"), json!({ "colour": 1 })).await, 404, "VM not found");
        refused(&client.delete(&format!("/vms/{bad}")).await, 404, "VM not found");
        for action in ["start", "stop", "restart", "suspend", "resume", "network-adapters"] {
            refused(&client.post(&format!("/vms/{bad}/{action}"), json!({ "x": 1 })).await, 404, "VM not found");
        }
        refused(&client.get(&format!("/switches/{bad}")).await, 404, "Switch not found");
        refused(&client.put(&format!("/switches/{bad}"), json!({ "x": 1 })).await, 404, "Switch not found");
        refused(&client.delete(&format!("/switches/{bad}")).await, 404, "Switch not found");
        let adapter = client.delete(&format!("/vms/{id}/network-adapters/{bad}")).await;
        refused(&adapter, 404, "VM or network adapter not found");
    }
    client.delete(&format!("/vms/{id}")).await.expect(200);
    refused(&client.delete(&format!("/vms/{id}")).await, 404, "VM not found");
}

#[tokio::test]
async fn force_is_true_or_false_in_one_place_or_the_same_in_both() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let id = client.vm("vm1").await;
    client.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    for action in ["stop", "restart"] {
        let path = format!("/vms/{id}/{action}");
        refused(&client.post(&format!("{path}?force=yes"), json!({})).await, 400, "force must be true or false");
        refused(&client.post(&path, json!({ "force": "true" })).await, 400, "force must be true or false");
        refused(
            &client.post(&format!("{path}?force=true"), json!({ "force": false })).await,
            400,
            "force must be the same",
        );
        refused(&client.post(&path, json!({ "forse": true })).await, 400, "did you mean force?");
        for unforced in [json!({}), json!({ "force": false }), Value::Null] {
            let answer = client.ask("POST", &format!("{path}?force=false"), &unforced).await;
            refused(&answer, 422, "Shutdown integration service not available or not enabled");
            assert!(answer.body["detail"].as_str().unwrap().contains("force=true"), "{}", answer.body);
        }
    }
    assert_eq!(client.state(&id).await, "Running");
    client.post(&format!("/vms/{id}/restart?force=true"), json!({ "force": true })).await.expect(200);
    assert_eq!(client.state(&id).await, "Running");
    client.post(&format!("/vms/{id}/stop?force=true"), json!({ "force": true })).await.expect(200);
    // A restart of a VM that is off starts it.
    client.post(&format!("/vms/{id}/restart"), json!({})).await.expect(200);
    assert_eq!(client.state(&id).await, "Running");
}

#[tokio::test]
async fn an_update_is_all_or_nothing() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let id = client.vm("vm1").await;
    let path = format!("/vms/{id}");
    let before = client.get(&path).await.expect(200);
    for (body, words) in [
        (json!({ "memoryMB": 128, "vcpu": 0 }), "vcpu must be greater than 0"),
        (json!({ "memoryMB": 128, "vcpu": 2, "isoPath": "D:/ISOs/missing.iso" }), "isoPath must exist"),
        (json!({ "memoryMB": 128, "switchName": "nowhere" }), "switchName must name a switch"),
        (
            json!({ "memoryMB": 128, "networkAdapters": [{ "name": "a", "switchName": "nowhere" }] }),
            "switchName must name",
        ),
        (json!({ "networkAdapters": [{ "name": "a" }] }), "networkAdapters[0].switchName must be given"),
        (json!({ "networkAdapters": [{ "name": "a\n", "switchName": "" }] }), "networkAdapters[0].name must consist"),
        (json!({ "networkAdapters": [], "switchName": "LAN" }), "networkAdapters must not be combined"),
        (json!({ "memoryMB": 128, "name": " " }), "name must consist of"),
        (json!({ "memoryMB": null, "disk": 5 }), "disk is not known"),
    ] {
        refused(&client.put(&path, body).await, 400, words);
    }
    assert_eq!(client.get(&path).await.expect(200), before);
    assert_eq!(client.put(&path, json!({})).await.expect(200)["unchanged"], true);
    // Without the host's network: QEMU's own.
    let own = json!({ "memoryMB": 128, "vcpu": 2, "isoPath": "AlmaLinux.iso", "networkAdapters": [
        { "name": "one", "switchName": "" }, { "name": "two", "switchName": "" }] });
    assert_eq!(client.put(&path, own.clone()).await.expect(200)["updated"], true);
    assert_eq!(client.put(&path, own).await.expect(200)["unchanged"], true);
    let adapters = client.get(&format!("{path}/network-adapters")).await.expect(200);
    let names: Vec<&str> = adapters.as_array().unwrap().iter().map(|a| a["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    // One goes, one comes in front; who stays is who it was.
    let other = json!([{ "name": "new", "switchName": "" }, { "name": "two", "switchName": "" }]);
    assert_eq!(client.put(&path, json!({ "networkAdapters": other })).await.expect(200)["updated"], true);
    assert_eq!(client.put(&path, json!({ "networkAdapters": other })).await.expect(200)["unchanged"], true);
    let now = client.get(&format!("{path}/network-adapters")).await.expect(200);
    let stays = now.as_array().unwrap().iter().find(|adapter| adapter["Name"] == "two").unwrap();
    assert_eq!((&stays["Id"], &stays["MacAddress"]), (&adapters[1]["Id"], &adapters[1]["MacAddress"]), "{now}");
    client.post(&format!("{path}/start"), json!({})).await.expect(200);
    for state in ["Running", "Paused"] {
        let answer = client.put(&path, json!({ "memoryMB": 64 })).await;
        refused(&answer, 409, "VM must be Off to update");
        assert_eq!(answer.body["State"], state);
        refused(&client.put(&path, json!({ "memoryMB": 1 })).await, 400, "memoryMB must be at least");
        assert_eq!(client.put(&path, json!({ "memoryMB": 128, "vcpu": 2 })).await.expect(200)["unchanged"], true);
        if state == "Running" {
            client.post(&format!("{path}/suspend"), json!({})).await.expect(200);
        }
    }
    let shown = client.get(&path).await.expect(200);
    assert_eq!((&shown["ProcessorCount"], &shown["MemoryStartup"]), (&json!(2), &json!(128 << 20)), "{shown}");
    client.delete(&path).await.expect(200);
}

#[tokio::test]
async fn a_suspended_vm_is_suspended_also_after_the_daemon_was_killed() {
    let mut daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let id = client.vm("vm1").await;
    client.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    client.post(&format!("/vms/{id}/suspend"), json!({})).await.expect(200);
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "paused").await;
    let client = Client::at(&daemon, Mount::Root);
    assert_eq!(client.state(&id).await, "Paused");
    let found = client.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!((&found["Health"], &found["MemoryAssigned"]), (&json!("Ok"), &json!(64 << 20)), "{found}");
    // A start resumes it.
    let started = client.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(started, json!({ "started": "vm1" }));
    assert_eq!(client.state(&id).await, "Running");
}

#[tokio::test]
async fn a_crashed_vm_is_off_and_its_health_says_why() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let id = client.vm("vm1").await;
    client.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let [pid] = daemon.qemus()[..] else { panic!("one QEMU") };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.await_status(&id, "crashed").await;
    let found = client.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(found["State"], "Off");
    assert!(found["Health"].as_str().unwrap().starts_with("crashed: "), "{found}");
    let answer = client.post(&format!("/vms/{id}/stop"), json!({})).await;
    refused(&answer, 409, "VM is already stopped");
    assert_eq!(answer.body["AlreadyStopped"], true);
    client.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}

#[tokio::test]
async fn switches_that_cannot_be_are_refused() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    for (body, words) in [
        (json!({ "type": "Private" }), "name must be given"),
        (json!({ "name": "LAN" }), "type must be given"),
        (json!({ "name": "LAN", "type": "Public" }), "type must be one of Private, Internal, External, not \"Public\""),
        (json!({ "name": "", "type": "Private" }), "name must have"),
        (json!({ "name": "WAN", "type": "External" }), "netAdapterName must be given for an external switch"),
        (json!({ "name": "WAN", "type": "External", "netAdapterName": "nowhere0" }), "netAdapterName must"),
        (json!({ "name": "WAN", "type": "External", "netAdapterName": "lo" }), "netAdapterName must"),
        (json!({ "name": "LAN", "type": "Private", "netAdapterName": "lo" }), "netAdapterName must be given only for"),
        (json!({ "name": "LAN", "type": "Private", "subnet": "10.77.0.0/24" }), "subnet must be given only for"),
        (json!({ "name": "LAN", "type": "Internal", "subnet": "10.77.0.5/24" }), "subnet must|10.77.0.0/24"),
        (
            json!({ "name": "LAN", "type": "Internal", "nat": true }),
            "nat must be given only for a switch with a subnet",
        ),
        (
            json!({ "name": "LAN", "type": "Internal", "allowManagementOS": true }),
            "allowManagementOS must be given only",
        ),
        (json!({ "name": "LAN", "type": "Internal", "note": "x" }), "did you mean notes?"),
    ] {
        refused(&client.post("/switches", body).await, 400, words);
    }
    assert_eq!(client.get("/switches").await.expect(200), json!([]));

    // Names need not be unique; then only an Id says which is meant.
    let lan = json!({ "name": "LAN", "type": "Private" });
    let (one, two) = (client.created("/switches", lan.clone()).await, client.created("/switches", lan).await);
    assert_eq!(client.get("/switches/by-name/Lan").await.expect(200).as_array().unwrap().len(), 2);
    let answer = client.post("/vms", with("switchName", json!("lan"))).await;
    refused(&answer, 400, &format!("switchName must name one switch|{one}|{two}"));
    assert_eq!(answer.body["ids"], json!([one, two]));
    nothing_is_left(&client).await;
    let vm = client.created("/vms", with("switchId", json!(two))).await;
    client.delete(&format!("/switches/{one}")).await.expect(200);
    let answer = client.delete(&format!("/switches/{two}")).await;
    refused(&answer, 409, "vm1");
    refused(&client.put(&format!("/switches/{two}"), json!({})).await, 400, "notes, mtu, subnet");
    refused(&client.put(&format!("/switches/{two}"), json!({ "name": "x" })).await, 400, "name is not known");
    let adapters = format!("/vms/{vm}/network-adapters");
    refused(&client.post(&adapters, json!({})).await, 400, "switchName must be given");
    refused(&client.post(&adapters, json!({ "switchName": "nowhere" })).await, 400, "switchName must name a switch");
    client.delete(&format!("/vms/{vm}")).await.expect(200);
    client.delete(&format!("/switches/{two}")).await.expect(200);
    nothing_is_left(&client).await;
}

/// The address of the dialect's own listener is checked like the other.
#[tokio::test]
async fn an_address_that_is_taken_is_told_before_any_vm_is_touched() {
    let daemon = Daemon::start();
    let taken = daemon.url.strip_prefix("http://").unwrap();
    let other = Daemon::prepare(&["--accel", "tcg", "--hyperv-listen", taken]);
    let output =
        other.command().stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(reported.contains(&format!("cannot listen on {taken}")), "{reported}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}
