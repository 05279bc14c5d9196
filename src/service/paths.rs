//! Which files a client may name. It is decided on the canonical path, links and `..` resolved, and before anything is
//! said about existence, so that nobody can feel their way around the host (ruling 7).

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

/// The canonical form of `path`; of one that does not exist, the canonical form of what does, with the rest behind it.
/// `None` for a rest that climbs.
pub(super) fn canonical(path: &Path) -> Option<PathBuf> {
    let mut rest: Vec<OsString> = Vec::new();
    let mut existing = path.to_owned();
    loop {
        if let Ok(found) = existing.canonicalize() {
            return Some(rest.into_iter().rev().fold(found, |path, name| path.join(name)));
        }
        match existing.components().next_back()? {
            Component::Normal(name) => rest.push(name.to_owned()),
            _ => return None,
        }
        existing.pop();
    }
}

/// Whether `path`, canonical, lies in one of `folders`.
pub(super) fn is_within(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().filter_map(|folder| canonical(folder)).any(|folder| path != folder && path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_are_resolved_before_anything_is_decided() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let inside = root.join("images");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(inside.join("base"), "x").unwrap();
        std::fs::write(root.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("secret"), inside.join("link")).unwrap();
        std::os::unix::fs::symlink("base", inside.join("alias")).unwrap();
        std::os::unix::fs::symlink(root.join("nowhere"), inside.join("dangling")).unwrap();
        let folders = [inside.clone()];
        let allowed = |path: &str| canonical(&inside.join(path)).is_some_and(|p| is_within(&p, &folders));
        for good in ["base", "sub/../base", "alias", "missing", "sub/missing/deeper", "dangling"] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["link", "../secret", "sub/../../secret", "missing/../../secret", "", "."] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
