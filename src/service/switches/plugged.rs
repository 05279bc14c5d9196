//! Which NICs of VMs are on a switch, and where its forwards lead.

use crate::model::{Nic, SwitchForward, SwitchId, VmView};

/// NICs that a VM has, or still has in its running QEMU.
pub(super) fn nics(view: &VmView) -> impl Iterator<Item = &Nic> {
    view.spec.nics.iter().chain(view.in_effect.iter().flat_map(|spec| &spec.nics)).filter(|_| !view.gone)
}

/// The NIC that a forward of a switch is for, while it is on it.
pub(super) fn leads_to<'a>(
    forward: &SwitchForward,
    switch: SwitchId,
    views: &'a [VmView],
) -> Option<(&'a VmView, &'a Nic)> {
    let mut nics = views.iter().flat_map(|view| self::nics(view).map(move |nic| (view, nic)));
    nics.find(|(view, nic)| nic.id == forward.nic && nic.switch() == Some(switch) && view.spec.nic(nic.id).is_some())
}
