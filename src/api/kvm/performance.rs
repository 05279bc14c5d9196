//! `GET /vms/{id}/performance`.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, error::Problem, times::time, vm_id};
use crate::{
    api::http::{Reply, Request},
    model::{BalloonSample, NicSample, Sample, VcpuSample},
};

/// Figures of the last sampling, which is some two seconds old at most. Totals are since the VM was started; rates and
/// averages are over the interval between the last two samplings, so they come with the second one. What cannot be
/// measured is null.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
pub struct Performance {
    /// Percent of the VM's whole vCPU capacity, 0 to 100.
    pub cpu_usage: Option<f64>,
    /// Percent of the VM's whole vCPU capacity that it wanted and did not get, because the host's cores were busy.
    pub cpu_wait: Option<f64>,
    /// One entry for each vCPU, in their order; empty before the first sampling.
    pub vcpus: Vec<Vcpu>,
    /// MiB in use: as `free` counts in the guest where its balloon driver reports, else `resident_memory`.
    pub memory_usage: Option<u64>,
    /// `guest` (its balloon driver reports) or `process` (resident memory of QEMU).
    pub memory_source: Option<Cow<'static, str>>,
    /// Resident memory of QEMU, MiB.
    pub resident_memory: Option<u64>,
    /// What the guest's balloon driver reports; null for a VM without a balloon.
    pub balloon: Option<Balloon>,
    pub disk_read_bytes: Option<u64>,
    pub disk_write_bytes: Option<u64>,
    /// Per second.
    pub disk_read_iops: Option<u64>,
    /// Per second.
    pub disk_write_iops: Option<u64>,
    /// Milliseconds that a read took on average, as the guest sees it, so including `io_limits`; null without reads.
    pub disk_read_latency_ms: Option<f64>,
    /// The same of writes.
    pub disk_write_latency_ms: Option<f64>,
    /// The same of flushes.
    pub disk_flush_latency_ms: Option<f64>,
    /// Requests that were under way on average, by the times of those that were completed; null when none was.
    pub disk_queue: Option<f64>,
    /// Towards the guest, all NICs together; null unless each is counted.
    pub network_in_bytes: Option<u64>,
    pub network_out_bytes: Option<u64>,
    /// Per second.
    pub network_in_packets: Option<u64>,
    /// Per second.
    pub network_out_packets: Option<u64>,
    /// One entry for each NIC that QEMU has.
    pub networks: Vec<Network>,
    /// Seconds since start.
    pub uptime: Option<u64>,
    /// When the counters were read; null before the first sampling.
    pub sampled_at: Option<String>,
    /// Seconds that the rates are over; null before the second sampling.
    pub interval: Option<f64>,
}

/// One vCPU.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Vcpu {
    pub vcpu: usize,
    /// Percent, 0 to 100.
    pub usage: Option<f64>,
    /// Percent of the time that it could have run but waited for a core of the host; the guest's steal time. Null where
    /// the host's kernel does not count it.
    pub wait: Option<f64>,
    /// The host's core that it runs on, or last ran on.
    pub core: Option<u32>,
}

/// One NIC. Null where nobody counts: on the user-mode network.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Network {
    pub id: String,
    /// QEMU's device id: `net0`…
    pub device: String,
    /// Towards the guest.
    pub in_bytes: Option<u64>,
    pub out_bytes: Option<u64>,
    /// Per second.
    pub in_packets: Option<u64>,
    /// Per second.
    pub out_packets: Option<u64>,
    /// Packets in either direction that were lost on the way, in total.
    pub dropped: Option<u64>,
}

/// Null is what the guest has not sent, has not sent for 30 seconds, or what cannot be true.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Balloon {
    /// MiB that the balloon leaves to the guest, as QEMU tells.
    pub actual: Option<u64>,
    /// MiB that the guest's kernel can use.
    pub total: Option<u64>,
    /// MiB.
    pub free: Option<u64>,
    /// MiB that the guest can use without swapping.
    pub available: Option<u64>,
    /// MiB.
    pub disk_caches: Option<u64>,
    /// Total since the guest booted.
    pub swap_in_bytes: Option<u64>,
    /// Total since the guest booted.
    pub swap_out_bytes: Option<u64>,
    /// Page faults with I/O, since the guest booted.
    pub major_faults: Option<u64>,
    pub minor_faults: Option<u64>,
    /// When the guest last reported; null if never.
    pub updated_at: Option<String>,
}

pub async fn performance(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let sample = shared.service.sample(vm_id(&request)?)?.ok_or(Problem::NoProcess)?;
    Ok(Reply::json(StatusCode::OK, &Performance::of(sample.as_ref())))
}

impl Performance {
    /// Without a sample nothing is known yet.
    fn of(sample: Option<&Sample>) -> Self {
        let Some(sample) = sample else { return Self::default() };
        let disk = sample.disk.as_ref();
        let used = sample.balloon.as_ref().and_then(BalloonSample::used);
        let (memory_usage, memory_source) = match (used, sample.resident) {
            (Some(used), _) => (Some(used), Some("guest".into())),
            (None, Some(resident)) => (Some(resident), Some("process".into())),
            (None, None) => (None, None),
        };
        Self {
            cpu_usage: sample.cpu_usage.map(tenths),
            cpu_wait: sample.cpu_wait.map(tenths),
            vcpus: sample.vcpus.iter().enumerate().map(Vcpu::of).collect(),
            memory_usage,
            memory_source,
            resident_memory: sample.resident,
            balloon: sample.balloon.as_ref().map(Balloon::of),
            disk_read_bytes: disk.map(|d| d.read_bytes),
            disk_write_bytes: disk.map(|d| d.write_bytes),
            disk_read_iops: disk.and_then(|d| d.read_iops),
            disk_write_iops: disk.and_then(|d| d.write_iops),
            disk_read_latency_ms: disk.and_then(|d| d.read_latency).map(thousandths),
            disk_write_latency_ms: disk.and_then(|d| d.write_latency).map(thousandths),
            disk_flush_latency_ms: disk.and_then(|d| d.flush_latency).map(thousandths),
            disk_queue: disk.and_then(|d| d.queue).map(thousandths),
            uptime: Some(sample.uptime),
            sampled_at: Some(time(sample.at)),
            interval: sample.interval.map(thousandths),
            network_in_bytes: sample.network.map(|n| n.in_bytes),
            network_out_bytes: sample.network.map(|n| n.out_bytes),
            network_in_packets: sample.network.and_then(|n| n.in_packets),
            network_out_packets: sample.network.and_then(|n| n.out_packets),
            networks: sample.nics.iter().map(Network::of).collect(),
        }
    }
}

impl Vcpu {
    fn of((vcpu, sample): (usize, &VcpuSample)) -> Self {
        Self { vcpu, usage: sample.usage.map(tenths), wait: sample.wait.map(tenths), core: sample.core }
    }
}

impl Network {
    fn of(nic: &NicSample) -> Self {
        let traffic = nic.traffic.as_ref();
        Self {
            id: nic.id.to_string(),
            device: nic.name.clone(),
            in_bytes: traffic.map(|t| t.in_bytes),
            out_bytes: traffic.map(|t| t.out_bytes),
            in_packets: traffic.and_then(|t| t.in_packets),
            out_packets: traffic.and_then(|t| t.out_packets),
            dropped: traffic.map(|t| t.dropped),
        }
    }
}

impl Balloon {
    fn of(sample: &BalloonSample) -> Self {
        Self {
            actual: sample.actual,
            total: sample.total,
            free: sample.free,
            available: sample.available,
            disk_caches: sample.disk_caches,
            swap_in_bytes: sample.swap_in,
            swap_out_bytes: sample.swap_out,
            major_faults: sample.major_faults,
            minor_faults: sample.minor_faults,
            updated_at: sample.updated_at.map(|seconds| time(seconds.saturating_mul(1000))),
        }
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_asked_before_the_process_and_nothing_is_invented() {
        let body = |sample: Option<&Sample>| serde_json::to_value(Performance::of(sample)).unwrap();
        let nothing = body(None);
        assert!(nothing.as_object().unwrap().iter().all(|(name, value)| match name.as_str() {
            "vcpus" | "networks" => value == &serde_json::json!([]),
            _ => value.is_null(),
        }));
        let silent = Sample { resident: Some(70), balloon: Some(BalloonSample::default()), ..Sample::default() };
        assert_eq!(
            (&body(Some(&silent))["memory_usage"], &body(Some(&silent))["memory_source"]),
            (&70.into(), &"process".into())
        );
        let balloon =
            BalloonSample { total: Some(200), available: Some(150), updated_at: Some(1), ..Default::default() };
        let figures = body(Some(&Sample { balloon: Some(balloon), ..silent }));
        assert_eq!((&figures["memory_usage"], &figures["memory_source"]), (&50.into(), &"guest".into()));
        assert_eq!(figures["balloon"]["updated_at"], "1970-01-01T00:00:01.000Z");
        assert!(figures["disk_read_bytes"].is_null(), "a VM without disks: {figures}");
    }
}
