//! Folders that images and disks of VMs lie in: whether anybody else could change what is in them, and whether they keep off what is
//! qherd's own. Who can, leads qherd's own hands elsewhere between a look and a deed. What leads to a folder that an
//! administrator names is trusted (SECURITY.md).

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::ensure;

use super::paths;
use crate::config::Config;

/// What says that others than a file's owner and group may have it.
const ACL: &str = "system.posix_acl_access";
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Looks at the folders that the settings name. Blocks.
///
/// # Errors
/// In words, for the one that is no place for images or disks. One that is not there may come later, and is looked at then.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let state = &config.state_dir;
    let images = config.image_dirs.iter().map(|dir| (dir, "image", "--image-dir", state.join("bases")));
    // The first is qherd's own.
    let storage = config.storage_dirs.iter().skip(1);
    let storage = storage.map(|dir| (dir, "storage", "--storage-dir", state.join("images")));
    for (dir, kind, flag, own) in images.chain(storage) {
        let Some(path) = paths::canonical(dir) else { continue };
        let named = dir.display();
        ensure!(
            !state.starts_with(&path),
            "the {kind} directory {named} contains the state directory {}, so that clients could name what is qherd's own; \
             choose another with {flag}, or with --state-dir",
            state.display()
        );
        ensure!(
            !path.starts_with(state) || path.starts_with(&own),
            "the {kind} directory {named} lies in the state directory, where only {} is for that; choose another with {flag}",
            own.display()
        );
        if let Some(who) = changed_by(&path) {
            anyhow::bail!(
                "the {kind} directory {named} can be changed by {who}, who could so have qherd read or write other files of this \
                 host; give it to root, or to the user that qherd runs as, and let nobody else write there (chown, chmod go-w)"
            );
        }
    }
    Ok(())
}

/// Who else can change what is in a folder; nobody where there is none. Blocks.
pub(super) fn changed_by(folder: &Path) -> Option<String> {
    let found = fs::metadata(folder).ok()?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if ![0, uid].contains(&found.uid()) {
        return Some(format!("its owner, uid {}", found.uid()));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Some("everybody".to_owned());
    }
    if found.mode() & GROUP_WRITES == 0 {
        return None;
    }
    if ![0, gid].contains(&found.gid()) {
        return Some(format!("its group, gid {}", found.gid()));
    }
    // The bits of the group are then those of all that the list names.
    let is_listed = rustix::fs::getxattr(folder, ACL, &mut [0_u8; 0][..]).is_ok();
    is_listed.then(|| "whom its access control list names".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_folder_is_changed_by_its_owner_its_group_and_those_whom_its_bits_let() {
        let dir = tempfile::tempdir().unwrap();
        let set = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o700, 0o755, 0o775] {
            set(mode);
            assert_eq!(changed_by(dir.path()), None, "{mode:o}");
        }
        for mode in [0o777, 0o1777, 0o703] {
            set(mode);
            assert_eq!(changed_by(dir.path()).as_deref(), Some("everybody"), "{mode:o}");
        }
        assert_eq!(changed_by(&dir.path().join("nothing")), None);
        if rustix::process::geteuid().is_root() {
            set(0o770);
            chown(dir.path(), None, Some(4711)).unwrap();
            assert_eq!(changed_by(dir.path()).as_deref(), Some("its group, gid 4711"));
            set(0o750);
            assert_eq!(changed_by(dir.path()), None);
            chown(dir.path(), Some(4711), None).unwrap();
            assert_eq!(changed_by(dir.path()).as_deref(), Some("its owner, uid 4711"));
        }
    }
}
