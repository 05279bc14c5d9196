//! The core of a VM's task on a host that does not exist: processes, monitors that answer, lie or hang, guests that heed or
//! do not, images, taps, a store that refuses and stalls, clocks that jump, and a daemon that dies at any moment. A history
//! is a seed; one that breaks an invariant is replayed and made as short as it can be.
//!
//! `history` is what happens, `world` is the host, `monitor` its QEMUs, `ledger` is what clients were told and may rely on, `daemon` runs the
//! core between them (`requests`, `chances`), `subscriber` is told of everything, `shrink` makes a failure short.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub mod chances;
pub mod daemon;
pub mod history;
pub mod ledger;
pub mod monitor;
pub mod requests;
pub mod shrink;
pub mod subscriber;
pub mod vm;
pub mod world;

/// Every event and every step is told, for a history that is replayed.
pub static TRACE: AtomicBool = AtomicBool::new(false);

/// What must never be, and is.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub what: String,
    /// After so many events of the history.
    pub at: usize,
}

/// Runs the history of a seed; a failure is told with the shortest history that fails in the same way.
///
/// # Errors
/// In words, with the seed.
pub fn check(seed: u64) -> Result<daemon::Figures, String> {
    let history = history::History::random(seed);
    match daemon::run(&history) {
        Ok(figures) => Ok(figures),
        Err(_) => {
            let (short, violation) = shrink::shrink(history);
            if TRACE.load(Relaxed) {
                let _ = daemon::run_aloud(&short);
            }
            Err(format!("seed {seed}: {}, after event {} of {short:#?}", violation.what, violation.at))
        }
    }
}
