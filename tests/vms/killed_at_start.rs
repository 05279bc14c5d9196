//! A daemon that is killed while it finds out what QEMU can do: what it asks ends with it, also where it never answers.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::support::{Daemon, PATIENCE};

/// Processes that were started, by whomever, in this folder, and what they are called.
fn born_in(folder: &Path) -> Vec<(i32, String)> {
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        // One that has ended and was not waited for has no working directory any more.
        (fs::read_link(entry.path().join("cwd")).ok()? == folder).then(|| (pid, name.trim().to_owned()))
    });
    processes.collect()
}

#[test]
fn a_daemon_that_is_killed_while_it_starts_takes_its_helpers_along() {
    // A QEMU answers before anybody has seen it.
    let hangs = tempfile::tempdir().unwrap();
    let qemu = hangs.path().join("qemu");
    fs::write(&qemu, "#!/bin/sh\nexec sleep 3600\n").unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::prepare(&["--accel", "tcg", "--qemu", qemu.to_str().unwrap()]);
    let folder = daemon.state().parent().unwrap().canonicalize().unwrap();
    for _ in 0..5 {
        let mut child = daemon.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while !born_in(&folder).iter().any(|(_, name)| name == "sleep") {
            assert!(begun.elapsed() < PATIENCE, "it asks no QEMU");
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while !born_in(&folder).is_empty() {
            assert!(begun.elapsed() < PATIENCE, "left behind: {:?}", born_in(&folder));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
