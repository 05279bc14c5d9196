//! What lies on an image: the disks of VMs, each a layer of its own, with what each takes that nobody shares.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use futures_util::future::join_all;

use super::ImageView;
use crate::{
    host::{STORAGE, on_storage},
    model::{LayerId, VmId},
    service::Service,
    vm::Mark,
};

/// An image with its tree.
#[derive(Clone, Debug)]
pub struct ImageTree {
    pub view: ImageView,
    /// Bytes that its data take on the host's storage, where that tells.
    pub allocated: Option<u64>,
    pub disks: Vec<DiskOn>,
    /// Volumes that no VM has.
    pub volumes: Vec<(LayerId, String)>,
}

/// A disk that lies on an image.
#[derive(Clone, Debug)]
pub struct DiskOn {
    pub vm: VmId,
    pub vm_name: String,
    /// `root`, `disk1`…
    pub disk: String,
    pub layer: LayerId,
    pub file: PathBuf,
    /// Bytes that it takes by itself: what its guest has written, and its tables.
    pub allocated: Option<u64>,
}

impl Service {
    /// An image with what lies on it.
    pub async fn tree_of_image(&self, view: ImageView) -> ImageTree {
        let layer = view.image.layer;
        let mut disks = Vec::new();
        for vm in self.registry.views_with(Mark::Base(layer)) {
            let on = |disk: &&crate::model::Disk| disk.backing_file().is_some_and(|base| base.layer == Some(layer));
            disks.extend(vm.spec.disks.iter().filter(on).map(|disk| DiskOn {
                vm: vm.spec.id,
                vm_name: vm.spec.name.clone(),
                disk: disk.name.clone(),
                layer: disk.layer,
                file: disk.file.to_path_buf(),
                allocated: None,
            }));
        }
        let sizes = join_all(disks.iter().map(|disk| allocated(&disk.file))).await;
        disks.iter_mut().zip(sizes).for_each(|(disk, size)| disk.allocated = size);
        let allocated = allocated(&view.file).await;
        let volumes = self.volumes().await.unwrap_or_default().into_iter();
        let lonely = volumes.filter(|volume| volume.user.is_none());
        let on = lonely.filter(|volume| volume.base.as_ref().is_some_and(|base| base.layer == Some(layer)));
        let volumes = on.map(|volume| (volume.id, volume.name)).collect();
        ImageTree { view, allocated, disks, volumes }
    }
}

async fn allocated(file: &Path) -> Option<u64> {
    let path = file.to_owned();
    let look = move || io::Result::Ok(path.symlink_metadata()?.blocks().saturating_mul(512));
    on_storage(file, STORAGE, look).await.ok()
}
