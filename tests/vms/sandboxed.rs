//! Which sandbox a VM is in: shown, kept over the daemon's life, told where a layer is missing, and required where that is
//! wished. What each layer holds is in `sandbox`.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use crate::groups::{groups, holds, memory_bound};
use crate::intruder::Intruder;
use crate::stand_in::StandIn;
use crate::support::{self, Daemon};
use qherd::{host::process, model::Layer};
use serde_json::{Value, json};

async fn sandbox_of(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/vms/{id}")).await.expect(200)["sandbox"].take()
}

fn uid_of(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_vm_runs_as_a_user_of_its_own_and_says_so_also_after_a_restart_of_the_daemon() {
    let mut daemon = Daemon::start();
    let host = daemon.get("/host").await.expect(200);
    let named: Vec<&str> = Layer::ALL.into_iter().map(Layer::name).collect();
    assert_eq!(host["sandbox"], json!({ "layers": named, "missing": [] }));
    // They have a NIC on the user-mode network, and no network.
    let all = json!(named);
    let user_network = json!({ "carrier": "passt", "reason": "passt works", "exposure": null });
    assert_eq!(host["user_network"], user_network);
    assert_eq!(daemon.get("/health").await.expect(200)["warnings"], json!([]));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut wish = daemon.wish();
        wish["start"] = json!(true);
        let id = daemon.create(wish).await;
        let vm = daemon.get(&format!("/vms/{id}")).await.expect(200);
        let uid = vm["sandbox"]["uid"].as_u64().unwrap() as u32;
        assert_eq!(vm["sandbox"]["layers"], all);
        assert!((2_100_000_000..=2_100_065_535).contains(&uid) && uid_of(vm["pid"].as_i64().unwrap() as i32) == uid);
        assert!(!seen.iter().any(|(_, other)| *other == uid), "{uid} twice");
        seen.push((id, uid));
    }
    daemon.kill();
    daemon.run();
    for (id, uid) in &seen {
        daemon.await_status(id, "running").await;
        assert_eq!(sandbox_of(&daemon, id).await["uid"], *uid);
    }
    let (id, _) = &seen[0];
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    assert_eq!(sandbox_of(&daemon, id).await, Value::Null);
}

/// Waits for what follows an answer.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < support::PATIENCE, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_vm_is_alone_in_a_group_that_is_found_again_and_goes_with_it_and_so_does_its_users_file() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let sandbox = sandbox_of(&daemon, &id).await;
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap() as i32;
    let user = PathBuf::from(format!("/run/qherd/uids/{}", sandbox["uid"]));
    let groups = groups(&sandbox);
    assert!(!groups.is_empty() && holds(&groups, pid) && user.exists(), "{groups:?}");
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    assert!(holds(&groups, pid) && user.exists());
    assert_eq!(sandbox_of(&daemon, &id).await, sandbox);
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    until("its groups go", || !groups.iter().any(|group| group.exists())).await;
    until("its user's file goes", || !user.exists()).await;

    // And of one that ended while there was no daemon.
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let sandbox = sandbox_of(&daemon, &id).await;
    let vm = daemon.get(&format!("/vms/{id}")).await.expect(200);
    let (groups, user) =
        (crate::groups::groups(&sandbox), PathBuf::from(format!("/run/qherd/uids/{}", sandbox["uid"])));
    daemon.kill();
    let qemu = process::open(vm["pid"].as_i64().unwrap() as i32).unwrap();
    qemu.kill();
    qemu.exited().await;
    assert!(user.exists() && groups.iter().all(|group| group.exists()));
    daemon.run();
    daemon.await_status(&id, "crashed").await;
    until("what was left goes", || !user.exists() && !groups.iter().any(|group| group.exists())).await;
}

/// Somebody has taken QEMU over: it takes all the memory that it gets, starts whatever it may, and leaves processes behind.
#[tokio::test]
async fn a_qemu_that_takes_all_it_gets_is_stopped_and_nobody_else_is_hurt() {
    let intruder = Intruder::build();
    intruder.show_to_all();
    let stand_in = StandIn::new("");
    let program = stand_in.path().with_file_name("intruder");
    std::fs::copy(intruder.path(), &program).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" size=80M\"*) sleep 4003.27182 & {} eat=3000 forks=2100 & ;; esac\n\
         exec qemu-system-x86_64 \"$@\"\n",
        program.display()
    );
    std::fs::write(stand_in.path(), script).unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let start = async |memory: u64| {
        let mut wish = daemon.wish();
        (wish["start"], wish["memory"]) = (json!(true), json!(memory));
        daemon.create(wish).await
    };
    let good = start(64).await;
    let bad = start(80).await;
    let groups = groups(&sandbox_of(&daemon, &bad).await);
    // More than its bound, and less than the host has.
    assert!(memory_bound(&groups) < 3000 << 20);
    until("the kernel ends what takes too much", || process::find(&["eat=3000"]).unwrap().is_empty()).await;
    let worst =
        groups.iter().flat_map(|group| ["memory.max_usage_in_bytes", "memory.peak"].map(|name| group.join(name)));
    let worst = worst.filter_map(|file| std::fs::read_to_string(file).ok()).next();
    if let Some(worst) = worst {
        assert!(worst.trim().parse::<u64>().unwrap() <= memory_bound(&groups));
    }
    assert_eq!(daemon.status(&good).await, "running");
    assert_eq!(daemon.get("/health").await.expect(200)["warnings"], json!([]));
    assert_eq!(process::find(&["sleep", "4003.27182"]).unwrap().len(), 1);
    daemon.post(&format!("/vms/{bad}/stop"), json!({ "force": true })).await.expect(200);
    until("nothing is left of it", || process::find(&["sleep", "4003.27182"]).unwrap().is_empty()).await;
    assert_eq!(daemon.status(&good).await, "running");
}

/// The passts of a VM's NICs.
fn passts(nic: &Value) -> Vec<i32> {
    let router = nic["mac"].as_str().unwrap().replacen("52:54:", "52:55:", 1);
    process::find(&["--mac-addr", &router]).unwrap()
}

#[tokio::test]
async fn a_user_mode_nic_is_plugged_into_a_vm_that_began_without_and_goes_with_it() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    (wish["start"], wish["networks"]) = (json!(true), json!([]));
    let id = daemon.create(wish).await;
    let vm = daemon.get(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(vm["sandbox"]["carrier"], "passt");
    let nics = format!("/vms/{id}/networks");
    let forward = json!([{ "host_port": free_port(), "guest_port": 22 }]);
    let first = daemon.post(&nics, json!({ "user": { "forwards": forward } })).await.expect(201);
    let second = daemon.post(&nics, json!({ "user": {} })).await.expect(201);
    for nic in [&first, &second] {
        assert_eq!(
            (&nic["applied"], &nic["user"]["carrier"], &nic["status"]),
            (&json!("live"), &json!("passt"), &json!("ok"))
        );
        let [pid] = passts(nic)[..] else { panic!("{nic}") };
        // As the VM's user, in its group, on the host's network; and QEMU is not.
        assert_eq!(uid_of(pid), vm["sandbox"]["uid"].as_u64().unwrap() as u32);
        assert!(holds(&groups(&vm["sandbox"]), pid));
        let network = |pid: i64| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_eq!(network(pid.into()), network(std::process::id().into()));
        assert_ne!(network(vm["pid"].as_i64().unwrap()), network(pid.into()));
    }
    // The next daemon takes them over, and replaces one that ends.
    let before = [passts(&first), passts(&second)];
    daemon.kill();
    daemon.run();
    daemon.await_status(&id, "running").await;
    assert_eq!([passts(&first), passts(&second)], before);
    support::kill_all(&before[0]);
    until("another carries it", || passts(&first).first().is_some_and(|pid| *pid != before[0][0])).await;
    assert_eq!(passts(&second), before[1]);
    // With its QEMU, whoever ends that.
    support::kill_all(&[vm["pid"].as_i64().unwrap() as i32]);
    daemon.await_status(&id, "crashed").await;
    until("all have ended", || passts(&first).is_empty() && passts(&second).is_empty()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!((passts(&first).len(), passts(&second).len()), (1, 1));
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    until("nothing is left", || {
        passts(&first).is_empty() && passts(&second).is_empty() && daemon.leftovers().is_empty()
    })
    .await;
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What answers on a port of the API is taken for the API.
#[tokio::test]
async fn a_forward_of_the_apis_port_is_refused_whoever_carries_it() {
    for carrier in ["passt", "slirp"] {
        let daemon = Daemon::start_with(&["--accel", "tcg", "--user-network", carrier]);
        let port: u16 = daemon.url.rsplit(':').next().unwrap().parse().unwrap();
        let networks = |port: u16| json!([{ "user": { "forwards": [{ "host_port": port, "guest_port": 22 }] } }]);
        let mut wish = daemon.wish();
        (wish["start"], wish["networks"]) = (json!(true), networks(port));
        let refused = daemon.post("/vms", wish.clone()).await;
        assert!(refused.status == 400 && refused.body.to_string().contains(&port.to_string()), "{}", refused.body);
        wish["networks"] = networks(1023);
        assert_eq!(daemon.post("/vms", wish).await.status, 400);
    }
}

#[tokio::test]
async fn the_rules_of_the_user_mode_network_are_there_for_as_long_as_a_vm_is_on_it() {
    let _host = support::netns::Host::leave();
    let daemon = Daemon::start();
    let there = || support::netns::nft("list tables").contains("_users");
    until("there are none without a VM", || !there()).await;
    let id = daemon.create(daemon.wish()).await;
    for _ in 0..5 {
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
        assert!(there());
        daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    }
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    // What the stop before has begun is not done to this run.
    for _ in 0..25 {
        assert!(there());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    until("they have gone", || !there()).await;
}

/// One that is too old, or is something else: whether it works is tried.
#[tokio::test]
async fn a_passt_that_does_not_work_is_as_good_as_none_and_is_told() {
    let folder = tempfile::Builder::new().prefix("qherd-passt-").tempdir().unwrap();
    let passt = folder.path().join("passt");
    std::fs::write(&passt, "#!/bin/sh\necho \"passt: unrecognized option '$7'\" >&2\nexit 1\n").unwrap();
    for path in [folder.path(), &passt] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut daemon = Daemon::start();
    daemon.terminate();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut command = daemon.command();
    daemon.run_as({
        command.env("PATH", &path);
        command
    });
    let host = daemon.get("/host").await.expect(200);
    let reason = host["user_network"]["reason"].as_str().unwrap();
    assert!(host["user_network"]["carrier"] == "slirp" && reason.contains("unrecognized option"), "{host}");
    for health in ["/health", "/hyperv/health"] {
        let health = daemon.get(health).await.expect(200);
        assert!(health["warnings"][0].as_str().unwrap().contains("has the host's network"), "{health}");
    }
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let sandbox = sandbox_of(&daemon, &id).await;
    assert!(sandbox["carrier"] == "slirp" && !sandbox["layers"].to_string().contains("network"), "{sandbox}");
    daemon.terminate();
    // It stays so until its next start.
    daemon.run();
    daemon.await_status(&id, "running").await;
    let nics = daemon.get(&format!("/vms/{id}/networks")).await.expect(200);
    assert_eq!(nics[0]["user"]["carrier"], "slirp");
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(sandbox_of(&daemon, &id).await["carrier"], "passt");
    daemon.terminate();
    let output = daemon.command().env("PATH", &path).args(["--user-network", "passt"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--user-network passt: passt does not work here"), "{said}");
}

/// A QEMU that is to carry NICs on the user-mode network itself, and began without one, has no way to the host's network.
#[tokio::test]
async fn a_user_mode_nic_of_qemus_own_waits_for_the_next_start_of_a_vm_that_began_without() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--user-network", "slirp"]);
    let mut wish = daemon.wish();
    (wish["start"], wish["networks"]) = (json!(true), json!([]));
    let id = daemon.create(wish).await;
    let pid = async || daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap();
    let network = |pid: i64| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(network(pid().await), here);
    let nics = format!("/vms/{id}/networks");
    let refused = daemon.post(&nics, json!({ "user": {} })).await;
    let said = refused.body["error"]["message"].as_str().unwrap().to_owned();
    assert!(refused.status == 409 && said.contains("stop the VM, add the NIC"), "{} {said}", refused.status);
    assert_eq!(daemon.get(&nics).await.expect(200), json!([]));
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
    let first = daemon.post(&nics, json!({ "user": {} })).await.expect(201);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(network(pid().await), here);
    // From then on they come and go, the last one too.
    daemon.post(&nics, json!({ "user": {} })).await.expect(201);
    assert!(first["id"].is_string(), "{first}");
    let layers = sandbox_of(&daemon, &id).await["layers"].clone();
    assert!(!layers.as_array().unwrap().contains(&json!("network")), "{layers}");
}

/// A QEMU in a folder that others may not look into.
#[tokio::test]
async fn a_layer_that_cannot_be_put_on_is_told_and_refused_where_all_are_required() {
    let stand_in = StandIn::new("");
    let folder = stand_in.path().parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let host = daemon.get("/host").await.expect(200);
    let missing = host["sandbox"]["missing"].as_array().unwrap();
    let why = missing[0]["why"].as_str().unwrap();
    assert_eq!((missing.len(), &missing[0]["layer"]), (1, &json!("user")), "{host}");
    assert!(why.contains(&stand_in.as_arg()) && why.contains("Permission denied"), "{why}");
    for health in ["/health", "/hyperv/health"] {
        let health = daemon.get(health).await.expect(200);
        assert!(health["warnings"][0].as_str().unwrap().contains("without the layer user"), "{health}");
    }
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let sandbox = sandbox_of(&daemon, &id).await;
    assert_eq!((&sandbox["uid"], sandbox["layers"].as_array().unwrap().len()), (&Value::Null, Layer::ALL.len() - 3));
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.terminate();
    let output = daemon.command().args(["--sandbox", "require"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--sandbox require") && said.contains("user ("), "{said}");
}

#[tokio::test]
async fn what_no_user_is_left_for_is_refused_with_what_to_do() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--vm-uids", "1999970000-1999970001"]);
    let mut ids = Vec::new();
    // What makes their disks is a user of the range as well.
    for _ in 0..3 {
        ids.push(daemon.create(daemon.wish()).await);
    }
    let start = async |id: &str| daemon.post(&format!("/vms/{id}/start"), json!({})).await;
    for id in &ids[..2] {
        start(id).await.expect(200);
    }
    let refused = start(&ids[2]).await;
    let said = refused.body.to_string();
    assert!(refused.status == 409 && said.contains("All 2 users of --vm-uids 1999970000-1999970001"), "{refused:?}");
    // Nor is a disk made or enlarged, or a base image looked into: what would is such a user.
    let path = format!("/vms/{}", ids[2]);
    let base = daemon.bases().join("base.qcow2");
    let make = ["create", "-q", "-f", "qcow2", base.to_str().unwrap(), "1M"];
    assert!(std::process::Command::new("qemu-img").args(make).status().unwrap().success());
    let mut of_base = daemon.wish();
    of_base["base_image"] = json!(base);
    let disks = [
        daemon.post("/vms", daemon.wish()).await,
        daemon.post("/vms", of_base).await,
        daemon.post(&format!("{path}/disks"), json!({ "disk_size": 1 })).await,
        daemon.put(&format!("{path}/disks/root"), json!({ "disk_size": 9 })).await,
    ];
    for refused in &disks {
        assert!(refused.status == 409 && refused.body.to_string().contains("users of --vm-uids"), "{refused:?}");
    }
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 3);
    daemon.post(&format!("/vms/{}/stop", ids[0]), json!({ "force": true })).await.expect(200);
    start(&ids[2]).await.expect(200);
}

/// The launcher lets `--qemu` be a script, which executes QEMU; from its first moment on QEMU's own filter, which is asked for at each
/// start, has it execute and fork no more. Here its own migration is to do that.
#[tokio::test]
async fn qemu_itself_forks_and_executes_nothing_by_the_filter_that_it_is_started_with() {
    let incoming = "exec qemu-system-x86_64 \"$@\" -incoming 'exec:exec sleep 4005.27182'";
    let without = "n=$#; while [ $n -gt 0 ]; do a=$1; shift; n=$((n-1)); \
                   if [ \"$a\" = -sandbox ]; then shift; n=$((n-1)); else set -- \"$@\" \"$a\"; fi; done";
    let sleeps = || !process::find(&["sleep", "4005.27182"]).unwrap().is_empty();
    for (deed, is_held) in [(incoming.to_owned(), true), (format!("{without}\n{incoming}"), false)] {
        let stand_in = StandIn::new(&deed);
        let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
        let id = daemon.create(daemon.wish()).await;
        let start = format!("/vms/{id}/start");
        let started = daemon.post(&start, json!({}));
        if is_held {
            let refused = started.await;
            let said = refused.body.to_string();
            assert!(refused.status == 500 && said.contains("SIGSYS"), "{said}");
            assert!(!sleeps());
        } else {
            tokio::select! {
                _ = started => assert!(sleeps()),
                () = until("it executes a program", sleeps) => {}
            }
        }
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
        until("nothing is left of it", || !sleeps()).await;
    }
}

/// A script that, as a VM's user, finds another QEMU than the daemon does: the one that was asked what it can do is wanted.
#[tokio::test]
async fn a_program_that_is_another_for_a_user_of_its_own_is_run_without() {
    let stand_in = StandIn::new("");
    let script = "#!/bin/sh\n[ \"$(id -u)\" = 0 ] || { echo QEMU emulator version 1.2.3; exit 0; }\nexec qemu-system-x86_64 \"$@\"\n";
    std::fs::write(stand_in.path(), script).unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let host = daemon.get("/host").await.expect(200);
    let missing = &host["sandbox"]["missing"][0];
    let why = missing["why"].as_str().unwrap();
    assert!(missing["layer"] == "user" && why.contains("another program there than version"), "{host}");
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    assert_eq!(sandbox_of(&daemon, &id).await["uid"], Value::Null);
}
