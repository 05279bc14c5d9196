//! Whether copies fit where they are to be made, told before any is begun: a disk that fills up halts every guest that writes
//! to it. What grows only as its guest writes is not counted.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    host::{STORAGE, free_space, on_storage},
    model::{Error, Operation, Result},
};

/// A base, and the file that it is to be copied to.
pub(super) struct FullClone {
    pub base: PathBuf,
    pub file: PathBuf,
}

/// What does not fit.
struct Short {
    needed: u64,
    free: u64,
    place: PathBuf,
}

/// # Errors
/// [`Error::NoRoom`] with the figures of the first storage on which they do not fit.
pub(super) async fn check(copies: Vec<FullClone>) -> Result<()> {
    let Some(at) = copies.first().map(|copy| copy.file.clone()) else { return Ok(()) };
    let looked = on_storage(&at, STORAGE, move || first_short(&copies)).await;
    match looked.map_err(|error| Error::failed(Operation::Create, error))? {
        None => Ok(()),
        Some(Short { needed, free, place }) => {
            let what = format!("the full copies of base images, which take {needed} bytes");
            Err(Error::NoRoom { what, free, place })
        }
    }
}

fn first_short(copies: &[FullClone]) -> io::Result<Option<Short>> {
    let mut by_storage: HashMap<u64, Short> = HashMap::new();
    for copy in copies {
        // What is not there is told by who makes the copy.
        let Ok(base) = fs::metadata(&copy.base) else { continue };
        let Some((place, device)) = existing(&copy.file) else { continue };
        // Holes are not copied.
        let bytes = base.len().min(base.blocks().saturating_mul(512));
        let free = free_space(&place)?;
        by_storage.entry(device).or_insert(Short { needed: 0, free, place }).needed += bytes;
    }
    Ok(by_storage.into_values().find(|short| short.needed > short.free))
}

/// The folder that is there of those that lead to it, and which storage that is.
fn existing(file: &Path) -> Option<(PathBuf, u64)> {
    file.ancestors().skip(1).find_map(|folder| Some((folder.to_owned(), fs::metadata(folder).ok()?.dev())))
}
