//! What of the host's has to be known, and written down, before a switch is made: what an adapter carries, and whether a
//! subnet is free.

use super::{
    NetError, Network, Result,
    adapter::{self, Carried},
    overlap,
};
use crate::model::{Moved, Switch, SwitchKind};

impl Network {
    /// What of the host's is to move from the adapter of an External switch to its bridge. It has to be on stable
    /// storage before [`Network::put_switch`] is called with it. `known` is what an earlier call gave.
    ///
    /// # Errors
    /// [`NetError::Adapter`], [`NetError::Carries`] and [`NetError::Leased`] for an adapter that cannot be taken,
    /// [`NetError::Overlap`] for a subnet.
    pub async fn survey(&self, switch: &Switch, known: Option<&Moved>) -> Result<Option<Moved>> {
        let netlink = self.0.netlink()?;
        let (name, allow) = match &switch.kind {
            SwitchKind::Private => return Ok(None),
            SwitchKind::Internal { subnet } => {
                if let Some(subnet) = subnet
                    && netlink.link(&switch.bridge()).await?.is_none()
                {
                    overlap::check_overlap(netlink, subnet, None).await?;
                }
                return Ok(None);
            }
            SwitchKind::External { adapter, allow_management_os, .. } => (adapter, *allow_management_os),
        };
        let links = netlink.links().await?;
        let bridge = links.iter().find(|link| link.name == switch.bridge());
        let adapter = adapter::check(&links, name, &switch.bridge())?;
        let mut carried = Carried::read(netlink, adapter.index).await?;
        if !allow {
            return if carried.is_empty() {
                Ok(None)
            } else {
                Err(NetError::Carries { adapter: name.clone(), what: carried.describe() })
            };
        }
        // Whoever renews it does so on the adapter, where it does not work any more.
        if let (Some(what), None) = (carried.leased(), known) {
            return Err(NetError::Leased { adapter: name.clone(), what });
        }
        if let Some(bridge) = bridge {
            carried.join(&Carried::read(netlink, bridge.index).await?.to_moved()?);
        }
        // Once the adapter is in the bridge, each address is on one of the two; before that, or when somebody removed
        // the bridge, what was written down counts too. After another boot the adapter has what it is to have.
        let joined = bridge.is_some_and(|bridge| adapter.master == Some(bridge.index));
        if let (false, Some(known)) = (joined, known)
            && adapter::is_of_this_boot(known)
        {
            carried.join(known);
        }
        if let Some(known) = known {
            carried.join_leased(known);
        }
        carried.to_moved().map(Some)
    }
}
