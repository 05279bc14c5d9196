//! How long QEMU may take over each command.
//!
//! QEMU answers one command after the other, so the time runs from when a command is the oldest
//! unanswered one (see `driver`). These are not expectations but the point at which a monitor
//! counts as mute.

use std::time::Duration;

/// How long QEMU may work on `command` before its monitor counts as mute.
///
/// - 5 seconds for nearly everything: queries and requests that QEMU only takes note of;
/// - 60 seconds where QEMU opens files, waits for storage or sets up a device before it answers;
/// - 10 minutes where it moves data of a disk or of the guest's memory before it answers, or where
///   starting to do so first drains all I/O.
pub fn deadline(command: &str) -> Duration {
    Duration::from_secs(match command {
        "device_add"
        | "device_del"
        | "netdev_add"
        | "netdev_del"
        | "object-add"
        | "object-del"
        | "chardev-add"
        | "chardev-remove"
        | "blockdev-add"
        | "blockdev-del"
        | "blockdev-reopen"
        | "blockdev-change-medium"
        | "blockdev-insert-medium"
        | "blockdev-remove-medium"
        | "blockdev-snapshot"
        | "blockdev-snapshot-sync"
        | "block_resize"
        | "block_set_io_throttle"
        | "eject"
        | "transaction"
        | "stop"
        | "cont"
        | "migrate-incoming"
        | "nbd-server-stop" => 60,
        "block-commit"
        | "block-stream"
        | "block-job-cancel"
        | "block-job-complete"
        | "block-job-finalize"
        | "blockdev-backup"
        | "blockdev-create"
        | "blockdev-mirror"
        | "drive-backup"
        | "drive-mirror"
        | "job-cancel"
        | "job-complete"
        | "job-finalize"
        | "blockdev-snapshot-internal-sync"
        | "blockdev-snapshot-delete-internal-sync"
        | "snapshot-save"
        | "snapshot-load"
        | "snapshot-delete"
        | "dump-guest-memory"
        | "memsave"
        | "pmemsave"
        | "migrate"
        | "human-monitor-command" => 600,
        _ => 5,
    })
}

#[cfg(test)]
mod tests {
    use super::deadline;

    #[test]
    fn every_command_has_a_class() {
        for (command, seconds) in [
            ("query-status", 5),
            ("query-blockstats", 5),
            ("qom-set", 5),
            ("quit", 5),
            ("system_powerdown", 5),
            ("a-command-of-tomorrow", 5),
            ("device_add", 60),
            ("device_del", 60),
            ("blockdev-add", 60),
            ("netdev_add", 60),
            ("object-add", 60),
            ("block_resize", 60),
            ("stop", 60),
            ("blockdev-mirror", 600),
            ("block-commit", 600),
            ("dump-guest-memory", 600),
            ("migrate", 600),
        ] {
            assert_eq!(deadline(command).as_secs(), seconds, "{command}");
        }
    }
}
