//! Another machine type for a VM that is off, for the day on which QEMU no longer knows the one that it was made with.

use super::Service;
use crate::{
    model::{Error, Redefinition, Result, VmId, VmView},
    qemu::family,
};

impl Service {
    /// Gives a VM the machine type `named`, or the latest one of the same kind: the hardware stays, its version changes.
    ///
    /// # Errors
    /// [`Error::VmNotFound`]; [`Error::Invalid`] for a type that this QEMU does not have or that is of another kind;
    /// [`Error::Conflict`] when it would change and the VM is not off.
    pub async fn change_machine(&self, id: VmId, named: Option<&str>) -> Result<VmView> {
        let (handle, caps) = (self.handle(id)?, &self.ctx.caps);
        let present = handle.view().spec.machine.machine_type.clone();
        let kind = family(&present);
        let latest = caps.latest_of(kind);
        let wanted = match named {
            None => latest.ok_or_else(|| {
                let must = format!("be given: QEMU {} has no machine type of the kind {kind}", caps.version);
                Error::invalid("type", must)
            })?,
            Some(named) => caps.versioned_machine(named).ok_or_else(|| {
                let such = latest.map(|latest| format!(", such as {latest}")).unwrap_or_default();
                Error::invalid("type", format!("be a machine type of QEMU {}{such}, not {named:?}", caps.version))
            })?,
        };
        if family(wanted) != kind {
            let must = format!(
                "be of the same kind as {present}: another has other hardware, which the guest was not installed on"
            );
            return Err(Error::invalid("type", must));
        }
        let redefinition = Redefinition { machine_type: Some(wanted.to_owned()), ..Redefinition::default() };
        handle.redefine(redefinition).await?;
        Ok(handle.view())
    }
}
