//! NICs that come and go while the VM runs, and NICs whose tap somebody took away. What happens on the host's
//! side of a NIC is `net`'s; disks are `hotplug`'s.

use std::{net::SocketAddrV4, os::fd::OwnedFd};

use serde_json::json;

use super::{
    Setback,
    release::{Device, halted},
};
use crate::{
    host::host_ports,
    model::{Error, Forward, Nic, NicId},
    net::PortHealth,
    qemu::devices,
    qmp::{QmpError, Session},
    vm::{
        Context,
        actor::{Actor, Interrupted},
    },
};

/// 7.2 outlives the unplugging of a NIC with one queue whose tap is gone; 10.0 does not, and nobody has tried those in
/// between.
const ABORTS_WITHOUT_TAP: u32 = 8;

impl Actor {
    /// Plugs what is defined and not there, and unplugs what is there and no longer defined: the NIC `only`, or all of
    /// them. What stands in the way of one does not keep the others. Only for a single one the guest is waited for.
    pub(super) async fn plug_nics(&mut self, only: Option<NicId>) -> Result<(), Setback> {
        let wanted = self.record.spec.nics.clone();
        let Some(run) = self.live_run() else { return Ok(()) };
        let there = run.in_effect.nics.clone();
        let meant = |nic: &&Nic| only.is_none_or(|id| nic.id == id);
        let among = |nic: &Nic, nics: &[Nic]| nics.iter().any(|n| n.id == nic.id);
        let mut outcome = Ok(());
        for nic in there.iter().filter(meant) {
            if !among(nic, &wanted) {
                outcome = outcome.and(self.unplug_nic(nic, only.is_some()).await);
            } else if self.has_lost_its_tap(nic) {
                outcome = outcome.and(self.exchange_nic(nic).await);
            }
        }
        for nic in wanted.iter().filter(meant).filter(|nic| !among(nic, &there)) {
            outcome = outcome.and(self.plug_nic(nic).await);
        }
        outcome
    }

    /// Brings the ports of NICs that are plugged to what is defined of them: of the NIC `only`, or of all.
    pub(super) async fn adjust_ports(&mut self, only: Option<NicId>) -> Result<(), Setback> {
        let wanted = self.record.spec.nics.clone();
        let Some(run) = self.live_run() else { return Ok(()) };
        let there = run.in_effect.nics.clone();
        if only.is_some_and(|id| there.iter().all(|nic| nic.id != id)) {
            return Err(Setback::NotNow("the NIC itself waits for the next start".into()));
        }
        for nic in wanted.iter().filter(|nic| only.is_none_or(|id| nic.id == id)) {
            let other = |now: &&Nic| now.id == nic.id && now.switch() == nic.switch() && now.backend != nic.backend;
            let Some(now) = there.iter().find(other).filter(|now| now.switch().is_some()) else { continue };
            // QEMU knows nothing of it; only the host's side is another.
            let put = Nic { backend: nic.backend.clone(), ..now.clone() };
            self.ctx.net.put_port(&put).await.map_err(|why| Setback::Refused(why.to_string()))?;
            self.record_in_effect(|spec| {
                spec.nics.iter_mut().filter(|n| n.id == put.id).for_each(|n| *n = put.clone())
            })
            .await?;
        }
        Ok(())
    }

    /// Asks QEMU first: a daemon may have died after it was plugged and before that was stored.
    async fn plug_nic(&mut self, nic: &Nic) -> Result<(), Setback> {
        if nic.slot.is_none() {
            return Err(Setback::NotNow("its place is none that takes a NIC while the VM runs".into()));
        }
        let session = self.session()?;
        if self.guarded(Device::Nic(nic).is_plugged(&session)).await? {
            self.ctx.net.adopt(nic).await;
        } else {
            let connected = self.connect_nic(&session, nic).await;
            // Where nobody can know how far QEMU came, the tap stays until its monitor is back or it has ended.
            if let Err(Setback::Refused(_) | Setback::Reported(_) | Setback::Interrupted(Interrupted::Overtaken)) =
                connected
            {
                self.ctx.disconnect(nic).await;
            }
            connected?;
        }
        let nic = nic.clone();
        self.record_in_effect(|spec| spec.nics.push(nic)).await
    }

    async fn connect_nic(&mut self, session: &Session, nic: &Nic) -> Result<(), Setback> {
        let names: Vec<String> = (0..nic.queues).map(|queue| format!("{}-{queue}", nic.name)).collect();
        // The host's side without its NIC, and descriptors of a tap that may still be there, are from a try that was
        // cut short.
        self.guarded(async { take_back(session, nic, &names).await }).await?;
        check_ports(nic.backend.forwards()).map_err(Setback::Reported)?;
        let taps = match nic.switch() {
            None => Vec::new(),
            Some(_) => self.ctx.net.plug(nic).await.map_err(|why| Setback::Refused(why.to_string()))?,
        };
        let device = devices::nic(nic, &self.record.spec);
        let connected = self.guarded(async {
            let connected = connect(session, nic, &names, taps, device).await;
            if let Err(QmpError::Refused { .. }) = connected {
                take_back(session, nic, &names).await?;
            }
            connected
        });
        Ok(connected.await?)
    }

    async fn unplug_nic(&mut self, nic: &Nic, wait: bool) -> Result<(), Setback> {
        if nic.slot.is_none() {
            return Err(Setback::NotNow("its place is none that a NIC comes out of while the VM runs".into()));
        }
        self.outlives_unplugging(nic)?;
        if wait {
            self.release(Device::Nic(nic)).await?;
        } else {
            let session = self.session()?;
            let exchange = self.guarded(async {
                match Device::Nic(nic).is_plugged(&session).await? {
                    true => Device::Nic(nic).ask(&session).await.map(Some),
                    false => Ok(None),
                }
            });
            match exchange.await? {
                Some(true) => return Err(Setback::InUse),
                Some(false) => return Err(halted()),
                None => {}
            }
        }
        self.nic_is_out(nic).await
    }

    /// What remains to be done when the guest has let go of a NIC.
    async fn nic_is_out(&mut self, nic: &Nic) -> Result<(), Setback> {
        let session = self.session()?;
        self.guarded(async { take_back(&session, nic, &[]).await }).await?;
        self.ctx.disconnect(nic).await;
        self.record_in_effect(|spec| spec.nics.retain(|n| n.id != nic.id)).await
    }

    /// A tap cannot come back under a live guest: the NIC comes out and goes in again.
    async fn exchange_nic(&mut self, nic: &Nic) -> Result<(), Setback> {
        self.outlives_unplugging(nic)?;
        tracing::warn!(vm = %self.record.spec.id, nic = nic.name, "somebody removed the tap of a NIC; plugging it anew");
        self.unplug_nic(nic, true).await?;
        self.plug_nic(nic).await
    }

    /// QEMU sets a tap anew when its NIC is unplugged, and aborts where it cannot: where there are several queues, and from
    /// some version on with a single one too.
    fn outlives_unplugging(&mut self, nic: &Nic) -> Result<(), Setback> {
        if self.has_lost_its_tap(nic) && (nic.queues > 1 || self.session()?.version().major >= ABORTS_WITHOUT_TAP) {
            return Err(Setback::NotNow("its tap is gone, and QEMU would abort if the NIC was unplugged".into()));
        }
        Ok(())
    }

    fn has_lost_its_tap(&self, nic: &Nic) -> bool {
        nic.switch().is_some() && self.ctx.net.port(nic.id) == PortHealth::Gone
    }

    /// Somebody removed a tap.
    pub(in crate::vm) async fn tap_is_gone(&mut self, id: NicId) {
        let Some(run) = self.live_run() else { return };
        let Some(nic) = run.in_effect.nic(id).cloned() else { return };
        if !self.has_lost_its_tap(&nic) {
            return;
        }
        if let Err(setback) = self.exchange_nic(&nic).await {
            tracing::warn!(vm = %self.record.spec.id, nic = nic.name, %setback, "the NIC is without its tap for now");
        }
    }

    /// A guest may let go of a NIC long after it was asked, or by itself.
    pub(in crate::vm) async fn nic_deleted(&mut self, name: &str) {
        let Some(run) = self.live_run() else { return };
        let Some(nic) = run.in_effect.nics.iter().find(|nic| nic.name == name).cloned() else { return };
        let Ok(session) = self.session() else { return };
        // The news may be old: a NIC that has come back since has the same name.
        let Ok(false) = self.guarded(Device::Nic(&nic).is_plugged(&session)).await else { return };
        let lost = self.has_lost_its_tap(&nic);
        let mut done = self.nic_is_out(&nic).await;
        if done.is_ok() && lost && self.record.spec.nic(nic.id).is_some() {
            done = self.plug_nic(&nic).await;
        }
        if let Err(setback) = done {
            tracing::info!(vm = %self.record.spec.id, nic = nic.name, %setback, "unplugged, with something left to do");
        }
    }

    /// The guest goes on, maybe after devices were taken away from it, or from the host, while it could not be asked.
    pub(in crate::vm) async fn catch_up(&mut self) {
        self.ask_for_disks_again().await;
        self.ask_for_nics_again().await;
        let Some(run) = self.live_run() else { return };
        for nic in run.in_effect.nics.clone() {
            self.tap_is_gone(nic.id).await;
        }
    }

    /// A guest that was in its firmware, or has just booted, may have missed that it was asked to let go of a NIC.
    pub(in crate::vm) async fn ask_for_nics_again(&mut self) {
        let Some(run) = self.live_run() else { return };
        let there = run.in_effect.nics.clone();
        for nic in there.iter().filter(|nic| self.record.spec.nic(nic.id).is_none()).collect::<Vec<_>>() {
            let _ = self.unplug_nic(nic, false).await;
        }
    }
}

impl Context {
    /// The host's side of a NIC that QEMU no longer has.
    pub(in crate::vm) async fn disconnect(&self, nic: &Nic) {
        if nic.switch().is_some()
            && let Err(error) = self.net.unplug(nic).await
        {
            tracing::warn!(tap = nic.tap(), %error, "cannot remove what is left of a NIC");
        }
    }
}

/// Whether the host's ports are free that lead into a guest: QEMU says less well why they are not.
///
/// # Errors
/// [`Error::PortTaken`].
pub(in crate::vm) fn check_ports(forwards: &[Forward]) -> Result<(), Error> {
    forwards.iter().try_for_each(|forward| {
        let taken = |why: std::io::Error| Error::PortTaken { port: forward.to_string(), why: why.to_string() };
        let address = SocketAddrV4::new(forward.host_address, forward.host_port);
        host_ports::check(forward.protocol, address).map_err(taken)
    })
}

/// Descriptors, the host's side, the NIC.
async fn connect(
    session: &Session,
    nic: &Nic,
    names: &[String],
    taps: Vec<OwnedFd>,
    device: serde_json::Value,
) -> Result<(), QmpError> {
    for (name, tap) in names.iter().zip(taps) {
        session.send_descriptor(name, tap).await?;
    }
    session.execute_raw("netdev_add", Some(devices::netdev(nic, names))).await?;
    session.execute_raw("device_add", Some(device)).await.map(drop)
}

/// Takes back what there is of [`connect`] without its NIC.
async fn take_back(session: &Session, nic: &Nic, names: &[String]) -> Result<(), QmpError> {
    let netdev = ("netdev_del", json!({ "id": devices::netdev_id(nic) }));
    let names = names.iter().map(|name| ("closefd", json!({ "fdname": name })));
    for (command, arguments) in std::iter::once(netdev).chain(names) {
        match session.execute_raw(command, Some(arguments)).await {
            // There is none.
            Ok(_) | Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
