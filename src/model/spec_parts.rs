//! What a definition says of its NICs, of what its disks lie on, and of the names that its client gave, and how a disk comes out
//! of it.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    BaseImage, Below, Disk, DiskFile, Error, ForeignFile, Metadata, Named, NewDisk, NewNic, Nic, NicId, Result, Sent,
    VmSpec, Volume, VolumeFile,
};

/// The NICs of a VM.
impl VmSpec {
    /// Adds a NIC in the first free hot-plug slot; where there is none, one NIC can have a place of its own that it
    /// neither gets into nor comes out of while the VM runs. What QEMU has right now is `in_effect`.
    ///
    /// # Errors
    /// [`super::Conflict::NoFreeSlot`].
    pub fn add_nic(&mut self, nic: NewNic, in_effect: Option<&Self>) -> Result<()> {
        let slot = match self.free_slot(in_effect) {
            Err(full) if in_effect.is_some() || self.nics.iter().any(|nic| nic.slot.is_none()) => return Err(full),
            slot => slot.ok(),
        };
        let NewNic { id, label, mac, queues, backend } = nic;
        let name = format!("net{}", self.nics_added);
        self.nics_added += 1;
        self.nics.push(Nic { id, name, label, mac, slot, queues, backend });
        Ok(())
    }

    pub fn nic(&self, id: NicId) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.id == id)
    }

    /// Makes these the NICs, in whatever order. One that is there, by its label, stays what it is, and moves where it is
    /// wanted elsewhere.
    ///
    /// # Errors
    /// [`super::Conflict::NoFreeSlot`].
    pub fn set_nics(&mut self, wanted: Vec<NewNic>) -> Result<()> {
        let mut kept = vec![false; self.nics.len()];
        let mut fresh = Vec::new();
        for new in wanted {
            let same = |at: &usize| !kept[*at] && self.nics[*at].label == new.label;
            let unmoved = |at: &usize| same(at) && self.nics[*at].switch() == new.backend.switch();
            let found = (0..self.nics.len()).find(unmoved);
            match found.or_else(|| (0..self.nics.len()).find(same)) {
                Some(at) => {
                    if found.is_none() {
                        self.nics[at].backend = new.backend;
                    }
                    kept[at] = true;
                }
                None => fresh.push(new),
            }
        }
        let mut kept = kept.into_iter();
        self.nics.retain(|_| kept.next() == Some(true));
        fresh.into_iter().try_for_each(|nic| self.add_nic(nic, None))
    }
}

/// The file that a client names for a disk: the disk itself, or what it was cloned from.
fn named<'a>(foreign: Option<&'a ForeignFile>, base: Option<&'a BaseImage>) -> Option<&'a Path> {
    foreign.map(|file| &*file.path).or(base.map(|base| &*base.path))
}

impl Disk {
    /// Every file that it lies on, from above: what must be there for it to work.
    pub fn lies_on(&self) -> Vec<Below> {
        let Some(base) = self.backing_file() else { return Vec::new() };
        let first = Below { path: base.path.clone(), format: base.format };
        [first].into_iter().chain(self.file.below().iter().cloned()).collect()
    }

    /// What a client named for it.
    pub fn named(&self) -> Option<&Path> {
        named(self.file.foreign(), self.base.as_ref())
    }
}

impl NewDisk {
    /// As [`Disk::named`].
    pub fn named(&self) -> Option<&Path> {
        named(self.file.as_ref().and_then(DiskFile::foreign), self.base.as_ref())
    }
}

/// Disks that go.
impl VmSpec {
    /// # Errors
    /// [`Error::Invalid`] for the root disk, [`Error::DiskNotFound`].
    pub fn check_comes_out(&self, name: &str) -> Result<()> {
        if self.root().is_some_and(|root| root.name == name) {
            return Err(Error::invalid("disk", "not be the root disk: it goes with the VM"));
        }
        self.disk(name).map(drop).ok_or_else(|| Error::DiskNotFound { name: name.to_owned() })
    }

    /// Makes a volume of a disk that was made for the VM; one that is in a volume stays what it is.
    ///
    /// # Errors
    /// As [`Self::check_comes_out`]; [`Error::Invalid`] for a disk that is its user's.
    pub fn keep_disk(&mut self, name: String, volume: Arc<Volume>) -> Result<()> {
        self.check_comes_out(&name)?;
        let disk = self.disk_mut(&name).ok_or(Error::DiskNotFound { name })?;
        match &disk.file {
            DiskFile::Own(file) => disk.file = DiskFile::Volume(VolumeFile { path: file.to_path_buf(), volume }),
            DiskFile::Volume(_) => {}
            DiskFile::Foreign(_) => {
                let must =
                    "only be given of a disk that qherd made: the file of this one is its user's, and stays anyhow";
                return Err(Error::invalid("keep", must));
            }
        }
        Ok(())
    }
}

impl VmSpec {
    /// Its ISO image, in the words of the client who put it there.
    pub fn iso_as_sent(&self) -> Option<&PathBuf> {
        let iso = self.iso.as_ref()?;
        Some(self.named.iso.as_ref().filter(|alias| alias.file == *iso).map_or(iso, |alias| &alias.sent))
    }

    /// The image that its root disk was cloned from, likewise.
    pub fn base_image_as_sent(&self) -> Option<&PathBuf> {
        let base = &self.root()?.base.as_ref()?.path;
        Some(self.named.base_image.as_ref().filter(|alias| alias.file == *base).map_or(base, |alias| &alias.sent))
    }

    /// Without what QEMU knows nothing of and is stored once only.
    #[must_use]
    pub fn for_qemu(&self) -> Cow<'_, Self> {
        if self.metadata.is_empty() && self.named.sent == Sent::default() {
            return Cow::Borrowed(self);
        }
        let mut spec = self.clone();
        (spec.metadata, spec.named.sent) = (Metadata::default(), Sent::default());
        Cow::Owned(spec)
    }

    /// Whether `other` is the same hardware, whatever its client calls its files and notes of it.
    pub fn is_same_but_for_names(&self, other: &Self) -> bool {
        let bare = |spec: &Self| Self { named: Named::default(), metadata: Metadata::default(), ..spec.clone() };
        bare(self) == bare(other)
    }
}
