//! VMs whose guest never boots: start, stop, change, and several requests at once. A file is a subject.

#[path = "../support/filesystem.rs"]
mod filesystem;
#[path = "../support/groups.rs"]
mod groups;
#[path = "../support/hyperv.rs"]
mod hyperv;
#[path = "../support/intruder.rs"]
mod intruder;
#[path = "../support/mounts.rs"]
mod mounts;
#[path = "../support/mute.rs"]
mod mutes;
#[path = "../support/stand_in.rs"]
mod stand_in;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/updates.rs"]
mod support_updates;

mod attached_disks;
mod autostart;
mod base_contents;
mod clock_steps;
mod cpu;
mod delete;
mod disks;
mod exchanged;
mod handed_over;
mod held_by_the_kernel;
mod host;
mod hostile_monitor;
mod hung_storage;
mod image_programs;
mod killed_at_start;
mod launch;
mod launch_steps;
mod mute;
mod networks;
mod overtaken;
mod restarts;
mod room;
mod sandbox;
mod sandboxed;
mod simultaneous;
mod updates;
mod updates_model;
mod volumes;
