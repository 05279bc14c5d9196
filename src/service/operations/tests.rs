//! Operations over restarts, bounds and keys, on a store of their own; and what a restart makes of each.

use std::{path::Path, sync::Arc};

use serde_json::json;
use tempfile::TempDir;

use super::{
    judge::{judge, judge_of_switch},
    *,
};
use crate::{
    model::{
        ForwardId, Image, ImageId, ImageName, ImageSource, LayerId, Metadata, NicId, Protocol, SourceFormat, Switch,
        SwitchForward, SwitchKind, SwitchRecord, SwitchState,
    },
    vm::core::{Cause, Deadline, Ending, Goal, Guest, Record, Run, RunRecord, Up},
};

const VM: &str = "1b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4";

fn record(work: Work) -> OperationRecord {
    OperationRecord {
        at: now_ms(),
        kind: "x".to_owned(),
        work,
        dialect: "kvm".to_owned(),
        by: Asker { caller: "uid 0".to_owned(), request: "r".to_owned() },
        vm: VmId::parse(VM),
        switch: None,
        name: None,
        makes: None,
        device: None,
        key: None,
        again: None,
        end: None,
    }
}

fn answer(status: u16) -> KeptAnswer {
    KeptAnswer { status, content_type: None, body: "{}".to_owned() }
}

async fn open(dir: &Path) -> Arc<Operations> {
    let operations = Operations::open(Store::open(&dir.join("db")).unwrap()).unwrap();
    operations.conclude().await;
    operations
}

async fn begin(operations: &Operations, record: OperationRecord) -> Arc<Running> {
    operations.begin(record, Progress::new(Uuid::new_v4())).await.unwrap()
}

async fn status(operations: &Operations, id: Uuid) -> Option<&'static str> {
    operations.get(id).await.unwrap().map(|operation| operation.status.as_str())
}

#[tokio::test]
async fn it_ends_as_its_answer_says_and_what_was_not_to_its_end_is_told_so_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (mut known, unfinished) = (Vec::new(), {
        let operations = open(dir.path()).await;
        let cancelled = KeptAnswer { body: Conflict::Cancelled.to_string(), ..answer(409) };
        for (answer, wanted) in [
            (answer(200), "done"),
            (answer(201), "done"),
            (answer(409), "failed"),
            (answer(500), "failed"),
            (cancelled, "cancelled"),
        ] {
            let running = begin(&operations, record(Work::Stop)).await;
            assert_eq!(status(&operations, running.id()).await, Some("pending"));
            operations.end(&running, answer).await;
            assert_eq!(status(&operations, running.id()).await, Some(wanted));
            let refused = NotCancelled::Refused(format!("it is {wanted} already"));
            assert_eq!(operations.cancel(running.id()).await, Err(refused));
        }
        begin(&operations, record(Work::Create)).await.id()
    });
    let operations = open(dir.path()).await;
    let (page, next) = operations.page(Filter::default(), None, 100).await.unwrap();
    assert!(next.is_none());
    known.extend(page.iter().map(|operation| operation.status.as_str()));
    known.sort_unstable();
    assert_eq!(known, ["cancelled", "done", "done", "failed", "failed", "failed"]);
    let lost = operations.get(unfinished).await.unwrap().unwrap().record.end.unwrap();
    assert!(lost.answer.is_none() && lost.interrupted.unwrap().contains("ask again"));
    assert_eq!(operations.cancel(Uuid::new_v4()).await, Err(NotCancelled::NotFound));
    assert!(operations.get(Uuid::new_v4()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_key_leads_to_its_operation_until_that_has_failed() {
    let dir = TempDir::new().unwrap();
    let digests = |request: &str| ("key".to_owned(), request.to_owned());
    let of_key = |operations: &Operations, request: &str| {
        let (key, request) = digests(request);
        operations.of_key(&key, &request)
    };
    let id = {
        let operations = open(dir.path()).await;
        assert_eq!(of_key(&operations, "a"), Ok(None));
        let failed = begin(&operations, OperationRecord { key: Some(digests("a")), ..record(Work::Stop) }).await;
        assert_eq!((of_key(&operations, "a"), of_key(&operations, "b")), (Ok(Some(failed.id())), Err(Reused)));
        operations.end(&failed, answer(500)).await;
        assert_eq!(of_key(&operations, "b"), Ok(None));
        let done = begin(&operations, OperationRecord { key: Some(digests("b")), ..record(Work::Stop) }).await;
        operations.end(&done, answer(200)).await;
        done.id()
    };
    assert_eq!(of_key(&*open(dir.path()).await, "b"), Ok(Some(id)));
}

#[tokio::test]
async fn what_has_ended_is_forgotten_after_its_time_and_what_runs_is_not() {
    let dir = TempDir::new().unwrap();
    let operations = open(dir.path()).await;
    let day = KEPT.as_millis() as u64;
    let old = |at: u64| OperationRecord { at, ..record(Work::Stop) };
    let runs = begin(&operations, old(1)).await;
    let over = begin(&operations, old(2)).await;
    let long = begin(&operations, old(3)).await;
    // By the time of its end.
    operations.end_as(&over, End { at: now_ms() - day - 1_000, ..judged(None) }).await;
    operations.end(&long, answer(200)).await;
    let new = begin(&operations, record(Work::Stop)).await;
    for (id, wanted) in
        [(runs.id(), Some("pending")), (over.id(), None), (long.id(), Some("done")), (new.id(), Some("pending"))]
    {
        assert_eq!(status(&operations, id).await, wanted);
    }
    assert_eq!(lock(&operations.inner).all.len(), 3);
}

#[test]
fn beyond_the_bound_the_oldest_that_has_ended_goes() {
    let mut inner = Inner::default();
    let now = now_ms();
    let id = |number: u64| Uuid::from_u128(number.into());
    for number in 0..MOST as u64 {
        let end = (number % 2 == 1).then(|| End { at: now, ..judged(None) });
        inner.note(id(number), &OperationRecord { at: number, end, ..record(Work::Stop) });
    }
    assert_eq!(inner.to_forget(now), [id(1)]);
    inner.forget(&id(1));
    assert!(inner.to_forget(now).is_empty());
    // A few at a time.
    assert_eq!(inner.to_forget(now + KEPT.as_millis() as u64 + 1_000).len(), SWEPT_AT_ONCE);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_left_out() {
    let dir = TempDir::new().unwrap();
    let operations = open(dir.path()).await;
    let running = begin(&operations, record(Work::Create)).await;
    operations.end(&running, KeptAnswer { body: "x".repeat(1 << 20), ..answer(201) }).await;
    let end = operations.get(running.id()).await.unwrap().unwrap().record.end.unwrap();
    assert_eq!((end.outcome, end.answer.unwrap()), (Outcome::Done, KeptAnswer { body: String::new(), ..answer(201) }));
}

fn stored(state: Run, goal: Goal) -> Record {
    let machine = json!({
        "profile": "q35", "machine_type": "q", "bus": { "kind": "pcie", "hotplug_ports": 8 }, "rng": true,
        "balloon": true, "pvpanic": true, "virtio_mem": true
    });
    let spec = json!({
        "id": VM, "name": "a", "created_at": 0, "machine": machine, "vcpus": 1, "max_vcpus": 4, "max_vcpus_given": false,
        "memory": 64, "max_memory": 512, "max_memory_given": true, "cpu_pinning": null, "disks": [], "disks_added": 0,
        "nics": [], "nics_added": 0
    });
    Record { definition: Arc::new(serde_json::from_value(spec).unwrap()), run: RunRecord::new(state, goal) }
}

#[test]
fn what_a_restart_makes_of_it_is_what_was_stored_of_its_vm() {
    let down = || Run::Down { last: Ending::Clean };
    let starting = |new| Run::Starting { process: None, new, last: Ending::Clean };
    let stop = Goal::Stop(Deadline { at: 1, agent_only: false });
    let reboot = Goal::Reboot(Deadline { at: 1, agent_only: false });
    let paused = || Guest::Paused { reason: None, critical: false };
    let running = |guest| {
        let up = json!({
            "process": { "pid": 7, "starttime": 1, "boot_id": "b" }, "started_at": 1,
            "in_effect": *stored(down(), Goal::Rest).definition, "boot_memory": 64, "hotplug_memory": 448,
            "sandbox": null, "vcpus_made": 0, "guest": { "guest": "running" }
        });
        Run::Up(Box::new(Up { guest, ..serde_json::from_value(up).unwrap() }))
    };
    let of = |work, state: Option<(Run, Goal)>| {
        let stored = state.map(|(state, goal)| stored(state, goal));
        match judge(&record(work), stored.as_ref()) {
            Verdict::Done => "done",
            Verdict::GoesOn => "goes on",
            Verdict::Interrupted("") => "nothing to say",
            Verdict::Interrupted(_) => "interrupted",
        }
    };
    for (work, state, wanted) in [
        (Work::Create, None, "interrupted"),
        (Work::Create, Some((Run::Making { start: true }, Goal::Rest)), "interrupted"),
        (Work::Create, Some((starting(true), Goal::Rest)), "interrupted"),
        (Work::Create, Some((down(), Goal::Rest)), "done"),
        (Work::Create, Some((starting(false), Goal::Rest)), "done"),
        (Work::Start, Some((starting(false), Goal::Rest)), "interrupted"),
        (Work::Start, Some((down(), Goal::Rest)), "interrupted"),
        (Work::Start, None, "interrupted"),
        (Work::Stop, Some((down(), Goal::Rest)), "done"),
        (Work::Stop, Some((starting(false), stop)), "goes on"),
        (Work::Stop, Some((starting(false), Goal::Off { cause: Cause::Cut })), "goes on"),
        (Work::Stop, Some((starting(false), Goal::Rest)), "interrupted"),
        (Work::Delete, None, "done"),
        (Work::Delete, Some((down(), Goal::Gone)), "goes on"),
        (Work::Delete, Some((starting(false), stop)), "goes on"),
        // A forced stop may have overtaken it: nobody deletes what somebody may have kept.
        (Work::Delete, Some((down(), Goal::Rest)), "interrupted"),
        (Work::Delete, Some((starting(false), Goal::Off { cause: Cause::Cut })), "interrupted"),
        (Work::Suspend, Some((down(), Goal::Rest)), "interrupted"),
        (Work::Suspend, Some((running(Guest::Running), Goal::Rest)), "interrupted"),
        (Work::Suspend, Some((running(Guest::Running), Goal::Pause)), "done"),
        (Work::Suspend, Some((running(paused()), Goal::Rest)), "done"),
        (Work::Suspend, None, "interrupted"),
        (Work::Resume, Some((down(), Goal::Rest)), "interrupted"),
        (Work::Resume, Some((running(paused()), Goal::Rest)), "interrupted"),
        (Work::Resume, Some((running(paused()), Goal::Resume)), "done"),
        (Work::Resume, Some((running(Guest::Running), Goal::Rest)), "done"),
        (Work::Reboot, Some((starting(false), reboot)), "done"),
        (Work::Reboot, Some((starting(false), Goal::Rest)), "interrupted"),
        (Work::Remove, Some((down(), Goal::Rest)), "done"),
        (Work::Add, Some((down(), Goal::Rest)), "interrupted"),
        (Work::Change, Some((down(), Goal::Rest)), "interrupted"),
    ] {
        assert_eq!(of(work, state.clone()), wanted, "{work:?} {state:?}");
    }
}

#[test]
fn what_a_restart_makes_of_one_about_a_switch_is_what_was_stored_of_it() {
    let forward = SwitchForward {
        id: ForwardId::random(),
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: 8080,
        nic: NicId::random(),
        guest_port: 80,
    };
    let stored = |state, has_forward: bool| {
        let forwards = if has_forward { vec![forward.clone()] } else { Vec::new() };
        let switch = Switch { forwards, ..Switch::new("lan".to_owned(), SwitchKind::Private) };
        Some(SwitchRecord { switch, state, moved: None })
    };
    let (creating, deleting) = (stored(SwitchState::Creating, false), stored(SwitchState::Deleting, false));
    let (bare, bears) = (stored(SwitchState::Ready, false), stored(SwitchState::Ready, true));
    for (work, stored, is_done) in [
        (Work::MakeSwitch, None, false),
        (Work::MakeSwitch, creating, false),
        (Work::MakeSwitch, bare.clone(), true),
        (Work::DeleteSwitch, None, true),
        (Work::DeleteSwitch, deleting.clone(), true),
        (Work::DeleteSwitch, bare.clone(), false),
        (Work::ChangeSwitch, bare.clone(), false),
        (Work::ChangeSwitch, deleting, false),
        (Work::AddForward, bears.clone(), true),
        (Work::AddForward, bare.clone(), false),
        (Work::AddForward, None, false),
        (Work::RemoveForward, bears, false),
        (Work::RemoveForward, bare, true),
    ] {
        let device = Some(format!("{{{}}}", forward.id.to_string().to_uppercase()));
        let operation = OperationRecord { makes: Some(forward.id.into()), device, ..record(work) };
        match judge_of_switch(&operation, stored.as_ref()) {
            Verdict::Done => assert!(is_done, "{work:?} {stored:?}"),
            Verdict::Interrupted(why) => assert!(!is_done && !why.is_empty(), "{work:?} {stored:?}"),
            Verdict::GoesOn => panic!("nobody goes on with it"),
        }
    }
}

#[tokio::test]
async fn what_a_restart_makes_of_one_about_an_image_is_what_is_stored_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (id, gone) = (ImageId::random(), ImageId::random());
    let image = Image {
        id,
        name: ImageName::parse("debian:12").unwrap(),
        sha256: "0".repeat(64),
        format: SourceFormat::Raw,
        compression: None,
        virtual_size: 512,
        size: 512,
        content_sha256: "1".repeat(64),
        layer: LayerId::random(),
        source: ImageSource::Upload,
        created_at: 0,
        metadata: Metadata::default(),
    };
    store.commit(Batch::new().put(&id.to_string(), &image).unwrap()).await.unwrap();
    for (work, makes, named, is_done) in [
        (Work::ImportImage, Some(id), None, true),
        (Work::ImportImage, Some(gone), None, false),
        (Work::ImportImage, None, None, false),
        (Work::ChangeImage, None, Some(id.to_string()), false),
        (Work::DeleteImage, None, Some(id.to_string()), false),
        (Work::DeleteImage, None, Some("debian:12".to_owned()), false),
        (Work::DeleteImage, None, Some(gone.to_string()), true),
        (Work::DeleteImage, None, Some("debian".to_owned()), true),
    ] {
        let makes = makes.map(Uuid::from);
        let operation = OperationRecord { vm: None, makes, device: named, ..record(work) };
        match verdict(&store, &operation).0 {
            Verdict::Done => assert!(is_done, "{operation:?}"),
            Verdict::Interrupted(why) => assert!(!is_done && !why.is_empty(), "{operation:?}"),
            Verdict::GoesOn => panic!("nobody goes on with it"),
        }
    }
}
