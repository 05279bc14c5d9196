//! `set`: what is to be another of a VM, by the requests that it takes. Each is stored for itself; what was done before one
//! failed has been told.

use std::future::Future;

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    connect::Connect,
    create::path,
    exit::Fail,
    names::{self, Vm},
    output::Output,
    progress::waiting,
    sizes::{self, Cores, Number},
    words::{IO_ERROR, RESTART, one_of, when},
};
use crate::{
    api::kvm::bodies::{
        AutostartBody, Config, Cpu, CpuBody, CpuPinning, DiskUpdate, Iso, IsoBody, Memory, MemoryBody, PolicyBody,
        PolicyView, RootDisk, Updated,
    },
    client::Client,
    model::{IoLimits, OnIoError, RestartPolicy},
};

#[derive(Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct Set {
    /// Names or ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    /// vCPUs
    #[arg(long, value_name = "N", group = "change")]
    cpus: Option<i64>,
    /// Cores of the host that its vCPUs run on, such as 0-3,8; none for any
    #[arg(long, value_name = "CORES", group = "change", value_parser = sizes::cores)]
    pin: Option<Cores>,
    /// Memory, such as 512M or 2G
    #[arg(long, value_name = "SIZE", group = "change", value_parser = sizes::mib)]
    memory: Option<i64>,
    /// Size of its root disk, which only grows
    #[arg(long, value_name = "SIZE", group = "change", value_parser = sizes::gib)]
    disk: Option<i64>,
    /// I/O operations per second of its root disk; none for no limit
    #[arg(long, value_name = "N", group = "change", value_parser = sizes::number)]
    iops: Option<Number>,
    /// Bytes per second of its root disk, such as 50M; none for no limit
    #[arg(long, value_name = "SIZE", group = "change", value_parser = sizes::byte_rate)]
    bps: Option<Number>,
    /// The ISO image in its CD drive; none ejects it
    #[arg(long, value_name = "PATH", group = "change")]
    iso: Option<String>,
    /// Whether it starts again when it has ended
    #[arg(long, value_name = "POLICY", group = "change", value_parser = one_of::<RestartPolicy>(RESTART))]
    restart_policy: Option<RestartPolicy>,
    /// Restarts in a row before it is given up; none for never
    #[arg(long, value_name = "N", group = "change", value_parser = sizes::number)]
    max_restarts: Option<Number>,
    /// Whether it starts after a boot of the host
    #[arg(long, value_name = "YES", group = "change")]
    autostart: Option<bool>,
    /// What becomes of the guest when the host cannot read or write its disk
    #[arg(long, value_name = "WHAT", group = "change", value_parser = one_of::<OnIoError>(IO_ERROR))]
    on_io_error: Option<OnIoError>,
    #[command(flatten)]
    to: Connect,
}

impl Set {
    pub async fn run(self) -> Result<(), Fail> {
        let Self {
            vms,
            cpus,
            pin,
            memory,
            disk,
            iops,
            bps,
            iso,
            restart_policy,
            max_restarts,
            autostart,
            on_io_error,
            to,
        } = self;
        let output = to.output();
        let client = to.client()?;
        let vms = names::vms(&client, &vms).await?;
        let iso = iso.map(|iso| (iso != "none").then(|| path(iso, client.target().is_here())));
        let pinning = pin.map(|pin| pin.0.map(|cores| CpuPinning { cores: Some(cores), vcpus: None, emulator: None }));
        let max_restarts = max_restarts.map(|most| most.0);
        let autostart = autostart.map(|enabled| Some(AutostartBody { enabled, order: 0, delay: 0 }));
        for vm in &vms {
            let change = Change { client: &client, output, vm };
            if cpus.is_some() || pinning.is_some() {
                let body = CpuBody { vcpus: cpus, cpu_pinning: pinning.clone() };
                change.put::<Cpu>("cpu", &body).await?;
            }
            if let Some(memory) = memory {
                change.put::<Memory>("memory", &MemoryBody { memory }).await?;
            }
            if disk.is_some() || iops.is_some() || bps.is_some() {
                let io_limits =
                    if iops.is_some() || bps.is_some() { Some(change.limits(iops, bps).await?) } else { None };
                change.put::<RootDisk>("disk", &DiskUpdate { disk_size: disk, io_limits }).await?;
            }
            if let Some(iso) = &iso {
                change.put::<Iso>("iso", &IsoBody { iso: Some(iso.clone()) }).await?;
            }
            if restart_policy.is_some() || max_restarts.is_some() || autostart.is_some() || on_io_error.is_some() {
                let body = PolicyBody { restart_policy, max_restarts, autostart, on_io_error };
                change.put::<PolicyView>("policy", &body).await?;
            }
        }
        Ok(())
    }
}

struct Change<'a> {
    client: &'a Client,
    output: Output,
    vm: &'a Vm,
}

impl Change<'_> {
    async fn put<T: Serialize + DeserializeOwned>(&self, what: &str, body: &impl Serialize) -> Result<(), Fail> {
        let path = format!("/vms/{}/{what}", self.vm.id);
        let put = self.watched(what, self.client.put::<Updated<T>>(&path, body));
        let done = put.await.map_err(|failure| Fail::from(failure).about(&self.vm.name))?;
        if self.output.is_for_programs() {
            return self.output.value(&done);
        }
        let members = serde_json::to_value(body).unwrap_or_default();
        let members = members.as_object().into_iter().flatten();
        let changed: Vec<String> = members.map(|(name, value)| format!("{name} {}", written(name, value))).collect();
        // What is off has nothing that differs.
        let later = if done.pending.is_empty() { "" } else { when(done.applied) };
        self.output.say(&format!("{}: {}{later}", self.vm.name, changed.join(", ")))
    }

    async fn watched<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        waiting(self.output, &format!("{}: {what}", self.vm.name), work).await
    }

    /// Limits are replaced whole: those that are not named stay.
    async fn limits(&self, iops: Option<Number>, bps: Option<Number>) -> Result<Option<IoLimits>, Fail> {
        let config: Config = self.client.get(&format!("/vms/{}/config", self.vm.id)).await?;
        let now = config.io_limits.unwrap_or_default();
        let limits =
            IoLimits { iops: iops.map_or(now.iops, |iops| iops.0), bps: bps.map_or(now.bps, |bps| bps.0), ..now };
        Ok((limits != IoLimits::default()).then_some(limits))
    }
}

/// For people.
fn written(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Number(size) if name == "memory" => sizes::written_mib(size.as_u64().unwrap_or_default()),
        Value::Number(size) if name == "disk_size" => format!("{size}G"),
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        }
        value => value.to_string(),
    }
}
