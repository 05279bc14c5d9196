//! What those find who have their answer, and what they do not wait for.

use super::*;

mod withdrawals;

#[test]
fn who_is_told_that_a_guest_is_left_running_finds_it_running() {
    for ask_for in [Request::Stop as fn(Patience) -> Request, Request::Reboot] {
        let mut facts = up();
        see(&mut facts, Sight::Agent(true));
        commit(&mut facts);
        ask(&mut facts, 1, ask_for(Patience { time: 1_000, agent_only: true }));
        commit(&mut facts);
        facts.now.monotonic += 1_000;
        assert_eq!(see(&mut facts, Sight::Time).answers, []);
        assert_ne!(status(&facts), Status::Running);
        let answers = commit(&mut facts).answers;
        assert!(matches!(answers[..], [(1, Err(Error::NoAgent { .. }))]), "{answers:?}");
        assert_eq!(status(&facts), Status::Running);
    }
}

#[test]
fn who_is_told_that_a_disk_is_gone_finds_its_image_gone_or_waits_for_nothing() {
    for outcome in [Outcome::Done(StepReport::Done), Outcome::Failed(Setback::Host("no".into()))] {
        let mut facts = down();
        let disk = facts.record.definition.disk("disk1").unwrap().clone();
        for record in [&mut facts.record, &mut facts.stored] {
            record.run.held.images.insert(DiskNo(1), disk.clone().into());
        }
        ask(&mut facts, 1, Request::Change(Box::new(Change::RemoveDisk("disk1".into()))));
        assert_eq!(commit(&mut facts).answers, []);
        assert_eq!(under_way(&facts), [Lane::Disk(DiskNo(1))]);
        // What is being removed is not taken back.
        ask(&mut facts, 2, Request::ForceOff);
        assert_eq!(facts.record.definition.disk("disk1"), None);
        let answers = conclude(&mut facts, Lane::Disk(DiskNo(1)), outcome).answers;
        assert_eq!(answers, [(1, Ok(Answer::Applied(Applied::NextStart)))]);
    }
}

#[test]
fn an_agent_that_goes_down_with_its_guest_is_not_asked_by_other_means() {
    let mut facts = up();
    see(&mut facts, Sight::Agent(true));
    commit(&mut facts);
    ask(&mut facts, 1, stop(60_000));
    commit(&mut facts);
    let requested = facts.in_flight.get(&Lane::Agent).cloned();
    assert_eq!(requested, Some(Step::AskGuest { mode: Mode::PowerOff, by_agent: true, agent_only: false }));
    see(&mut facts, Sight::Agent(false));
    assert_eq!(facts.in_flight.get(&Lane::Agent).cloned(), requested);
    assert!(facts.cut.is_empty());
}
