//! An open file of which an image is to be made, and what came of it.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::PathBuf};

use super::work::Unfinished;
use crate::{
    host::{
        STORAGE,
        image::{self, ImageError, Source},
        on_storage,
    },
    model::{Compression, Error, Operation, Result, SourceFormat},
};

/// What an image is made of, and where that is.
pub(super) struct Content {
    pub sha256: String,
    pub format: SourceFormat,
    pub compression: Option<Compression>,
    pub virtual_size: u64,
    pub size: u64,
    pub content_sha256: String,
    /// None where it is in the store already.
    pub file: Option<Unfinished>,
}

/// An open file.
pub(super) struct Given {
    pub file: File,
    pub path: PathBuf,
    /// How messages call it.
    pub param: &'static str,
    /// Bytes that may be used for it, and where.
    pub free: u64,
    pub folder: PathBuf,
}

impl Given {
    pub fn error(&self, error: ImageError) -> Error {
        match error {
            ImageError::Unsuitable(must) => Error::invalid(self.param, must),
            ImageError::InUse(by) => Error::BaseImageInUse { path: self.path.clone(), by },
            ImageError::Full => self.no_room("what it comes to, which is more".to_owned()),
            ImageError::NoUser(why) => Error::BeyondBounds(why),
            ImageError::Host(why) => Error::failed(Operation::Import, why),
        }
    }

    fn no_room(&self, what: String) -> Error {
        Error::NoRoom { what, free: self.free, place: self.folder.clone() }
    }
}

pub(super) async fn look(given: &Given) -> std::result::Result<Source, ImageError> {
    let host = |error: io::Error| ImageError::Host(error.to_string());
    let file = given.file.try_clone().map_err(host)?;
    on_storage(&given.path, STORAGE, move || Ok(image::source(&file))).await.map_err(host)?
}

/// Changes with every write to the file.
pub(super) async fn fingerprint(given: &Given) -> Result<[i64; 5]> {
    let failed = |error: io::Error| Error::failed(Operation::Import, error);
    let file = given.file.try_clone().map_err(failed)?;
    let look = move || {
        let found = file.metadata()?;
        let size = i64::try_from(found.size()).unwrap_or(i64::MAX);
        Ok([size, found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()])
    };
    on_storage(&given.path, STORAGE, look).await.map_err(failed)
}
