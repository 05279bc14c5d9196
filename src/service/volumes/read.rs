//! What is in a volume, for a client that takes it elsewhere. Nobody writes to it meanwhile: it is kept from VMs until it is read.

use crate::{
    host::{Access, STORAGE, on_storage, open_within},
    model::{Error, LayerId, Operation, Result},
    service::{Service, content::Content, volume_claims::conflict},
};

impl Service {
    /// # Errors
    /// [`Error::VolumeNotFound`]; [`Error::VolumeConflict`] for one that a VM has, or that does not stand alone; [`Error::Failed`]
    /// where its file cannot be opened.
    pub async fn volume_content(&self, id: LayerId) -> Result<Content> {
        let claim = self.volumes.read(id)?;
        let (layer, _) = self.layer_of_volume(id).await?;
        self.check_unattached(id, &layer)?;
        if layer.lies_on().is_some() || layer.base().is_some() {
            let why = "holds only what differs from the image that it lies on; attach it to a VM that is off and make an image of that \
                       disk (POST /images with from_vm and disk), whose content stands alone";
            return Err(conflict(id, why));
        }
        let (path, folders) = (layer.path(), self.ctx.config.storage_dirs.clone());
        let at = path.clone();
        let opened = on_storage(&path, STORAGE, move || {
            let file = open_within(&folders, &at, Access::Read)?;
            let found = file.metadata()?;
            Ok((file, found))
        });
        let (file, found) = opened.await.map_err(|error| Error::failed(Operation::Export, error))?;
        Ok(Content::of_volume(id, (file, path), &found, claim))
    }
}
