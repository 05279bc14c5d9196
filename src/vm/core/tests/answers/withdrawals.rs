//! Requests that are taken back, at every step of what is done for them.

use std::collections::BTreeSet;

use super::*;

/// The outcome of a step where all goes well.
fn well(step: &Step) -> StepReport {
    match step {
        Step::Look { .. } => StepReport::Guest(Look::Is(Guest::Running)),
        Step::ReadMemory => StepReport::Memory(64),
        _ => StepReport::Done,
    }
}

/// Who was answered what.
type Answers = Vec<(Ticket, Result<Answer, Error>)>;

/// Ends what is under way, one after the other, at most so often; and returns the answers.
fn go_on(facts: &mut Facts, most: usize) -> (usize, Answers) {
    let mut answers = Vec::new();
    for count in 0..most {
        let Some((lane, step)) = facts.in_flight.iter().map(|(lane, step)| (*lane, step.clone())).next() else {
            return (count, answers);
        };
        let outcome = if facts.cut.contains(&lane) { Outcome::Cut } else { Outcome::Done(well(&step)) };
        answers.extend(conclude(facts, lane, outcome).answers);
    }
    (most, answers)
}

fn withdraw_at(request: Request, steps: usize) -> Option<Facts> {
    let mut facts = up();
    let before = facts.record.definition.clone();
    facts.patient.push(7);
    ask(&mut facts, 7, request);
    let (_, mut answers) = go_on(&mut facts, steps);
    if !answers.is_empty() {
        return None;
    }
    let now = facts.now;
    let effects = withdraw(&mut facts, now, 7).unwrap_or_else(|why| panic!("after {steps} steps: {why}"));
    follow(&mut facts);
    answers.extend(effects.answers);
    let (_, more) = go_on(&mut facts, 100);
    answers.extend(more);
    assert_eq!(answers, [(7, Err(Conflict::Cancelled.into()))], "after {steps} steps");
    assert_eq!((facts.waiting.len(), facts.in_flight.len()), (0, 0), "after {steps} steps");
    assert_eq!(facts.record, facts.stored, "after {steps} steps");
    assert_eq!(facts.record.definition.disks, before.disks, "after {steps} steps");
    assert_eq!(facts.record.definition.nics, before.nics, "after {steps} steps");
    let sizes = |spec: &VmSpec| (spec.vcpus, spec.memory);
    assert_eq!(sizes(&facts.record.definition), sizes(&before), "after {steps} steps");
    assert_eq!(status(&facts), Status::Running, "after {steps} steps");
    Some(facts)
}

#[test]
fn what_was_asked_of_a_running_vm_is_taken_back_at_every_step() {
    let requests: [fn() -> Request; 7] = [
        add_disk,
        || Request::Change(Box::new(Change::RemoveDisk("disk1".into()))),
        || Request::Change(Box::new(Change::Memory(128))),
        || stop(60_000),
        || Request::StopAndDelete(Patience { time: 60_000, agent_only: false }),
        || Request::Change(Box::new(Change::Cpu { vcpus: Some(2), pinning: None })),
        || Request::Change(Box::new(large_nic(1))),
    ];
    for (which, request) in requests.into_iter().enumerate() {
        let taken_back = (0..12).map_while(|steps| withdraw_at(request(), steps)).count();
        assert!(taken_back > 1, "request {which}: {taken_back}");
    }
}

#[test]
fn nothing_is_taken_back_that_others_wait_for_too() {
    let now = NOW;
    let mut facts = up();
    for ticket in [3, 4] {
        ask(&mut facts, ticket, Request::Change(Box::new(Change::Memory(128))));
    }
    for ticket in 3..=4 {
        assert!(withdraw(&mut facts, now, ticket).unwrap_err().contains("others"), "{ticket}");
    }
    assert!(withdraw(&mut facts, now, 5).is_err(), "there is no such request");
    let mut facts = down();
    ask(&mut facts, 1, Request::Start);
    assert!(withdraw(&mut facts, now, 1).unwrap_err().contains("force"));
    // What has not begun yet is just left.
    ask(&mut facts, 2, Request::Suspend);
    assert_eq!(facts.later.len(), 1);
    let effects = withdraw(&mut facts, now, 2).unwrap();
    assert_eq!((effects.answers, facts.later.len()), (vec![(2, Err(Conflict::Cancelled.into()))], 0));
}

#[test]
fn of_several_who_wait_for_a_stop_each_takes_their_own_back() {
    let deadline = |facts: &Facts| match facts.goal() {
        Goal::Stop(Deadline { at, agent_only }) => Some((at - NOW.monotonic, agent_only)),
        Goal::Rest => None,
        other => panic!("{other:?}"),
    };
    let wishes = |ticket: Ticket| match ticket {
        1 => stop(60_000),
        2 => stop(5_000),
        _ => Request::StopAndDelete(Patience { time: 30_000, agent_only: false }),
    };
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut facts = up();
        (1..=3).for_each(|ticket| drop(ask(&mut facts, ticket, wishes(ticket))));
        assert_eq!(deadline(&facts), Some((5_000, false)));
        let mut left = vec![1, 2, 3];
        let mut answers = Vec::new();
        for ticket in order {
            let effects = withdraw(&mut facts, NOW, ticket).unwrap();
            follow(&mut facts);
            answers.extend(effects.answers);
            left.retain(|other| *other != ticket);
            let earliest = left.iter().map(|ticket| [60_000, 5_000, 30_000][*ticket as usize - 1]).min();
            assert_eq!(deadline(&facts), earliest.map(|at| (at, false)), "{order:?}, without {ticket}");
            assert!(withdraw(&mut facts, NOW, ticket).is_err(), "once");
        }
        answers.extend(go_on(&mut facts, 100).1);
        let tickets: BTreeSet<Ticket> = answers.iter().map(|(ticket, _)| *ticket).collect();
        assert_eq!((answers.len(), tickets), (3, [1, 2, 3].into()));
        assert!(answers.iter().all(|(_, answer)| *answer == cancelled()), "{answers:?}");
        assert_eq!((status(&facts), facts.record == facts.stored), (Status::Running, true));
    }
    // Who has the guest stopped all the same has it stopped, and nobody has it deleted.
    let mut facts = up();
    (1..=3).for_each(|ticket| drop(ask(&mut facts, ticket, wishes(ticket))));
    for ticket in [3, 2] {
        withdraw(&mut facts, NOW, ticket).unwrap();
        follow(&mut facts);
    }
    assert_eq!(deadline(&facts), Some((60_000, false)));
    assert!(facts.waiting.iter().all(|waiting| waiting.ticket == 1 || matches!(waiting.until, Until::Stored(Err(_)))));
}

fn cancelled() -> Result<Answer, Error> {
    Err(Conflict::Cancelled.into())
}

#[test]
fn a_vm_that_is_made_is_gone_when_it_is_not_wanted_any_more() {
    for steps in 0..4 {
        let mut facts = create(spec(), false, 1, NOW, BOUNDS);
        see(&mut facts, Sight::Time);
        let (_, answers) = go_on(&mut facts, steps);
        assert_eq!(answers, []);
        let now = facts.now;
        let effects = withdraw(&mut facts, now, 1).unwrap();
        follow(&mut facts);
        let (_, more) = go_on(&mut facts, 100);
        let answers: Vec<_> = effects.answers.into_iter().chain(more).collect();
        assert_eq!(answers, [(1, Err(Conflict::Cancelled.into()))], "after {steps} steps");
        assert!(facts.gone, "after {steps} steps");
    }
}
