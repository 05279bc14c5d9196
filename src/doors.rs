//! The addresses that the daemon listens on, and who is let in there: the settings put together. What they mean is said by
//! `service::access` and `api::http`.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
};

use anyhow::Context;
use qherd::{
    api::http::{Gate, listen::Door, tls},
    config::{AccessSettings, Config},
    service::{
        Service,
        access::{Access, Processes, Rules, tokens::Tokens},
    },
};
use tokio::net::TcpListener;

/// The certificate, where there is one.
///
/// # Errors
/// One that cannot be used.
pub fn tls(access: &AccessSettings) -> anyhow::Result<Option<Arc<tls::Tls>>> {
    let files =
        access.tls.clone().map(|files| tls::Files { cert: files.cert, key: files.key, client_ca: files.client_ca });
    files.map(tls::Tls::load).transpose().context("cannot use the TLS certificate")
}

/// An address that others reach, where nobody from elsewhere could show who they are.
///
/// # Errors
/// With the ways out.
pub fn refuse_strangers(config: &Config, listen: [Option<SocketAddr>; 2]) -> anyhow::Result<()> {
    let reached = listen.into_iter().flatten().find(|address| !address.ip().to_canonical().is_loopback());
    let Some(address) = reached else { return Ok(()) };
    if config.access.open {
        return Ok(());
    }
    let tokens = Tokens::of(&config.state_dir).list()?.0;
    let known = config.access.knows_others_by_certificate() || tokens.iter().any(|token| !token.has_expired());
    anyhow::ensure!(
        known,
        "others reach {address}, and there is nothing by which they could be known: make a token first (qherd token create \
         --role operator), or give --tls-cert, --tls-key and --tls-client-ca; --insecure-no-auth lets everybody do everything"
    );
    if config.access.tls.is_none() {
        tracing::warn!(%address, "tokens go over the network in the clear; --tls-cert and --tls-key keep them from others");
    }
    Ok(())
}

/// A listener, and the line that says where it is.
///
/// # Errors
/// An address that is taken, or is not one of this host.
pub async fn bind(address: SocketAddr, tls: Option<Arc<tls::Tls>>, what: &str) -> anyhow::Result<(Door, String)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    // This host is served without TLS too.
    let scheme = if tls.is_some() && !address.ip().is_loopback() { "https" } else { "http" };
    let line = format!("listening on {scheme}://{address}{what}\n");
    Ok((Door { listener, tls }, line))
}

/// Who may do what.
pub fn rules(config: &Config) -> Rules {
    let access = &config.access;
    if access.open {
        tracing::warn!("--insecure-no-auth: whoever reaches the API may do everything, guests included");
    }
    Rules {
        grants: access.grants.clone(),
        open: access.open,
        vm_uids: config.vm_uids.clone(),
        tokens: config.state_dir.join(qherd::service::access::tokens::FOLDER),
        qemu: config.qemu.clone(),
    }
}

/// Who is let in.
pub fn gate(rules: Rules, access: &AccessSettings, service: &Arc<Service>) -> Arc<Gate> {
    let vms: Weak<Service> = Arc::downgrade(service);
    let processes: Processes = Arc::new(move || vms.upgrade().map(|service| service.processes()).unwrap_or_default());
    let (hosts, pages) = (access.host_names.clone(), access.cors_origins.clone());
    Gate::new(Access::new(rules, processes), hosts, pages, access.tls.is_some())
}
