//! What VMs are kept in, as far as this host has it.

use std::sync::Arc;

use anyhow::ensure;
use tokio::task::spawn_blocking;

use super::Service;
use crate::{
    config::{Config, Confine},
    host::sandbox::{Programs, Sandbox},
    qemu::{Accelerator, Caps},
};

/// Tries it out, clears away what earlier daemons have left, and says what is missing.
///
/// # Errors
/// Where all layers are required and one is missing.
pub(super) async fn find(config: &Config, caps: &Caps, mark: &str) -> anyhow::Result<Arc<Sandbox>> {
    let kvm = caps.accelerator == Accelerator::Kvm;
    let programs = Programs { program: &caps.program, version: &caps.version, others: &caps.may_execute, kvm };
    let sandbox = Arc::new(Sandbox::find(programs, config.vm_uids.clone(), mark).await);
    let swept = sandbox.clone();
    spawn_blocking(move || swept.sweep()).await?;
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
