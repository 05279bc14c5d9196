//! How much memory the host promises to its programs: by default more than it has, and none beyond that where somebody has
//! set `vm.overcommit_memory=2`. And what the daemon itself has no use for any more.

#![allow(unsafe_code, reason = "a call of the C library's")]
#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

/// Whether nothing is promised that is not there. QEMU reserves what a VM may grow to, and gets it only without this.
pub fn is_strict() -> bool {
    std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
}

/// Has all threads of this program allocate from one place. Else each has its own, and what many threads make while thousands
/// of VMs are defined lies scattered over all of them: 143 MiB for 10,000 VMs instead of 113. Before there are threads.
pub fn keep_together() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives back to the host what was needed for a moment, such as to read every record at the start: the allocator keeps it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called at any time.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// What to do about a program that got no memory.
pub fn advice() -> String {
    if !is_strict() {
        return "the host, or a limit of the service, gives it no more memory; lower memory or max_memory of the VM"
            .into();
    }
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let left = match (mebibytes(&text, "CommitLimit"), mebibytes(&text, "Committed_AS")) {
        (Some(limit), Some(promised)) => format!(", of which {} MiB are left", limit.saturating_sub(promised)),
        _ => String::new(),
    };
    format!(
        "the host promises only memory that it has (vm.overcommit_memory=2){left}; lower memory or max_memory of the VM, or \
         raise vm.overcommit_ratio"
    )
}

fn mebibytes(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_field_of_meminfo_is_in_mebibytes() {
        let text = "MemTotal:       24576000 kB\nCommitLimit:    12288000 kB\nCommitted_AS:    1024 kB\n";
        assert_eq!(super::mebibytes(text, "CommitLimit"), Some(12_000));
        assert_eq!(super::mebibytes(text, "Committed_AS"), Some(1));
        assert_eq!(super::mebibytes(text, "Commit"), None);
    }
}
