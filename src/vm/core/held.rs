//! What the host may hold for a VM. It is stored before the step that makes it, and struck out after the step that removes
//! it: so whatever a crash leaves is known, and the plan removes what is no longer needed.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lane::DiskNo;
use crate::model::{Disk, Error, MAX_DEFINITION, Nic, NicId, Result, VmSpec, written};

/// Bytes, as JSON, of what QEMU has and of what is held for it. A definition alone never takes more: what QEMU has is no
/// larger than it, and neither are its devices.
pub const MAX_LIVE: usize = 2 * MAX_DEFINITION;

/// What there may be of a VM outside of its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Sockets and the like in its run directory.
    pub run_files: bool,
    /// Processes that a start may have left which did not come to its end.
    pub strays: bool,
    /// NICs on a switch, with their taps and rules; and others that are plugged into a running VM.
    #[serde(serialize_with = "as_list", deserialize_with = "ports")]
    pub ports: BTreeMap<NicId, Arc<Nic>>,
    /// Images of disks in its own folder. (A map makes room for eleven values at once, of each VM.)
    #[serde(serialize_with = "as_list", deserialize_with = "images")]
    pub images: BTreeMap<DiskNo, Arc<Disk>>,
}

impl Held {
    /// What the next start may leave.
    pub fn before_start<'a>(&mut self, nics: impl IntoIterator<Item = &'a Nic>) {
        (self.run_files, self.strays) = (true, true);
        for nic in nics.into_iter().filter(|nic| nic.switch().is_some()) {
            self.ports.insert(nic.id, Arc::new(nic.clone()));
        }
    }
}

/// Each says itself which one it is.
fn as_list<K, V: Serialize, S: Serializer>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(map.values())
}

fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<BTreeMap<NicId, Arc<Nic>>, D::Error> {
    let nics = Vec::<Arc<Nic>>::deserialize(deserializer)?;
    Ok(nics.into_iter().map(|nic| (nic.id, nic)).collect())
}

fn images<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<BTreeMap<DiskNo, Arc<Disk>>, D::Error> {
    let disks = Vec::<Arc<Disk>>::deserialize(deserializer)?;
    Ok(disks.into_iter().filter_map(|disk| Some((DiskNo::of(&disk.name)?, disk))).collect())
}

/// Refuses a definition that cannot be stored beside what is there: what a guest has not let go of stays in QEMU, and what
/// the host does not remove stays held, whatever comes after it. What makes it smaller is always taken.
///
/// # Errors
/// [`Error::Invalid`] that says what to wait for.
pub(super) fn check_room(wanted: &VmSpec, before: &VmSpec, live: Option<&VmSpec>, held: &Held) -> Result<()> {
    let size = |definition: &VmSpec| {
        let most = most_live(definition, live);
        let mut held = held.clone();
        for disk in &most.disks {
            DiskNo::of(&disk.name).map(|no| held.images.entry(no).or_insert_with(|| Arc::new(disk.clone())));
        }
        for nic in &most.nics {
            held.ports.entry(nic.id).or_insert_with(|| Arc::new(nic.clone()));
        }
        written(&most) + written(&held)
    };
    let then = size(wanted);
    if then <= MAX_LIVE || then <= size(before) {
        return Ok(());
    }
    let largest = if written(&wanted.nics) > written(&wanted.disks) { "networks" } else { "disks" };
    let must = format!(
        "take less room until the guest has let go of what was removed: what a VM has and what it is to have may take \
         {MAX_LIVE} bytes, and would take {then}; a stop of the VM ends what its guest does not let go of"
    );
    Err(Error::invalid(largest, must))
}

/// The most that QEMU may have on the way to a definition.
fn most_live(definition: &VmSpec, live: Option<&VmSpec>) -> VmSpec {
    let mut most = definition.for_qemu().into_owned();
    let Some(live) = live else { return most };
    for disk in &live.disks {
        match most.disks.iter_mut().find(|one| one.name == disk.name) {
            Some(one) if written(one) >= written(disk) => {}
            Some(one) => *one = disk.clone(),
            None => most.disks.push(disk.clone()),
        }
    }
    for nic in &live.nics {
        match most.nics.iter_mut().find(|one| one.id == nic.id) {
            Some(one) if written(one) >= written(nic) => {}
            Some(one) => *one = nic.clone(),
            None => most.nics.push(nic.clone()),
        }
    }
    most
}
