//! Every state that a record can say is met, at the start of the daemon, with every state that the host may be in. The
//! states are taken from the type itself: a new one needs an arm here to compile, and a situation to pass.

use crate::support;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use crate::support::{Daemon, outside};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qherd::{
    model::{Disk, Due, Ending, LayerId, ProcessId, monotonic_ms, now_ms},
    store::{Batch, Store},
    vm::{
        core::{Cause, Deadline, DiskNo, Goal, Guest, Run, Up},
        records::{self, Stored},
    },
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The state's name, as the record spells it. Without a `_`, so that a new state has to come here.
fn name(run: &Run) -> Vec<&'static str> {
    match run {
        Run::Making { start: true | false } => vec!["making"],
        Run::Down { last: Ending::Clean } => vec!["down", "clean"],
        Run::Down { last: Ending::Crashed { .. } } => vec!["down", "crashed"],
        Run::Starting { process: None | Some(_), new: true | false, last: _ } => vec!["starting"],
        Run::Up(up) => match up.guest {
            Guest::Running => vec!["up", "running"],
            Guest::Paused { .. } => vec!["up", "paused"],
        },
    }
}

/// As `name`, of what is wanted of it.
fn goal_name(goal: Goal) -> Vec<&'static str> {
    match goal {
        Goal::Rest => vec!["rest"],
        Goal::Stop(_) => vec!["stop"],
        Goal::Reboot(_) => vec!["reboot"],
        Goal::Pause => vec!["pause"],
        Goal::Resume => vec!["resume"],
        Goal::Reset => vec!["reset"],
        Goal::Off { cause: Cause::Cut } => vec!["off", "cut"],
        Goal::Off { cause: Cause::Guest } => vec!["off", "guest"],
        Goal::Off { cause: Cause::Panic } => vec!["off", "panic"],
        Goal::Gone => vec!["gone"],
    }
}

/// As `name`, of a start that is owed.
fn owed_name(due: Due) -> &'static str {
    match due {
        Due::Restart { .. } => "restart",
        Due::Boot => "boot",
    }
}

/// What is stored of a VM that runs, changed.
type State = fn(&Vm) -> (Run, Goal);

const CLEAN: Ending = Ending::Clean;

fn tired() -> Ending {
    Ending::Crashed { reason: "it was tired".into() }
}

/// Milliseconds from now, or before.
fn due_in(time: i64, agent_only: bool) -> Deadline {
    Deadline { at: monotonic_ms().saturating_add_signed(time), agent_only }
}

/// How a record may say that a VM is, by a name.
const SITUATIONS: &[(&str, State)] = &[
    ("half made", |_| (Run::Making { start: false }, Goal::Rest)),
    ("half made and to be started", |_| (Run::Making { start: true }, Goal::Gone)),
    ("stopped", |_| (Run::Down { last: CLEAN }, Goal::Rest)),
    ("crashed", |_| (Run::Down { last: tired() }, Goal::Rest)),
    ("to be restarted", |_| (Run::Down { last: tired() }, Goal::Rest)),
    ("to be started after the boot", |_| (Run::Down { last: CLEAN }, Goal::Rest)),
    ("about to be spawned", |_| (Run::Starting { process: None, new: false, last: CLEAN }, Goal::Rest)),
    ("spawned", |vm| (vm.starting(false), Goal::Rest)),
    ("created and about to be spawned", |_| (Run::Starting { process: None, new: true, last: CLEAN }, Goal::Rest)),
    ("created and spawned", |vm| (vm.starting(true), Goal::Rest)),
    ("running", |vm| (vm.up(Guest::Running), Goal::Rest)),
    ("paused by its record alone", |vm| (vm.up(Guest::Paused { reason: None, critical: false }), Goal::Rest)),
    ("asked to stop", |vm| (vm.up(Guest::Running), Goal::Stop(due_in(1500, false)))),
    ("to be cut", |vm| (vm.up(Guest::Running), Goal::Stop(due_in(-1, false)))),
    ("being cut", |vm| (vm.up(Guest::Running), Goal::Off { cause: Cause::Cut })),
    ("powered off", |vm| (vm.up(Guest::Running), Goal::Off { cause: Cause::Guest })),
    ("panicked", |vm| (vm.up(Guest::Running), Goal::Off { cause: Cause::Panic })),
    ("asked to reboot", |vm| (vm.up(Guest::Running), Goal::Reboot(due_in(1500, false)))),
    ("to be reset", |vm| (vm.up(Guest::Running), Goal::Reboot(due_in(-1, false)))),
    ("to be reset at once", |vm| (vm.up(Guest::Running), Goal::Reset)),
    ("to halt", |vm| (vm.up(Guest::Running), Goal::Pause)),
    ("to go on", |vm| (vm.up(Guest::Paused { reason: None, critical: false }), Goal::Resume)),
    ("asked to stop by its agent alone", |vm| (vm.up(Guest::Running), Goal::Stop(due_in(-1, true)))),
    ("asked to reboot by its agent alone", |vm| (vm.up(Guest::Running), Goal::Reboot(due_in(-1, true)))),
    ("being deleted", |_| (Run::Down { last: CLEAN }, Goal::Gone)),
    ("cut to be deleted", |vm| (vm.up(Guest::Running), Goal::Gone)),
];

/// The start that it is owed.
fn owed(situation: &str) -> Option<Due> {
    match situation {
        "to be restarted" => Some(Due::Restart { at: now_ms() - 1, monotonic: None }),
        "to be started after the boot" => Some(Due::Boot),
        _ => None,
    }
}

/// What may have become of its process meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Alive,
    Gone,
    /// The host was booted since, and another process has the pid.
    OfAnotherBoot,
    /// Another process has the pid.
    Another,
}

/// What the daemon must make of it; the status, or `gone`.
fn expected(situation: &str, process: Process) -> (&'static str, &'static str) {
    use Process::*;
    match (situation, process) {
        (
            "half made"
            | "half made and to be started"
            | "created and about to be spawned"
            | "created and spawned"
            | "being deleted"
            | "cut to be deleted",
            _,
        ) => ("gone", ""),
        ("to be restarted" | "to be started after the boot", _) => ("running", ""),
        ("stopped", _) => ("stopped", ""),
        ("crashed", _) => ("crashed", "it was tired"),
        ("about to be spawned" | "spawned", _) => ("stopped", ""),
        ("asked to stop" | "to be cut" | "being cut" | "powered off", _) => ("stopped", ""),
        ("panicked", _) => ("crashed", "the guest panicked"),
        ("to halt", Alive) => ("paused", ""),
        // A guest that its agent did not stop in time is left running.
        ("asked to stop by its agent alone", Alive) => ("running", ""),
        ("asked to stop by its agent alone", _) => ("stopped", ""),
        (
            "running"
            | "paused by its record alone"
            | "asked to reboot"
            | "to be reset"
            | "to be reset at once"
            | "to halt"
            | "to go on"
            | "asked to reboot by its agent alone",
            process,
        ) => match process {
            Alive => ("running", ""),
            Gone | Another => ("crashed", "ended while qherd was not"),
            OfAnotherBoot => ("crashed", "the host was restarted"),
        },
        (other, _) => panic!("what is to become of a VM that is {other}?"),
    }
}

/// The values of an enum, out of the complaint about one that it does not have.
fn values<T: DeserializeOwned>(tag: &str) -> Vec<String> {
    let unknown = json!({ tag: "?" });
    let Err(complaint) = serde_json::from_value::<T>(unknown) else { panic!("? is a value") };
    let complaint = complaint.to_string();
    let (_, list) = complaint.split_once("expected").unwrap();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn with_its_process_alive_every_state_is_finished_or_unwound() {
    every_state_with(Process::Alive).await;
}

#[tokio::test]
async fn with_its_process_gone_every_state_is_finished_or_unwound() {
    every_state_with(Process::Gone).await;
}

#[tokio::test]
async fn after_a_boot_of_the_host_every_state_is_finished_or_unwound() {
    every_state_with(Process::OfAnotherBoot).await;
}

#[tokio::test]
async fn with_another_process_under_its_pid_every_state_is_finished_or_unwound() {
    every_state_with(Process::Another).await;
}

/// One VM for each situation, all in one store, met by one daemon after the other, each of which dies at its first
/// commit or right after it, until there is nothing left to be done.
async fn every_state_with(process: Process) {
    let mut daemon = Daemon::start();
    let mut ids = Vec::new();
    for (situation, _) in SITUATIONS {
        ids.push(running(&daemon, situation).await);
    }
    daemon.kill();
    let store = Store::open(&daemon.state().join("db")).unwrap();
    let (mut vms, mut strangers, mut covered) = (Vec::new(), Vec::new(), BTreeSet::new());
    for ((situation, run), id) in SITUATIONS.iter().zip(ids) {
        let mut vm = Vm::load(&store, id);
        // What has no process by its record may still have one, from a crash before it was recorded.
        let down = matches!(run(&vm).0, Run::Down { .. } | Run::Making { .. });
        if process != Process::Alive || down {
            vm.kill_process();
        }
        match process {
            Process::Alive | Process::Gone => {}
            Process::OfAnotherBoot => vm.process.boot_id = "00000000-0000-4000-8000-000000000000".into(),
            Process::Another => {
                let stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
                vm.process.pid = stranger.id() as i32;
                strangers.push(stranger);
            }
        }
        if down {
            vm.clean_up(&daemon);
        }
        if process == Process::Gone {
            leave_files(&vm, situation);
        }
        (vm.stored.record.run.state, vm.stored.record.run.goal) = run(&vm);
        vm.stored.record.run.upkeep.due = owed(situation);
        vm.stored.record.run.held.strays = matches!(vm.stored.record.run.state, Run::Starting { .. });
        covered.extend(name(&vm.stored.record.run.state));
        covered.extend(goal_name(vm.stored.record.run.goal));
        covered.extend(vm.stored.record.run.upkeep.due.map(owed_name));
        vm.write(&store).await;
        vms.push((*situation, vm));
    }
    drop(store);
    let states = [values::<Run>("state"), values::<Goal>("goal"), values::<Ending>("how"), values::<Due>("what")];
    let causes = values::<Cause>("cause");
    let guests = values::<Guest>("guest");
    let states = [states.concat(), causes, guests].concat();
    assert_eq!(covered, states.iter().map(String::as_str).collect(), "every state of the types has a situation");

    let deaths = daemon.recover_dying().await;
    for (_, vm) in vms.iter().filter(|(situation, _)| owed(situation).is_some()) {
        daemon.await_status(&vm.id, "running").await;
    }
    daemon.assert_in_order().await;
    assert!(deaths > 4, "{deaths} deaths: the recovery was not cut short");

    let known = daemon.known().await;
    for (situation, vm) in &vms {
        let (status, reason) = expected(situation, process);
        let now = known.iter().find(|known| known.id == vm.id).map_or("gone", |known| &known.status);
        assert_eq!(now, status, "a VM that was {situation}, its process {process:?}");
        if status == "gone" {
            continue;
        }
        let body = daemon.get(&format!("/vms/{}/status", vm.id)).await.expect(200);
        assert!(body["reason"].as_str().unwrap_or_default().contains(reason), "{situation}: {body}");
        if status == "running" && owed(situation).is_none() {
            let qemus = outside::qemus(&daemon.state());
            let own = qemus.iter().find(|qemu| qemu.vm == vm.id).unwrap();
            assert_eq!(own.process.pid, vm.process.pid, "the same process as before");
        } else {
            daemon.post(&format!("/vms/{}/start", vm.id), json!({})).await.expect(200);
        }
    }
    for mut stranger in strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "a process that was none of its business was ended");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    daemon.assert_in_order().await;
    for vm in known {
        daemon.delete(&format!("/vms/{}", vm.id)).await.expect(200);
    }
    daemon.assert_in_order().await;
}

#[tokio::test]
async fn a_stopped_process_is_unresponsive_and_goes_on_as_the_same() {
    let mut daemon = Daemon::start();
    let id = running(&daemon, "hung").await;
    daemon.kill();
    let vm = load(&daemon, &[id]).remove(0);
    kill(Pid::from_raw(vm.process.pid), Signal::SIGSTOP).unwrap();
    daemon.run();
    daemon.await_status(&vm.id, "unresponsive").await;
    // Again, while it hangs.
    daemon.kill();
    daemon.run();
    daemon.await_status(&vm.id, "unresponsive").await;
    kill(Pid::from_raw(vm.process.pid), Signal::SIGCONT).unwrap();
    daemon.await_status(&vm.id, "running").await;
    assert_eq!(daemon.qemus(), [vm.process.pid]);
    daemon.assert_in_order().await;
}

/// What a crash can leave of a disk is no state of the run.
#[tokio::test]
async fn a_disk_that_was_being_made_was_never_there() {
    let mut daemon = Daemon::start();
    let ids = [running(&daemon, "running").await, running(&daemon, "stopped").await];
    daemon.kill();
    let mut vms = load(&daemon, &ids);
    vms[1].kill_process();
    vms[1].clean_up(&daemon);
    vms[1].stored.record.run.state = Run::Down { last: Ending::Clean };
    let store = Store::open(&daemon.state().join("db")).unwrap();
    for vm in &mut vms {
        let spec = Arc::make_mut(&mut vm.stored.record.definition);
        let disk = spec.disks[0].clone();
        spec.disks_added = 1;
        let file = disk.file.with_file_name("disk1.qcow2");
        fs::write(&file, "half an image").unwrap();
        let half_made =
            Disk { name: "disk1".into(), layer: LayerId::random(), file: file.into(), slot: Some(1), ..disk };
        spec.disks.push(half_made.clone());
        vm.stored.record.run.unmade.insert(DiskNo(1));
        vm.stored.record.run.held.images.insert(DiskNo(1), half_made.into());
        vm.write(&store).await;
    }
    drop(store);
    daemon.recover_dying().await;
    for vm in &vms {
        let disks = daemon.get(&format!("/vms/{}/disks", vm.id)).await.expect(200);
        assert_eq!(disks.as_array().unwrap().len(), 1, "{disks}");
        // Its name is used up.
        let disk = daemon.post(&format!("/vms/{}/disks", vm.id), json!({ "disk_size": 1 })).await.expect(201);
        assert_eq!(disk["name"], "disk2");
    }
    daemon.assert_in_order().await;
}

/// What a live change leaves when it is cut short: a difference between what is defined and what QEMU has.
#[tokio::test]
async fn what_a_running_vm_lacks_of_its_definition_is_made_up_for() {
    let mut daemon = Daemon::start();
    let id = running(&daemon, "behind").await;
    daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    daemon.kill();
    let store = Store::open(&daemon.state().join("db")).unwrap();
    let mut vm = Vm::load(&store, id);
    let spec = Arc::make_mut(&mut vm.stored.record.definition);
    spec.vcpus = 2;
    spec.cpu_pinning = Some(qherd::model::CpuPinning { cores: vec![0], ..Default::default() });
    spec.disks[0].size = 2;
    spec.disks[0].io_limits = Some(qherd::model::IoLimits { iops: Some(77), ..Default::default() });
    // QEMU has it already: the daemon died before it could note that.
    let Run::Up(up) = &mut vm.stored.record.run.state else { panic!("{:?}", vm.stored.record.run) };
    Arc::make_mut(&mut up.in_effect).disks.pop();
    vm.write(&store).await;
    drop(store);
    daemon.recover_dying().await;
    assert_eq!(daemon.comes_to_have_all(&vm.id).await, json!({}));
    let config = daemon.get(&format!("/vms/{}/config", vm.id)).await.expect(200);
    assert_eq!((&config["vcpus"], &config["disk_size"]), (&json!(2), &json!(2)));
    assert_eq!(daemon.qemus(), [vm.process.pid]);
    let threads = support::vcpu_threads(vm.process.pid);
    assert_eq!(threads.iter().map(|thread| support::affinity(*thread)).collect::<Vec<_>>(), [[0], [0]]);
    daemon.assert_in_order().await;
}

/// A VM that runs, and what is stored of it.
struct Vm {
    id: String,
    stored: Stored,
    process: ProcessId,
}

/// A real VM that runs; its id.
async fn running(daemon: &Daemon, name: &str) -> String {
    let mut wish = daemon.wish();
    wish["memory"] = json!(16);
    wish["name"] = json!(name);
    let id = daemon.create(wish).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    id
}

impl Vm {
    fn load(store: &Store, id: String) -> Self {
        let stored = records::get(store, &id).unwrap().unwrap();
        let Run::Up(up) = &stored.record.run.state else { panic!("{id} is {:?}", stored.record.run) };
        Self { process: up.process.clone(), id, stored }
    }

    fn up(&self, guest: Guest) -> Run {
        let Run::Up(up) = &self.stored.record.run.state else { panic!("{:?}", self.stored.record.run) };
        Run::Up(Box::new(Up { process: self.process.clone(), guest, ..(**up).clone() }))
    }

    fn starting(&self, new: bool) -> Run {
        Run::Starting { process: Some(self.process.clone()), new, last: CLEAN }
    }

    /// It is gone when this returns.
    fn kill_process(&self) {
        kill(Pid::from_raw(self.process.pid), Signal::SIGKILL).unwrap();
        let of_it = |qemu: &outside::Qemu| qemu.process.pid == self.process.pid;
        while outside::qemus(self.image().parent().unwrap().ancestors().nth(2).unwrap()).iter().any(of_it) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As the daemon does it before it stores that a VM is down.
    fn clean_up(&self, daemon: &Daemon) {
        for file in ["qmp.sock", "agent.sock", "serial.sock"] {
            fs::remove_file(daemon.run_dir(&self.id).join(file)).unwrap();
        }
        let _ = fs::remove_file(daemon.run_dir(&self.id).join("user1.sock"));
    }

    fn image(&self) -> &Path {
        &self.stored.record.definition.disks[0].file
    }

    async fn write(&mut self, store: &Store) {
        records::commit_all(store, Batch::new(), &mut [&mut self.stored]).await.unwrap();
    }
}

fn load(daemon: &Daemon, ids: &[String]) -> Vec<Vm> {
    let store = Store::open(&daemon.state().join("db")).unwrap();
    ids.iter().map(|id| Vm::load(&store, id.clone())).collect()
}

/// What a crash half-way leaves of the files.
fn leave_files(vm: &Vm, situation: &str) {
    match situation {
        "half made" | "half made and to be started" => fs::write(vm.image(), "half an image").unwrap(),
        "being deleted" => fs::remove_file(vm.image()).unwrap(),
        _ => {}
    }
}
