//! Which NICs of VMs are on a switch, and where its forwards lead.

use crate::{
    model::{Nic, SwitchForward, SwitchId, VmView},
    service::registry::Registry,
    vm::Mark,
};

/// NICs that a VM has, or still has in its running QEMU.
pub(super) fn nics(view: &VmView) -> impl Iterator<Item = &Nic> {
    view.spec.nics.iter().chain(view.in_effect.iter().flat_map(|spec| &spec.nics)).filter(|_| !view.gone)
}

/// The NIC that a forward of a switch is for, while it is on it.
pub(super) fn leads_to(forward: &SwitchForward, switch: SwitchId, registry: &Registry) -> Option<(VmView, Nic)> {
    registry.views_with(Mark::Nic(forward.nic)).into_iter().find_map(|view| {
        let there = nics(&view).find(|nic| nic.id == forward.nic && nic.switch() == Some(switch)).cloned();
        there.filter(|nic| view.spec.nic(nic.id).is_some()).map(|nic| (view, nic))
    })
}
