//! What carries NICs on the user-mode network on this host, and what it does not keep guests from.

use std::sync::Arc;

use anyhow::bail;
use tokio::task::spawn_blocking;

use super::Service;
use crate::{
    config::{Carriers, Config},
    host::{launcher::User, sandbox::Sandbox},
    model::{Carrier, Layer, UserNetwork},
    net::{Network, passt},
    qemu::Caps,
};

/// The first QEMU that listens for whoever carries a NIC, and again when that has ended.
const QEMU: (u32, u32) = (7, 2);

/// Tries what there is.
///
/// # Errors
/// Where passt is required and does not work.
pub(super) async fn choose(
    config: &Config,
    caps: &Caps,
    sandbox: &Arc<Sandbox>,
    net: &Network,
) -> anyhow::Result<UserNetwork> {
    let works = async {
        match config.user_network {
            Carriers::Slirp => Err("it was chosen (--user-network)".to_owned()),
            Carriers::Auto | Carriers::Passt => works(caps, sandbox).await,
        }
    };
    let (works, exposure) = tokio::join!(works, exposure(net, sandbox));
    if let Some(exposure) = &exposure {
        tracing::warn!("{exposure}");
    }
    match works {
        Ok(()) => Ok(UserNetwork { carrier: Carrier::Passt, reason: "passt works".to_owned(), exposure }),
        Err(why) if config.user_network == Carriers::Passt => bail!("--user-network passt: {why}"),
        Err(reason) => {
            tracing::info!(reason, "QEMU itself carries NICs on the user-mode network, with the host's network");
            Ok(UserNetwork { carrier: Carrier::Slirp, reason, exposure })
        }
    }
}

async fn works(caps: &Caps, sandbox: &Arc<Sandbox>) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the daemon is not root, so passt could not be kept from what its user may".to_owned());
    }
    let mut numbers = caps.version.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < QEMU {
        return Err(format!("QEMU {} cannot be carried by another; 7.2 and later can", caps.version));
    }
    let tried = sandbox.clone();
    let cell = spawn_blocking(move || tried.cell_to_try()).await.map_err(|error| error.to_string())?;
    let (cell, uid) = cell.map_err(|error| error.to_string())?;
    let outcome = passt::attempt(cell).await;
    if let Ok(Err(error)) = spawn_blocking(move || User::forget(uid)).await {
        tracing::debug!(%error, "cannot remove the file of a user that nobody has");
    }
    outcome
}

/// What guests on the user-mode network are not kept from, where there is something.
async fn exposure(net: &Network, sandbox: &Sandbox) -> Option<String> {
    let why = match net.check_user_rules().await {
        Err(error) => error.to_string(),
        Ok(()) if sandbox.missing().iter().any(|missing| missing.layer == Layer::User) => {
            "VMs have no users of their own".to_owned()
        }
        Ok(()) => return None,
    };
    Some(format!("guests on the user-mode network reach the host's own and link-local addresses: {why}"))
}

impl Service {
    /// What carries NICs on the user-mode network of VMs that are started now.
    pub fn user_network(&self) -> &UserNetwork {
        &self.ctx.user_network
    }

    /// Whether QEMU itself carries them because nothing else can.
    pub fn is_second_best(&self) -> bool {
        self.ctx.user_network.carrier == Carrier::Slirp && self.ctx.config.user_network != Carriers::Slirp
    }
}
