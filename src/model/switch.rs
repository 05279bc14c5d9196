//! Virtual switches, as stored. How one becomes a bridge of the host is `net`'s work.

use serde::{Deserialize, Serialize};

use super::{Error, Metadata, MetadataWish, Result, Subnet, SubnetWish, SwitchForward, SwitchId, now_ms};

/// Bridges whose name begins so are ours.
pub const BRIDGE_PREFIX: &str = "qhb";

/// Characters that the notes of a switch may have: a record has its bounds.
const NOTES: usize = 4096;

/// A switch's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub id: SwitchId,
    /// Need not be unique.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
    pub kind: SwitchKind,
    pub notes: String,
    /// Without a description, which its notes are.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// The largest packet, in bytes; where nothing is said, what the adapter has, or 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Those of NICs that are no longer on the switch lead nowhere, and go with its next record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<SwitchForward>,
}

/// What a switch connects its ports with, beside one another (ruling 33).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum SwitchKind {
    /// Nothing.
    Private,
    /// The host, where there is a subnet.
    Internal { subnet: Option<Subnet> },
    /// The network behind a physical adapter of the host.
    External {
        adapter: String,
        /// The host's own addresses and routes on that adapter move to the bridge while the switch is there.
        allow_management_os: bool,
        /// The host asks for an address there, in place of what it had on the adapter.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dhcp: bool,
    },
}

/// A switch on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    pub switch: Switch,
    pub state: SwitchState,
    /// What of the host's is on the bridge instead of the adapter; written before it moves.
    pub moved: Option<Moved>,
}

/// Addresses and routes of the host that an External switch took from its adapter. Each is a netlink message as the
/// kernel gave it, so that nothing of it is lost on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Of this boot of the host: after another the adapter has its own again.
    pub boot_id: String,
    /// Hexadecimal payloads of RTM_NEWADDR, in the kernel's order.
    pub addresses: Vec<String>,
    /// Hexadecimal payloads of RTM_NEWROUTE.
    pub routes: Vec<String>,
}

/// How a client names a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchRef {
    Id(SwitchId),
    /// The whole name, without regard to case.
    Name(String),
}

/// What a new switch is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSwitch {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<SwitchId>,
    pub name: String,
    pub kind: SwitchKind,
    pub notes: String,
    pub metadata: MetadataWish,
    pub mtu: Option<i64>,
}

/// What a client wishes of a switch that is there; what is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchWish {
    pub notes: Option<String>,
    pub metadata: MetadataWish,
    /// `Some(None)` is what nobody said.
    pub mtu: Option<Option<i64>>,
    pub subnet: SubnetWish,
}

/// How far its making or removing had come when this was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchState {
    /// Nobody was told that it exists.
    Creating,
    Ready,
    Deleting,
}

impl Switch {
    /// A new one, with nothing said of it but that.
    pub fn new(name: impl Into<String>, kind: SwitchKind) -> Self {
        Self {
            id: SwitchId::random(),
            name: name.into(),
            created_at: now_ms(),
            kind,
            notes: String::new(),
            metadata: Metadata::default(),
            mtu: None,
            forwards: Vec::new(),
        }
    }

    /// Name of its bridge: recognisable as ours, and 15 characters.
    pub fn bridge(&self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.id.short())
    }

    /// The switch with a wish granted.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is out of range, or what such a switch does not have.
    pub fn with(&self, wish: &SwitchWish) -> Result<Self> {
        let mut switch = self.clone();
        if let Some(notes) = &wish.notes {
            switch.notes = check_notes(notes.clone())?;
        }
        wish.metadata.clone().apply(&mut switch.metadata)?;
        match &mut switch.kind {
            SwitchKind::Internal { subnet } => *subnet = wish.subnet.apply(subnet.as_ref())?,
            SwitchKind::Private | SwitchKind::External { .. } => {
                if let Some(name) = wish.subnet.first() {
                    return Err(Error::invalid(name, "be given only for internal switches"));
                }
            }
        }
        if let Some(mtu) = wish.mtu {
            let ipv6 = switch.subnet().is_some_and(|subnet| subnet.ipv6.is_some());
            switch.mtu = mtu.map(|mtu| check_mtu(mtu, ipv6)).transpose()?;
        }
        switch.check()?;
        Ok(switch)
    }

    /// What of a switch has to fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        if let (Some(mtu), Some(Subnet { ipv6: Some(_), .. })) = (self.mtu, self.subnet()) {
            check_mtu(mtu.into(), true)?;
        }
        Ok(())
    }

    pub fn subnet(&self) -> Option<&Subnet> {
        match &self.kind {
            SwitchKind::Internal { subnet } => subnet.as_ref(),
            SwitchKind::Private | SwitchKind::External { .. } => None,
        }
    }
}

/// # Errors
/// [`Error::Invalid`] for more than a record has room for.
pub fn check_notes(notes: String) -> Result<String> {
    if notes.chars().count() > NOTES {
        return Err(Error::invalid("notes", format!("have at most {NOTES} characters")));
    }
    Ok(notes)
}

/// The largest packet of a switch, in bytes. Where there is IPv6 it is 1280 at least.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_mtu(mtu: i64, ipv6: bool) -> Result<u32> {
    let least = if ipv6 { 1280 } else { 576 };
    if !(least..=65_521).contains(&mtu) {
        let why = if ipv6 { ", as the switch has IPv6" } else { "" };
        return Err(Error::invalid("mtu", format!("be from {least} to 65521 bytes{why}")));
    }
    Ok(mtu as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_of_an_earlier_daemon_is_read_and_its_record_stays_what_it_was() {
        for kind in [
            serde_json::json!({ "type": "private" }),
            serde_json::json!({ "type": "internal", "subnet": null }),
            serde_json::json!({ "type": "internal", "subnet": { "network": "10.77.0.0", "prefix": 24, "nat": true } }),
            serde_json::json!({ "type": "external", "adapter": "eth0", "allow_management_os": true }),
        ] {
            let before = serde_json::json!({
                "id": SwitchId::random(), "name": "lan", "created_at": 1, "kind": kind, "notes": "",
            });
            let switch: Switch = serde_json::from_value(before.clone()).unwrap();
            assert_eq!((switch.mtu, switch.forwards.len(), switch.metadata.is_empty()), (None, 0, true));
            assert_eq!(serde_json::to_value(switch).unwrap(), before);
        }
    }

    #[test]
    fn a_packet_has_bounds() {
        assert_eq!((check_mtu(576, false), check_mtu(65_521, true)), (Ok(576), Ok(65_521)));
        assert!(check_mtu(1279, true).unwrap_err().to_string().contains("from 1280 to 65521"));
        assert!([i64::MIN, 0, 575, 65_522].into_iter().all(|bad| check_mtu(bad, false).is_err()));
    }
}
