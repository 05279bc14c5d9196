//! What outlives a crash, a restart, a move, and a host that fails. A file is a subject.

#[path = "../support/db.rs"]
mod db;
#[path = "../support/mounts.rs"]
mod mounts;
#[path = "../support/nics.rs"]
mod nics;
#[path = "../support/operations.rs"]
mod operations_of;
#[path = "../support/slow_clone.rs"]
mod slow_clone;
#[path = "../support/stand_in.rs"]
mod stand_in;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code)]
#[path = "../support/systemd.rs"]
mod systemd;

mod attached_disks;
mod crash_points;
mod daemon;
mod damaged_store;
mod db_command;
mod events_over_kills;
mod exhausted_host;
mod files_check;
mod host_shutdown;
mod image_crash_points;
mod lost_by_the_host;
mod migrations;
mod moved_state;
mod odd_paths;
mod operations;
mod outside;
mod recovery;
mod recovery_states;
mod recovery_switches;
mod service_unit;
mod settings;
mod shutdown;
mod unmounted_storage;
mod unreadable_vm;
mod volume_crash_points;
