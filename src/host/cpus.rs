//! Cores and memory of the host, and pinning threads to cores. Which vCPU goes where is decided in `model`.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{fs, io, path::Path};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use procfs::Current;

use super::listed;

/// What the host has, read once at start.
#[derive(Clone, Debug)]
pub struct Host {
    /// Cores that are online, by number.
    pub online: Vec<u32>,
    /// Cores that this process, and so every QEMU it starts, may use (a cgroup or `taskset` may take some away).
    pub allowed: Vec<u32>,
    /// MiB.
    pub memory: u64,
}

impl Host {
    /// # Errors
    /// When /sys or /proc cannot be read.
    pub fn read() -> io::Result<Self> {
        let online = parse_cpu_list(&fs::read_to_string("/sys/devices/system/cpu/online")?);
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let allowed = online.iter().copied().filter(|&core| set.is_set(core as usize).unwrap_or(false)).collect();
        let memory = procfs::Meminfo::current().map_err(io::Error::other)?.mem_total / (1024 * 1024);
        Ok(Self { online, allowed, memory })
    }

    /// Why `core` cannot be pinned to, as the end of a sentence that begins "must …".
    pub fn refuse_core(&self, core: u32) -> Option<String> {
        let list = |cores: &[u32]| cores.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        if !self.online.contains(&core) {
            return Some(format!(
                "name cores of this host that are online ({}); there is no core {core}",
                list(&self.online)
            ));
        }
        if !self.allowed.contains(&core) {
            return Some(format!(
                "name cores that qherd may use ({}); core {core} is not among them",
                list(&self.allowed)
            ));
        }
        None
    }
}

/// Binds one thread to `cores` (sched_setaffinity(2)).
///
/// # Errors
/// ESRCH when the thread is gone, EINVAL when none of the cores can be used any more.
pub fn pin(thread: i32, cores: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core as usize)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

/// The threads of a process right now; none of one that has ended.
///
/// # Errors
/// When they cannot be listed.
pub fn threads(process: i32) -> io::Result<Vec<i32>> {
    let tasks = listed(Path::new(&format!("/proc/{process}/task")))?;
    Ok(tasks.iter().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect())
}

/// "0-3,8" as the kernel writes it in /sys.
pub(super) fn parse_cpu_list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_list_of_the_kernel_is_read() {
        assert_eq!(parse_cpu_list("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(parse_cpu_list("\n"), [] as [u32; 0]);
    }

    #[test]
    fn a_core_that_cannot_be_used_is_named() {
        let host = Host { online: vec![0, 1], allowed: vec![0], memory: 1 };
        assert_eq!(host.refuse_core(0), None);
        assert!(host.refuse_core(1).unwrap().contains("core 1 is not among them"));
        assert!(host.refuse_core(9).unwrap().contains("there is no core 9"));
    }
}
