//! The command line, against a real daemon: on a terminal and without one. A file is a subject.

#[allow(dead_code)]
#[path = "../support/golden.rs"]
mod golden;
mod hostile;
mod screen;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/web.rs"]
mod web;

mod address;
mod completion;
mod console;
mod docs;
mod elsewhere;
mod ends;
mod given;
mod gone;
mod herd;
mod images;
mod import;
mod names;
mod operations;
mod sequence;
mod ssh;
mod volumes;
mod waits;
