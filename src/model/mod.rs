//! The plain types that every layer speaks: what a virtual machine is, what is known of its run,
//! what is published about it, and what can go wrong. No I/O and no knowledge of QEMU, HTTP or sled.

mod change;
mod clock;
mod create;
mod error;
mod id;
mod limits;
mod named;
mod network;
mod policy;
mod record;
mod sample;
mod spec;
mod switch;
mod view;

pub use change::{Applied, Change, NewNics, Redefinition};
pub use clock::{Moment, monotonic_ms, now_ms, uptime_ms};
pub use create::{CreateVm, DiskWish, NetworkWish, NicWish};
pub use error::{Conflict, Error, Operation, Result, human};
pub use id::{NicId, SwitchId, VmId};
pub use limits::{IoLimits, Rate};
pub use named::{Alias, MadeFolder, Named};
pub use network::{Forward, MacAddr, NewNic, Nic, NicBackend, Protocol, TAP_PREFIX, check_forwards, check_queues};
pub use policy::{Autostart, AutostartWish, Due, LONGEST_WAIT, OnIoError, Policy, PolicyWish, RestartPolicy, Upkeep};
pub use record::{Boot, Ending, Intent, LiveRun, ProcessId, Run, VmRecord};
pub use sample::{BalloonSample, DiskSample, NetworkSample, NicSample, Sample, VcpuSample};
pub use spec::{
    BaseImage, Bus, CloneMode, CpuPinning, Disk, ImageFormat, Machine, NewDisk, VmSpec, check_disk_size,
    check_max_memory, check_max_vcpus, check_memory, check_name, check_vcpus,
};
pub use switch::{
    BRIDGE_PREFIX, CreateSwitch, Moved, Subnet, Switch, SwitchKind, SwitchRecord, SwitchRef, SwitchState,
};
pub use view::{Status, VmView};

/// Whether two names are the same without regard to case (ruling 31), in every script.
pub fn same_name(one: &str, other: &str) -> bool {
    // Up and down again: `ς` and `σ` are both `Σ`.
    let fold = |text: &str| text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>();
    fold(one) == fold(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_any_case_of_any_script() {
        for (one, other) in [("LAN", "lan"), ("GRÖSSE 1", "größe 1"), ("ΟΔΟΣ", "οδος"), ("ОФИС", "офис"), ("", "")]
        {
            assert!(same_name(one, other), "{one} {other}");
        }
        assert!(!same_name("LAN", "LAN2") && !same_name("LAN", "WLAN") && !same_name("a", "á"));
    }
}
