//! QEMU's asynchronous events, as far as the life of a VM depends on them.
//!
//! Read leniently and by hand: an event we do not know, or a known one whose data is not as
//! expected, becomes [`Event::Other`] and never ends the stream. What an event means for a VM is
//! not decided here.

use serde_json::Value;
use std::time::SystemTime;

/// An event and when QEMU says it happened.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedEvent {
    /// QEMU's wall clock, which is the host's; the time of receipt if QEMU gave none.
    pub at: SystemTime,
    /// What happened.
    pub event: Event,
}

/// Something that happened inside QEMU. Names and fields are QEMU's own; texts that QEMU left out
/// are empty.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `SHUTDOWN`: the VM stopped.
    Shutdown {
        /// The guest asked for it.
        guest: bool,
        /// Such as `guest-shutdown`, `host-qmp-quit`, `host-signal` or `guest-panic`.
        reason: String,
    },
    /// `POWERDOWN`: the power button was pressed; the guest may ignore it.
    PowerDown,
    /// `RESET`: the VM begins anew.
    Reset {
        /// The guest asked for it.
        guest: bool,
    },
    /// `STOP`: the vCPUs no longer run.
    Stop,
    /// `RESUME`: the vCPUs run again.
    Resume,
    /// `SUSPEND`: the guest went to sleep (S3).
    Suspend,
    /// `WAKEUP`: it woke up.
    Wakeup,
    /// `GUEST_PANICKED`: the guest's kernel says that it is broken.
    GuestPanicked {
        /// What QEMU does about it: `pause`, `poweroff` or `run`.
        action: String,
    },
    /// `BLOCK_IO_ERROR`: the host could not read or write what the guest wanted.
    BlockIoError {
        /// The device; empty for one that was given by `-blockdev`.
        device: String,
        /// The node that failed.
        node_name: Option<String>,
        /// For want of space.
        nospace: bool,
        /// What QEMU does about it: `ignore`, `report` or `stop`.
        action: String,
        /// `read` or `write`.
        operation: String,
    },
    /// `DEVICE_DELETED`: comes twice for many devices; the one that ends a `device_del` carries `device`.
    DeviceDeleted {
        /// The id, for a device that has one.
        device: Option<String>,
        /// Its QOM path.
        path: String,
    },
    /// `DEVICE_UNPLUG_GUEST_ERROR`: the guest refused to let go.
    DeviceUnplugGuestError {
        /// The id, for a device that has one.
        device: Option<String>,
        /// Its QOM path.
        path: String,
    },
    /// `ACPI_DEVICE_OST` with its `info`, as the guest's firmware reports on a plug or unplug.
    AcpiDeviceOst(Value),
    /// `MEMORY_DEVICE_SIZE_CHANGE`, at most once a second for each device.
    MemoryDeviceSizeChange {
        /// The device's id.
        id: Option<String>,
        /// Bytes that the guest uses of it now.
        size: u64,
        /// Its QOM path.
        qom_path: String,
    },
    /// `BALLOON_CHANGE`
    BalloonChange {
        /// The guest's memory in bytes.
        actual: u64,
    },
    /// `VSERPORT_CHANGE`: the guest opened or closed a serial port, so its agent came or went.
    VserportChange {
        /// The port's id.
        id: String,
        /// It is open now.
        open: bool,
    },
    /// `WATCHDOG`: the guest did not feed it.
    Watchdog {
        /// What QEMU did about it.
        action: String,
    },
    /// `JOB_STATUS_CHANGE`
    JobStatusChange {
        /// The job's id.
        id: String,
        /// Such as `running`, `ready`, `concluded` or `null`.
        status: String,
    },
    /// `NIC_RX_FILTER_CHANGED`: the guest changed which frames its NIC takes.
    NicRxFilterChanged {
        /// The NIC's id.
        name: Option<String>,
        /// Its QOM path.
        path: String,
    },
    /// Everything else, and known events without the data that makes them useful.
    Other {
        /// The event, in capitals.
        name: String,
        /// Its data; null where it has none.
        data: Value,
    },
}

impl Event {
    /// Reads an event of any kind; never fails.
    pub fn new(name: String, data: Value) -> Self {
        Self::known(&name, &data).unwrap_or(Self::Other { name, data })
    }

    /// `?` marks what an event is worth nothing without; all the rest has a harmless default.
    fn known(name: &str, data: &Value) -> Option<Self> {
        let text = |key| data[key].as_str().map(str::to_owned);
        let flag = |key| data[key].as_bool();
        let bytes = |key| data[key].as_u64();
        Some(match name {
            "SHUTDOWN" => {
                Self::Shutdown { guest: flag("guest").unwrap_or(false), reason: text("reason").unwrap_or_default() }
            }
            "POWERDOWN" => Self::PowerDown,
            "RESET" => Self::Reset { guest: flag("guest").unwrap_or(false) },
            "STOP" => Self::Stop,
            "RESUME" => Self::Resume,
            "SUSPEND" => Self::Suspend,
            "WAKEUP" => Self::Wakeup,
            "GUEST_PANICKED" => Self::GuestPanicked { action: text("action").unwrap_or_default() },
            "BLOCK_IO_ERROR" => Self::BlockIoError {
                device: text("device").unwrap_or_default(),
                node_name: text("node-name"),
                nospace: flag("nospace").unwrap_or(false),
                action: text("action").unwrap_or_default(),
                operation: text("operation").unwrap_or_default(),
            },
            "DEVICE_DELETED" => Self::DeviceDeleted { device: text("device"), path: text("path").unwrap_or_default() },
            "DEVICE_UNPLUG_GUEST_ERROR" => {
                Self::DeviceUnplugGuestError { device: text("device"), path: text("path").unwrap_or_default() }
            }
            "ACPI_DEVICE_OST" => Self::AcpiDeviceOst(data.get("info")?.clone()),
            "MEMORY_DEVICE_SIZE_CHANGE" => Self::MemoryDeviceSizeChange {
                id: text("id"),
                size: bytes("size")?,
                qom_path: text("qom-path").unwrap_or_default(),
            },
            "BALLOON_CHANGE" => Self::BalloonChange { actual: bytes("actual")? },
            "VSERPORT_CHANGE" => Self::VserportChange { id: text("id")?, open: flag("open")? },
            "WATCHDOG" => Self::Watchdog { action: text("action").unwrap_or_default() },
            "JOB_STATUS_CHANGE" => Self::JobStatusChange { id: text("id")?, status: text("status")? },
            "NIC_RX_FILTER_CHANGED" => {
                Self::NicRxFilterChanged { name: text("name"), path: text("path").unwrap_or_default() }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, data: Value) -> Event {
        Event::new(name.into(), data)
    }

    #[test]
    fn known_events_are_read_with_their_data() {
        let shutdown = event("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
        assert_eq!(shutdown, Event::Shutdown { guest: true, reason: "guest-shutdown".into() });
        let deleted = event("DEVICE_DELETED", json!({"path": "/machine/peripheral/n0/virtio-backend"}));
        assert_eq!(
            deleted,
            Event::DeviceDeleted { device: None, path: "/machine/peripheral/n0/virtio-backend".into() }
        );
        let full = json!({"device": "", "node-name": "root", "operation": "write", "action": "stop", "nospace": true,
            "reason": "No space left on device"});
        let expected = Event::BlockIoError {
            device: String::new(),
            node_name: Some("root".into()),
            nospace: true,
            action: "stop".into(),
            operation: "write".into(),
        };
        assert_eq!(event("BLOCK_IO_ERROR", full), expected);
        let size = event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "m1", "size": 2097152, "qom-path": "/p"}));
        assert_eq!(size, Event::MemoryDeviceSizeChange { id: Some("m1".into()), size: 2 << 20, qom_path: "/p".into() });
    }

    #[test]
    fn a_lifecycle_event_counts_even_without_its_details() {
        assert_eq!(event("SHUTDOWN", Value::Null), Event::Shutdown { guest: false, reason: String::new() });
        assert_eq!(event("RESET", json!([1, 2])), Event::Reset { guest: false });
        assert_eq!(event("STOP", json!("odd")), Event::Stop);
    }

    #[test]
    fn unknown_events_and_quantities_without_a_number_are_kept_as_other() {
        for (name, data) in [
            ("BRAND_NEW", json!({"x": 1})),
            ("BALLOON_CHANGE", json!({"actual": "much"})),
            ("MEMORY_DEVICE_SIZE_CHANGE", json!({"size": -1})),
            ("VSERPORT_CHANGE", json!({"id": "agent0"})),
        ] {
            assert_eq!(event(name, data.clone()), Event::Other { name: name.into(), data });
        }
    }
}
