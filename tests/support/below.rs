//! What belongs to the state directories below a folder, and is ended with a test: its files, processes and networks.

use std::path::{Path, PathBuf};

/// Everything below a folder, without the marks of storage directories.
pub fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name() == ".qherd-storage" {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), found);
        }
        found.push(entry.path());
    }
}

/// Live QEMUs, and scripts in front of one, whose command line names a file below `folder`.
pub fn qemus_below(folder: &Path) -> Vec<i32> {
    let folder = folder.display().to_string();
    let processes = procfs::process::all_processes().unwrap().flatten();
    let ours = processes
        .filter(|p| p.cmdline().is_ok_and(|c| c.iter().any(|a| a == "-uuid") && c.iter().any(|a| a.contains(&folder))));
    ours.map(|p| p.pid).collect()
}

pub fn kill_all(pids: &[i32]) {
    for pid in pids {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// The mark that what a state directory has on the host bears.
pub fn network_mark(state_dir: &Path) -> String {
    mark_in(&state_dir.join("net/id")).unwrap()
}

/// Whole or none: less of it would name the folder of all.
fn mark_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    text.split_whitespace().next().filter(|mark| mark.len() == 8).map(str::to_owned)
}

/// What switches of the state directories below `folder` leave outside of them and of the test's network namespace.
pub fn end_networks_below(folder: &Path) {
    kill_all(&dnsmasqs_below(folder));
    let mut there = Vec::new();
    walk(folder, &mut there);
    for mark in there.iter().filter(|path| path.ends_with("net/id")).filter_map(|path| mark_in(path)) {
        // Of VMs on the user-mode network, which have just been ended.
        let table = format!("qherd_{mark}_users");
        let _ = std::process::Command::new("nft").args(["delete", "table", "inet", &table]).output();
        let _ = std::fs::remove_dir_all(Path::new("/run/qherd").join(mark));
    }
    let _ = std::fs::remove_dir("/run/qherd");
}

/// Control groups of the state directories below `folder`, whose QEMUs have just been ended; a daemon that comes later would
/// remove them.
pub fn end_groups_below(folder: &Path) {
    let mut there = Vec::new();
    walk(folder, &mut there);
    let of_vms = there.iter().filter(|path| path.ends_with("state.json")).filter_map(|state| {
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
        Some(state["id"].as_str()?.to_owned())
    });
    let of_switches = there.iter().filter(|path| path.ends_with("net/id")).filter_map(|mark| {
        let text = std::fs::read_to_string(mark).ok()?;
        Some(format!("{}-net", text.split_whitespace().next()?))
    });
    for mark in of_vms.chain(of_switches) {
        // Not every test is root, and the last processes may still be on their way out.
        let Ok(groups) = qherd::host::cgroups::Cgroups::find(&mark) else { continue };
        let begun = std::time::Instant::now();
        while groups.sweep() > 0 && begun.elapsed() < std::time::Duration::from_secs(5) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Live dnsmasqs whose configuration is below `folder`.
pub fn dnsmasqs_below(folder: &Path) -> Vec<i32> {
    let folder = format!("--conf-file={}", folder.display());
    let processes = procfs::process::all_processes().unwrap().flatten();
    processes.filter(|p| p.cmdline().is_ok_and(|c| c.iter().any(|a| a.starts_with(&folder)))).map(|p| p.pid).collect()
}
