//! Two more judges that nobody here wrote: prism, a proxy that holds every request and every answer to the document, and a browser
//! that looks at the page at /docs. `scripts/judges-node` has them on the machine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::timeout,
};

use crate::{
    callers::{NOBODY, token},
    hyperv,
    judges::drive_with_a_made_client,
    support::{Answer, Daemon, PATIENCE, netns},
};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// Where the judges' programs are.
fn judges() -> PathBuf {
    let made = Command::new(format!("{TREE}/scripts/judges-node")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().into()
}

/// prism in front of a daemon. What goes through it, either way, is refused where the document does not allow it.
struct Prism<'a> {
    daemon: &'a Daemon,
    url: String,
    _proxy: Child,
}

impl<'a> Prism<'a> {
    async fn before(daemon: &'a Daemon, upstream: &str, document: &Value) -> Self {
        let file = daemon.dir.path().join("prism.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = tokio::process::Command::new(judges().join("prism"));
        command.arg("proxy").arg(&file).args([upstream, "--errors", "--host", "127.0.0.1", "--port", "0"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut proxy = command.spawn().unwrap();
        let mut lines = BufReader::new(proxy.stdout.take().unwrap()).lines();
        let mut url = None;
        while url.is_none() {
            let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("prism listens");
            url = line.split_once("Prism is listening on ").map(|(_, url)| url.trim().to_owned());
        }
        // What it says of each request is read, so that it can go on.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { daemon, url: url.unwrap(), _proxy: proxy }
    }

    /// The answer, unless prism has a complaint.
    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<Answer, String> {
        let request = self.daemon.http().request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = if body.is_null() { request } else { request.json(&body) };
        let response = request.send().await.unwrap();
        let violations = response.headers().get("sl-violations").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let answer = Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        let own = answer.body["type"].as_str().filter(|kind| kind.contains("stoplight.io/prism/errors"));
        match violations.or_else(|| own.map(|_| answer.body.to_string())) {
            None => Ok(answer),
            Some(complaint) => Err(complaint),
        }
    }

    /// All of them, which are to be answered so.
    async fn pass(&self, requests: &[(&str, &str, Value, u16)]) {
        for (method, path, body, status) in requests {
            let answer = self.ask(method, path, body.clone()).await;
            let answer = answer.unwrap_or_else(|complaint| panic!("{method} {path}: {complaint}"));
            assert_eq!(answer.status, *status, "{method} {path}: {}", answer.body);
        }
    }

    async fn make(&self, path: &str, body: Value) -> String {
        let made = self.ask("POST", path, body).await.unwrap().expect(201);
        made["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_validating_proxy_has_no_complaint_about_clients_of_the_kvm_dialect() {
    let _ = netns::Host::leave();
    let daemon = Daemon::start();
    let document = daemon.get("/openapi.json").await.expect(200);
    let prism = Prism::before(&daemon, &daemon.url, &document).await;
    drive_with_a_made_client(&daemon, &prism.url).await;

    let lan = prism.make("/switches", json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" })).await;
    let wish = json!({
        "name": "web", "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "blank.raw", "networks": [{ "switch": "LAN" }],
        "io_limits": { "iops": 500 }, "labels": { "env": "prod" }
    });
    let vm = prism.make("/vms", wish.clone()).await;
    let of = |rest: &str| format!("/vms/{vm}{rest}");
    let none = Value::Null;
    let nowhere = "/vms/2a1f7c46-7ab8-4f6e-9d1b-0a5b3d1c9e77";
    let mut absent = wish.clone();
    absent["base_image"] = json!("absent.raw");
    let mut small = wish.clone();
    small["memory"] = json!(15_000_000);
    prism
        .pass(&[
            ("POST", &of("/start"), none.clone(), 200),
            ("POST", &of("/start"), json!({}), 200),
            ("GET", &of(""), none.clone(), 200),
            ("GET", &of("/status?wait=running&timeout=5"), none.clone(), 200),
            ("GET", &of("/config"), none.clone(), 200),
            ("GET", &of("/performance"), none.clone(), 200),
            ("GET", &of("/networks"), none.clone(), 200),
            ("GET", &of("/addresses"), none.clone(), 200),
            ("GET", &of("/console/log?tail=5"), none.clone(), 200),
            ("PUT", &of("/cpu"), json!({ "vcpus": 2 }), 200),
            ("PUT", &of("/memory"), json!({ "memory": 80 }), 200),
            ("PUT", &of("/disk"), json!({ "disk_size": 2, "io_limits": { "bps": 1_000_000 } }), 200),
            ("PUT", &of("/policy"), json!({ "restart_policy": "on-failure" }), 200),
            ("POST", &of("/disks"), json!({ "disk_size": 1 }), 201),
            ("GET", &of("/disks"), none.clone(), 200),
            ("PUT", &of(""), json!({ "description": "changed", "protected": true }), 200),
            // What is in the way, what is not there, what no schema can say.
            ("DELETE", &of(""), none.clone(), 409),
            ("PUT", &of(""), json!({ "profile": "pc", "protected": false }), 409),
            ("PUT", &of(""), json!({ "protected": false }), 200),
            ("POST", &of("/suspend"), none.clone(), 200),
            ("POST", &of("/suspend"), none.clone(), 409),
            ("POST", &of("/resume"), none.clone(), 200),
            ("POST", &of("/stop?force=true"), none.clone(), 200),
            ("POST", &of("/reboot"), none.clone(), 409),
            ("GET", &of("/performance"), none.clone(), 404),
            ("GET", nowhere, none.clone(), 404),
            ("POST", &format!("{nowhere}/start"), none.clone(), 404),
            ("POST", "/vms", absent, 404),
            ("POST", "/vms", small, 400),
            ("GET", "/vms?label=env=prod&sort=-memory", none.clone(), 200),
            ("GET", "/vms?fields=id,name", none.clone(), 200),
            ("DELETE", &format!("/switches/{lan}"), none.clone(), 409),
            ("DELETE", &of(""), none.clone(), 200),
            ("GET", &of(""), none.clone(), 404),
            ("GET", &format!("/switches/{lan}"), none.clone(), 200),
            ("DELETE", &format!("/switches/{lan}"), none.clone(), 200),
            ("GET", "/switches", none.clone(), 200),
            ("GET", "/events?after=0&wait=1", none.clone(), 200),
            ("GET", "/operations", none.clone(), 200),
            ("GET", "/base-images", none.clone(), 200),
            ("GET", "/host", none.clone(), 200),
            ("GET", "/health", none.clone(), 200),
        ])
        .await;
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_validating_proxy_has_no_complaint_about_clients_of_the_hyperv_dialect() {
    let daemon = hyperv::started();
    let document: Value = serde_json::to_value(qherd::api::hyperv::openapi("/")).unwrap();
    let prism = Prism::before(&daemon, &daemon.hyperv_url, &document).await;
    let lan = prism.make("/switches", json!({ "name": "LAN", "type": "Private", "notes": "a" })).await;
    let wish = json!({
        "name": "vm1", "memoryMB": 64, "vcpu": 1, "diskPath": "D:/HyperV", "diskGB": 1, "switchName": "LAN",
        "isoPath": "D:/ISOs/AlmaLinux.iso"
    });
    let vm = prism.make("/vms", wish.clone()).await;
    let of = |rest: &str| format!("/vms/{vm}{rest}");
    let none = Value::Null;
    let nowhere = "/vms/2a1f7c46-7ab8-4f6e-9d1b-0a5b3d1c9e77";
    let mut unknown = wish.clone();
    unknown["switchName"] = json!("WAN");
    prism
        .pass(&[
            ("POST", &of("/start"), none.clone(), 200),
            ("POST", &of("/start"), json!({}), 200),
            ("GET", &of(""), none.clone(), 200),
            ("GET", "/vms/by-name/VM1", none.clone(), 200),
            ("GET", &of("/addresses"), none.clone(), 200),
            ("GET", &of("/network-adapters"), none.clone(), 200),
            ("POST", &of("/network-adapters"), json!({ "name": "second", "switchName": "LAN" }), 201),
            ("PUT", &of(""), json!({ "vcpu": 1 }), 200),
            ("PUT", &of(""), json!({ "vcpu": 2 }), 409),
            ("POST", &of("/stop"), none.clone(), 422),
            ("POST", &of("/suspend"), none.clone(), 200),
            ("POST", &of("/suspend"), none.clone(), 409),
            ("POST", &of("/resume"), none.clone(), 200),
            ("POST", &of("/stop"), json!({ "force": true }), 200),
            ("POST", &of("/stop"), none.clone(), 409),
            ("PUT", &of(""), json!({ "vcpu": 2, "memoryMB": 128, "name": "renamed", "isoPath": null }), 200),
            ("GET", nowhere, none.clone(), 404),
            ("POST", &format!("{nowhere}/start"), none.clone(), 404),
            ("POST", "/vms", unknown, 400),
            ("GET", "/vms", none.clone(), 200),
            ("PUT", &format!("/switches/{lan}"), json!({ "notes": "b" }), 200),
            ("DELETE", &format!("/switches/{lan}"), none.clone(), 409),
            ("DELETE", &of(""), none.clone(), 200),
            ("GET", &of(""), none.clone(), 404),
            ("GET", "/switches/by-name/lan", none.clone(), 200),
            ("GET", &format!("/switches/{lan}"), none.clone(), 200),
            ("DELETE", &format!("/switches/{lan}"), none.clone(), 200),
            ("GET", "/switches", none.clone(), 200),
            ("GET", "/operations", none.clone(), 200),
            ("GET", "/health", none.clone(), 200),
        ])
        .await;
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_validating_proxy_complains_of_a_document_that_does_not_say_what_is() {
    let daemon = Daemon::start();
    let mut document = daemon.get("/openapi.json").await.expect(200);
    document["components"]["schemas"]["Health"]["properties"]["version"] = json!({ "type": "integer" });
    let prism = Prism::before(&daemon, &daemon.url, &document).await;
    let complaint = prism.ask("GET", "/health", Value::Null).await.unwrap_err();
    assert!(complaint.contains("version") && complaint.contains("integer"), "{complaint}");
    let complaint = prism.ask("POST", "/vms", json!({ "vcpus": "two" })).await.unwrap_err();
    assert!(complaint.contains("vcpus"), "{complaint}");
}

/// Looks at the page through a browser.
async fn look(daemon: &Daemon, more: &[&str]) {
    let modules = judges();
    let mut command = tokio::process::Command::new("node");
    command.arg(format!("{TREE}/tests/judges/page.cjs")).arg(&daemon.url).args(more);
    command.env("NODE_PATH", modules.parent().unwrap()).env("HOME", daemon.dir.path());
    let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_browser_shows_both_documents_whole_and_tries_a_request_without_anything_from_elsewhere() {
    let daemon = Daemon::start();
    look(&daemon, &[]).await;
}

#[tokio::test]
async fn a_browser_that_nobody_knows_shows_them_with_the_token_that_is_typed_there() {
    let daemon = Daemon::start();
    let token = token(&daemon.state(), &["create", "--role", "viewer"]);
    // Another user's, which the daemon does not know.
    let theirs = tempfile::tempdir().unwrap();
    let home = theirs.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let nobody = NOBODY.parse().unwrap();
    std::os::unix::fs::chown(&home, Some(nobody), Some(nobody)).unwrap();
    for folder in [theirs.path(), &home] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let browser = as_nobody(theirs.path(), &home);
    look(&daemon, &[browser.to_str().unwrap(), home.to_str().unwrap(), token.trim()]).await;
}

/// A program that is the browser, run by nobody.
fn as_nobody(folder: &Path, home: &Path) -> PathBuf {
    let browser = folder.join("browser");
    let ids = format!("--reuid={NOBODY} --regid={NOBODY} --clear-groups");
    let text = format!("#!/bin/sh\nHOME='{}' exec setpriv {ids} chromium \"$@\"\n", home.display());
    std::fs::write(&browser, text).unwrap();
    std::fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    browser
}
