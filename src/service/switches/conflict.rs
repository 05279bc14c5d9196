//! What two switches cannot both have: a subnet, a network of IPv6, an adapter.

use crate::model::{Error, Result, Subnet, Switch, SwitchKind};

/// Whether another switch has what this one is to have, or the subnet that it is about to have.
///
/// # Errors
/// [`Error::SwitchConflict`] that names the other.
pub fn conflict<'a>(switch: &Switch, others: impl Iterator<Item = (&'a Switch, Option<&'a Subnet>)>) -> Result<()> {
    for (other, claimed) in others.filter(|(other, _)| other.id != switch.id) {
        let theirs = other.subnet().into_iter().chain(claimed);
        if let Some(wanted) = switch.subnet()
            && let Some(taken) = theirs.into_iter().find(|taken| wanted.overlaps(taken))
        {
            let message = format!(
                "The subnet {wanted} overlaps {taken} of the switch {} ({}); choose another.",
                other.name, other.id
            );
            return Err(Error::SwitchConflict(message));
        }
        if let Some(wanted) = ipv6(switch)
            && [ipv6(other), claimed.and_then(network6)].contains(&Some(wanted.clone()))
        {
            let message = format!("The network {wanted} belongs to the switch {} ({}).", other.name, other.id);
            return Err(Error::SwitchConflict(message));
        }
        if let (SwitchKind::External { adapter, .. }, SwitchKind::External { adapter: taken, .. }) =
            (&switch.kind, &other.kind)
            && adapter == taken
        {
            let message = format!("The adapter {adapter} belongs to the switch {} ({}).", other.name, other.id);
            return Err(Error::SwitchConflict(message));
        }
    }
    Ok(())
}

fn ipv6(switch: &Switch) -> Option<String> {
    network6(switch.subnet()?)
}

fn network6(subnet: &Subnet) -> Option<String> {
    Some(subnet.ipv6.as_ref()?.to_string())
}
