//! What dnsmasq reads again while it runs: by then it has given its rights away, and does not get into the state directory.
//! It lies below `/run/qherd/<mark of the state directory>`, a folder for each switch, where anybody may read it who knows
//! the way: MAC addresses, addresses and names of guests.

#![allow(clippy::disallowed_methods, reason = "small files in `/run`, which is memory")]

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

const ROOT: &str = "/run/qherd";
/// Way through for everybody, a list of what is there for nobody.
const FOLDER: u32 = 0o711;
const FILE: u32 = 0o644;

/// The folder of a state directory.
pub fn folder(state: &str) -> PathBuf {
    Path::new(ROOT).join(state)
}

/// Whether a state directory has its folder, which is made if need be. Without root's rights there is no such place, nor
/// where nobody may write to `/run`.
pub fn is_usable(state: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let folder = folder(state);
    let made = make(Path::new(ROOT)).and_then(|()| make(&folder));
    if let Err(error) = &made {
        tracing::warn!(folder = %folder.display(), %error, "a NIC that comes or goes has dnsmasq started anew");
    }
    made.is_ok()
}

/// Writes a file of a switch beside the one that is there.
///
/// # Errors
/// The file system's.
pub fn put_beside(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new(ROOT));
    for folder in [folder.parent().and_then(Path::parent), folder.parent(), Some(folder)].into_iter().flatten() {
        make(folder)?;
    }
    let new = beside(file);
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(FILE))
}

/// Where a file is written before it takes the other's place.
pub fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    file.with_file_name(name)
}

/// Removes a switch's files of these names, and each folder that is empty then.
///
/// # Errors
/// The file system's; what is not there is gone.
pub fn remove(folder: &Path, names: &[&str]) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    for file in names.iter().map(|name| folder.join(name)) {
        gone(fs::remove_file(beside(&file)))?;
        gone(fs::remove_file(file))?;
    }
    gone(fs::remove_dir(folder))?;
    // Those of other switches, and other daemons', are full.
    let _ = folder.parent().map(fs::remove_dir);
    let _ = fs::remove_dir(ROOT);
    Ok(())
}

/// A folder of ours, with these rights whatever the daemon's mask is.
fn make(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(FOLDER).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is not a folder of ours"));
    }
    if found.mode() & 0o777 != FOLDER {
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER))?;
    }
    Ok(())
}
