//! The data of an image, for a client that reads them.

use super::file_name;
use crate::{
    host::{Access, STORAGE, on_storage, open_within},
    model::{Error, Operation, Result},
    service::{Service, content::Content},
};

impl Service {
    /// # Errors
    /// [`Error::ImageNotFound`]; [`Error::Failed`] where its file cannot be opened.
    pub async fn image_content(&self, named: &str) -> Result<Content> {
        let image = self.image(named)?.image;
        let folder = self.image_store.folder.clone();
        let path = folder.join(file_name(&image.content_sha256));
        let at = path.clone();
        let opened = on_storage(&path, STORAGE, move || open_within(&[folder], &at, Access::Read)).await;
        let file = opened.map_err(|error| Error::failed(Operation::Export, error))?;
        Ok(Content::of_image(&image, (file, path)))
    }
}
