//! What a guest's cloud-init is given: who is shown what of it, what of it is kept where, and what QEMU has of it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use crate::{callers::token, support::Daemon};
use serde_json::{Value, json};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9SuHNJUJ8lwzZEfWrYqWpeSpkZxCJcTxXp me@example.com";

fn data() -> Value {
    json!({
        "user_data": "#cloud-config\nwrite_files: [{path: /etc/hush, content: top-secret}]\n",
        "network_config": { "version": 2, "ethernets": { "all": { "match": { "name": "e*" }, "dhcp4": true } } },
        "meta_data": { "region": "here" },
        "ssh_keys": [KEY], "hostname": "web-1", "password": "open sesame"
    })
}

fn seeds(daemon: &Daemon, id: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(daemon.state().join("cloud-init").join(id)).into_iter().flatten();
    files.map(|file| file.unwrap().path()).collect()
}

async fn create(daemon: &Daemon, data: &Value) -> String {
    let mut wish = daemon.wish();
    wish["cloud_init"] = data.clone();
    daemon.create(wish).await
}

async fn as_viewer(daemon: &Daemon, path: &str) -> Value {
    let viewer = token(&daemon.state(), &["create", "--role", "viewer"]);
    daemon.send(daemon.http().get(daemon.at(path)).bearer_auth(viewer)).await.expect(200)
}

#[tokio::test]
async fn it_is_shown_to_those_who_may_change_it_and_its_password_to_nobody() {
    let daemon = Daemon::start_logging("trace");
    let id = create(&daemon, &data()).await;
    let mut shown = data();
    shown.as_object_mut().unwrap().remove("password");
    shown["withheld"] = json!(["password"]);
    for path in [format!("/vms/{id}"), format!("/vms/{id}/config")] {
        assert_eq!(daemon.get(&path).await.expect(200)["cloud_init"], shown);
        let seen = as_viewer(&daemon, &path).await;
        let names = json!(["user_data", "meta_data", "network_config", "ssh_keys", "hostname", "password"]);
        assert_eq!(seen["cloud_init"], json!({ "withheld": names }));
        assert!(!seen.to_string().contains("secret"));
    }
    // The answer of a change is kept for who asks again, and is the shorter one.
    let changed = daemon.put(&format!("/vms/{id}"), json!({ "cloud_init": { "hostname": "b" } })).await.expect(200);
    assert_eq!(changed["cloud_init"], json!({ "withheld": ["hostname"] }));
    assert_eq!(daemon.get(&format!("/hyperv/vms/{id}")).await.expect(200)["CloudInit"], true);
    let wrong = json!({ "cloud_init": { "user_data": "top-secret", "password": "open sesame" } });
    assert_eq!(daemon.put(&format!("/vms/{id}"), wrong).await.status, 400);
    let log = daemon.log_text();
    assert!(log.contains(&id) && !log.contains("secret") && !log.contains("sesame"), "{log}");
}

#[tokio::test]
async fn it_is_in_a_file_of_its_own_for_nobody_else_and_goes_with_its_vm() {
    let daemon = Daemon::start();
    let id = create(&daemon, &data()).await;
    let [file]: [PathBuf; 1] = seeds(&daemon, &id).try_into().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("top-secret") && text.contains("$6$") && !text.contains("sesame"), "{text}");
    // What fails leaves nothing either.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward =
        json!({ "host_address": "127.0.0.1", "host_port": taken.local_addr().unwrap().port(), "guest_port": 22 });
    let mut wish = daemon.wish();
    wish["cloud_init"] = data();
    wish["networks"] = json!([{ "user": { "forwards": [forward] } }]);
    wish["start"] = json!(true);
    assert_eq!(daemon.post("/vms", wish).await.status, 409);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn it_is_made_anew_when_it_changes_and_only_then() {
    let daemon = Daemon::start();
    let id = create(&daemon, &data()).await;
    let path = format!("/vms/{id}");
    let first = seeds(&daemon, &id);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    // The same again, by whoever sends all of it, and by whoever sends back what was shown.
    for body in [data(), daemon.get(&path).await.expect(200)["cloud_init"].clone()] {
        let same = daemon.put(&path, json!({ "cloud_init": body })).await.expect(200);
        assert_eq!((&same["applied"], &same["pending"]), (&json!("live"), &json!({})));
    }
    daemon.put(&path, daemon.get(&path).await.expect(200)).await.expect(200);
    assert_eq!(seeds(&daemon, &id), first);
    // The password and the keys stay.
    let other = json!({ "user_data": "#!/bin/sh\n", "withheld": ["password", "ssh_keys"] });
    let changed = daemon.put(&path, json!({ "cloud_init": other })).await.expect(200);
    let second = seeds(&daemon, &id);
    let name = |seeds: &[PathBuf]| json!(seeds[0].file_name().unwrap().to_str().unwrap());
    assert_eq!(changed["applied"], "next_start");
    let pending = json!({ "configured": name(&second), "in_effect": name(&first) });
    assert_eq!((&changed["pending"]["cloud_init"], second.len()), (&pending, 1));
    let shown = daemon.get(&path).await.expect(200)["cloud_init"].clone();
    let wanted = json!({ "user_data": "#!/bin/sh\n", "ssh_keys": [KEY], "withheld": ["password"] });
    assert_eq!(shown, wanted);
    daemon.post(&format!("{path}/stop"), json!({ "force": true })).await.expect(200);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    assert_eq!(daemon.get(&path).await.expect(200)["pending"], json!({}));
    let none = daemon.put(&path, json!({ "cloud_init": null })).await.expect(200);
    assert_eq!((&none["cloud_init"], seeds(&daemon, &id)), (&Value::Null, vec![]));
    // Which changed at all is told.
    let events = daemon.get(&format!("/events?vm={id}&type=vm.changed&after=0&wait=0")).await.expect(200);
    let fields: Vec<&Value> = events["events"].as_array().unwrap().iter().map(|event| &event["fields"]).collect();
    assert_eq!(fields, [&json!(["cloud_init"]), &json!(["cloud_init"])]);
}

#[tokio::test]
async fn those_who_change_it_at_once_leave_one_and_no_other() {
    let daemon = Daemon::start();
    let id = create(&daemon, &data()).await;
    let path = format!("/vms/{id}");
    let bodies = (0..6).map(|n| json!({ "cloud_init": { "hostname": format!("h{n}") } }));
    let answers = futures_util::future::join_all(bodies.map(|body| daemon.put(&path, body))).await;
    for answer in answers {
        answer.expect(200);
    }
    assert_eq!(seeds(&daemon, &id).len(), 1);
    let now = daemon.get(&path).await.expect(200)["cloud_init"].clone();
    assert!(now["hostname"].as_str().unwrap().starts_with('h'), "{now}");
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
}

#[tokio::test]
async fn qemu_has_it_as_a_disk_that_other_programs_read() {
    let daemon = Daemon::start();
    let id = create(&daemon, &data()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|file| file.unwrap().path());
    let is_seed =
        |file: &PathBuf| fs::read_link(file).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:qherd-seed"));
    let seed = open.into_iter().find(is_seed).expect("a descriptor of it");
    let image = daemon.dir.path().join("seed.iso");
    fs::write(&image, fs::read(&seed).unwrap()).unwrap();
    let blkid = Command::new("blkid").args(["-p", "-o", "value", "-s", "LABEL"]).arg(&image).output().unwrap();
    assert_eq!(String::from_utf8(blkid.stdout).unwrap(), "CIDATA\n");
    let files = daemon.dir.path().join("files");
    let mut read = Command::new("xorriso");
    read.args(["-osirrox", "on", "-indev"]).arg(&image).args(["-extract", "/"]).arg(&files);
    let read = read.output().unwrap();
    assert!(read.status.success(), "{read:?}");
    let text = |name: &str| fs::read_to_string(files.join(name)).unwrap();
    assert_eq!(text("user-data"), data()["user_data"].as_str().unwrap());
    let meta: Value = serde_json::from_str(&text("meta-data")).unwrap();
    let [file]: [PathBuf; 1] = seeds(&daemon, &id).try_into().unwrap();
    let wanted = json!({
        "instance-id": file.file_name().unwrap().to_str().unwrap(), "local-hostname": "web-1",
        "public-keys": [KEY], "region": "here"
    });
    assert_eq!(meta, wanted);
    assert_eq!(serde_json::from_str::<Value>(&text("network-config")).unwrap(), data()["network_config"]);
    assert!(text("vendor-data").starts_with("#cloud-config\n{") && text("vendor-data").contains("$6$"));
}

#[tokio::test]
async fn what_is_lost_of_it_is_said_at_the_start_and_can_be_given_anew() {
    let mut daemon = Daemon::start();
    let id = create(&daemon, &data()).await;
    let path = format!("/vms/{id}");
    fs::remove_file(&seeds(&daemon, &id)[0]).unwrap();
    let refused = daemon.post(&format!("{path}/start"), json!({})).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.message().contains("the data for its cloud-init is not there any more"), "{refused:?}");
    let names = json!(["user_data", "meta_data", "network_config", "ssh_keys", "hostname", "password"]);
    assert_eq!(daemon.get(&path).await.expect(200)["cloud_init"], json!({ "withheld": names }));
    daemon.put(&path, json!({ "cloud_init": { "hostname": "a" } })).await.expect(200);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    // What a daemon that was killed had begun to write is nobody's.
    let strange = daemon.state().join("cloud-init").join(&id).join("8b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4");
    fs::write(&strange, "{}").unwrap();
    let gone = daemon.state().join("cloud-init/9b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4");
    fs::create_dir(&gone).unwrap();
    fs::write(gone.join("8b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4"), "{}").unwrap();
    daemon.kill();
    daemon.run();
    assert!(!strange.exists() && !gone.exists() && seeds(&daemon, &id).len() == 1);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_field_and_nothing_is_written() {
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({ "hostname": "a" })).await;
    for (data, words) in [
        (json!({}), "cloud_init must hold something"),
        (json!({ "user_data": "packages: [nginx]" }), "cloud_init.user_data must begin with #cloud-config"),
        (json!({ "user_data": "#cloud-config\na: [" }), "cloud_init.user_data must be YAML"),
        (json!({ "ssh_keys": [KEY, "ssh-rsa nonsense"] }), "cloud_init.ssh_keys[1] must be a whole public key"),
        (json!({ "ssh_keys": vec![KEY; 65] }), "cloud_init.ssh_keys must have at most 64 entries"),
        (json!({ "hostname": "-" }), "cloud_init.hostname must be a host name"),
        (json!({ "network_config": { "ethernets": {} } }), "cloud_init.network_config must say its version"),
        (json!({ "password": "$y$j9T$a$b" }), "cloud_init.password must be a hash that cloud-init knows"),
        (
            json!({ "meta_data": { "public-keys": [] }, "ssh_keys": [KEY] }),
            "cloud_init.meta_data must not hold public-keys",
        ),
        (json!({ "withheld": ["password"] }), "cloud_init.withheld must not name password: there was none"),
        (json!({ "keys": [KEY] }), "cloud_init.keys"),
        (json!({ "user_data": 5 }), "cloud_init.user_data"),
    ] {
        let mut wish = daemon.wish();
        wish["cloud_init"] = data.clone();
        for answer in
            [daemon.post("/vms", wish).await, daemon.put(&format!("/vms/{id}"), json!({ "cloud_init": data })).await]
        {
            assert!(answer.status == 400 && answer.message().contains(words), "{words}: {answer:?}");
        }
    }
    assert_eq!(seeds(&daemon, &id).len(), 1);
    assert_eq!(fs::read_dir(daemon.state().join("cloud-init")).unwrap().count(), 1);
}
