//! Reads the data of an image or a volume for a client, piece by piece: the file is open, so that it is whole whatever becomes of
//! its name meanwhile.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;

use super::volume_claims::Claim;
use crate::{
    host::{STORAGE, on_storage},
    model::{Image, LayerId},
};

/// A file, to be read.
pub struct Content {
    /// As whom a client may store it.
    pub name: String,
    pub length: u64,
    /// Another one is another content.
    pub tag: String,
    file: Arc<File>,
    path: PathBuf,
    /// Of a volume, until it is read.
    _claim: Option<Claim>,
}

impl Content {
    pub(super) fn of_image(image: &Image, (file, path): (File, PathBuf)) -> Self {
        let name = format!("{}-{}.qcow2", image.name.name, image.name.tag);
        let (length, tag) = (image.size, image.content_sha256.clone());
        Self { name, length, tag, file: file.into(), path, _claim: None }
    }

    pub(super) fn of_volume(id: LayerId, (file, path): (File, PathBuf), found: &Metadata, claim: Claim) -> Self {
        let tag = format!("{:x}-{:x}-{:x}", found.size(), found.mtime(), found.mtime_nsec());
        Self { name: format!("{id}.qcow2"), length: found.size(), tag, file: file.into(), path, _claim: Some(claim) }
    }

    /// So many bytes from a position on, all of which there have to be.
    ///
    /// # Errors
    /// The storage's; one that is shorter than its record says is at its end too early.
    pub async fn read(&self, from: u64, count: usize) -> io::Result<Bytes> {
        let file = self.file.clone();
        on_storage(&self.path, STORAGE, move || {
            let mut piece = vec![0; count];
            file.read_exact_at(&mut piece, from)?;
            Ok(Bytes::from(piece))
        })
        .await
    }
}
