//! The whole of `lifecycle::decide` as a grid in tests/golden/lifecycle.snap: a change of any answer shows as a change
//! of that file.

#[path = "support/golden.rs"]
mod golden;

use qherd::{
    model::{Conflict, Status},
    vm::lifecycle::{Decision, Refusal, Request, decide},
};

fn word(decision: Decision) -> String {
    match decision {
        Decision::Do(action) => format!("{action:?}"),
        Decision::Already => "already".to_owned(),
        Decision::Wait => "(wait)".to_owned(),
        Decision::Refuse(Refusal::Conflict(Conflict::MustBeOff(_))) => "409 MustBeOff".to_owned(),
        Decision::Refuse(Refusal::Conflict(conflict)) => format!("409 {conflict:?}"),
        Decision::Refuse(Refusal::Unresponsive) => "503 Unresponsive".to_owned(),
    }
}

#[test]
fn every_status_has_its_answer_to_every_request() {
    const WIDTH: usize = 22;
    let row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<WIDTH$}")).collect();
        format!("{name:<14}{cells}").trim_end().to_owned() + "\n"
    };
    let mut grid = row("", Request::ALL.iter().map(|request| format!("{request:?}")).collect());
    for status in Status::ALL {
        grid += &row(status.as_str(), Request::ALL.iter().map(|&request| word(decide(status, request))).collect());
    }
    golden::compare("lifecycle", &grid);
}
