//! The CPU model and features of a VM: what QEMU is started with, what is refused, and when a change takes effect.

use crate::support::Daemon;
use serde_json::{Value, json};

/// The value of `-cpu` of the one QEMU that runs.
fn cpu_of(daemon: &Daemon) -> String {
    let [pid] = daemon.qemus()[..] else { panic!("one QEMU: {:?}", daemon.qemus()) };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let at = args.iter().position(|arg| *arg == b"-cpu").unwrap();
    String::from_utf8(args[at + 1].to_vec()).unwrap()
}

#[tokio::test]
async fn a_vm_has_the_cpu_that_its_owner_wants_and_a_change_of_it_waits_for_the_next_start() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    let wanted = json!({ "model": "Nehalem", "features": { "aes": true, "popcnt": false } });
    wish["cpu"] = wanted.clone();
    wish["start"] = json!(true);
    let id = daemon.create(wish.clone()).await;
    let path = format!("/vms/{id}");
    assert_eq!(cpu_of(&daemon), "Nehalem,enforce,aes=on,popcnt=off");
    assert_eq!(daemon.get(&path).await.expect(200)["cpu"], wanted);
    let hyperv = daemon.get(&format!("/hyperv/vms/{id}")).await.expect(200);
    assert_eq!((&hyperv["CPUModel"], &hyperv["CPUFeatures"]), (&json!("Nehalem"), &wanted["features"]));

    // The whole again changes nothing.
    let same = daemon.put(&path, wish).await.expect(200);
    assert_eq!((&same["applied"], &same["pending"]), (&json!("live"), &json!({})), "{same}");
    let other = json!({ "features": { "avx2": false } });
    let changed = daemon.put(&path, json!({ "cpu": other, "vcpus": 1 })).await.expect(200);
    let pending = json!({ "configured": other, "in_effect": wanted });
    assert_eq!((&changed["applied"], &changed["pending"]["cpu"]), (&json!("next_start"), &pending), "{changed}");
    // Also where it is so already and not in effect, and over the daemon's death.
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    let again = daemon.put(&path, json!({ "cpu": other })).await.expect(200);
    assert_eq!((&again["applied"], &again["pending"]["cpu"]), (&json!("next_start"), &pending), "{again}");
    // What is about something else is in effect.
    assert_eq!(daemon.put(&path, json!({ "labels": { "a": "b" } })).await.expect(200)["applied"], "live");
    daemon.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    assert_eq!(cpu_of(&daemon), "max,enforce,avx2=off");
    assert_eq!(daemon.get(&path).await.expect(200)["pending"], json!({}));

    let removed = daemon.put(&path, json!({ "cpu": null })).await.expect(200);
    assert_eq!((&removed["cpu"], &removed["applied"]), (&Value::Null, &json!("next_start")));
    daemon.post(&format!("{path}/stop?force=true"), json!({})).await.expect(200);
    daemon.post(&format!("{path}/start"), json!({})).await.expect(200);
    assert_eq!(cpu_of(&daemon), "max");
}

#[tokio::test]
async fn a_cpu_that_is_not_known_or_cannot_run_is_refused_with_what_to_do() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for (cpu, words) in [
        (json!({}), vec!["cpu must hold a model or features"]),
        (json!({ "model": "Skylake" }), vec!["cpu.model must be a CPU model of QEMU", "near are", "Skylake-Client"]),
        (json!({ "model": "nehalme" }), vec!["Nehalem"]),
        (json!({ "model": "max,+vmx" }), vec!["cpu.model must be the name"]),
        (json!({ "model": "SandyBridge" }), vec!["SandyBridge needs", "tsc-deadline", "TCG lacks"]),
        (json!({ "model": "host" }), vec!["host needs KVM"]),
        (json!({ "features": { "avx3": true } }), vec!["cpu.features.avx3 must be known to QEMU", "near are", "avx2"]),
        (json!({ "features": { "avx512f": true } }), vec!["cpu.features.avx512f must be false", "TCG lacks it"]),
        (json!({ "features": { "enforce": false } }), vec!["cpu.features.enforce must be known"]),
        (json!({ "features": { "aes": "on" } }), vec!["cpu.features.aes"]),
        (json!({ "flags": {} }), vec!["cpu.flags is not known"]),
    ] {
        let mut wish = daemon.wish();
        wish["cpu"] = cpu.clone();
        for answer in [daemon.post("/vms", wish).await, daemon.put(&format!("/vms/{id}"), json!({ "cpu": cpu })).await]
        {
            assert_eq!(answer.status, 400, "{cpu}: {answer:?}");
            for word in &words {
                assert!(answer.message().contains(word), "{cpu}: {word:?} is not in {:?}", answer.message());
            }
        }
    }
    let vms = daemon.get("/vms").await.expect(200);
    assert_eq!(vms.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_only_qemu_finds_missing_refuses_the_start_with_words() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    // Off by default for another reason, so that it may be there: QEMU knows.
    wish["cpu"] = json!({ "model": "qemu64", "features": { "invtsc": true } });
    let id = daemon.create(wish).await;
    let answer = daemon.post(&format!("/vms/{id}/start"), json!({})).await;
    if answer.status == 200 {
        // A QEMU whose TCG has it.
        assert_eq!(cpu_of(&daemon), "qemu64,enforce,invtsc=on");
        return;
    }
    assert_eq!(answer.status, 409, "{answer:?}");
    for word in ["cannot run the CPU", "invtsc", "PUT /vms/{id}"] {
        assert!(answer.message().contains(word), "{answer:?}");
    }
    daemon.put(&format!("/vms/{id}"), json!({ "cpu": null })).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
}
