//! `ls` and `show`.

use clap::Args;

use super::{
    columns::{Whole, limits, network},
    connect::Connect,
    exit::Fail,
    names::{self, Vm, encoded},
    output::Output,
    progress::{Outcome, each},
    sizes::{written_cores, written_mib, written_seconds},
    words::named,
};
use crate::{
    api::kvm::bodies::{Details, DiskRow, Listed, NetworkRow},
    client::Client,
};

#[derive(Args)]
pub struct Ls {
    /// What each has, and its addresses; the same as -o wide
    #[arg(short)]
    long: bool,
    /// Only those with this status, such as running or stopped
    #[arg(long)]
    status: Option<String>,
    /// Only those with these labels, such as env=prod,tier; a key alone takes any value, also one with a comma
    #[arg(long, value_name = "LABELS")]
    label: Option<String>,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
pub struct Show {
    /// Names or ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    #[command(flatten)]
    to: Connect,
}

impl Ls {
    pub async fn run(self) -> Result<(), Fail> {
        let output = if self.long { self.to.output().wide() } else { self.to.output() };
        let client = self.to.client()?;
        let named = [("status", self.status), ("label", self.label)];
        let query = named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))));
        let query: Vec<String> = query.collect();
        let path = if query.is_empty() { "/vms".to_owned() } else { format!("/vms?{}", query.join("&")) };
        output.list(&client.get::<Vec<Listed>>(&path).await?)
    }
}

async fn whole(client: &Client, id: &str) -> Result<Whole, Fail> {
    let details: Details = client.get(&format!("/vms/{id}")).await?;
    let networks: Vec<NetworkRow> = client.get(&format!("/vms/{id}/networks")).await?;
    let disks: Vec<DiskRow> = client.get(&format!("/vms/{id}/disks")).await?;
    Ok(Whole { details, disks, networks })
}

impl Show {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let vms = names::vms(&client, &self.vms).await?;
        let several = vms.len() > 1;
        let look = async |vm: Vm| whole(&client, &vm.id).await;
        let shown = |_: &Vm, vm: &Whole| {
            if output.is_for_programs() { Ok(()) } else { facts(output, vm, several) }
        };
        show_outcome(output, each(output, "looking at", &vms, look, shown).await?)
    }
}

/// For programs: what was done, also where not all was.
///
/// # Errors
/// Of what failed.
pub fn show_outcome<T: serde::Serialize>(output: Output, outcome: Outcome<T>) -> Result<(), Fail> {
    if outcome.wanted > 1 || outcome.failed.is_none() {
        show_values(output, outcome.wanted, &outcome.done)?;
    }
    outcome.failed.map_or(Ok(()), Err)
}

/// For programs: one that was named by itself, several as a list.
///
/// # Errors
/// Of standard output.
pub fn show_values<T: serde::Serialize>(output: Output, wanted: usize, values: &[T]) -> Result<(), Fail> {
    match values {
        _ if !output.is_for_programs() => Ok(()),
        [value] if wanted == 1 => output.value(value),
        values => output.value(&values),
    }
}

fn facts(output: Output, vm: &Whole, several: bool) -> Result<(), Fail> {
    let (details, config) = (&vm.details, &vm.details.config);
    if output.is_quiet() {
        return super::output::line(&config.id);
    }
    let status = match &details.reason {
        Some(reason) => format!("{} ({reason})", details.status.as_str()),
        None => details.status.as_str().to_owned(),
    };
    let pinning = config.cpu_pinning.as_ref();
    let pinned = match pinning.and_then(|pinning| Some((pinning.cores.as_ref()?, ()))) {
        Some((cores, ())) => format!(", on cores {}", written_cores(cores)),
        None => String::new(),
    };
    let pending = config
        .pending
        .iter()
        .map(|(name, pending)| format!("{name} {} (now {})", pending.configured, pending.in_effect));
    let failure = details.last_failure.as_ref();
    let mut facts = vec![
        ("Name", config.name.clone()),
        ("Id", config.id.clone()),
        ("Status", status),
        ("Uptime", details.uptime.map(written_seconds).unwrap_or_default()),
        ("Last start", failure.map(|failed| format!("failed at {}: {}", failed.at, failed.reason)).unwrap_or_default()),
        ("CPUs", format!("{} (up to {}){pinned}", config.vcpus, config.max_vcpus)),
        ("Memory", format!("{} (up to {})", written_mib(config.memory), written_mib(config.max_memory))),
        ("Machine", format!("{} ({})", config.profile, config.machine_type)),
        ("Accelerator", details.accelerator.to_string()),
        ("CD", config.iso.as_ref().map(|iso| iso.display().to_string()).unwrap_or_default()),
        ("Guest agent", if details.guest_agent { "connected" } else { "not connected" }.to_owned()),
        ("Restarts", named(&config.policy.restart_policy)),
        ("Pending", pending.collect::<Vec<_>>().join(", ")),
    ];
    for disk in &vm.disks {
        let limits = limits(disk.disk.io_limits.as_ref());
        let base = disk.disk.base_image.as_ref().map(|base| format!(", from {}", base.display())).unwrap_or_default();
        let limits = if limits.is_empty() { limits } else { format!(", {limits}") };
        let file = if disk.disk.attached { format!(", {}", disk.disk.disk_file.display()) } else { String::new() };
        facts.push(("Disk", format!("{}: {}G{file}{base}{limits}", disk.disk.name, disk.disk.disk_size)));
    }
    for NetworkRow { network: nic, .. } in &vm.networks {
        let addresses = if nic.addresses.is_empty() { String::new() } else { format!(", {}", nic.addresses.join(" ")) };
        facts.push(("NIC", format!("{}: {}, {}{addresses}", nic.device, network(nic), nic.mac)));
    }
    facts.push(("Created", config.created_at.clone()));
    output.facts(&facts)?;
    if several { super::output::line("") } else { Ok(()) }
}
