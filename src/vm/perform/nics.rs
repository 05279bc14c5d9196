//! NICs that come and go while the VM runs, and the host's side of every NIC.

use std::net::SocketAddrV4;

use super::{
    Brief, Done, Hands, carriers,
    netdevs::{give, take_back},
    release,
};
use crate::{
    host::host_ports,
    model::{Carrier, Error, Forward, Nic, NicId},
    net::PortHealth,
    qemu::devices,
    qmp::{QmpError, Session},
    vm::core::{Setback, StepReport as Report},
};

/// 7.2 outlives the unplugging of a NIC with one queue whose tap is gone; 10.0 does not, and nobody has tried those in
/// between.
const ABORTS_WITHOUT_TAP: u32 = 8;

/// The tap for a start, kept until QEMU inherits it.
pub(super) async fn connect(hands: &Hands, nic: Nic) -> Done {
    // A tap is there for as long as a descriptor of it is: that of a try before would be in the way.
    hands.drop_taps(nic.id);
    let taps = hands.ctx.net.plug(&nic).await.map_err(|e| Setback::Host(e.to_string()))?;
    hands.keep_taps(nic.id, taps);
    Ok(Report::Done)
}

/// After a restart of the daemon: QEMU holds the tap.
pub(super) async fn adopt(hands: &Hands, nic: Nic) -> Done {
    hands.ctx.net.adopt(&nic).await;
    Ok(Report::Done)
}

/// The host's side of a NIC that QEMU does not have: what a plugging that was cut short has left in QEMU, the tap and its
/// rules.
pub(super) async fn disconnect(hands: &Hands, nic: Nic) -> Done {
    hands.drop_taps(nic.id);
    if let Ok(session) = hands.session() {
        take_back(&session, &nic, &queue_names(&nic)).await?;
    }
    match nic.switch() {
        Some(_) => hands.ctx.net.unplug(&nic).await.map_err(|e| Setback::Host(e.to_string()))?,
        None => hands.ctx.carriers.end(hands.id, nic.id).await,
    }
    Ok(Report::Done)
}

pub(super) async fn plug(hands: &Hands, brief: &Brief, nic: Nic) -> Done {
    let (session, net) = (hands.session()?, &hands.ctx.net);
    if is_plugged(&session, &nic).await? {
        // A daemon has died after that.
        match (nic.switch(), &brief.up()?.sandbox) {
            (Some(_), _) => net.adopt(&nic).await,
            (None, Some(run)) if run.has_passt() => hands.carry(&nic, run, true),
            (None, _) => {}
        }
        return Ok(Report::Done);
    }
    // The host's side without its NIC, and descriptors of a tap that may still be there, are from a try that was cut short.
    let names = queue_names(&nic);
    take_back(&session, &nic, &names).await?;
    check_ports(nic.backend.forwards()).map_err(Setback::Reported)?;
    let taps = match nic.switch() {
        None => {
            let run = brief.up()?.sandbox.as_ref();
            match (carriers::carrier_of(run).map_err(Setback::Reported)?, run) {
                (Carrier::Passt, Some(run)) => {
                    let device = devices::nic(&nic, brief.definition());
                    return carriers::plug(hands, &session, &nic, run, device).await.map(|()| Report::Done);
                }
                (Carrier::Passt | Carrier::Slirp, _) => hands.enter_user_network().await?,
            }
            Vec::new()
        }
        Some(_) => net.plug(&nic).await.map_err(|e| Setback::Refused(e.to_string()))?,
    };
    let Err(error) = give(&session, &nic, &names, taps, devices::nic(&nic, brief.definition())).await else {
        return Ok(Report::Done);
    };
    // Where nobody can know how far QEMU came, the tap stays until its monitor is back or it has ended.
    if let QmpError::Refused { .. } = error {
        take_back(&session, &nic, &names).await?;
        if nic.switch().is_some()
            && let Err(error) = net.unplug(&nic).await
        {
            // It is held: it goes when it is no longer wanted.
            tracing::warn!(vm = %hands.id, tap = nic.tap(), %error, "cannot remove what is left of a NIC");
        }
    }
    Err(error.into())
}

/// Has QEMU ask the guest to let go of it.
pub(super) async fn release(hands: &Hands, brief: &Brief, id: NicId) -> Done {
    let (session, nic) = (hands.session()?, live(brief, id)?);
    if !is_plugged(&session, nic).await? {
        return Ok(Report::Out);
    }
    // QEMU sets a tap anew when its NIC is unplugged, and aborts where it cannot: where there are several queues, and from
    // some version on with a single one too.
    let lost = nic.switch().is_some() && hands.ctx.net.port(id) == PortHealth::Gone;
    if lost && (nic.queues > 1 || session.version().major >= ABORTS_WITHOUT_TAP) {
        tracing::warn!(vm = %hands.id, nic = nic.name, "somebody removed the tap of a NIC; the NIC is without its tap for now");
        return Err(Setback::NotNow("its tap is gone, and QEMU would abort if the NIC was unplugged".to_owned()));
    }
    release::ask(&session, &nic.name).await
}

/// The guest has let go of it: what QEMU has of the host's side goes, and with it the tap.
pub(super) async fn close(hands: &Hands, brief: &Brief, id: NicId) -> Done {
    let (session, nic) = (hands.session()?, live(brief, id)?);
    // The news may be old: a NIC that has come back since has the same name.
    if is_plugged(&session, nic).await? {
        return Ok(Report::StillThere);
    }
    take_back(&session, nic, &[]).await?;
    hands.ctx.carriers.end(hands.id, id).await;
    if brief.definition().nic(id).is_some() {
        // One that comes back has a new tap: that the old one has gone must not be told of it. Else the rest is `disconnect`'s.
        if nic.switch().is_some() {
            hands.ctx.net.unplug(nic).await.map_err(|e| Setback::Host(e.to_string()))?;
        }
        tracing::info!(vm = %hands.id, nic = nic.name, "the guest has let go of a NIC that it is to have; plugging it anew");
    }
    Ok(Report::Done)
}

/// QEMU knows nothing of it; only the host's side is another.
pub(super) async fn put_port(hands: &Hands, nic: Nic) -> Done {
    hands.ctx.net.put_port(&nic).await.map_err(|e| Setback::Refused(e.to_string()))?;
    Ok(Report::Done)
}

/// A NIC as QEMU has it.
fn live(brief: &Brief, id: NicId) -> Result<&Nic, Setback> {
    brief.up()?.in_effect.nic(id).ok_or_else(|| Setback::NotNow("QEMU does not have the NIC".to_owned()))
}

pub(in crate::vm) async fn is_plugged(session: &Session, nic: &Nic) -> Result<bool, QmpError> {
    Ok(session.peripherals().await?.contains(&nic.name))
}

/// What QEMU calls the descriptors of its tap.
fn queue_names(nic: &Nic) -> Vec<String> {
    (0..nic.queues).map(|queue| format!("{}-{queue}", nic.name)).collect()
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
