//! The sources, the generated files and the scripts. A file is a subject.

#[allow(dead_code)]
#[path = "../support/golden_cases.rs"]
mod cases;
#[allow(dead_code)]
#[path = "../support/golden_qemu.rs"]
mod real;
#[path = "../support/source.rs"]
mod source;
#[allow(dead_code)]
#[path = "../support/golden.rs"]
mod support_golden;
#[allow(dead_code)]
#[path = "../support/use_graph.rs"]
mod use_graph;

mod architecture;
mod assets;
mod core_table;
mod cycles;
mod golden;
mod layers;
mod package_locks;
