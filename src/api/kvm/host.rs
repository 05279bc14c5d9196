//! `GET /host`.

use std::{borrow::Cow, collections::BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, error::Problem};
use crate::{
    api::http::{Reply, Request},
    model::{Carrier, Layer, MissingLayer, Status, UserNetwork},
    service::{Caps, HostView, NumaNode as Node, PinnedVm},
};

/// The host: what there is to run VMs on, and which cores are spoken for.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct HostBody {
    pub cores: Cores,
    /// Empty where the kernel knows no NUMA.
    pub numa_nodes: Vec<NumaNode>,
    /// MiB.
    pub memory_total: u64,
    /// MiB that can be had without swapping.
    pub memory_available: Option<u64>,
    pub qemu_version: String,
    /// `kvm` or `tcg`.
    pub accelerator: Cow<'static, str>,
    /// Why this one.
    pub accelerator_reason: String,
    /// What keeps QEMU from this host.
    pub sandbox: SandboxBody,
    /// What carries NICs on the user-mode network.
    pub user_network: UserNetworkBody,
    /// VMs whose definition pins their vCPUs, oldest first, whether they run or not.
    pub pinned_by: Vec<PinnedBody>,
}

/// The layers around each VM's QEMU; `GET /vms/{id}` tells those that it was started in.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SandboxBody {
    pub layers: Vec<Layer>,
    /// What VMs go without here, and why; empty with `--sandbox require`.
    pub missing: Vec<MissingLayer>,
}

/// Of VMs that are started now; `GET /vms/{id}` tells what carries those of one that runs.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct UserNetworkBody {
    pub carrier: Carrier,
    /// Why this one.
    pub reason: String,
    /// What guests on it are not kept from; null where they reach neither this host's own addresses nor link-local ones.
    pub exposure: Option<String>,
}

/// Cores by number, ascending.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Cores {
    pub online: Vec<u32>,
    /// Kept free of other work by the boot option `isolcpus`.
    pub isolated: Vec<u32>,
    /// Online, and qherd may use them; `cpu_pinning` takes no others.
    pub usable: Vec<u32>,
    /// In the pinning of at least one VM, see `pinned_by`.
    pub pinned: Vec<u32>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NumaNode {
    pub node: u32,
    /// Those online; none on a node that has only memory.
    pub cores: Vec<u32>,
    /// MiB.
    pub memory_total: Option<u64>,
    /// MiB that nothing uses, not even a cache.
    pub memory_free: Option<u64>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct PinnedBody {
    pub id: String,
    pub vm_id: String,
    pub name: String,
    pub status: Status,
    pub vcpus: Vec<PinnedVcpu>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct PinnedVcpu {
    pub vcpu: usize,
    pub cores: Vec<u32>,
}

pub async fn host(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let view = shared.service.host().await?;
    let sandbox = shared.service.sandbox();
    let sandbox = SandboxBody { layers: sandbox.layers(), missing: sandbox.missing().to_vec() };
    let UserNetwork { carrier, reason, exposure } = shared.service.user_network().clone();
    let user_network = UserNetworkBody { carrier, reason, exposure };
    Ok(Reply::json(StatusCode::OK, &HostBody::of(view, shared.service.caps(), sandbox, user_network)))
}

impl HostBody {
    fn of(view: HostView, caps: &Caps, sandbox: SandboxBody, user_network: UserNetworkBody) -> Self {
        let HostView { inventory, pinned } = view;
        let cores: BTreeSet<u32> = pinned.iter().flat_map(|vm| vm.vcpus.iter().flatten()).copied().collect();
        Self {
            cores: Cores {
                online: inventory.online,
                isolated: inventory.isolated,
                usable: inventory.usable,
                pinned: cores.into_iter().collect(),
            },
            numa_nodes: inventory.nodes.into_iter().map(NumaNode::of).collect(),
            memory_total: inventory.memory_total,
            memory_available: inventory.memory_available,
            qemu_version: caps.version.clone(),
            accelerator: caps.accelerator.as_str().into(),
            accelerator_reason: caps.accelerator_reason.clone(),
            sandbox,
            user_network,
            pinned_by: pinned.into_iter().map(PinnedBody::of).collect(),
        }
    }
}

impl NumaNode {
    fn of(node: Node) -> Self {
        let Node { id, cores, memory_total, memory_free } = node;
        Self { node: id, cores, memory_total, memory_free }
    }
}

impl PinnedBody {
    fn of(vm: PinnedVm) -> Self {
        let vcpu = |(vcpu, cores)| PinnedVcpu { vcpu, cores };
        let vcpus = vm.vcpus.into_iter().enumerate().map(vcpu).collect();
        Self { id: vm.id.to_string(), vm_id: vm.id.to_string(), name: vm.name, status: vm.status, vcpus }
    }
}
