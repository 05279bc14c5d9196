//! What the host may hold for a VM. It is stored before the step that makes it, and struck out after the step that removes
//! it: so whatever a crash leaves is known, and the plan removes what is no longer needed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lane::DiskNo;
use crate::model::{Disk, Nic, NicId};

/// What there may be of a VM outside of its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Sockets and the like in its run directory.
    pub run_files: bool,
    /// Processes that a start may have left which did not come to its end.
    pub strays: bool,
    /// NICs on a switch, with their taps and rules; and others that are plugged into a running VM.
    pub ports: BTreeMap<NicId, Nic>,
    /// Images of disks in its own folder.
    pub images: BTreeMap<DiskNo, Disk>,
}

impl Held {
    /// What the next start may leave.
    pub fn before_start<'a>(&mut self, nics: impl IntoIterator<Item = &'a Nic>) {
        (self.run_files, self.strays) = (true, true);
        for nic in nics.into_iter().filter(|nic| nic.switch().is_some()) {
            self.ports.insert(nic.id, nic.clone());
        }
    }
}
