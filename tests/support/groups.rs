//! The control groups that a VM's QEMU is in, as the kernel shows them.
#![allow(dead_code)] // Every test file uses its own part.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folders of a VM's groups, wherever this host has them, by what its sandbox says: the first's place.
pub fn groups(sandbox: &Value) -> Vec<PathBuf> {
    let path = Path::new(sandbox["cgroup"].as_str().expect("a cgroup"));
    named(path.file_name().unwrap().to_str().unwrap())
}

/// All groups of this name.
pub fn named(name: &str) -> Vec<PathBuf> {
    let (mut found, mut rest) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = rest.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let is_it = entry.file_name() == name;
                if is_it { &mut found } else { &mut rest }.push(entry.path());
            }
        }
    }
    found
}

pub fn holds(groups: &[PathBuf], pid: i32) -> bool {
    let lists = groups.iter().map(|group| std::fs::read_to_string(group.join("cgroup.procs")).unwrap());
    lists.into_iter().all(|list| list.lines().any(|line| line == pid.to_string()))
}

/// Bytes that a VM's QEMU may have.
pub fn memory_bound(groups: &[PathBuf]) -> u64 {
    let files = groups.iter().flat_map(|group| ["memory.limit_in_bytes", "memory.max"].map(|name| group.join(name)));
    let bound = files.filter_map(|file| std::fs::read_to_string(file).ok()).next().expect("a bound");
    bound.trim().parse().unwrap()
}
