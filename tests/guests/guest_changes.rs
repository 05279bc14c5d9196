//! Changes of a running guest, seen from inside it: vCPUs, memory, disk and limits, and what of them waits for the next
//! start.

use crate::support::{Daemon, affinity, guest, vcpu_threads};
use serde_json::{Value, json};

async fn put(daemon: &Daemon, id: &str, what: &str, body: Value) -> Value {
    daemon.put(&format!("/vms/{id}/{what}"), body).await.expect(200)
}

/// Another size of its memory, without a start. On a busy host the guest may follow later than the daemon waits for it.
async fn resized(daemon: &Daemon, id: &str, memory: u64) {
    put(daemon, id, "memory", json!({ "memory": memory })).await;
    daemon.await_in_effect(id).await;
}

async fn pid(daemon: &Daemon, id: &str) -> i32 {
    daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap() as i32
}

async fn affinities(daemon: &Daemon, id: &str) -> Vec<Vec<u32>> {
    vcpu_threads(pid(daemon, id).await).into_iter().map(affinity).collect()
}

/// MiB.
async fn free_memory(daemon: &Daemon, id: &str) -> u64 {
    let line = daemon
        .type_line(id, "awk '/MemFree/ {print \"free\" \"-mib\", int($2/1024)}' /proc/meminfo", "free-mib ")
        .await;
    line.split("free-mib ").nth(1).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn vcpus_memory_disk_and_limits_change_while_the_guest_runs() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["max_memory"] = json!(1024);
    wish["max_vcpus"] = json!(4);
    let id = daemon.create(wish).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let first = daemon.await_boot(&id, None).await;

    // vCPUs: 1, 4, 2; pinned, the new ones too.
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 4, "cpu_pinning": { "cores": [1] } })).await;
    assert_eq!((&answer["applied"], &answer["vcpus"]), (&json!("live"), &json!(4)), "{answer}");
    daemon.await_beat(&id, |beat| beat.cpus == 4).await;
    assert_eq!(affinities(&daemon, &id).await, vec![vec![1]; 4]);
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 2 })).await;
    assert_eq!(answer["applied"], "live", "{answer}");
    daemon.await_beat(&id, |beat| beat.cpus == 2).await;
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 3, "cpu_pinning": null })).await;
    assert_eq!((&answer["applied"], &answer["cpu_pinning"]), (&json!("live"), &Value::Null), "{answer}");
    daemon.await_beat(&id, |beat| beat.cpus == 3).await;
    assert_eq!(affinities(&daemon, &id).await, vec![vec![0, 1]; 4]);

    // Memory: up by 512 MiB and down again, and below the boot size.
    let groups = crate::groups::groups(&daemon.get(&format!("/vms/{id}")).await.expect(200)["sandbox"]);
    // An eighth more, what an emulating QEMU takes (docs/adr/0032), and the process that carries its NIC (0037).
    let bound = |memory: u64| (memory + memory / 8 + 2048 + 64) << 20;
    assert_eq!(crate::groups::memory_bound(&groups), bound(256));
    resized(&daemon, &id, 768).await;
    assert_eq!(crate::groups::memory_bound(&groups), bound(768));
    daemon.await_beat(&id, |beat| beat.mem_mib > first.mem_mib + 450).await;
    resized(&daemon, &id, 256).await;
    daemon.await_beat(&id, |beat| beat.mem_mib <= first.mem_mib + 2).await;
    // A balloon that deflates before the guest runs out takes free memory, it does not change the total.
    let free = free_memory(&daemon, &id).await;
    resized(&daemon, &id, 192).await;
    let ballooned = free_memory(&daemon, &id).await;
    assert!(ballooned + 50 < free, "{ballooned} of {free} MiB");
    resized(&daemon, &id, 320).await;
    daemon.await_beat(&id, |beat| beat.mem_mib > first.mem_mib + 50).await;

    // The disk, without a reboot; and its limit.
    let answer = put(&daemon, &id, "disk", json!({ "disk_size": 3 })).await;
    assert_eq!((&answer["applied"], &answer["disk_size"]), (&json!("live"), &json!(3)), "{answer}");
    daemon.await_beat(&id, |beat| beat.disk_mib == 3072).await;
    // A busy host may leave less than the limit, which is at least more than the one before.
    for (least, limit) in [(0.0, 40), (1.15 * 40.0, 80)] {
        let answer = put(&daemon, &id, "disk", json!({ "io_limits": { "iops": limit } })).await;
        assert_eq!(answer["applied"], "live", "{answer}");
        let line = daemon.type_line(&id, "io-test read 5", "qherd-io: op=read").await;
        let iops: f64 = line.split("iops=").nth(1).unwrap().trim().parse().unwrap();
        assert!((least..=1.15 * f64::from(limit)).contains(&iops), "{line}");
    }

    // Nothing is pending, the daemon's death changes nothing, and the next start has it all. (With one vCPU again: a boot with
    // several is in guest_vcpus.)
    put(&daemon, &id, "cpu", json!({ "vcpus": 1 })).await;
    daemon.await_beat(&id, |beat| beat.cpus == 1 && beat.disk_mib == 3072).await;
    // A device that is hot-plugged after vCPUs came and went is what kills a QEMU before 10.0 that lost one by device_del.
    let disk = daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    assert_eq!(disk["applied"], "live", "{disk}");
    let config = format!("/vms/{id}/config");
    let before = daemon.get(&config).await.expect(200);
    assert_eq!(before["pending"], json!({}), "{before}");
    daemon.kill();
    daemon.run();
    assert_eq!(daemon.get(&config).await.expect(200), before);
    daemon.post(&format!("/vms/{id}/stop"), json!({})).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let again = daemon.await_beat(&id, |beat| beat.boot != first.boot).await;
    assert_eq!((again.cpus, again.disk_mib), (1, 3072));
    assert!((220..=320).contains(&again.mem_mib), "{again:?}");
    assert_eq!(daemon.await_in_effect(&id).await, before);
}

#[tokio::test]
async fn what_was_changed_while_the_guest_ran_is_there_after_a_reboot() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    (wish["max_memory"], wish["start"]) = (json!(1024), json!(true));
    let id = daemon.create(wish).await;
    let first = daemon.await_boot(&id, None).await;
    resized(&daemon, &id, 512).await;
    put(&daemon, &id, "disk", json!({ "disk_size": 3, "io_limits": { "iops": 500 } })).await;
    daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    daemon.await_beat(&id, |beat| beat.mem_mib > first.mem_mib + 200 && beat.disk_mib == 3072).await;
    let before = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!(before["pending"], json!({}), "{before}");
    daemon.post(&format!("/vms/{id}/reboot"), json!({})).await.expect(200);
    daemon.await_boot(&id, Some(&first)).await;
    daemon.await_status(&id, "running").await;
    let grown =
        |beat: &guest::Beat| beat.boot != first.boot && beat.mem_mib > first.mem_mib + 200 && beat.disk_mib == 3072;
    daemon.await_beat(&id, grown).await;
    assert_eq!(daemon.await_in_effect(&id).await, before);
}

/// Memory that it might get costs a Linux guest 64 MiB of its own; nobody asked for it here.
#[tokio::test]
async fn a_guest_of_128_mib_boots_and_grows_from_the_next_start_on() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["memory"] = json!(128);
    let id = daemon.create(wish).await;
    let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!(config["max_memory"], 128);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let first = daemon.await_boot(&id, None).await;
    assert!(first.mem_mib > 70, "{first:?}");
    let answer = put(&daemon, &id, "memory", json!({ "memory": 256 })).await;
    assert_eq!((&answer["applied"], &answer["memory"]), (&json!("next_start"), &json!(256)), "{answer}");
    assert_eq!(answer["pending"], json!({ "memory": { "configured": 256, "in_effect": 128 } }));
    daemon.post(&format!("/vms/{id}/stop"), json!({})).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let second = daemon.await_beat(&id, |beat| beat.boot != first.boot).await;
    assert!(second.mem_mib > first.mem_mib + 100, "{first:?} {second:?}");
    // Within what it was started with it shrinks and grows live.
    daemon.await_boot(&id, Some(&first)).await;
    for memory in [192, 256] {
        assert_eq!(put(&daemon, &id, "memory", json!({ "memory": memory })).await["applied"], "live");
    }
}
