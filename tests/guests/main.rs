//! Guests that boot. A file is a subject.

#[path = "../support/callers.rs"]
mod callers;
#[path = "../support/filesystem.rs"]
mod filesystem;
#[path = "../support/groups.rs"]
mod groups;
#[path = "../support/hyperv.rs"]
mod hyperv;
#[path = "../support/nics.rs"]
mod nics;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/terminal.rs"]
mod terminal;

mod guest_access;
mod guest_addresses;
mod guest_agent;
mod guest_changes;
mod guest_cloud_init;
mod guest_console;
mod guest_crash_points;
mod guest_crowd;
mod guest_daemon_restart;
mod guest_debian;
mod guest_disks;
mod guest_hyperv;
mod guest_images;
mod guest_io_errors;
mod guest_metrics;
mod guest_networks;
mod guest_power;
mod guest_restarts;
mod guest_terminal;
mod guest_user_network;
mod guest_vcpus;
mod pages;
