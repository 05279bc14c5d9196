//! What published clients of the two documents' ancestors send, request by request, with their very headers: the Go client
//! of the KVM API, the scenario script of the Hyper-V overlay, and the generic REST provider of Terraform.

use crate::hyperv;

use crate::kept::{Kept, Reply};
use crate::support::{Daemon, netns};
use futures_util::future::join_all;
use serde_json::{Value, json};

const GO: &[&str] = &["User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"];
const GO_JSON: &[&str] = &["User-Agent: Go-http-client/1.1", "Content-Type: application/json", "Accept-Encoding: gzip"];

#[tokio::test]
async fn the_go_client_of_the_kvm_api_gets_through() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let map = format!("/var/lib/libvirt/images={}", daemon.bases().display());
    daemon.add_args(&["--path-map", &map]);
    daemon.run();
    let image = daemon.bases().join("ubuntu24.04-2.qcow2");
    let made =
        std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(image).arg("1G").status();
    assert!(made.unwrap().success());

    let mut client = Kept::to(&daemon.url).await;
    let body = r#"{"vcpus":2,"memory":4096,"disk_size":20,"base_image":"/var/lib/libvirt/images/ubuntu24.04-2.qcow2","cpu_pinning":{"cores":[0,1]}}"#;
    let created = client.ask("POST", "/vms", GO_JSON, Some(body.as_bytes())).await.expect(201);
    for (field, value) in [("vcpus", 2), ("memory", 4096), ("disk_size", 20)] {
        assert_eq!(created[field], value, "{created}");
    }
    for field in ["vm_id", "status", "disk_file", "mac_address", "message"] {
        assert!(created[field].is_string(), "{field} of {created}");
    }
    let id = created["vm_id"].as_str().unwrap();
    let status = client.ask("GET", &format!("/vms/{id}/status"), GO, None).await.expect(200);
    assert_eq!((status["vm_id"].as_str(), status["message"].as_str()), (Some(id), Some("VM is stopped")));
    assert!(status["name"].is_string() && status["status"] == "stopped", "{status}");
    let deleted = client.ask("DELETE", &format!("/vms/{id}"), GO, None).await.expect(200);
    assert_eq!((deleted["vm_id"].as_str(), &deleted["disk_file"]), (Some(id), &created["disk_file"]));
    assert!(deleted["status"].is_string() && deleted["message"].is_string(), "{deleted}");

    // What it makes of a refusal.
    let refused = client.ask("GET", &format!("/vms/{id}/status"), GO, None).await;
    let error = &refused.body["error"];
    assert_eq!(
        (refused.status, error["code"].as_i64(), error["message"].as_str()),
        (404, Some(404), Some("VM not found"))
    );
}

#[tokio::test]
async fn every_reply_about_a_vm_bears_its_vm_id() {
    let daemon = Daemon::start();
    let created = daemon.post("/vms", daemon.wish()).await.expect(201);
    let id = created["id"].as_str().unwrap();
    assert_eq!(created["vm_id"], id);
    let bears = |reply: Value| assert_eq!(reply["vm_id"], id, "{reply}");
    let path = |rest: &str| format!("/vms/{id}{rest}");
    for rest in ["", "/config", "/status"] {
        bears(daemon.get(&path(rest)).await.expect(200));
    }
    for (rest, body) in
        [("/cpu", json!({"vcpus": 2})), ("/memory", json!({"memory": 64})), ("/disk", json!({"disk_size": 2}))]
    {
        let reply = daemon.put(&path(rest), body).await.expect(200);
        assert_eq!(reply["id"], id);
        bears(reply);
    }
    bears(daemon.put(&path("/policy"), json!({"on_io_error": "retry"})).await.expect(200));
    // The id in a reply about a disk is the disk's, about a NIC the NIC's.
    let disk = daemon.post(&path("/disks"), json!({"disk_size": 1})).await.expect(201);
    assert_eq!((&disk["id"], &disk["name"]), (&json!("disk1"), &json!("disk1")));
    bears(disk);
    let grown = daemon.put(&path("/disks/disk1"), json!({"disk_size": 2})).await.expect(200);
    assert_eq!(grown["id"], "disk1");
    bears(grown);
    let nic = daemon.post(&path("/networks"), json!({"user": {}})).await.expect(201);
    assert_ne!(nic["id"], id);
    bears(nic);
    for (list, length) in [("/vms", 1), (&path("/disks"), 2), (&path("/networks"), 2)] {
        let rows = daemon.get(list).await.expect(200);
        assert_eq!(rows.as_array().unwrap().len(), length, "{rows}");
        rows.as_array().unwrap().iter().cloned().for_each(bears);
    }
    let bases = daemon.get("/base-images").await.expect(200);
    bears(bases[0]["vms"][0].clone());
    let gone = daemon.delete(&path("/disks/disk1")).await.expect(200);
    assert_eq!(gone["id"], "disk1");
    bears(gone);
    for action in ["start", "suspend", "resume", "reboot"] {
        bears(daemon.post(&path(&format!("/{action}")), json!({})).await.expect(200));
    }
    bears(daemon.post(&path("/stop?force=true"), json!({})).await.expect(200));
    bears(daemon.delete(&path("")).await.expect(200));
}

/// PowerShell's `Invoke-WebRequest`, as the overlay's script uses it.
struct PowerShell(Kept);

impl PowerShell {
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let mut headers = vec![
            "Accept: application/json",
            "User-Agent: Mozilla/5.0 (Windows NT 10.0; Microsoft Windows 10.0.22631; en-US) PowerShell/7.4.6",
            "Accept-Encoding: gzip, deflate, br",
        ];
        if method == "GET" {
            return self.0.ask(method, path, &headers, None).await;
        }
        headers.push("Content-Type: application/json");
        let reply = self.0.ask(method, path, &headers, Some(body.as_bytes())).await;
        assert_eq!(reply.header("content-encoding"), None, "nothing that it would have to undo");
        reply
    }
}

/// A body with its members in the order of `turn`.
fn hashtable(members: &[(&str, Value)], turn: usize) -> String {
    let rotated = (0..members.len()).map(|at| &members[(at + turn) % members.len()]);
    let members: Vec<String> = rotated.map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", members.join(","))
}

#[tokio::test]
async fn the_scenario_script_of_the_overlay_gets_through_twice_in_one_minute() {
    let mut daemon = hyperv::prepared(&[]);
    let folder = hyperv::disks(&daemon).join("hvo-api-test");
    let map = format!("C:/ProgramData/hvo-api-test={}", folder.display());
    daemon.add_args(&["--path-map", &map]);
    daemon.run();
    let mut client = PowerShell(Kept::to(&daemon.hyperv_url).await);
    let links = netns::ip_json("link");
    for turn in 0..2 {
        let (switch_name, vm_name) = ("hvo-test-switch-202611260000", "hvo-test-vm-202611260000");
        client.ask("GET", "/health", "").await.expect(200);
        assert!(client.ask("GET", "/openapi.json", "").await.expect(200)["openapi"].is_string());
        client.ask("GET", "/switches", "").await.expect(200);
        let wish = [("name", json!(switch_name)), ("type", json!("Internal")), ("notes", json!("hvo-api-test"))];
        let switch = client.ask("POST", "/switches", &hashtable(&wish, turn)).await.expect(201);
        let switch = format!("/switches/{}", switch["id"].as_str().unwrap());
        client.ask("GET", &switch, "").await.expect(200);
        client.ask("GET", &format!("/switches/by-name/{switch_name}"), "").await.expect(200);
        client.ask("PUT", &switch, r#"{"notes":"hvo-api-test-updated"}"#).await.expect(200);
        client.ask("GET", "/vms", "").await.expect(200);
        let wish = [
            ("name", json!(vm_name)),
            ("memoryMB", json!(512)),
            ("vcpu", json!(1)),
            ("diskPath", json!("C:\\ProgramData\\hvo-api-test")),
            ("diskGB", json!(2)),
            ("switchName", json!(switch_name)),
        ];
        assert!(!folder.exists());
        let vm = client.ask("POST", "/vms", &hashtable(&wish, turn * 4)).await.expect(201);
        let vm = format!("/vms/{}", vm["id"].as_str().unwrap());
        assert!(folder.exists());
        client.ask("GET", &vm, "").await.expect(200);
        client.ask("GET", &format!("/vms/by-name/{vm_name}"), "").await.expect(200);
        client.ask("POST", &format!("{vm}/start"), "").await.expect(200);
        assert_eq!(client.ask("GET", &vm, "").await.expect(200)["State"], "Running");
        client.ask("POST", &format!("{vm}/stop"), r#"{"force":true}"#).await.expect(200);
        assert_eq!(client.ask("GET", &vm, "").await.expect(200)["State"], "Off");
        client.ask("GET", &format!("{vm}/network-adapters"), "").await.expect(200);
        let update = hashtable(&[("memoryMB", json!(512)), ("vcpu", json!(1))], turn);
        assert_eq!(client.ask("PUT", &vm, &update).await.expect(200)["unchanged"], true);
        client.ask("DELETE", &vm, "").await.expect(200);
        // Without a pause.
        client.ask("DELETE", &switch, "").await.expect(200);
        assert!(!folder.exists(), "it was made for the disk, and goes with it");
    }
    assert_eq!(netns::ip_json("link").as_array().unwrap().len(), links.as_array().unwrap().len());
    // Up to version 7.3 a name with an umlaut is sent in ISO-8859-1.
    let headers = ["Content-Type: application/json"];
    let latin =
        client.0.ask("POST", "/switches", &headers, Some(b"{\"name\":\"gr\xf6sse\",\"type\":\"Private\"}")).await;
    assert_eq!((latin.status, &latin.body["error"]), (400, &json!("Invalid JSON")));
    assert!(latin.body["detail"].as_str().unwrap().contains("it is not UTF-8"), "{}", latin.body);
}

/// Mastercard/restapi, for one resource: it reads what it has made, and after its destruction that it is gone.
struct RestApi {
    client: Kept,
    path: &'static str,
}

impl RestApi {
    async fn send(&mut self, method: &str, path: &str, data: Option<&Value>) -> Reply {
        let text = data.map(Value::to_string);
        let headers = if text.is_some() { GO_JSON } else { GO };
        self.client.ask(method, path, headers, text.as_deref().map(str::as_bytes)).await
    }

    async fn create(&mut self, data: &Value) -> String {
        let made = self.send("POST", self.path, Some(data)).await.expect(201);
        format!("{}/{}", self.path, made["id"].as_str().unwrap())
    }

    async fn destroy(&mut self, resource: &str) {
        self.send("DELETE", resource, None).await.expect(200);
        for method in ["GET", "DELETE"] {
            let gone = self.send(method, resource, None).await;
            assert_eq!(gone.status, 404, "{}", gone.body);
            assert!(gone.body.to_string().contains("not found"), "{}", gone.body);
        }
    }
}

#[tokio::test]
async fn the_generic_provider_makes_reads_updates_and_destroys_ten_vms_at_once() {
    let daemon = Daemon::start();
    let image = daemon.bases().join("blank.raw");
    join_all((0..10).map(|number| {
        let (daemon, image) = (&daemon, &image);
        async move {
            let mut provider = RestApi { client: Kept::to(&daemon.url).await, path: "/vms" };
            let data =
                json!({ "base_image": image, "disk_size": 1, "memory": 64, "name": format!("vm{number}"), "vcpus": 1 });
            let resource = provider.create(&data).await;
            let mut data = data;
            // Refreshed twice, and once more after each update, which sends the whole.
            for memory in [64, 64, 80, 64] {
                if data["memory"] != memory {
                    data["memory"] = json!(memory);
                    provider.send("PUT", &resource, Some(&data)).await.expect(200);
                }
                let read = provider.send("GET", &resource, None).await.expect(200);
                for (field, sent) in data.as_object().unwrap() {
                    assert_eq!(&read[field], sent, "{field} would be a change");
                }
            }
            provider.destroy(&resource).await;
        }
    }))
    .await;
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn the_generic_provider_sends_the_whole_of_ten_vms_of_the_hyperv_dialect() {
    let daemon = hyperv::started();
    join_all((0..10).map(|number| {
        let daemon = &daemon;
        async move {
            let mut switches = RestApi { client: Kept::to(&daemon.hyperv_url).await, path: "/switches" };
            let lan = format!("lan{number}");
            let switch = switches.create(&json!({ "name": lan, "type": "Private" })).await;
            let mut vms = RestApi { client: Kept::to(&daemon.hyperv_url).await, path: "/vms" };
            let mut data = json!({
                "diskGB": 1, "diskPath": "D:/HyperV/made", "isoPath": "D:/ISOs/AlmaLinux.iso", "memoryMB": 64,
                "name": format!("vm{number}"), "switchName": lan, "vcpu": 1,
            });
            let resource = vms.create(&data).await;
            let same = vms.send("PUT", &resource, Some(&data)).await.expect(200);
            assert_eq!(same["unchanged"], true, "{same}");
            // Each that can be changed, and the whole along with it.
            for (field, value) in [
                ("memoryMB", json!(128)),
                ("vcpu", json!(2)),
                ("name", json!(format!("renamed{number}"))),
                ("diskGB", json!(2)),
                ("isoPath", json!("")),
                ("switchName", json!("")),
            ] {
                data[field] = value;
                let changed = vms.send("PUT", &resource, Some(&data)).await.expect(200);
                assert_eq!(
                    (&changed["updated"], &changed["name"]),
                    (&json!(true), &data["name"]),
                    "{field}: {changed}"
                );
                let same = vms.send("PUT", &resource, Some(&data)).await.expect(200);
                assert_eq!(same["unchanged"], true, "{field}: {same}");
            }
            let read = vms.send("GET", &resource, None).await.expect(200);
            for (field, sent) in [
                ("Name", &data["name"]),
                ("MemoryStartup", &json!(128 << 20)),
                ("ProcessorCount", &json!(2)),
                ("DiskGB", &data["diskGB"]),
                ("DiskPath", &data["diskPath"]),
                ("IsoPath", &Value::Null),
                ("SwitchName", &json!("")),
            ] {
                assert_eq!(&read[field], sent, "{field} of {read}");
            }
            vms.destroy(&resource).await;
            switches.destroy(&switch).await;
        }
    }))
    .await;
    assert_eq!(hyperv::in_disks(&daemon), [] as [String; 0], "the folder went with the last disk in it");
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}
