//! `host`.

use clap::Args;

use super::{
    connect::Connect,
    exit::Fail,
    sizes::{written_cores, written_mib},
};
use crate::api::kvm::bodies::{Health, HostBody};

#[derive(Args)]
pub struct Host {
    #[command(flatten)]
    to: Connect,
}

impl Host {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let host: HostBody = client.get("/host").await?;
        if output.is_for_programs() {
            return output.value(&host);
        }
        let health: Health = client.get("/health").await?;
        let cores = |cores: &[u32]| written_cores(&cores.iter().map(|&core| core.into()).collect::<Vec<i64>>());
        let mut facts = vec![
            ("qherd", health.version.to_string()),
            ("QEMU", host.qemu_version.clone()),
            ("Accelerator", format!("{} ({})", host.accelerator, host.accelerator_reason)),
            ("Cores", format!("{} usable", cores(&host.cores.usable))),
            ("Isolated", cores(&host.cores.isolated)),
            ("Pinned", cores(&host.cores.pinned)),
            ("Memory", written_mib(host.memory_total)),
            ("Available", host.memory_available.map(written_mib).unwrap_or_default()),
        ];
        for node in &host.numa_nodes {
            let memory = node.memory_total.map(written_mib).unwrap_or_default();
            facts.push(("NUMA node", format!("{}: cores {}, {memory}", node.node, cores(&node.cores))));
        }
        for vm in &host.pinned_by {
            let vcpus: Vec<String> = vm.vcpus.iter().map(|vcpu| cores(&vcpu.cores)).collect();
            facts.push(("Pinned by", format!("{}: {}", vm.name, vcpus.join(" "))));
        }
        facts.extend(health.warnings.iter().map(|warning| ("Warning", warning.clone())));
        output.facts(&facts)
    }
}
