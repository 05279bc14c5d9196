//! Where the state directory is, and whether it is the one that was here: a marker in it, `state.json`, tells a directory
//! that was moved from one that was copied; a note beside each mount point on the way to it tells one that is not mounted
//! from one that never was (ADR 0014).

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    host::{mounts, process},
    model::now_ms,
    vm::Original,
};

/// Names that a state directory has had; each start that finds another one writes the records anew.
const MOST_NAMES: usize = 32;

/// What is known of the state directory.
#[derive(Debug)]
pub(super) struct History {
    /// No other state directory has it, nor a copy of this one.
    pub id: String,
    /// Other names that it has had.
    pub older: Vec<PathBuf>,
    /// It began as a copy of this one.
    pub original: Option<Original>,
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    id: String,
    path: PathBuf,
    directory: Directory,
    #[serde(default)]
    older: Vec<PathBuf>,
    #[serde(default)]
    copied_from: Option<Original>,
}

/// What a directory keeps when it is renamed, and a copy of it does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    inode: u64,
    /// Nanoseconds since 1970; not every file system tells.
    born: Option<u64>,
    /// Of the file system, for as long as that is mounted.
    device: u64,
    boot_id: String,
}

impl Directory {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            inode: found.ino(),
            born: born.map(|since| since.as_nanos() as u64),
            device: found.dev(),
            boot_id: process::boot_id()?,
        })
    }

    fn resembles(&self, now: &Self) -> bool {
        let born = self.born.zip(now.born).is_none_or(|(then, now)| then == now);
        self.inode == now.inode && born
    }
}

impl Marker {
    /// Whether the directory that it is found in is the one that it was written in.
    fn is_of(&self, here: &Directory) -> bool {
        let then = &self.directory;
        let same_boot = then.boot_id == here.boot_id;
        if !then.resembles(here) || same_boot && then.device == here.device {
            return then.resembles(here);
        }
        // Mounted anew it has another device. A snapshot of the file system resembles it to the last number, though, and
        // without a time of birth so may anything.
        (then.born.is_some() || !same_boot) && !self.has_another(here)
    }

    /// Whether the directory that it was written in is still in its place, beside this one.
    fn has_another(&self, here: &Directory) -> bool {
        let there = Directory::of(&self.path);
        let same = there.is_ok_and(|there| there.inode == here.inode && there.device == here.device);
        !same && read(&self.path).is_ok_and(|there| there.is_some_and(|there| there.id == self.id))
    }
}

fn marker(state_dir: &Path) -> PathBuf {
    state_dir.join("state.json")
}

fn read(state_dir: &Path) -> anyhow::Result<Option<Marker>> {
    let path = marker(state_dir);
    match fs::read(&path) {
        Ok(text) => {
            let parsed = serde_json::from_slice(&text);
            parsed.map(Some).with_context(|| {
                format!("{} is damaged; put one from a backup in its place, or remove it", path.display())
            })
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Refuses a state directory that is not there although it was: a new one must not be made where a file system is not
/// mounted yet.
///
/// # Errors
/// In words, with the way to a new one.
pub(super) fn refuse_unmounted(state_dir: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(state_dir).is_ok_and(|found| found.is_symlink()) {
        bail!("the state directory {} is a link that leads nowhere; is its storage mounted?", state_dir.display());
    }
    if marker(state_dir).exists() || state_dir.join("db").join("db").exists() {
        return Ok(());
    }
    for note in state_dir.ancestors().filter_map(note_beside) {
        if notes(&note).contains_key(state_dir) {
            bail!(
                "there is no state in {}, but {} says that there was: its storage is not mounted, it seems. Mount it and \
                 try again. If it was moved, name its place with --state-dir; to begin anew, remove {} first",
                state_dir.display(),
                note.display(),
                note.display()
            );
        }
    }
    Ok(())
}

/// Recognises the state directory, and remembers it from now on.
///
/// # Errors
/// A marker that cannot be read or written.
pub(super) fn recognise(state_dir: &Path) -> anyhow::Result<History> {
    let before = read(state_dir)?;
    let directory = Directory::of(state_dir).with_context(|| format!("cannot look at {}", state_dir.display()))?;
    let path = state_dir.to_owned();
    let new_id = || Uuid::new_v4().to_string();
    let now = match before.clone() {
        None => {
            tracing::info!(state_dir = %path.display(), "this state directory is marked from now on");
            Marker { id: new_id(), path, directory, older: Vec::new(), copied_from: None }
        }
        Some(mut found) => {
            if !found.is_of(&directory) {
                tracing::warn!(
                    state_dir = %path.display(),
                    of = %found.path.display(),
                    "this state directory is a copy, or was restored from one: what an earlier one has on the host's \
                     network, and its processes, are left alone"
                );
                forget_mark(&path)?;
                if found.has_another(&directory) {
                    let from = found.path.clone();
                    found.copied_from = Some(Original { path: from, before: now_ms() });
                }
                found.id = new_id();
            } else if found.path != path {
                tracing::info!(state_dir = %path.display(), from = %found.path.display(), "the state directory was moved");
                forget(&found.path, &found.id);
            }
            if found.path != path {
                found.older.retain(|older| *older != path && *older != found.path);
                found.older.push(found.path);
                let surplus = found.older.len().saturating_sub(MOST_NAMES);
                found.older.drain(..surplus);
            }
            Marker { path, directory, ..found }
        }
    };
    if before.as_ref() != Some(&now) {
        write(&marker(state_dir), &now).with_context(|| format!("cannot write {}", marker(state_dir).display()))?;
    }
    remember(state_dir, &now.id);
    Ok(History { id: now.id, older: now.older, original: now.copied_from })
}

/// What bears the mark of the one that this is a copy of is not ours; `net` makes a new one.
fn forget_mark(state_dir: &Path) -> anyhow::Result<()> {
    let mark = state_dir.join("net").join("id");
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", mark.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    serde_json::to_writer_pretty(&mut file, content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// `/srv/.vms.qherd` for `/srv/vms`: outside of what may not be mounted.
fn note_beside(mount_point: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(mount_point.file_name()?);
    name.push(".qherd");
    Some(mount_point.parent()?.join(name))
}

/// The state directories that a note tells of, with their ids.
fn notes(note: &Path) -> BTreeMap<PathBuf, String> {
    fs::read(note).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Leaves a note beside each mount point on the way; where it may not be written there is none.
fn remember(state_dir: &Path, id: &str) {
    for note in mounts::above(state_dir).iter().filter_map(|point| note_beside(point)) {
        let mut states = notes(&note);
        if states.get(state_dir).is_some_and(|known| known == id) {
            continue;
        }
        states.insert(state_dir.to_owned(), id.to_owned());
        if let Err(error) = write(&note, &states) {
            tracing::info!(note = %note.display(), %error, "cannot note that there is a state directory");
        }
    }
}

/// Takes a place that is none any more off the notes.
fn forget(state_dir: &Path, id: &str) {
    for note in state_dir.ancestors().filter_map(note_beside) {
        let mut states = notes(&note);
        if states.get(state_dir).is_some_and(|known| known == id) {
            states.remove(state_dir);
            let done = if states.is_empty() { fs::remove_file(&note) } else { write(&note, &states) };
            if let Err(error) = done {
                tracing::warn!(note = %note.display(), %error, "cannot change the note of a state directory that was moved");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_moved_directory_is_the_same_and_a_copied_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        let (a, b, c, d) = (at("a"), at("b"), at("c"), at("d"));
        fs::create_dir_all(a.join("net")).unwrap();
        let marked = |path: &Path| {
            fs::write(path.join("net/id"), "01234567").unwrap();
            let history = recognise(path).unwrap();
            (history, path.join("net/id").exists(), read(path).unwrap().unwrap().id)
        };
        let (history, keeps, id) = marked(&a);
        assert!(history.older.is_empty() && history.original.is_none() && keeps);
        assert_eq!(marked(&a).2, id);

        fs::rename(&a, &b).unwrap();
        let (history, keeps, moved) = marked(&b);
        assert_eq!((history.older, keeps, &moved), (vec![a.clone()], true, &id));
        assert!(history.original.is_none());

        let copy = |from: &Path, to: &Path| {
            assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        };
        copy(&b, &c);
        let (history, keeps, copied) = marked(&c);
        assert_eq!(history.original.unwrap().path, b);
        assert_eq!((history.older, keeps), (vec![a.clone(), b.clone()], false));
        assert_ne!(copied, id);
        // It stays one.
        let (history, keeps, again) = marked(&c);
        assert!(history.original.is_some() && keeps && again == copied);

        // Restored in its own place, with the one that it was made from moved away: who is who is known all the same.
        fs::rename(&b, &d).unwrap();
        copy(&d, &b);
        let (history, keeps, restored) = marked(&b);
        assert!(!keeps && restored != id && history.original.is_none());
        let (_, keeps, moved) = marked(&d);
        assert!(keeps && moved == id);
    }

    #[test]
    fn a_state_that_was_there_and_is_not_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let state = root.join("disk/state");
        fs::create_dir_all(root.join("disk")).unwrap();
        refuse_unmounted(&state).unwrap();
        // As `remember` does where there is a mount point.
        let note = note_beside(&root.join("disk")).unwrap();
        assert_eq!(note, root.join(".disk.qherd"));
        write(&note, &BTreeMap::from([(state.clone(), "id")])).unwrap();
        for there in [false, true] {
            if there {
                fs::create_dir(&state).unwrap();
            }
            let error = refuse_unmounted(&state).unwrap_err().to_string();
            assert!(error.contains("not mounted") && error.contains(".disk.qherd"), "{error}");
        }
        refuse_unmounted(&root.join("disk/other")).unwrap();
        recognise(&state).unwrap();
        refuse_unmounted(&state).unwrap();
        forget(&state, "another");
        assert!(note.exists());
        forget(&state, "id");
        assert!(!note.exists());
        fs::write(marker(&state), "{").unwrap();
        assert!(format!("{:#}", recognise(&state).unwrap_err()).contains("damaged"));
        std::os::unix::fs::symlink(root.join("nowhere"), root.join("link")).unwrap();
        assert!(refuse_unmounted(&root.join("link")).unwrap_err().to_string().contains("leads nowhere"));
    }
}
