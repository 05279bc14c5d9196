//! What the core does in single situations, step by step; what holds in all of them is `tests/simulation`.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::model::{
    Applied, Change, Conflict, Error, LayerId, MacAddr, NewDisk, NewNic, NicId, PolicyWish, ProcessId, RestartPolicy,
    Sandbox, Status, VmSpec,
};

mod adopted;
mod answers;

const NOW: Now = Now { wall: 1_000_000, monotonic: 50_000, uptime: 50_000 };
const BOUNDS: Bounds = Bounds { memory: 4096, closing: false, ends_vms: false };

fn spec() -> Arc<VmSpec> {
    let machine = json!({
        "profile": "q35", "machine_type": "q", "bus": { "kind": "pcie", "hotplug_ports": 8 }, "rng": true,
        "balloon": true, "pvpanic": true, "virtio_mem": true
    });
    let disk = |name: &str, slot: Option<u8>| {
        json!({
            "name": name, "layer": uuid::Uuid::from_u128(slot.unwrap_or(0).into()), "file": format!("/i/{name}.qcow2"), "size": 1, "clone": "linked", "base": null, "io_limits": null,
            "slot": slot
        })
    };
    let spec = json!({
        "id": "1b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4", "name": "a", "created_at": 0, "machine": machine, "vcpus": 1,
        "max_vcpus": 4, "max_vcpus_given": false, "memory": 64, "max_memory": 512, "max_memory_given": true,
        "cpu_pinning": null, "disks": [disk("root", None), disk("disk1", Some(1))], "disks_added": 1, "nics": [],
        "nics_added": 0
    });
    Arc::new(serde_json::from_value(spec).unwrap())
}

fn add_disk() -> Request {
    let layer = LayerId::random();
    let disk =
        NewDisk { request: None, layer, file: None, size: 2, base: None, clone: Default::default(), io_limits: None };
    Request::Change(Box::new(Change::AddDisk { disk: Box::new(disk), folder: "/i".into() }))
}

fn record(state: Run, goal: Goal) -> Record {
    Record { definition: spec(), run: RunRecord::new(state, goal) }
}

fn down() -> Facts {
    let mut facts = recover(record(Run::Down { last: Ending::Clean }, Goal::Rest), Found::Nothing, NOW, BOUNDS);
    see(&mut facts, Sight::Time);
    end(&mut facts, Lane::Files, StepReport::Missing(None));
    facts
}

/// One that runs, its monitor connected to.
fn up() -> Facts {
    let process = ProcessId { pid: 7, starttime: 1, boot_id: "b".into() };
    let up = Up {
        process,
        started_at: 1,
        in_effect: spec(),
        boot_memory: 64,
        hotplug_memory: 448,
        sandbox: None,
        vcpus_made: 0,
        guest: Guest::Running,
    };
    let mut facts = recover(record(Run::Up(Box::new(up)), Goal::Rest), Found::Alive, NOW, BOUNDS);
    see(&mut facts, Sight::Time);
    end(&mut facts, Lane::Monitor, StepReport::Connected { agent: false });
    let disks = vec![DiskNo(0), DiskNo(1)];
    let look = Look::Is(Guest::Running);
    end(&mut facts, Lane::Look, StepReport::Devices { look, disks, nics: Vec::new(), vcpus: 1 });
    end(&mut facts, Lane::MemoryLook, StepReport::Memory(64));
    assert_eq!((status(&facts), facts.in_flight.len()), (Status::Running, 0));
    facts
}

fn follow(facts: &mut Facts) {
    let next = plan(facts);
    facts.begin(&next);
}

fn see(facts: &mut Facts, sight: Sight) -> Effects {
    let now = facts.now;
    let effects = absorb(facts, now, Report::Sight(sight));
    follow(facts);
    effects
}

fn conclude(facts: &mut Facts, lane: Lane, outcome: Outcome) -> Effects {
    assert!(facts.in_flight.contains_key(&lane), "{lane:?} is not under way: {:?}", facts.in_flight);
    let now = facts.now;
    let effects = absorb(facts, now, Report::Outcome(lane, outcome));
    follow(facts);
    effects
}

fn end(facts: &mut Facts, lane: Lane, report: StepReport) -> Effects {
    conclude(facts, lane, Outcome::Done(report))
}

fn commit(facts: &mut Facts) -> Effects {
    end(facts, Lane::Store, StepReport::Done)
}

fn ask(facts: &mut Facts, ticket: Ticket, request: Request) -> Effects {
    let now = facts.now;
    let effects = admit(facts, now, ticket, request, false);
    follow(facts);
    effects
}

fn under_way(facts: &Facts) -> Vec<Lane> {
    facts.in_flight.keys().copied().collect()
}

fn stop(time: Ms) -> Request {
    Request::Stop(Patience { time, agent_only: false })
}

#[test]
fn a_start_is_stored_before_anything_is_done_and_answered_when_it_is_stored_that_it_runs() {
    let mut facts = down();
    assert_eq!(ask(&mut facts, 1, Request::Start).answers, []);
    assert_eq!((under_way(&facts), status(&facts)), (vec![Lane::Store], Status::Stopped));
    commit(&mut facts);
    assert_eq!((under_way(&facts), status(&facts)), (vec![Lane::Power], Status::Starting));
    end(&mut facts, Lane::Power, StepReport::Done);
    let process = ProcessId { pid: 9, starttime: 5, boot_id: "b".into() };
    let fitted = facts.record.definition.clone();
    let with = StartedWith { fitted, hotplug_memory: 448, sandbox: Sandbox::default() };
    end(&mut facts, Lane::Power, StepReport::Spawned { process, with });
    // A process that no record tells of goes no further.
    assert_eq!(under_way(&facts), [Lane::Store]);
    commit(&mut facts);
    for step in [Step::Greet, Step::Tune, Step::Continue] {
        assert_eq!(facts.in_flight.get(&Lane::Power), Some(&step));
        assert_eq!(end(&mut facts, Lane::Power, StepReport::Done).answers, []);
    }
    assert_eq!(status(&facts), Status::Starting, "what is not stored is not shown");
    assert_eq!(commit(&mut facts).answers, [(1, Ok(Answer::Started))]);
    assert_eq!(status(&facts), Status::Running);
}

#[test]
fn a_kill_waits_neither_for_the_store_nor_for_the_monitor() {
    let mut facts = up();
    ask(&mut facts, 1, Request::Suspend);
    commit(&mut facts);
    assert_eq!(facts.in_flight.get(&Lane::Power), Some(&Step::Pause));
    ask(&mut facts, 2, Request::Change(Box::new(Change::Memory(128))));
    assert!(facts.in_flight.contains_key(&Lane::Store));
    // Neither of the two ever reports.
    let overtaken = || Err(Error::Conflict(Conflict::Overtaken));
    ask(&mut facts, 3, Request::ForceOff);
    assert!(facts.in_flight.contains_key(&Lane::Kill));
    see(&mut facts, Sight::Exited("killed".into()));
    assert_eq!(facts.record.definition.memory, 64, "what was overtaken is taken back");
    // What is told is stored.
    commit(&mut facts);
    let mut answers = commit(&mut facts).answers;
    answers.sort_by_key(|(ticket, _)| *ticket);
    let off = Ok(Answer::Stopped { forced: true });
    assert_eq!(answers, [(1, overtaken()), (2, overtaken()), (3, off)]);
}

#[test]
fn a_stop_a_suspend_and_a_policy_do_not_wait_for_memory_that_is_slow_to_come() {
    let mut facts = up();
    ask(&mut facts, 1, Request::Change(Box::new(Change::Memory(128))));
    commit(&mut facts);
    assert_eq!(facts.in_flight.get(&Lane::Memory), Some(&Step::SetMemory(128)));
    let wish = PolicyWish { restart: Some(RestartPolicy::Always), ..PolicyWish::default() };
    ask(&mut facts, 2, Request::Change(Box::new(Change::Policy(wish))));
    ask(&mut facts, 3, Request::Suspend);
    let answers = commit(&mut facts).answers;
    assert_eq!(answers, [(2, Ok(Answer::Applied(Applied::Live)))]);
    commit(&mut facts);
    end(&mut facts, Lane::Power, StepReport::Done);
    assert_eq!(commit(&mut facts).answers, [(3, Ok(Answer::Done))]);
    // Nobody wants the memory any more.
    let answers = ask(&mut facts, 4, stop(1_000)).answers;
    assert_eq!(answers, [(1, Ok(Answer::Applied(Applied::NextStart)))]);
    assert!(facts.cut.contains(&Lane::Memory));
    commit(&mut facts);
    assert_eq!(facts.in_flight.get(&Lane::Power), Some(&Step::Continue), "a halted guest hears nothing");
    end(&mut facts, Lane::Power, StepReport::Done);
    assert!(matches!(facts.in_flight.get(&Lane::Agent), Some(Step::AskGuest { .. })));
}

#[test]
fn who_is_told_that_the_rest_comes_with_the_next_start_finds_what_has_come() {
    let mut facts = up();
    let wanted = Change::Cpu { vcpus: Some(6), pinning: None };
    ask(&mut facts, 1, Request::Change(Box::new(wanted)));
    commit(&mut facts);
    see(&mut facts, Sight::Vcpus { present: 2, used: 2 });
    let full = Outcome::Failed(Setback::NotNow("QEMU has no place for more".to_owned()));
    assert_eq!(conclude(&mut facts, Lane::Vcpus, full).answers, []);
    assert_eq!(commit(&mut facts).answers, [(1, Ok(Answer::Applied(Applied::NextStart)))]);
    assert_eq!(facts.stored.run.up().unwrap().in_effect.vcpus, 2);
}

#[test]
fn a_removal_that_the_guest_holds_is_pending_after_a_second_and_goes_when_the_guest_lets_go() {
    let mut facts = up();
    ask(&mut facts, 1, Request::Change(Box::new(Change::RemoveDisk("disk1".into()))));
    commit(&mut facts);
    end(&mut facts, Lane::Disk(DiskNo(1)), StepReport::Done);
    facts.now.monotonic += 1_000;
    assert_eq!(see(&mut facts, Sight::Time).answers, [(1, Ok(Answer::Applied(Applied::NextStart)))]);
    see(&mut facts, Sight::Deleted(Device::Disk(DiskNo(1))));
    assert_eq!(facts.in_flight.get(&Lane::Disk(DiskNo(1))), Some(&Step::CloseDisk(DiskNo(1))));
    end(&mut facts, Lane::Disk(DiskNo(1)), StepReport::Out);
    assert_eq!(facts.up().unwrap().in_effect.disks.len(), 1);
}

#[test]
fn a_guest_that_refuses_a_removal_ends_the_wait_at_once() {
    let mut facts = up();
    ask(&mut facts, 1, Request::Change(Box::new(Change::RemoveDisk("disk1".into()))));
    commit(&mut facts);
    end(&mut facts, Lane::Disk(DiskNo(1)), StepReport::Done);
    see(&mut facts, Sight::Kept(Device::Disk(DiskNo(1))));
    assert_eq!(commit(&mut facts).answers, [(1, Err(Conflict::DiskInUse.into()))]);
    assert_eq!(facts.stored.definition.disks.len(), 2);
}

#[test]
fn a_restart_of_the_daemon_is_not_seen_until_the_monitor_has_had_its_time() {
    let record = up().stored;
    let mut facts = recover(record, Found::Alive, NOW, BOUNDS);
    see(&mut facts, Sight::Time);
    assert_eq!(status(&facts), Status::Running);
    facts.now.monotonic += 5_000;
    see(&mut facts, Sight::Time);
    assert_eq!(status(&facts), Status::Unresponsive);
}

#[test]
fn a_new_disk_is_made_before_it_is_plugged_and_its_place_is_looked_at_before_it_is_made() {
    let mut facts = up();
    ask(&mut facts, 1, add_disk());
    let (no, lane) = (DiskNo(2), Lane::Disk(DiskNo(2)));
    commit(&mut facts);
    assert_eq!(facts.in_flight.get(&lane), Some(&Step::CheckImage(no)));
    end(&mut facts, lane, StepReport::Done);
    commit(&mut facts);
    assert_eq!(facts.in_flight.get(&lane), Some(&Step::MakeImage(no, 2)));
    end(&mut facts, lane, StepReport::Done);
    assert!(matches!(facts.in_flight.get(&lane), Some(Step::PlugDisk(_))));
    commit(&mut facts);
    end(&mut facts, lane, StepReport::Done);
    assert_eq!(commit(&mut facts).answers, [(1, Ok(Answer::Applied(Applied::Live)))]);
}

#[test]
fn a_file_of_somebody_else_in_the_place_of_a_new_disk_stays() {
    let mut facts = up();
    ask(&mut facts, 1, add_disk());
    commit(&mut facts);
    let foreign = Error::Storage("there is a file".into());
    conclude(&mut facts, Lane::Disk(DiskNo(2)), Outcome::Failed(Setback::Foreign(foreign.clone())));
    assert_eq!(commit(&mut facts).answers, [(1, Err(foreign))]);
    assert!(!facts.in_flight.contains_key(&Lane::Disk(DiskNo(2))) && facts.record.run.held.images.is_empty());
}

#[test]
fn what_could_not_be_stored_is_taken_back_and_nothing_else_with_it() {
    let mut facts = up();
    ask(&mut facts, 1, Request::Change(Box::new(Change::Memory(128))));
    see(&mut facts, Sight::Memory(80));
    let full = Outcome::Failed(Setback::NotStored("no room".into()));
    let answers = conclude(&mut facts, Lane::Store, full).answers;
    assert!(matches!(&answers[..], [(1, Err(Error::Failed { .. }))]), "{answers:?}");
    assert_eq!((facts.record.definition.memory, facts.up().unwrap().in_effect.memory), (64, 80));
}

fn look_says(facts: &mut Facts, look: Look) {
    end(facts, Lane::Look, StepReport::Guest(look));
}

#[test]
fn a_look_from_before_a_reset_does_not_end_the_guest_after_it() {
    for event_comes_first in [true, false] {
        let mut facts = up();
        ask(&mut facts, 1, Request::Reboot(Patience { time: 60_000, agent_only: false }));
        commit(&mut facts);
        end(&mut facts, Lane::Agent, StepReport::Done);
        see(&mut facts, Sight::Halted);
        look_says(&mut facts, Look::PoweredOff);
        assert_eq!(facts.in_flight.get(&Lane::Power), Some(&Step::Reset));
        // What QEMU has is looked at whatever is under way.
        see(&mut facts, Sight::VcpuDeleted);
        assert_eq!(facts.in_flight.get(&Lane::Look), Some(&Step::Look { devices: true }));
        if event_comes_first {
            see(&mut facts, Sight::Reset);
        }
        end(&mut facts, Lane::Power, StepReport::Done);
        let disks = vec![DiskNo(0), DiskNo(1)];
        end(&mut facts, Lane::Look, StepReport::Devices { look: Look::PoweredOff, disks, nics: Vec::new(), vcpus: 1 });
        assert_eq!((facts.goal(), facts.seen.powered_off), (Goal::Rest, false));
        assert!(matches!(facts.in_flight.get(&Lane::Look), Some(Step::Look { .. })), "it is looked at again");
    }
}

#[test]
fn a_guest_that_is_being_reset_is_not_taken_for_one_that_is_off() {
    let mut facts = up();
    see(&mut facts, Sight::Agent(true));
    commit(&mut facts);
    ask(&mut facts, 1, Request::Reboot(Patience { time: 1_000, agent_only: true }));
    commit(&mut facts);
    end(&mut facts, Lane::Agent, StepReport::Done);
    see(&mut facts, Sight::Halted);
    look_says(&mut facts, Look::PoweredOff);
    assert_eq!(facts.in_flight.get(&Lane::Power), Some(&Step::Reset));
    // The reboot's time is over, and a guest that is asked by its agent alone is left running then.
    facts.now.monotonic += 1_000;
    see(&mut facts, Sight::Time);
    assert_eq!(facts.goal(), Goal::Rest);
    end(&mut facts, Lane::Power, StepReport::Done);
    assert_eq!((facts.goal(), facts.seen.powered_off), (Goal::Rest, false));
}

#[test]
fn a_client_that_has_hung_up_is_forgotten_but_not_what_is_done_for_it() {
    let mut facts = up();
    ask(&mut facts, 1, stop(60_000));
    commit(&mut facts);
    ask(&mut facts, 2, stop(60_000));
    assert!(facts.forget(1) && !facts.forget(1), "nobody waits twice");
    assert!(matches!(facts.goal(), Goal::Stop(_)), "it is to stop all the same");
    see(&mut facts, Sight::Exited("it is off".into()));
    let mut answers = commit(&mut facts).answers;
    while answers.is_empty() {
        let lane = *facts.in_flight.keys().next().unwrap();
        answers = end(&mut facts, lane, StepReport::Missing(None)).answers;
    }
    assert_eq!(answers, [(2, Ok(Answer::Stopped { forced: true }))]);

    // One whose change could have to be taken back waits on.
    let mut facts = up();
    ask(&mut facts, 1, Request::Change(Box::new(Change::Memory(128))));
    assert!(!facts.forget(1));
    let full = Outcome::Failed(Setback::NotStored("no room".into()));
    assert!(matches!(&conclude(&mut facts, Lane::Store, full).answers[..], [(1, Err(_))]));
    assert_eq!(facts.record.definition.memory, 64);
}

/// As large as a definition lets one be.
fn large_nic(number: u128) -> Change {
    let forward = |port: u16| json!({ "protocol": "udp", "host_address": "127.111.222.233", "host_port": 20_000 + port, "guest_port": 65_000 });
    let forwards: Vec<_> = (0..64).map(forward).collect();
    let backend = serde_json::from_value(json!({ "user": { "forwards": forwards } })).unwrap();
    let id = NicId::from(uuid::Uuid::from_u128(number));
    let mac = MacAddr::parse(&format!("52:54:00:00:00:{number:02x}")).unwrap();
    Change::AddNic(Box::new(NewNic { id, label: "ü".repeat(64), mac, queues: 1, backend }))
}

#[test]
fn what_a_guest_does_not_let_go_of_has_a_bound_and_the_record_of_a_run_with_it() {
    let mut facts = up();
    let mut ticket = 0;
    for number in 1..9 {
        ticket += 1;
        let answers = ask(&mut facts, ticket, Request::Change(Box::new(large_nic(number)))).answers;
        if let [(_, Err(Error::Invalid { .. }))] = &answers[..] {
            assert!(number > 1, "one is never too much");
            let room = 28 * 1024 - crate::model::written(&facts.record.run);
            assert!(room > 2048, "{room}");
            // What is smaller goes in all the same.
            ticket += 1;
            ask(&mut facts, ticket, Request::Change(Box::new(Change::Memory(128))));
            assert_eq!(facts.record.definition.memory, 128);
            return;
        }
        commit(&mut facts);
        let id = facts.record.definition.nics[0].id;
        end(&mut facts, Lane::Nic(id), StepReport::Done);
        commit(&mut facts);
        assert_eq!(facts.up().unwrap().in_effect.nics.len(), number as usize);
        // The guest never lets go of it.
        ticket += 1;
        ask(&mut facts, ticket, Request::Change(Box::new(Change::RemoveNic(id))));
        commit(&mut facts);
        end(&mut facts, Lane::Nic(id), StepReport::Done);
    }
    panic!("everything was taken");
}
