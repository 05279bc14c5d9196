//! Everything that others send, at the pure function that reads it first. `fuzz/` has a target for each; `tests/api/fuzz_corpus.rs` gives
//! them what was kept of that. Each says what it finds wrong, beside a panic: what was read is not read again as it was, a
//! bound that does not hold.

use crate::{api, cli, config, host, net, qmp, service};

/// What one finds.
pub type Verdict = Result<(), String>;

/// A target, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]) -> Verdict);

pub const TARGETS: &[Target] = &[
    ("qmp", qmp::fuzz::stream),
    ("bodies", api::fuzz::bodies),
    ("head", api::fuzz::head),
    ("plain", api::fuzz::plain),
    ("qcow2", host::image::fuzz_header),
    ("images", host::image::fuzz_file),
    ("domain", cli::import::fuzz),
    ("config", config),
    ("records", service::database::fuzz),
    ("leases", |bytes| net::fuzz_leases(&String::from_utf8_lossy(bytes))),
];

fn config(bytes: &[u8]) -> Verdict {
    config::fuzz(&String::from_utf8_lossy(bytes));
    Ok(())
}

/// One of them, by name.
///
/// # Errors
/// What it finds, or that there is none of this name.
pub fn run(target: &str, bytes: &[u8]) -> Verdict {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.map_or_else(|| Err(format!("there is no target {target}")), |(_, look)| look(bytes))
}
