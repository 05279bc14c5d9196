//! The plain types that every layer speaks: what a virtual machine is, what is known of its run,
//! what is published about it, and what can go wrong. No I/O and no knowledge of QEMU, HTTP or sled.

mod change;
mod create;
mod error;
mod forward;
mod hostname;
mod id;
mod limits;
mod mac;
mod network;
mod policy;
mod port;
mod record;
mod sample;
mod spec;
mod subnet;
mod switch;
mod view;

pub use change::{Applied, Change, NewNics, Redefinition};
pub use create::{CreateVm, DiskWish, NetworkWish, NicWish};
pub use error::{Conflict, Error, Operation, Result, human};
pub use forward::{SwitchForward, check_forward};
pub use hostname::{check_domain, host_label};
pub use id::{ForwardId, NicId, SwitchId, VmId};
pub use limits::{IoLimits, Rate};
pub use mac::MacAddr;
pub use network::{Forward, NewNic, Nic, NicBackend, Protocol, TAP_PREFIX, check_forwards, check_queues};
pub use policy::{Autostart, AutostartWish, Due, LONGEST_WAIT, OnIoError, Policy, PolicyWish, RestartPolicy, Upkeep};
pub use port::{Bandwidth, SwitchPort, check_max_addresses, check_trunk, check_vlan};
pub use record::{Boot, Ending, Intent, LiveRun, ProcessId, Run, VmRecord};
pub use sample::{BalloonSample, DiskSample, NetworkSample, NicSample, Sample, VcpuSample};
pub use spec::{
    BaseImage, Bus, CloneMode, CpuPinning, Disk, ImageFormat, Machine, NewDisk, VmSpec, check_disk_size,
    check_max_memory, check_max_vcpus, check_memory, check_name, check_vcpus,
};
pub use subnet::{Cidr, Dns, Subnet, Subnet6};
pub use switch::{
    BRIDGE_PREFIX, CreateSwitch, Moved, Switch, SwitchKind, SwitchRecord, SwitchRef, SwitchState, check_mtu,
};
pub use view::{Status, VmView};

use std::time::{SystemTime, UNIX_EPOCH};

/// Whether two names are the same without regard to case (ruling 31), in every script.
pub fn same_name(one: &str, other: &str) -> bool {
    // Up and down again: `ς` and `σ` are both `Σ`.
    let fold = |text: &str| text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>();
    fold(one) == fold(other)
}

/// The wall clock in milliseconds since 1970, as it stands in records and views.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
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
