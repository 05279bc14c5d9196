//! `set`: what is to be another of a VM, in one request: all of it, or nothing.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use super::{
    connect::Connect,
    cpu::{self, CpuFlags},
    create::path as path_of,
    exit::Fail,
    first_boot::FirstBoot,
    names::{self, Vm},
    output::Output,
    progress::{Outcome, waiting},
    sizes::{self, Cores, Label, Number},
    vms::show_outcome,
    words::{IO_ERROR, RESTART, one_of, when},
};
use crate::{
    api::kvm::bodies::{AutostartBody, Config, CpuPinning, Whole, WholeBody},
    client::Client,
    model::{IoLimits, OnIoError, RestartPolicy},
};

#[derive(Args)]
pub struct Set {
    /// Names or ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
#[group(id = "change", required = true, multiple = true)]
struct Change {
    /// vCPUs
    #[arg(long, value_name = "N")]
    cpus: Option<i64>,
    /// Cores of the host that its vCPUs run on, such as 0-3,8; none for any
    #[arg(long, value_name = "CORES", value_parser = sizes::cores)]
    pin: Option<Cores>,
    /// The CPU model that its guest sees, such as Nehalem; none for the richest that the accelerator offers
    #[arg(long, value_name = "MODEL")]
    cpu_model: Option<String>,
    /// A CPU feature that is switched on or off beside the model, such as aes or avx2=off; =none leaves it to the model;
    /// repeatable
    #[arg(long = "cpu-feature", value_name = "FEATURE[=on|off]", value_parser = cpu::feature)]
    cpu_features: Vec<cpu::Feature>,
    /// Memory, such as 512M or 2G
    #[arg(long, value_name = "SIZE", value_parser = sizes::mib)]
    memory: Option<i64>,
    /// Size of its root disk, which only grows
    #[arg(long, value_name = "SIZE", value_parser = sizes::gib)]
    disk: Option<i64>,
    /// I/O operations per second of its root disk; none for no limit
    #[arg(long, value_name = "N", value_parser = sizes::number)]
    iops: Option<Number>,
    /// Bytes per second of its root disk, such as 50M; none for no limit
    #[arg(long, value_name = "SIZE", value_parser = sizes::byte_rate)]
    bps: Option<Number>,
    /// The ISO image in its CD drive; none ejects it
    #[arg(long, value_name = "PATH")]
    iso: Option<String>,
    /// The public keys of OpenSSH that the image's own user is to be logged in with, from the next start on; none for none;
    /// repeatable
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<String>,
    /// User data for cloud-init, which the guest takes at its next start; none for none
    #[arg(long, value_name = "FILE")]
    user_data: Option<String>,
    /// What the guest is to call itself, from its next start on; none for its name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Whether it starts again when it has ended
    #[arg(long, value_name = "POLICY", value_parser = one_of::<RestartPolicy>(RESTART))]
    restart_policy: Option<RestartPolicy>,
    /// Restarts in a row before it is given up; none for never
    #[arg(long, value_name = "N", value_parser = sizes::number)]
    max_restarts: Option<Number>,
    /// Whether it starts after a boot of the host
    #[arg(long, value_name = "YES")]
    autostart: Option<bool>,
    /// What becomes of the guest when the host cannot read or write its disk
    #[arg(long, value_name = "WHAT", value_parser = one_of::<OnIoError>(IO_ERROR))]
    on_io_error: Option<OnIoError>,
    /// What it is called
    #[arg(long)]
    name: Option<String>,
    /// A label that it is to have; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = sizes::label)]
    labels: Vec<Label>,
    /// The key of a label that it is to lose; repeatable
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
    /// What it is for; empty for nothing
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether it is kept from being deleted and forced off
    #[arg(long, value_name = "YES")]
    protected: Option<bool>,
}

impl Set {
    pub async fn run(self) -> Result<(), Fail> {
        let Self { vms, to, change } = self;
        let output = to.output();
        let client = to.client()?;
        let vms = names::vms(&client, &vms).await?;
        let mut outcome = Outcome { wanted: vms.len(), done: Vec::new(), failed: None };
        for vm in &vms {
            match change.of(&client, vm, output).await {
                Ok(done) => outcome.done.push(done),
                // One after the other: what is wrong with it is mostly wrong with those that follow.
                Err(fail) => {
                    outcome.failed = Some(fail.about(&vm.name));
                    break;
                }
            }
        }
        show_outcome(output, outcome)
    }
}

impl Change {
    /// Changes one VM, and says so to people.
    async fn of(&self, client: &Client, vm: &Vm, output: Output) -> Result<Whole, Fail> {
        let path = format!("/vms/{}", vm.id);
        let body = self.body(client, &path).await?;
        let done = waiting(output, &format!("{}: set", vm.name), client.put::<Whole>(&path, &body)).await?;
        if !output.is_for_programs() {
            let members = serde_json::to_value(&body).unwrap_or_default();
            let members = members.as_object().into_iter().flatten();
            // What is off has nothing that differs, and of several only some may have to wait.
            let later = |name: &str| if done.config.pending.contains_key(name) { when(done.applied) } else { "" };
            let changed: Vec<String> =
                members.map(|(name, value)| format!("{name} {}{}", written(name, value), later(name))).collect();
            output.say(&format!("{}: {}", vm.name, changed.join(", ")))?;
        }
        Ok(done)
    }

    /// What is to be another. Limits are replaced whole, so those that are not named are sent as they are. Labels come and go
    /// beside those that others set.
    async fn body(&self, client: &Client, path: &str) -> Result<WholeBody, Fail> {
        let limits = self.iops.is_some() || self.bps.is_some();
        let cpu = CpuFlags { cpu_model: self.cpu_model.clone(), cpu_features: self.cpu_features.clone() };
        let (ssh_keys, user_data, hostname) = (self.ssh_keys.clone(), self.user_data.clone(), self.hostname.clone());
        let first_boot = FirstBoot { ssh_keys, user_data, hostname };
        let reads = limits || cpu.is_given() || first_boot.is_given();
        let now: Option<Config> = if reads { Some(client.get(&format!("{path}/config")).await?) } else { None };
        let io_limits = now.as_ref().filter(|_| limits).map(|now| {
            let now = (*now.io_limits).unwrap_or_default();
            let (iops, bps) = (self.iops.map_or(now.iops, |iops| iops.0), self.bps.map_or(now.bps, |bps| bps.0));
            let limits = IoLimits { iops, bps, ..now };
            (limits != IoLimits::default()).then_some(limits)
        });
        let cpu = now.as_ref().filter(|_| cpu.is_given()).map(|now| cpu.over((*now.cpu).clone()));
        let before = now.and_then(|now| now.cloud_init);
        let cloud_init = if first_boot.is_given() { Some(first_boot.over(before)?) } else { None };
        let added: BTreeMap<_, _> = self.labels.iter().cloned().map(|label| (label.key, label.value)).collect();
        if added.len() < self.labels.len() {
            return Err(Fail::usage("--label names a key twice"));
        }
        let pinning = |cores| CpuPinning { cores: Some(cores), vcpus: None, emulator: None };
        let is_here = client.target().is_here();
        Ok(WholeBody {
            name: self.name.clone(),
            vcpus: self.cpus,
            cpu_pinning: self.pin.clone().map(|pin| pin.0.map(pinning)),
            cpu,
            memory: self.memory,
            disk_size: self.disk,
            io_limits,
            iso: self.iso.clone().map(|iso| (iso != "none").then(|| path_of(iso, is_here))),
            cloud_init,
            restart_policy: self.restart_policy,
            max_restarts: self.max_restarts.map(|most| most.0),
            autostart: self.autostart.map(|enabled| Some(AutostartBody { enabled, order: 0, delay: 0 })),
            on_io_error: self.on_io_error,
            add_labels: (!added.is_empty()).then_some(added),
            remove_labels: (!self.unlabels.is_empty()).then(|| self.unlabels.clone()),
            description: self.description.clone().map(Some),
            protected: self.protected,
            ..WholeBody::default()
        })
    }
}

/// For people.
fn written(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Number(size) if name == "memory" => sizes::written_mib(size.as_u64().unwrap_or_default()),
        Value::Number(size) if name == "disk_size" => format!("{size}G"),
        Value::String(text) => text.clone(),
        // Not what is in it: it is long, and secret.
        Value::Object(members) if name == "cloud_init" => {
            let parts = members.keys().filter(|name| *name != "withheld");
            parts.map(String::as_str).collect::<Vec<_>>().join(", ")
        }
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        }
        value => value.to_string(),
    }
}
