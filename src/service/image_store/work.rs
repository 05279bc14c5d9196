//! Files of imports that are not done yet: each in a folder that holds nothing else, under a name of its own, and gone with
//! whoever works on it. What a daemon before has left there is removed by its form: nothing in that folder was ever anybody's
//! but a daemon's on this state directory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::host::{Access, STORAGE, listed, on_storage, open_within};

/// Below the folder of the layers.
const FOLDER: &str = "unfinished";

/// Bytes that an import leaves free, for the store and for guests that run.
pub(super) const SPARE: u64 = 256 << 20;

/// What such a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Upload,
    Unpacked,
    Image,
}

impl Part {
    const ALL: [Self; 3] = [Self::Upload, Self::Unpacked, Self::Image];

    fn ending(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Unpacked => "unpacked",
            Self::Image => "image",
        }
    }
}

/// The name of a file, which goes with this.
#[derive(Debug)]
pub(super) struct Unfinished(PathBuf);

impl Unfinished {
    pub fn new(layers: &Path, part: Part) -> Self {
        Self(layers.join(FOLDER).join(format!("{}.{}", Uuid::new_v4(), part.ending())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the file, empty and for nobody else.
    ///
    /// # Errors
    /// The file system's.
    pub async fn make(&self) -> io::Result<File> {
        let path = self.0.clone();
        on_storage(&self.0, STORAGE, move || open_within(&[], &path, Access::Create)).await
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // One that has been moved to its place is not there any more, and what cannot be removed goes at the next start.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || fs::remove_file(path)));
        }
    }
}

/// Makes the folder, and removes what is left in it. Blocks.
///
/// # Errors
/// The file system's, where it cannot be made.
pub(super) fn sweep(layers: &Path) -> io::Result<()> {
    let folder = layers.join(FOLDER);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for entry in listed(&folder)? {
        let name = entry.file_name();
        if name.to_str().is_some_and(is_ours) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let removed = fs::remove_file(entry.path());
            tracing::info!(file = %entry.path().display(), ?removed, "an import that was not finished is taken back");
        }
    }
    Ok(())
}

fn is_ours(name: &str) -> bool {
    let parts = name.split_once('.');
    parts.is_some_and(|(id, ending)| {
        id.len() == 36 && Uuid::try_parse(id).is_ok() && Part::ALL.iter().any(|part| part.ending() == ending)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_is_known_by_its_form_and_nothing_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        sweep(dir.path()).unwrap();
        let ours: Vec<_> = Part::ALL.into_iter().map(|part| Unfinished::new(dir.path(), part)).collect();
        ours.iter().for_each(|file| fs::write(file.path(), "x").unwrap());
        let folder = dir.path().join(FOLDER);
        let others = ["notes", "123e4567-e89b-42d3-a456-426614174000", "x.upload"];
        others.iter().for_each(|name| fs::write(folder.join(name), "x").unwrap());
        let linked = folder.join("123e4567-e89b-42d3-a456-426614174000.upload");
        std::os::unix::fs::symlink("/etc/passwd", &linked).unwrap();
        sweep(dir.path()).unwrap();
        assert!(ours.iter().all(|file| !file.path().exists()));
        assert!(others.iter().all(|name| folder.join(name).exists()) && linked.is_symlink());
    }
}
