//! What QEMU's queries answer, as far as qherd looks at it, and a typed method of [`Session`] for
//! each.
//!
//! The types are qapi's where they can read the replies of both QEMU 7.2 and 10.0. They follow 9.1, and name every
//! member and value of it: each type of our own says why it is one. Those ask only for what is always there and let
//! everything else default. Commands without a reply worth reading have no method here.

use qapi::qmp::{ChardevInfo, MemoryInfo, qom_list, query_balloon, query_chardev, query_memory_size_summary};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::error::QmpError;
use super::session::Session;

/// A vCPU and the host thread that runs it (`query-cpus-fast`). Our own: of qapi's union, which knows the targets of its
/// day, only what all of them have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuFast {
    /// Counted from 0.
    pub cpu_index: u32,
    /// The host's thread id, for affinity.
    pub thread_id: i32,
    /// Where it is among QEMU's objects.
    pub qom_path: String,
}

/// Whether the guest runs, and why not (`query-status`). Our own: a run state that qapi does not know must not make the
/// monitor look as if it did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatusInfo {
    /// The vCPUs run.
    pub running: bool,
    /// Why they do not, where they do not.
    pub status: RunState,
}

/// QEMU's own run states.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its other half, elsewhere, is synchronised with it.
    Colo,
    /// Under a debugger.
    Debug,
    /// The last of its state is being sent elsewhere.
    FinishMigrate,
    /// The guest's kernel said that it is broken.
    GuestPanicked,
    /// Its state is awaited from elsewhere.
    Inmigrate,
    /// The accelerator failed.
    InternalError,
    /// The host could not read or write what the guest wanted.
    IoError,
    /// By `stop`.
    Paused,
    /// It runs elsewhere now.
    Postmigrate,
    /// It was started with `-S` and has not run yet.
    Prelaunch,
    /// A snapshot is being restored.
    RestoreVm,
    /// The vCPUs run.
    Running,
    /// A snapshot is being made.
    SaveVm,
    /// The guest is off, and QEMU was told to stay (`-no-shutdown`).
    Shutdown,
    /// The guest sleeps (S3).
    Suspended,
    /// Its watchdog stopped it.
    Watchdog,
    /// A state of a newer QEMU.
    #[serde(untagged)]
    Other(String),
}

/// The counters of one block device (`query-blockstats`). Our own: 7.2 has fewer than qapi wants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    /// The node that the device uses.
    pub node_name: Option<String>,
    /// The QOM path, or id, of the device that uses the node.
    pub qdev: Option<String>,
    /// What it counted.
    #[serde(default)]
    pub stats: BlockDeviceStats,
}

/// Totals since QEMU started; times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BlockDeviceStats {
    /// Bytes read.
    pub rd_bytes: u64,
    /// Bytes written.
    pub wr_bytes: u64,
    /// Bytes discarded.
    pub unmap_bytes: u64,
    /// Reads.
    pub rd_operations: u64,
    /// Writes.
    pub wr_operations: u64,
    /// Flushes.
    pub flush_operations: u64,
    /// Discards.
    pub unmap_operations: u64,
    /// Time in reads.
    pub rd_total_time_ns: u64,
    /// Time in writes.
    pub wr_total_time_ns: u64,
    /// Time in flushes.
    pub flush_total_time_ns: u64,
    /// Reads that failed.
    pub failed_rd_operations: u64,
    /// Writes that failed.
    pub failed_wr_operations: u64,
    /// Flushes that failed.
    pub failed_flush_operations: u64,
}

/// One block device (`query-block`). Our own, of the few members that are looked at; qapi's can read it as well.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockInfo {
    /// The id that `block_set_io_throttle` wants: for virtio-blk-pci a QOM path, for others the
    /// device's id.
    pub qdev: Option<String>,
    /// `ok`, `failed` or `nospace`; only where QEMU watches for errors.
    #[serde(rename = "io-status")]
    pub io_status: Option<String>,
    /// Of a drive that has one.
    pub tray_open: Option<bool>,
    /// What is in the drive; a CD drive may be empty.
    pub inserted: Option<BlockDeviceInfo>,
}

/// The medium in a block device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockDeviceInfo {
    /// The node that is the medium.
    #[serde(rename = "node-name")]
    pub node_name: Option<String>,
    /// The file, or how it is reached.
    pub file: String,
    /// The driver of the node, such as `qcow2`.
    pub drv: String,
    /// It cannot be written.
    pub ro: bool,
    /// How large it is.
    pub image: ImageInfo,
}

/// Sizes of an image in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// What the guest sees.
    pub virtual_size: u64,
    /// What the host stores.
    pub actual_size: Option<u64>,
}

/// A machine type that this QEMU can emulate (`query-machines`). Our own: 7.2 does not say `acpi`, which qapi wants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineInfo {
    /// Such as `pc-q35-7.2`.
    pub name: String,
    /// Such as `q35`, for the newest of its kind.
    pub alias: Option<String>,
    /// Taken where none is named.
    #[serde(default)]
    pub is_default: bool,
    /// The most vCPUs that it can have.
    pub cpu_max: u32,
    /// A later QEMU will not have it.
    #[serde(default)]
    pub deprecated: bool,
}

/// What the guest's balloon driver reports, in bytes and counts. Our own: for qapi a property is any JSON; `None` is what it has not sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, from = "GuestStatsReply")]
pub struct GuestStats {
    /// When the guest last reported, in seconds since 1970; `None` if never.
    pub last_update: Option<u64>,
    /// What the guest's kernel manages.
    pub total_memory: Option<u64>,
    /// Used for nothing.
    pub free_memory: Option<u64>,
    /// To be had without swapping.
    pub available_memory: Option<u64>,
    /// Used for caches that can be dropped.
    pub disk_caches: Option<u64>,
    /// Swapped in since the guest's boot.
    pub swap_in: Option<u64>,
    /// Swapped out since the guest's boot.
    pub swap_out: Option<u64>,
    /// Page faults that went to a disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct GuestStatsReply {
    last_update: u64,
    stats: StatValues,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[derive(Default)]
struct StatValues {
    stat_total_memory: Stat,
    stat_free_memory: Stat,
    stat_available_memory: Stat,
    stat_disk_caches: Stat,
    stat_swap_in: Stat,
    stat_swap_out: Stat,
    stat_major_faults: Stat,
    stat_minor_faults: Stat,
}

/// A value that is 2^64 − 1 until the guest sends it.
#[derive(Default)]
struct Stat(Option<u64>);

impl<'de> Deserialize<'de> for Stat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(Stat(value.as_u64().filter(|&value| value != u64::MAX)))
    }
}

impl From<GuestStatsReply> for GuestStats {
    fn from(GuestStatsReply { last_update, stats }: GuestStatsReply) -> Self {
        Self {
            last_update: Some(last_update).filter(|&seconds| seconds != 0),
            total_memory: stats.stat_total_memory.0,
            free_memory: stats.stat_free_memory.0,
            available_memory: stats.stat_available_memory.0,
            disk_caches: stats.stat_disk_caches.0,
            swap_in: stats.stat_swap_in.0,
            swap_out: stats.stat_swap_out.0,
            major_faults: stats.stat_major_faults.0,
            minor_faults: stats.stat_minor_faults.0,
        }
    }
}

/// Typed queries. All have the 5-second deadline and the errors of [`Session::execute_as`].
impl Session {
    /// The vCPUs and their threads.
    pub async fn query_cpus_fast(&self) -> Result<Vec<CpuFast>, QmpError> {
        self.execute_as("query-cpus-fast", None).await
    }

    /// Whether the guest runs.
    pub async fn query_status(&self) -> Result<StatusInfo, QmpError> {
        self.execute_as("query-status", None).await
    }

    /// Counters of every block device.
    pub async fn query_blockstats(&self) -> Result<Vec<BlockStats>, QmpError> {
        self.execute_as("query-blockstats", None).await
    }

    /// Every block device with its medium.
    pub async fn query_block(&self) -> Result<Vec<BlockInfo>, QmpError> {
        self.execute_as("query-block", None).await
    }

    /// Every block node that has a name, without what is behind it.
    pub async fn query_named_block_nodes(&self) -> Result<Vec<BlockDeviceInfo>, QmpError> {
        self.execute_as("query-named-block-nodes", Some(json!({ "flat": true }))).await
    }

    /// The ids of the devices that were given one.
    pub async fn peripherals(&self) -> Result<Vec<String>, QmpError> {
        let listed = self.execute(qom_list { path: "/machine/peripheral".into() }).await?;
        Ok(listed.into_iter().map(|property| property.name).collect())
    }

    /// The machine types of this QEMU.
    pub async fn query_machines(&self) -> Result<Vec<MachineInfo>, QmpError> {
        self.execute_as("query-machines", None).await
    }

    /// Every character device.
    pub async fn query_chardev(&self) -> Result<Vec<ChardevInfo>, QmpError> {
        self.execute(query_chardev {}).await
    }

    /// The guest's memory without what the balloon holds, in bytes; `Refused` with class `DeviceNotActive` if there is no
    /// balloon.
    pub async fn query_balloon(&self) -> Result<u64, QmpError> {
        Ok(self.execute(query_balloon {}).await?.actual.unsigned_abs())
    }

    /// How much memory the guest was given.
    pub async fn query_memory_size_summary(&self) -> Result<MemoryInfo, QmpError> {
        self.execute(query_memory_size_summary {}).await
    }

    /// What the guest last told the balloon device at QOM path `path`, such as
    /// `/machine/peripheral/balloon0`. The guest reports only while that device's
    /// `guest-stats-polling-interval` is set.
    pub async fn guest_stats(&self, path: &str) -> Result<GuestStats, QmpError> {
        self.execute_as("qom-get", Some(json!({ "path": path, "property": "guest-stats" }))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_the_guest_has_not_sent_are_none() {
        let reply = json!({"last-update": 0, "stats": {"stat-total-memory": u64::MAX, "stat-free-memory": 4096}});
        let stats: GuestStats = serde_json::from_value(reply).unwrap();
        assert_eq!(stats, GuestStats { free_memory: Some(4096), ..GuestStats::default() });
    }

    #[test]
    fn a_run_state_of_a_newer_qemu_is_kept() {
        let state = |text| serde_json::from_value::<RunState>(json!(text)).unwrap();
        assert_eq!(state("guest-panicked"), RunState::GuestPanicked);
        assert_eq!(state("inmigrate"), RunState::Inmigrate);
        assert_eq!(state("save-vm"), RunState::SaveVm);
        assert_eq!(state("daydreaming"), RunState::Other("daydreaming".into()));
    }
}
