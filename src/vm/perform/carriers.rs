//! NICs of one VM that are carried beside QEMU, and what its guest reaches of the host by the user-mode network.

use std::os::fd::OwnedFd;

use serde_json::Value;
use uuid::Uuid;

use super::{Hands, netdevs};
use crate::{
    model::{Carrier, Error, Nic, Sandbox},
    qemu::devices,
    qmp::{QmpError, Session, socket},
    vm::{
        carriers::Carried,
        core::{Setback, Up},
    },
};

impl Hands {
    /// A socket that QEMU is to listen on for who carries a NIC.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn listener(&self, nic: &Nic) -> Result<OwnedFd, Setback> {
        let listening = socket::listen(&self.paths.carrier(nic.slot));
        listening.map(OwnedFd::from).map_err(|error| Setback::Host(format!("cannot listen on {error}")))
    }

    /// Has a NIC carried that QEMU listens for.
    pub(super) fn carry(&self, nic: &Nic, run: &Sandbox, adopt: bool) {
        let carried = Carried {
            nic: nic.clone(),
            listener: self.paths.carrier(nic.slot),
            sandbox: self.ctx.sandbox.clone(),
            run: run.clone(),
            group: self.group(),
        };
        self.ctx.carriers.begin(self.id, carried, adopt);
    }

    /// # Errors
    /// Why a NIC is not carried.
    pub(super) async fn are_carried(&self) -> Result<(), Setback> {
        let begun = self.ctx.carriers.begun(self.id).await;
        begun.map_err(|why| Setback::Host(format!("a NIC on the user-mode network: {why}")))
    }

    /// Bounds what guests on the user-mode network reach of the host, before one of this VM is. Where no daemon could do that, nobody is
    /// kept from it: `/health` says so.
    ///
    /// # Errors
    /// Where it can be done, and was not.
    pub(super) async fn enter_user_network(&self) -> Result<(), Setback> {
        match self.ctx.net.user_enters(self.user()).await {
            Err(error) if self.ctx.user_network.exposure.is_none() => Err(Setback::Host(error.to_string())),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What an earlier daemon left running.
    pub(super) fn adopt_carriers(&self, up: &Up) {
        let carried = up.sandbox.as_ref().filter(|run| run.has_passt());
        for nic in up.in_effect.nics.iter().filter(|nic| nic.switch().is_none()) {
            self.ctx.net.user_is_there(self.user());
            carried.into_iter().for_each(|run| self.carry(nic, run, true));
        }
    }

    /// QEMU has ended. Returns when the ports of the host that led into its guest are free: whoever hears that the VM has stopped may
    /// use them.
    pub(in crate::vm) async fn end_carriers(&self) {
        self.ctx.carriers.end_all(self.id).await;
        self.ctx.net.user_leaves(self.user());
    }

    fn user(&self) -> Uuid {
        self.id.into()
    }
}

/// Plugs a NIC that is carried beside QEMU: a listening socket, the host's side, the NIC.
///
/// # Errors
/// Of the host, of QEMU.
pub(super) async fn plug(
    hands: &Hands,
    session: &Session,
    nic: &Nic,
    run: &Sandbox,
    device: Value,
) -> Result<(), Setback> {
    hands.enter_user_network().await?;
    let listener = hands.listener(nic)?;
    let link = rustix::fs::fstat(&listener).map_err(|error| Setback::Host(error.to_string()))?.st_ino;
    // QEMU looks for the name of a descriptor where it does not know it, and takes a number for what it is. So it is told the number
    // that it has there, and the name is one that nobody uses again.
    let name = format!("{}-{}", nic.name, Uuid::new_v4());
    session.send_descriptor(&name, listener).await?;
    let Some(process) = hands.process() else { return Err(Setback::Lost("QEMU has ended".to_owned())) };
    let number = process.number_of(&format!("socket:[{link}]")).ok().flatten();
    let given = match number {
        Some(number) => session.execute_raw("netdev_add", Some(devices::netdev(nic, &[number.to_string()]))).await,
        None => return Err(Setback::Host("QEMU has not taken the socket that it is to listen on".to_owned())),
    };
    if let Err(error) = given {
        if let QmpError::Refused { .. } = error {
            netdevs::take_back(session, nic, &[name]).await?;
        }
        return Err(error.into());
    }
    hands.carry(nic, run, false);
    if let Err(error) = session.execute_raw("device_add", Some(device)).await {
        // With the host's side goes the socket.
        hands.ctx.carriers.end(hands.id, nic.id).await;
        if let QmpError::Refused { .. } = error {
            netdevs::take_back(session, nic, &[]).await?;
        }
        return Err(error.into());
    }
    hands.are_carried().await
}

/// What carries a NIC on the user-mode network that comes into a VM that runs.
///
/// # Errors
/// [`crate::model::Conflict::NoWayOut`].
pub(super) fn carrier_of(run: Option<&Sandbox>) -> Result<Carrier, Error> {
    match run {
        Some(run) if run.has_passt() => Ok(Carrier::Passt),
        // Its own sockets would lead nowhere.
        Some(run) if run.has_no_network() => Err(crate::model::Conflict::NoWayOut.into()),
        Some(_) | None => Ok(Carrier::Slirp),
    }
}
