//! What the cloud-init of VMs is given, in files of the state directory: `cloud-init/<vm id>/<seed id>`, for nobody else to
//! read. One is on stable storage before a record names it, and is not changed after that: other data is another file. Those
//! that no record names are removed (docs/adr/0048). Blocks.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use crate::{
    host::{Access, iso, open_within, sealed},
    model::{CloudInit, SEED_LABEL, SeedId, VmId, seed_files},
};

/// Below the state directory.
const FOLDER: &str = "cloud-init";
/// Bytes of a file: whatever was accepted, each character of it escaped.
const MOST: u64 = 8 << 20;

/// The files of one VM.
#[derive(Clone, Debug)]
pub struct Seeds {
    folder: PathBuf,
}

impl Seeds {
    pub fn of(state_dir: &Path, vm: VmId) -> Self {
        Self { folder: state_dir.join(FOLDER).join(vm.to_string()) }
    }

    pub fn file(&self, id: SeedId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// A new one. It is durable when this returns.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, id: SeedId, data: &CloudInit) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut file = open_within(&[], &self.file(id), Access::Create)?;
        file.write_all(&serde_json::to_vec(data)?)?;
        file.sync_all()?;
        for folder in [Some(self.folder.as_path()), self.folder.parent()].into_iter().flatten() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// # Errors
    /// The file system's; for what was not written here.
    pub fn read(&self, id: SeedId) -> io::Result<CloudInit> {
        let mut text = Vec::new();
        open_within(&[], &self.file(id), Access::Read)?.take(MOST).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The disk that a VM which is called so is started with: made anew each time, in memory, and gone with its QEMU.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn disk(&self, id: SeedId, vm: (VmId, &str)) -> io::Result<OwnedFd> {
        let files = seed_files(&self.read(id)?, id, vm).into_iter().map(|file| (file.name, file.content)).collect();
        sealed("qherd-seed", &iso(SEED_LABEL, files)?)
    }

    /// Those that there are.
    ///
    /// # Errors
    /// The file system's.
    pub fn found(&self) -> io::Result<BTreeSet<SeedId>> {
        let files = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            files => files?,
        };
        let names = files.map(|file| file.map(|file| file.file_name()));
        let ids = names.filter_map(|name| name.map(|name| SeedId::parse(name.to_str()?)).transpose());
        ids.collect()
    }

    /// What has another name than ours have stays, and so does its folder then.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, ids: impl IntoIterator<Item = SeedId>) -> io::Result<()> {
        for id in ids {
            absent(fs::remove_file(self.file(id)))?;
        }
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => absent(removed),
        }
    }

    /// # Errors
    /// The file system's.
    pub fn remove_all(&self) -> io::Result<()> {
        self.remove(self.found()?)
    }
}

/// The VMs that have such files, or a folder for them.
///
/// # Errors
/// The file system's.
pub fn vms(state_dir: &Path) -> io::Result<Vec<VmId>> {
    let folders = fs::read_dir(state_dir.join(FOLDER))?;
    let names = folders.map(|folder| folder.map(|folder| folder.file_name()));
    names.filter_map(|name| name.map(|name| VmId::parse(name.to_str()?)).transpose()).collect()
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_by_nobody_else_and_goes_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let vm = VmId::random();
        let seeds = Seeds::of(dir.path(), vm);
        let data = CloudInit { hostname: Some("a".into()), ..CloudInit::default() };
        let (one, other) = (SeedId::random(), SeedId::random());
        assert_eq!(seeds.found().unwrap(), BTreeSet::new());
        for id in [one, other] {
            seeds.write(id, &data).unwrap();
            assert_eq!(seeds.read(id).unwrap(), data);
        }
        assert!(seeds.write(one, &data).is_err(), "it is not written over");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&seeds.file(one)), mode(&seeds.folder)), (0o600, 0o700));
        assert_eq!(vms(dir.path()).unwrap(), [vm]);
        seeds.remove([one]).unwrap();
        assert_eq!(seeds.found().unwrap(), [other].into());
        seeds.remove_all().unwrap();
        assert_eq!(vms(dir.path()).unwrap(), []);
        seeds.remove_all().unwrap();
    }
}
