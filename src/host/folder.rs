//! Folders that qherd makes, and takes away again: only when it is the very one that was made, and empty.

use std::{
    fs::{self, DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use crate::model::MadeFolder;

/// Makes one folder, for nobody else to look into.
///
/// # Errors
/// As mkdir(2): `AlreadyExists` where there is something already.
pub fn make(path: &Path) -> io::Result<MadeFolder> {
    DirBuilder::new().mode(0o700).create(path)?;
    Ok(identity(path.to_owned(), &fs::symlink_metadata(path)?))
}

/// Removes a folder. False, and it stays, when it is not the one that was made, when something is in it, and when it is
/// gone already.
///
/// # Errors
/// The file system's.
pub fn remove(made: &MadeFolder) -> io::Result<bool> {
    let found = match fs::symlink_metadata(&made.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    if !found.is_dir() || identity(made.path.clone(), &found) != *made {
        return Ok(false);
    }
    // rmdir(2) takes no folder that holds anything.
    match fs::remove_dir(&made.path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Ok(false),
        removed => removed.map(|()| true),
    }
}

fn identity(path: PathBuf, metadata: &Metadata) -> MadeFolder {
    // An inode's number is given again to whatever comes next; its birth is not.
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let born = born.and_then(|since| u64::try_from(since.as_nanos()).ok());
    MadeFolder { path, device: metadata.dev(), inode: metadata.ino(), born }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_only_if_it_is_the_one_that_was_made_and_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let made = make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(make(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::write(path.join("file"), "x").unwrap();
        assert!(!remove(&made).unwrap(), "something is in it");
        fs::remove_file(path.join("file")).unwrap();
        let kept = serde_json::to_string(&made).unwrap();
        assert!(remove(&serde_json::from_str(&kept).unwrap()).unwrap(), "as it was stored");
        assert!(!remove(&made).unwrap(), "it is gone");

        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::create_dir(&path).unwrap();
        let born = fs::metadata(&path).unwrap().created().is_ok();
        let other = MadeFolder { inode: made.inode + u64::from(!born), ..made };
        assert!(!remove(&other).unwrap() && path.exists(), "somebody else's in its place");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(dir.path(), &path).unwrap();
        assert!(!remove(&other).unwrap() && path.exists(), "a link");
    }
}
