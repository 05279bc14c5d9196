//! The daemon dies right before and right after every single commit of every operation, and again at every commit of
//! the recovery that follows. Whatever was acknowledged holds; the rest is finished or unwound; nothing is left behind.

use std::collections::HashSet;

use crate::support::{Answer, Daemon, crash::Side, netns::Host, outside};
use reqwest::Method;
use serde_json::{Value, json};

/// A VM before the operation; empty where there is none.
#[derive(Debug, Default)]
struct Before {
    id: String,
    status: &'static str,
    /// Its processes: one, or none.
    processes: Vec<outside::Qemu>,
    definition: Value,
}

/// What an operation, and a crash in it, may do.
struct Operation {
    method: Method,
    /// `{}` stands for the VM's id.
    path: &'static str,
    body: Value,
    /// Statuses that it may leave the VM in; `gone` where there is none any more. The first one is what an acknowledged
    /// operation must have led to.
    leaves: &'static [&'static str],
    changes_definition: bool,
    /// A running VM has the change at once.
    live: bool,
    /// How many it makes at most, as what is known at a time is stored in one; more are to be noticed.
    commits: u64,
}

impl Operation {
    fn of(method: Method, path: &'static str, body: Value, leaves: &'static [&'static str], commits: u64) -> Self {
        Self { method, path, body, leaves, changes_definition: false, live: true, commits }
    }

    fn post(path: &'static str, body: Value, leaves: &'static [&'static str], commits: u64) -> Self {
        Self::of(Method::POST, path, body, leaves, commits)
    }

    /// Of the definition, which leaves the VM as it is.
    fn change(method: Method, path: &'static str, body: Value, commits: u64) -> Self {
        Self { changes_definition: true, ..Self::of(method, path, body, &[], commits) }
    }

    /// The answer, if there was one, and whether the daemon lived to the end of the operation, which may come later.
    async fn ask(&self, daemon: &mut Daemon, vm: &Before) -> (Option<Answer>, bool) {
        let url = daemon.at(&self.path.replace("{}", &vm.id));
        let answer = daemon.try_send(daemon.http().request(self.method.clone(), url).json(&self.body)).await;
        let lives = answer.is_some() && daemon.comes_to_rest().await;
        if !lives {
            daemon.wait();
        }
        (answer, lives)
    }
}

/// Performs the operation, on what `prepare` makes, once for each of its commits and each side of it.
async fn dies_at_every_commit_of(operation: Operation, prepare: impl AsyncFn(&Daemon) -> Before) {
    let mut daemon = Daemon::start();
    let mut outcomes = HashSet::new();
    for commit in 1.. {
        for side in Side::BOTH {
            let before = prepare(&daemon).await;
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let (answer, lives) = operation.ask(&mut daemon, &before).await;
            if lives {
                assert!((200..300).contains(&answer.as_ref().expect("an answer").status));
                let made = commit - 1;
                assert!(made <= operation.commits, "the operation makes {made} commits, {side:?}");
                assert!(outcomes.len() > 1 || operation.commits == 0, "no crash made a difference: {outcomes:?}");
                if side == Side::Before {
                    return;
                }
                // It has made one less than a moment ago, as more of it was stored in one.
                daemon.kill();
                daemon.run();
            } else {
                assert!(commit <= operation.commits, "the operation makes {commit} commits");
                daemon.recover_dying().await;
            }
            let outcome = look(&operation, &daemon, &before, answer).await;
            outcomes.insert(outcome.unwrap_or_else(|wrong| panic!("{side:?} commit {commit}: {wrong}")));
            for vm in daemon.known().await {
                daemon.delete(&format!("/vms/{}", vm.id)).await.expect(200);
            }
            daemon.assert_in_order().await;
            assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
        }
    }
}

/// What became of the VM, or what is wrong with that.
async fn look(
    operation: &Operation,
    daemon: &Daemon,
    before: &Before,
    answer: Option<Answer>,
) -> Result<String, String> {
    daemon.assert_in_order().await;
    if let Some(answer) = &answer
        && !(200..300).contains(&answer.status)
    {
        return Err(format!("answered {answer:?}"));
    }
    let vms = daemon.known().await;
    let vm = match &vms[..] {
        [] => None,
        [vm] => Some(vm),
        several => return Err(format!("several VMs: {several:?}")),
    };
    let status = vm.map_or("gone", |vm| &vm.status);
    let allowed = if operation.leaves.is_empty() { &[before.status][..] } else { operation.leaves };
    if !allowed.contains(&status) && (before.id.is_empty() || status != before.status) {
        return Err(format!("it is {status}"));
    }
    if answer.is_some() && status != allowed[0] {
        return Err(format!("{answer:?} was acknowledged, and it is {status}"));
    }
    let Some(vm) = vm else { return Ok(status.into()) };
    let now = outside::qemus(&daemon.state());
    if before.status == "running" && status == "running" && now != before.processes {
        return Err(format!("another process: {now:?}, not {:?}", before.processes));
    }
    let named = usize::from(daemon.get(&format!("/vms/{}", vm.id)).await.expect(200)["cloud_init"].is_object());
    let seeds = seeds(daemon, &vm.id);
    if seeds.len() != named {
        return Err(format!("of what cloud-init is given, {named} is named, and there is {seeds:?}"));
    }
    let definition = definition(daemon, &vm.id).await;
    let same = before.id.is_empty() || definition == before.definition;
    if !same && !operation.changes_definition {
        return Err(format!("its definition was {} and is {definition}", before.definition));
    }
    if same && operation.changes_definition && answer.is_some() {
        return Err(format!("{answer:?} was acknowledged, and it still is {definition}"));
    }
    if operation.live {
        let pending = daemon.comes_to_have_all(&vm.id).await;
        if pending != json!({}) {
            return Err(format!("what was begun was not finished: {pending}"));
        }
    }
    // Whatever it was cut off in, it works.
    if status == "running" {
        daemon.post(&format!("/vms/{}/stop", vm.id), json!({ "force": true })).await.expect(200);
    }
    daemon.post(&format!("/vms/{}/start", vm.id), json!({})).await.expect(200);
    daemon.assert_in_order().await;
    Ok(format!("{status} {definition}"))
}

/// What is defined, disks and NICs included; what is pending is not, nor what a NIC is doing.
async fn definition(daemon: &Daemon, id: &str) -> Value {
    let mut config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    config["pending"].take();
    let nics = daemon.get(&format!("/vms/{id}/networks")).await.expect(200);
    let nics = nics.as_array().unwrap().iter().filter(|nic| nic["status"] != "removing");
    let nics: Vec<Value> = nics.map(|nic| json!([nic["device"], nic["mac"], nic["switch"]])).collect();
    json!([config, daemon.get(&format!("/vms/{id}/disks")).await.expect(200), nics])
}

async fn nothing(_: &Daemon) -> Before {
    Before::default()
}

/// Half the vCPUs that it may have, and a second disk.
async fn stopped(daemon: &Daemon) -> Before {
    let mut wish = daemon.wish();
    wish["disks"] = json!([{ "disk_size": 1 }]);
    let id = daemon.create(wish).await;
    let definition = definition(daemon, &id).await;
    Before { id, status: "stopped", processes: vec![], definition }
}

async fn running(daemon: &Daemon) -> Before {
    let before = stopped(daemon).await;
    daemon.post(&format!("/vms/{}/start", before.id), json!({})).await.expect(200);
    Before { status: "running", processes: outside::qemus(&daemon.state()), ..before }
}

fn blank(start: bool) -> Value {
    json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "blank.raw", "start": start,
            "disks": [{ "disk_size": 1 }] })
}

#[tokio::test]
async fn a_create_is_finished_or_unwound() {
    let create = Operation::post("/vms", blank(false), &["stopped", "gone"], 5);
    dies_at_every_commit_of(create, nothing).await;
}

#[tokio::test]
async fn a_create_with_start_is_finished_or_unwound() {
    let create = Operation::post("/vms", blank(true), &["running", "gone"], 8);
    dies_at_every_commit_of(create, nothing).await;
}

#[tokio::test]
async fn a_start_is_finished_or_unwound() {
    let start = Operation::post("/vms/{}/start", json!({}), &["running"], 3);
    dies_at_every_commit_of(start, stopped).await;
}

#[tokio::test]
async fn a_stop_is_finished_or_unwound() {
    // Its deadline passes, and that is stored as well, unless its process has ended by then.
    let stop = Operation::post("/vms/{}/stop", json!({ "timeout": 1 }), &["stopped"], 4);
    dies_at_every_commit_of(stop, running).await;
}

#[tokio::test]
async fn a_forced_stop_is_finished_or_unwound() {
    // A kill does not wait for the store: a daemon that dies in that moment has told nobody that the VM is off.
    let stop = Operation::post("/vms/{}/stop", json!({ "force": true }), &["stopped", "crashed"], 3);
    dies_at_every_commit_of(stop, running).await;
}

#[tokio::test]
async fn a_reboot_is_finished_or_unwound() {
    let reboot = Operation::post("/vms/{}/reboot", json!({ "timeout": 1 }), &["running"], 2);
    dies_at_every_commit_of(reboot, running).await;
}

#[tokio::test]
async fn the_delete_of_a_stopped_vm_is_finished_or_unwound() {
    dies_at_every_commit_of(Operation::of(Method::DELETE, "/vms/{}", json!({}), &["gone"], 3), stopped).await;
}

#[tokio::test]
async fn the_delete_of_a_running_vm_is_finished_or_unwound() {
    dies_at_every_commit_of(Operation::of(Method::DELETE, "/vms/{}", json!({}), &["gone"], 4), running).await;
}

#[tokio::test]
async fn a_change_of_vcpus_is_finished_or_unwound() {
    let cpu = || json!({ "vcpus": 3, "cpu_pinning": { "cores": [0] } });
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/cpu", cpu(), 1), stopped).await;
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/cpu", cpu(), 4), running).await;
}

#[tokio::test]
async fn a_change_of_memory_is_finished_or_unwound() {
    let memory = || json!({ "memory": 96 });
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/memory", memory(), 1), stopped).await;
    let memory = Operation::change(Method::PUT, "/vms/{}/memory", memory(), 1);
    // Without a guest that has the driver it waits for the next start.
    dies_at_every_commit_of(Operation { live: false, ..memory }, running).await;
}

#[tokio::test]
async fn a_change_of_a_disk_is_finished_or_unwound() {
    let disk = || json!({ "disk_size": 3, "io_limits": { "iops": 100 } });
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/disk", disk(), 1), stopped).await;
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/disk", disk(), 3), running).await;
}

#[tokio::test]
async fn an_added_disk_is_finished_or_unwound() {
    let disk = || json!({ "disk_size": 1, "base_image": "blank.raw", "io_limits": { "bps": 1_000_000 } });
    dies_at_every_commit_of(Operation::change(Method::POST, "/vms/{}/disks", disk(), 3), stopped).await;
    // Its definition, its name, its image, that QEMU has it, and its limits.
    dies_at_every_commit_of(Operation::change(Method::POST, "/vms/{}/disks", disk(), 5), running).await;
}

#[tokio::test]
async fn a_removed_disk_is_finished_or_unwound() {
    dies_at_every_commit_of(Operation::change(Method::DELETE, "/vms/{}/disks/disk1", json!({}), 2), stopped).await;
}

#[tokio::test]
async fn a_change_of_the_policy_is_finished_or_unwound() {
    let policy = || json!({ "restart_policy": "on-failure", "autostart": { "enabled": true }, "on_io_error": "retry" });
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/policy", policy(), 1), stopped).await;
    dies_at_every_commit_of(Operation::change(Method::PUT, "/vms/{}/policy", policy(), 2), running).await;
}

#[tokio::test]
async fn an_update_of_the_hyperv_dialect_is_finished_or_unwound() {
    let update = json!({ "memoryMB": 96, "vcpu": 2, "networkAdapters": [] });
    dies_at_every_commit_of(Operation::change(Method::PUT, "/hyperv/vms/{}", update, 1), stopped).await;
}

#[tokio::test]
async fn an_exchange_of_the_cd_is_finished_or_unwound() {
    let with_cd = async |daemon: &Daemon, runs: bool| {
        for name in ["first.iso", "second.iso"] {
            std::fs::write(daemon.bases().join(name), vec![0; 1 << 20]).unwrap();
        }
        let before = stopped(daemon).await;
        daemon.put(&format!("/vms/{}/iso", before.id), json!({ "iso": "first.iso" })).await.expect(200);
        if runs {
            daemon.post(&format!("/vms/{}/start", before.id), json!({})).await.expect(200);
        }
        let processes = outside::qemus(&daemon.state());
        let (status, definition) = (if runs { "running" } else { "stopped" }, definition(daemon, &before.id).await);
        Before { id: before.id, status, processes, definition }
    };
    let exchange = |commits| Operation::change(Method::PUT, "/vms/{}/iso", json!({ "iso": "second.iso" }), commits);
    dies_at_every_commit_of(exchange(1), async |daemon| with_cd(daemon, false).await).await;
    dies_at_every_commit_of(exchange(2), async |daemon| with_cd(daemon, true).await).await;
    let eject = Operation::change(Method::DELETE, "/vms/{}/iso", json!({}), 2);
    dies_at_every_commit_of(eject, async |daemon| with_cd(daemon, true).await).await;
}

/// Those of a VM, by their names.
fn seeds(daemon: &Daemon, id: &str) -> Vec<String> {
    let files = std::fs::read_dir(daemon.state().join("cloud-init").join(id)).into_iter().flatten();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn what_cloud_init_is_given_is_there_or_was_never_wanted() {
    let data = |name: &str| json!({ "hostname": name, "password": "secret", "user_data": "#!/bin/sh\n" });
    let create =
        json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "blank.raw", "cloud_init": data("a") });
    dies_at_every_commit_of(Operation::post("/vms", create, &["stopped", "gone"], 3), nothing).await;
    let with_data = async |daemon: &Daemon, before: Before| {
        let body = json!({ "cloud_init": data("a") });
        daemon.put(&format!("/vms/{}", before.id), body).await.expect(200);
        Before { definition: definition(daemon, &before.id).await, ..before }
    };
    let change = |body| Operation::change(Method::PUT, "/vms/{}", body, 1);
    for body in [json!({ "cloud_init": data("b") }), json!({ "cloud_init": null })] {
        dies_at_every_commit_of(change(body.clone()), async |daemon| with_data(daemon, stopped(daemon).await).await)
            .await;
        // It waits for the next start.
        let change = Operation { live: false, ..change(body) };
        dies_at_every_commit_of(change, async |daemon| with_data(daemon, running(daemon).await).await).await;
    }
}

#[tokio::test]
async fn a_suspension_and_its_end_are_finished_or_unwound() {
    dies_at_every_commit_of(Operation::post("/vms/{}/suspend", json!({}), &["paused"], 2), running).await;
    let paused = async |daemon: &Daemon| {
        let before = running(daemon).await;
        daemon.post(&format!("/vms/{}/suspend", before.id), json!({})).await.expect(200);
        Before { status: "paused", ..before }
    };
    dies_at_every_commit_of(Operation::post("/vms/{}/resume", json!({}), &["running"], 2), paused).await;
}

#[tokio::test]
async fn an_added_nic_is_finished_or_unwound() {
    let nic = || json!({ "switch": "LAN" });
    let with_lan = async |daemon: &Daemon, runs: bool| {
        if daemon.get("/switches").await.expect(200) == json!([]) {
            let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" });
            daemon.post("/switches", lan).await.expect(201);
        }
        if runs { running(daemon).await } else { stopped(daemon).await }
    };
    let add = |commits| Operation::change(Method::POST, "/vms/{}/networks", nic(), commits);
    let _ = Host::leave();
    dies_at_every_commit_of(add(1), async |daemon| with_lan(daemon, false).await).await;
    // The first daemon's switch has stayed in its namespace.
    let _ = Host::leave();
    dies_at_every_commit_of(add(2), async |daemon| with_lan(daemon, true).await).await;
}

#[tokio::test]
async fn a_removed_nic_is_finished_or_unwound() {
    let remove = |commits| Operation::change(Method::DELETE, "/vms/{}/networks/net0", json!({}), commits);
    dies_at_every_commit_of(remove(1), stopped).await;
}
