//! Makes a history that fails as short as it can be, as long as it fails in the same way.

use super::{Violation, daemon::run, history::History};

/// What is said of a failure before its details.
fn kind(violation: &Violation) -> String {
    violation.what.chars().take_while(|c| c.is_ascii_alphabetic() || c.is_ascii_whitespace() || *c == ',').collect()
}

/// A history that fails, and how the shortest of its kind does.
pub fn shrink(mut history: History) -> (History, Violation) {
    let Err(mut violation) = run(&history) else {
        return (history, Violation { what: "it does not fail again".into(), at: 0 });
    };
    let wanted = kind(&violation);
    history.events.truncate(violation.at);
    let mut size = history.events.len().div_ceil(2).max(1);
    loop {
        let mut shorter = false;
        let mut at = 0;
        while at < history.events.len() {
            let mut less = history.clone();
            less.events.drain(at..(at + size).min(history.events.len()));
            match run(&less) {
                Err(same) if kind(&same) == wanted => (history, violation, shorter) = (less, same, true),
                Err(_) | Ok(_) => at += size,
            }
        }
        if !shorter && size == 1 {
            return (history, violation);
        }
        size = (size / 2).max(1);
    }
}
