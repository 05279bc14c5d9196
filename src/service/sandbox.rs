//! What VMs are kept in, and what works on their images, as far as this host has it.

use std::sync::Arc;

use anyhow::ensure;
use tokio::task::spawn_blocking;

use super::Service;
use crate::{
    config::{Config, Confine},
    host::{
        image::{Keep, QemuImg, Unpacker},
        launcher::QEMU_PROBE,
        sandbox::{Programs, Sandbox},
    },
    model::MissingLayer,
    qemu::{Accelerator, Caps},
};

/// A program that works on images, and the layers that it goes without.
type OfTool = (&'static str, Vec<MissingLayer>);

/// What programs that work on images are kept in, of a state directory with this id.
pub(super) fn keep(config: &Config, mark: &str) -> Keep {
    Keep { uids: config.vm_uids.clone(), mark: mark.to_owned() }
}

/// What those that work on images go without.
pub(super) fn of_tools(images: &QemuImg, unpacker: &Unpacker) -> [OfTool; 2] {
    [("qemu-img", images.missing()), ("what unpacks images", unpacker.missing())]
}

/// Tries it out, clears away what earlier daemons have left, and says what is missing.
///
/// # Errors
/// Where all layers are required and one is missing.
pub(super) async fn find(config: &Config, caps: &Caps, mark: &str, tools: &[OfTool]) -> anyhow::Result<Arc<Sandbox>> {
    let kvm = caps.accelerator == Accelerator::Kvm;
    let programs =
        Programs { program: &caps.program, version: &caps.version, others: &caps.may_execute, permit: QEMU_PROBE, kvm };
    let sandbox = Arc::new(Sandbox::find(programs, config.vm_uids.clone(), mark).await);
    let swept = sandbox.clone();
    spawn_blocking(move || swept.sweep()).await?;
    let missing = sandbox.missing();
    let said = missing.iter().map(|found| format!("{} ({})", found.layer.name(), found.why));
    let said: Vec<String> = said.chain(beside(missing, tools)).collect();
    ensure!(
        said.is_empty() || config.sandbox != Confine::Require,
        "--sandbox require: this host cannot keep VMs in {}",
        said.join(", ")
    );
    if !said.is_empty() {
        tracing::warn!(missing = said.join(", "), "VMs are kept in less than they could be");
    }
    Ok(sandbox)
}

/// What programs that work on images go without where VMs do not.
fn beside<'a>(of_vms: &'a [MissingLayer], tools: &'a [OfTool]) -> impl Iterator<Item = String> + 'a {
    let more = move |found: &&MissingLayer| !of_vms.iter().any(|known| known.layer == found.layer);
    tools.iter().flat_map(move |(program, missing)| {
        missing
            .iter()
            .filter(more)
            .map(move |found| format!("{program} runs without the layer {}: {}", found.layer.name(), found.why))
    })
}

impl Service {
    /// What VMs are kept in here.
    pub fn sandbox(&self) -> &Sandbox {
        &self.ctx.sandbox
    }

    /// What is kept in less, for people.
    pub(super) fn missing_layers(&self) -> Vec<String> {
        let missing = self.sandbox().missing();
        let tools = of_tools(&self.ctx.images, self.image_store.unpacker());
        let of_vms =
            missing.iter().map(|found| format!("VMs run without the layer {}: {}", found.layer.name(), found.why));
        of_vms.chain(beside(missing, &tools)).collect()
    }
}
