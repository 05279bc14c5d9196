//! What VMs are kept in, as far as this host has it.

use anyhow::ensure;

use super::Service;
use crate::{
    config::{Config, Confine},
    host::sandbox::Sandbox,
    qemu::{Accelerator, Caps},
};

/// Tries it out, and says what is missing.
///
/// # Errors
/// Where all layers are required and one is missing.
pub(super) async fn find(config: &Config, caps: &Caps) -> anyhow::Result<Sandbox> {
    let kvm = caps.accelerator == Accelerator::Kvm;
    let sandbox = Sandbox::find(&caps.program, &caps.version, &caps.may_execute, kvm, config.vm_uids.clone()).await;
    let missing = sandbox.missing();
    let said: Vec<String> = missing.iter().map(|found| format!("{} ({})", found.layer.name(), found.why)).collect();
    let said = said.join(", ");
    ensure!(
        missing.is_empty() || config.sandbox != Confine::Require,
        "--sandbox require: this host cannot keep VMs in {said}"
    );
    if !missing.is_empty() {
        tracing::warn!(missing = said, "VMs are kept in less than they could be");
    }
    Ok(sandbox)
}

impl Service {
    /// What VMs are kept in here.
    pub fn sandbox(&self) -> &Sandbox {
        &self.ctx.sandbox
    }
}
