//! Every list of a request has a bound, refused by its name; and the largest VM that is accepted can be stored in every
//! state that it comes into.

use crate::support::{Answer, Daemon};
use serde_json::{Value, json};

/// Ports of the host that nothing uses by itself (below those that the kernel hands out), on an address of this process' own
/// that is as long as one can be.
fn forwards(count: u16, from: u16) -> Value {
    let own = std::process::id();
    let address = format!("127.{}.{}.233", 100 + own % 100, 200 + own / 100 % 50);
    (from..from + count)
        .map(|port| json!({ "protocol": "udp", "host_address": address, "host_port": port, "guest_port": 65_000 }))
        .collect()
}

fn nic(count: u16, from: u16) -> Value {
    json!({ "name": "ü".repeat(64), "user": { "forwards": forwards(count, from) } })
}

fn limits() -> Value {
    let mut limits = json!({});
    for kind in ["iops_read", "iops_write", "bps_read", "bps_write"] {
        limits[kind] = json!(100_000_000_000_000_u64);
        limits[format!("{kind}_burst")] = json!(500_000_000_000_000_u64);
    }
    limits
}

#[track_caller]
fn refused(answer: &Answer, words: &str) {
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.message().contains(words), "no {words:?} in {}", answer.message());
}

#[tokio::test]
async fn a_list_beyond_its_bound_is_refused_by_its_name() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let with = |field: &str, value: Value| {
        let mut wish = daemon.wish();
        wish[field] = value;
        wish
    };
    let cores = |count: u32| (0..count).collect::<Vec<_>>();
    let sets = |sets: usize, cores: u32| json!({ "vcpus": vec![(0..cores).collect::<Vec<_>>(); sets] });
    let many = |value: Value| Value::Array(vec![value; 65]);
    for (wish, words) in [
        (with("networks", json!([nic(65, 20_000)])), "networks[0].user.forwards must have at most 64 entries, not 65."),
        (with("networks", many(json!({ "user": {} }))), "networks must have at most 64 entries"),
        (with("disks", many(json!({ "disk_size": 1 }))), "disks must have at most 64 entries"),
        (with("cpu_pinning", json!({ "cores": cores(1025) })), "cpu_pinning.cores must have at most 1024 entries"),
        (with("cpu_pinning", json!({ "emulator": cores(1025) })), "cpu_pinning.emulator must have at most 1024"),
        (with("cpu_pinning", sets(256, 1)), "cpu_pinning.vcpus must have at most 255 entries"),
        (with("cpu_pinning", sets(1, 1025)), "cpu_pinning.vcpus[0] must have at most 1024 entries"),
    ] {
        refused(&daemon.post("/vms", wish).await, words);
    }
    refused(&daemon.post(&format!("/vms/{id}/networks"), nic(65, 20_000)).await, "forwards must have at most 64");
    let pinning = json!({ "cpu_pinning": { "cores": cores(1025) } });
    refused(&daemon.put(&format!("/vms/{id}/cpu"), pinning).await, "cpu_pinning.cores must have at most 1024");
    let adapters = Value::Array(vec![json!({ "switchName": "" }); 65]);
    let answer = daemon.put(&format!("/hyperv/vms/{id}"), json!({ "networkAdapters": adapters })).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(answer.body["error"], "Invalid parameter: networkAdapters must have at most 64 entries, not 65.");
    // OpenAPI tells them.
    let bounds = [
        ("/openapi.json", "UserBody", "forwards", 64),
        ("/openapi.json", "CreateBody", "disks", 64),
        ("/openapi.json", "CreateBody", "networks", 64),
        ("/openapi.json", "CpuPinning", "cores", 1024),
        ("/openapi.json", "CpuPinning", "vcpus", 255),
        ("/hyperv/openapi.json", "UpdateBody", "networkAdapters", 64),
    ];
    for (document, schema, field, bound) in bounds {
        let document = daemon.get(document).await.expect(200);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let reported = [schema.to_owned(), format!("{schema}Input")]
            .iter()
            .filter_map(|name| schemas.get(name))
            .any(|schema| schema["properties"][field]["maxItems"] == bound);
        assert!(reported, "{schema}.{field}: {:?}", schemas.get(schema));
    }
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1, "nothing was made");
}

#[tokio::test]
async fn the_largest_vm_that_is_accepted_starts_changes_reboots_and_stops() {
    let mut daemon = Daemon::start();
    // A base image at the end of a long path.
    let folder = (0..4).fold(daemon.bases(), |folder, _| folder.join("x".repeat(200)));
    std::fs::create_dir_all(&folder).unwrap();
    let base = folder.join("blank.raw");
    std::fs::copy(daemon.bases().join("blank.raw"), &base).unwrap();
    let disk = |base: &std::path::Path| json!({ "disk_size": 1, "base_image": base, "io_limits": limits() });
    let mut wish = daemon.wish();
    wish["name"] = json!("機".repeat(64));
    // What is noted of it takes no room from the rest.
    wish["labels"] = (0..64).map(|n| (format!("label{n:02}"), json!("v".repeat(130)))).collect();
    wish["description"] = json!("d".repeat(1024));
    (wish["base_image"], wish["io_limits"], wish["iso"]) = (json!(base), limits(), json!(base));
    (wish["vcpus"], wish["max_vcpus"]) = (json!(8), json!(8));
    wish["cpu_pinning"] = json!({ "vcpus": vec![[0, 1]; 8], "emulator": [0, 1] });
    wish["disks"] = json!([disk(&base), disk(&base), disk(&base)]);
    // All that it can have at once is more than a record holds: it is told what to give less of, and nothing is left.
    wish["networks"] = json!([nic(64, 20_000), nic(64, 20_100), nic(64, 20_200)]);
    let answer = daemon.post("/vms", wish.clone()).await;
    refused(&answer, "networks must take less room: the whole definition of a VM may have 12800 bytes");
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    // As large as it can be, to the forward.
    let (mut fits, mut refuses) = (0_u16, 192_u16);
    let id = loop {
        let count = if refuses - fits > 1 { (fits + refuses) / 2 } else { fits };
        let (first, second) = (count.min(64), count.saturating_sub(64).min(64));
        wish["networks"] = json!([nic(first, 20_000), nic(second, 20_100), nic(count - first - second, 20_200)]);
        let answer = daemon.post("/vms", wish.clone()).await;
        match answer.status {
            201 => {
                let id = answer.body["id"].as_str().unwrap().to_owned();
                if count == fits {
                    break id;
                }
                daemon.delete(&format!("/vms/{id}")).await.expect(200);
                fits = count;
            }
            _ => {
                refused(&answer, "take less room");
                refuses = count;
            }
        }
    };
    assert!(fits > 20, "{fits} forwards are few");
    let path = |what: &str| format!("/vms/{id}/{what}");
    let post = async |daemon: &Daemon, what: &str, body: Value| daemon.post(&path(what), body).await.expect(200);
    post(&daemon, "start", json!({})).await;
    // Each makes the definition another one than what QEMU has, and is stored beside it.
    let fewer = json!({ "cpu_pinning": { "vcpus": vec![[1, 0]; 8], "emulator": [1, 0] } });
    daemon.put(&path("cpu"), fewer).await.expect(200);
    daemon.put(&path("memory"), json!({ "memory": 48 })).await.expect(200);
    let mut other = limits();
    other["iops_read"] = json!(200_000_000_000_000_u64);
    daemon.put(&path("disks/disk1"), json!({ "disk_size": 2, "io_limits": other })).await.expect(200);
    let policy =
        json!({ "restart_policy": "on-failure", "max_restarts": 1_000_000, "autostart": { "enabled": false } });
    daemon.put(&path("policy"), policy).await.expect(200);
    refused(&daemon.post(&path("networks"), nic(64, 20_300)).await, "networks must take less room");
    post(&daemon, "suspend", json!({})).await;
    post(&daemon, "resume", json!({})).await;
    post(&daemon, "reboot", json!({ "timeout": 1 })).await;
    daemon.await_status(&id, "running").await;
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    post(&daemon, "stop", json!({ "timeout": 1 })).await;
    // A crash is told with QEMU's words.
    post(&daemon, "start", json!({})).await;
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap() as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.await_status(&id, "running").await;
    post(&daemon, "stop", json!({ "force": true })).await;
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}
