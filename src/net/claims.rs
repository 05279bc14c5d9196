//! The addresses that guests use without having been given one, as the rules keep them: told, and taken back.

use std::{io::ErrorKind, net::IpAddr, time::Duration};

use tokio::time::timeout;

use super::{Inner, NetError, Result, rules};
use crate::model::{Nic, Switch};

/// A kernel that holds its own lock for so long answers nobody.
const PATIENCE: Duration = Duration::from_secs(10);
/// For whoever only wants to know.
const SOON: Duration = Duration::from_secs(1);

impl Inner {
    /// Takes back the addresses that a NIC's port had laid claim to, so that another can have them at once.
    pub async fn free_claims(&self, switch: &Switch, nic: &Nic) -> Result<()> {
        let Some(kernel) = self.rules.kernel() else { return Ok(()) };
        if nic.port().is_none_or(|port| port.address.is_some() || port.allow_spoofing) {
            return Ok(());
        }
        let claims = async {
            for batch in rules::claims_of(kernel, &self.state, switch, nic).await.map_err(failed)? {
                match kernel.apply(batch).await {
                    // Whoever removed the set has removed the claims.
                    Err(refused) if refused.error.kind() == ErrorKind::NotFound => {}
                    done => done.map_err(failed)?,
                }
            }
            Ok(())
        };
        timeout(PATIENCE, claims).await.unwrap_or_else(|_| Err(failed("the kernel has not answered")))
    }

    /// The addresses that a NIC's guest was seen to use, with the time since then; none of a port that has one assigned, and
    /// none where the kernel does not say so soon.
    pub async fn seen(&self, switch: &Switch, nic: &Nic) -> Vec<(IpAddr, Duration)> {
        let claims = nic.port().is_some_and(|port| port.address.is_none());
        let Some(kernel) = self.rules.reader().filter(|_| claims) else { return Vec::new() };
        let seen = timeout(SOON, rules::claimed(kernel, &self.state, switch, nic)).await;
        let seen = seen.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        seen.inspect_err(|error| tracing::debug!(%error, "cannot read what ports claim")).unwrap_or_default()
    }
}

fn failed(why: impl ToString) -> NetError {
    NetError::failed("free the addresses of a port", why)
}
