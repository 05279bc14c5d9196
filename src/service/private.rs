//! Nobody but the daemon's user looks into what a state directory holds, also in one that was there before and is open to
//! others: what is found too open and is ours is closed, what is somebody else's is told.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    fs::{DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::Context as _;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};

use crate::host::listed;

/// What is in it is for nobody else.
const CLOSED: [&str; 8] = ["images", "cloud-init", "layers", "run", "db", "exports", "net", "tokens"];
/// Where whoever brings base images may be another user: it keeps the mode that it has.
const OPEN: &str = "bases";
/// Group and others.
const NOT_OURS: u32 = 0o077;

/// Makes the folders of a state directory, and closes them and the files beside them.
///
/// # Errors
/// A folder that cannot be made, or listed.
pub(super) fn folders(state_dir: &Path) -> anyhow::Result<()> {
    for name in CLOSED.into_iter().chain([OPEN]) {
        let folder = state_dir.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
        if name != OPEN {
            tell(&folder, close_folder(&folder));
        }
    }
    let files = listed(state_dir)?;
    for file in files.iter().filter(|file| file.file_type().is_ok_and(|kind| kind.is_file())) {
        tell(&file.path(), close_file(&file.path()));
    }
    Ok(())
}

/// Takes the rights of others off a file of ours; never by a link.
///
/// # Errors
/// The file system's.
pub(super) fn close_file(path: &Path) -> io::Result<()> {
    close(&File::options().read(true).custom_flags(O_NOFOLLOW).open(path)?)
}

/// A folder may be a link to a larger disk.
fn close_folder(path: &Path) -> io::Result<()> {
    close(&File::options().read(true).custom_flags(O_DIRECTORY).open(path)?)
}

fn close(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if found.mode() & NOT_OURS == 0 {
        return Ok(());
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it belongs to another user and is open to others",
        ));
    }
    file.set_permissions(Permissions::from_mode(found.mode() & 0o7700))
}

fn tell(path: &Path, closed: io::Result<()>) {
    if let Err(error) = closed {
        tracing::warn!(path = %path.display(), %error, "cannot keep others from what is in the state directory");
    }
}
