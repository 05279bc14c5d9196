//! What the daemon tells of its host, against what the kernel tells the test.

use crate::support;

use crate::support::{Daemon, affinity};
use serde_json::{Value, json};

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

/// `MemTotal` and the like, in MiB.
fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn the_host_is_told_as_the_kernel_tells_it() {
    let daemon = Daemon::start();
    let host = daemon.get("/host").await.expect(200);
    let cores = &host["cores"];
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).unwrap().unwrap() as usize;
    assert_eq!(numbers(&cores["online"]).len(), online, "{host}");
    assert_eq!(numbers(&cores["usable"]), affinity(daemon.pid()), "{host}");
    let isolated = std::fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    assert_eq!(numbers(&cores["isolated"]).is_empty(), isolated.trim().is_empty(), "{host}");
    assert_eq!((&cores["pinned"], &host["pinned_by"]), (&json!([]), &json!([])));

    assert_eq!(host["memory_total"], meminfo("MemTotal"));
    let (reported, now) = (host["memory_available"].as_u64().unwrap(), meminfo("MemAvailable"));
    assert!(reported.abs_diff(now) < meminfo("MemTotal") / 4, "said {reported} MiB, the kernel {now}");

    let nodes = host["numa_nodes"].as_array().unwrap();
    let folders = std::fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let known = |name: String| name.strip_prefix("node").is_some_and(|n| n.parse::<u32>().is_ok());
    assert_eq!(nodes.len(), folders.filter(|f| known(f.file_name().into_string().unwrap())).count(), "{host}");
    if !nodes.is_empty() {
        let mut all: Vec<u32> = nodes.iter().flat_map(|node| numbers(&node["cores"])).collect();
        all.sort_unstable();
        assert_eq!(all, numbers(&cores["online"]), "{host}");
        let memory: u64 = nodes.iter().map(|node| node["memory_total"].as_u64().unwrap()).sum();
        assert!(memory > 0 && nodes.iter().all(|n| n["memory_free"].as_u64() <= n["memory_total"].as_u64()), "{host}");
    }

    let health = daemon.get("/health").await.expect(200);
    for name in ["qemu_version", "accelerator", "accelerator_reason"] {
        assert_eq!(host[name], health[name]);
    }
}

#[tokio::test]
async fn a_daemon_that_may_not_use_all_cores_says_so() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let core = affinity(std::process::id() as i32).pop().unwrap();
    let qherd = daemon.command();
    let mut command = std::process::Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(qherd.get_program()).args(qherd.get_args());
    command.current_dir(daemon.dir.path());
    daemon.run_as(command);
    let host = daemon.get("/host").await.expect(200);
    assert_eq!(numbers(&host["cores"]["usable"]), [core]);
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).unwrap().unwrap() as usize;
    assert_eq!(numbers(&host["cores"]["online"]).len(), online);
}

#[tokio::test]
async fn pinned_cores_are_told_with_the_vm_that_has_them_until_it_is_gone() {
    let daemon = Daemon::start();
    let usable = numbers(&daemon.get("/host").await.expect(200)["cores"]["usable"]);
    let (first, last) = (usable[0], usable[usable.len() - 1]);
    let mut wish = daemon.wish();
    wish["name"] = json!("one each");
    wish["vcpus"] = json!(usable.len());
    wish["cpu_pinning"] = json!({ "cores": usable });
    wish["start"] = json!(true);
    let each = daemon.create(wish).await;
    let mut wish = daemon.wish();
    wish["name"] = json!("any of a set");
    wish["vcpus"] = json!(2);
    wish["cpu_pinning"] = json!({ "cores": [last] });
    let set = daemon.create(wish).await;
    daemon.create(daemon.wish()).await;

    let one_each: Vec<Value> = (0..).zip(&usable).map(|(i, core)| json!({"vcpu": i, "cores": [core]})).collect();
    let one_each = json!({"id": each, "vm_id": each, "name": "one each", "status": "running", "vcpus": one_each});
    let of_a_set = json!({"id": set, "vm_id": set, "name": "any of a set", "status": "stopped", "vcpus": [
        {"vcpu": 0, "cores": [last]}, {"vcpu": 1, "cores": [last]},
    ]});
    let host = daemon.get("/host").await.expect(200);
    assert_eq!(host["pinned_by"], json!([one_each, of_a_set]));
    assert_eq!(numbers(&host["cores"]["pinned"]), usable);
    // The kernel agrees.
    let pid = daemon.get(&format!("/vms/{each}")).await.expect(200)["pid"].as_i64().unwrap() as i32;
    assert_eq!(affinity(support::vcpu_threads(pid)[0]), [first]);

    daemon.post(&format!("/vms/{each}/stop?force=true"), json!({})).await.expect(200);
    let host = daemon.get("/host").await.expect(200);
    assert_eq!((&host["pinned_by"][0]["id"], &host["pinned_by"][0]["status"]), (&json!(each), &json!("stopped")));
    daemon.delete(&format!("/vms/{each}")).await.expect(200);
    let host = daemon.get("/host").await.expect(200);
    assert_eq!(host["pinned_by"], json!([of_a_set]));
    assert_eq!(numbers(&host["cores"]["pinned"]), [last]);
}

#[tokio::test]
async fn the_host_takes_neither_parameters_nor_other_methods() {
    let daemon = Daemon::start();
    let answer = daemon.get("/host?verbose=true").await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.message().contains("verbose"), "{}", answer.body);
    assert_eq!(daemon.delete("/host").await.status, 405);
    let openapi = daemon.get("/openapi.json").await.expect(200);
    assert_eq!(openapi["paths"]["/host"]["get"]["operationId"], "getHost");
}
