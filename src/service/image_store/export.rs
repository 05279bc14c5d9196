//! Reads the data of an image for a client, piece by piece: the file is open, so that it is whole whatever becomes of the image
//! meanwhile.

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::file_name;
use crate::{
    host::{Access, STORAGE, on_storage, open_within},
    model::{Error, Image, Operation, Result},
    service::Service,
};

/// The data of an image, to be read.
#[derive(Clone, Debug)]
pub struct Content {
    pub image: Arc<Image>,
    file: Arc<File>,
    path: PathBuf,
}

impl Service {
    /// # Errors
    /// [`Error::ImageNotFound`]; [`Error::Failed`] where its file cannot be opened.
    pub async fn image_content(&self, named: &str) -> Result<Content> {
        let image = self.image(named)?.image;
        let folder = self.image_store.folder.clone();
        let path = folder.join(file_name(&image.content_sha256));
        let at = path.clone();
        let opened = on_storage(&path, STORAGE, move || open_within(&[folder], &at, Access::Read)).await;
        let file = opened.map_err(|error| Error::failed(Operation::Export, error))?.into();
        Ok(Content { image, file, path })
    }
}

impl Content {
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
