//! What QEMU has of the host's side of a NIC: given with the NIC, and taken back.

use std::os::fd::OwnedFd;

use qapi::{
    Empty,
    qmp::{closefd, netdev_del},
};
use serde_json::Value;

use crate::{
    model::Nic,
    qemu::devices,
    qmp::{QmpError, Session},
};

/// Descriptors, the host's side, the NIC.
pub(in crate::vm) async fn give(
    session: &Session,
    nic: &Nic,
    names: &[String],
    taps: Vec<OwnedFd>,
    device: Value,
) -> Result<(), QmpError> {
    for (name, tap) in names.iter().zip(taps) {
        session.send_descriptor(name, tap).await?;
    }
    // Raw, as everything that `qemu::devices` states once, for the command line and for here.
    session.execute_raw("netdev_add", Some(devices::netdev(nic, names))).await?;
    session.execute_raw("device_add", Some(device)).await.map(drop)
}

/// Takes back what there is of [`give`] without its NIC.
pub(in crate::vm) async fn take_back(session: &Session, nic: &Nic, names: &[String]) -> Result<(), QmpError> {
    or_none(session.execute(netdev_del { id: devices::netdev_id(nic) }).await)?;
    for name in names {
        or_none(session.execute(closefd { fdname: name.clone() }).await)?;
    }
    Ok(())
}

/// That there is none is as good.
fn or_none(removed: Result<Empty, QmpError>) -> Result<(), QmpError> {
    match removed {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
