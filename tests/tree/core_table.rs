//! What a request means in each state, whole, in tests/golden/core.snap: `judge` is what is done, so a change of any answer
//! shows as a change of that file.

use crate::support_golden as golden;

use qherd::{
    model::Conflict,
    vm::core::{Ask, Refusal, State, Verdict, judge},
};

fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Do(act) => format!("{act:?}"),
        Verdict::Already => "already".to_owned(),
        Verdict::Later => "(later)".to_owned(),
        Verdict::Refuse(Refusal::Conflict(Conflict::MustBeOff(_))) => "409 MustBeOff".to_owned(),
        Verdict::Refuse(Refusal::Conflict(conflict)) => format!("409 {conflict:?}"),
        Verdict::Refuse(Refusal::Unresponsive) => "503".to_owned(),
    }
}

#[test]
fn every_state_has_its_answer_to_every_request() {
    let row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<22}")).collect();
        format!("{name:<16}{cells}").trim_end().to_owned() + "\n"
    };
    let mut grid = row("", State::ALL.iter().map(|state| format!("{state:?}")).collect());
    for ask in Ask::ALL {
        grid += &row(&format!("{ask:?}"), State::ALL.iter().map(|&state| word(judge(state, ask))).collect());
    }
    golden::compare("core", &grid);
}
