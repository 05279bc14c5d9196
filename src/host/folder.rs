//! Folders that qherd makes, and takes away again: only when it is the very one that was made, and empty. Who is about to
//! put something into one has a place taken in it until then, and so it is not empty.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs::{self, DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use crate::model::MadeFolder;

/// Where a chain of folders is made before it gets its name: beside it, under a name that says whose it is, so that what
/// a crash leaves of it is nobody else's.
pub fn aside(first: &Path, owner: &str) -> PathBuf {
    first.with_file_name(format!(".qherd-{owner}"))
}

/// Makes `chain`, each within the one before it, for nobody else to look into; it lies `aside` for now.
///
/// # Errors
/// The file system's.
pub fn make(aside: &Path, chain: &[PathBuf]) -> io::Result<Vec<MadeFolder>> {
    let one = |(now, path): (PathBuf, &PathBuf)| {
        DirBuilder::new().mode(0o700).create(&now)?;
        Ok(identity(path.clone(), &fs::symlink_metadata(&now)?))
    };
    places(aside, chain).into_iter().zip(chain).map(one).collect()
}

/// Gives a chain its name, all of it at once. False when there is something of that name.
///
/// # Errors
/// The file system's.
pub fn publish(aside: &Path, first: &Path) -> io::Result<bool> {
    match renameat_with(CWD, aside, CWD, first, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A file system that does not know how; what it would replace is an empty folder at most.
        Err(Errno::INVAL | Errno::NOSYS) if !first.exists() => fs::rename(aside, first).map(|()| true),
        Err(Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The name of the place that somebody has taken in a folder.
pub fn taken(place: &Path, owner: &str) -> PathBuf {
    place.join(format!(".qherd-{owner}"))
}

/// Takes a place in a folder, if those on the way to it are still `seen`. False, and nothing has changed, when one of them
/// has gone meanwhile.
///
/// # Errors
/// The file system's.
pub fn take(taken: &Path, seen: &[MadeFolder]) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(taken) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // Of an earlier attempt that a crash cut short.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let same = seen.iter().all(|seen| look(&seen.path).as_ref() == Some(seen));
    if !same {
        leave(taken);
    }
    Ok(same)
}

/// Gives a place up: something has been put there, or will not be.
pub fn leave(taken: &Path) {
    // One that is gone already, or that somebody has put something into, is no concern of anybody's here.
    let _ = fs::remove_dir(taken);
}

/// Takes away what lies `aside` of a chain.
pub fn discard(aside: &Path, chain: &[PathBuf]) {
    // What is not there, or holds something, is no concern of anybody's here.
    places(aside, chain).iter().rev().for_each(|now| drop(fs::remove_dir(now)));
}

/// Takes away what a crash left of an attempt to put something into `place`: what is aside of any chain that was to lead
/// there, and the place taken in it.
pub fn discard_all(place: &Path, owner: &str) {
    leave(&taken(place, owner));
    for first in place.ancestors().filter(|first| first.parent().is_some()) {
        let mut chain = vec![taken(place, owner)];
        chain.extend(place.ancestors().take_while(|part| part.starts_with(first)).map(Into::into));
        discard(&aside(first, owner), &chain.into_iter().rev().collect::<Vec<_>>());
    }
}

/// Where each folder of a chain is while the chain lies `aside`.
fn places(aside: &Path, chain: &[PathBuf]) -> Vec<PathBuf> {
    let below = |path: &PathBuf| match chain.first().and_then(|first| path.strip_prefix(first).ok()) {
        Some(rest) if rest != Path::new("") => aside.join(rest),
        _ => aside.to_owned(),
    };
    chain.iter().map(below).collect()
}

/// Removes a folder. False, and it stays, when it is not the one that was made, when something is in it, and when it is
/// gone already.
///
/// # Errors
/// The file system's.
pub fn remove(made: &MadeFolder) -> io::Result<bool> {
    if look(&made.path).as_ref() != Some(made) {
        return Ok(false);
    }
    // rmdir(2) takes no folder that holds anything.
    match fs::remove_dir(&made.path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// The folder that is there now.
pub fn look(path: &Path) -> Option<MadeFolder> {
    let found = fs::symlink_metadata(path).ok().filter(Metadata::is_dir)?;
    Some(identity(path.to_owned(), &found))
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

    fn made(path: &Path) -> MadeFolder {
        let chain = [path.to_owned()];
        let aside = aside(path, "x");
        let made = make(&aside, &chain).unwrap().remove(0);
        assert!(publish(&aside, path).unwrap());
        made
    }

    #[test]
    fn a_chain_gets_its_name_as_a_whole_and_takes_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let chain: Vec<PathBuf> = ["a", "a/b", "a/b/c"].iter().map(|part| dir.path().join(part)).collect();
        let aside = aside(&chain[0], "x");
        let made = make(&aside, &chain).unwrap();
        assert!(!chain[0].exists() && aside.join("b/c").exists());
        fs::create_dir(&chain[0]).unwrap();
        assert!(!publish(&aside, &chain[0]).unwrap(), "there is one");
        fs::remove_dir(&chain[0]).unwrap();
        assert!(publish(&aside, &chain[0]).unwrap());
        assert!(!aside.exists() && made.iter().rev().all(|made| remove(made).unwrap()));

        make(&aside, &chain).unwrap();
        make(&chain[0].with_file_name(".qherd-y"), &chain).unwrap();
        discard_all(&chain[2], "x");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".qherd-y"], "another's stays");
    }

    #[test]
    fn a_folder_in_which_a_place_is_taken_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let made = made(&path);
        let (one, two) = (taken(&path, "one"), taken(&path, "two"));
        for taken in [&one, &two, &one] {
            assert!(take(taken, std::slice::from_ref(&made)).unwrap(), "also again, after a crash");
        }
        leave(&one);
        assert!(!remove(&made).unwrap());
        discard_all(&path, "two");
        assert!(remove(&made).unwrap());
        assert!(!take(&one, &[]).unwrap(), "it is gone");

        // Another in its place is not the one that was seen.
        fs::create_dir(&path).unwrap();
        let other = MadeFolder { inode: made.inode + 1, ..made };
        assert!(!take(&one, &[other]).unwrap() && fs::read_dir(&path).unwrap().next().is_none());

        let chain = [dir.path().join("a"), dir.path().join("a/b"), taken(&dir.path().join("a/b"), "x")];
        make(&aside(&chain[0], "x"), &chain).unwrap();
        discard_all(&chain[1], "x");
        assert!(!aside(&chain[0], "x").exists());
    }

    #[test]
    fn a_folder_goes_only_if_it_is_the_one_that_was_made_and_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let made = made(&path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
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
