//! Base images: whether a file can serve as one, and which VMs hang on it. Which file a client means is found in `images`.

use std::{
    collections::{BTreeMap, HashMap},
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};

use super::{
    Service, existing,
    image_store::Claim,
    images::{self, ImageUse},
};
use crate::{
    host::{
        Access, STORAGE,
        image::{self, ImageError, Info, QemuImg},
        on_storage, open_within,
    },
    model::{
        BaseContent, BaseImage, Below, Change, CloneMode, Error, ImageFormat, LayerId, Operation, Result, VmId, VmSpec,
        VmView,
    },
    vm::{asker, while_wanted},
};

/// A base image in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub path: PathBuf,
    pub format: ImageFormat,
    /// Of an image of the store.
    pub layer: Option<LayerId>,
    pub state: BaseState,
    /// The VMs that were cloned from it.
    pub vms: Vec<BaseUser>,
}

/// What became of a base image under the disks that lie on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseState {
    AsCloned,
    Changed,
    Missing,
    /// It was cloned before anybody kept what was in it, nothing lies on it, or it cannot be looked at.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUser {
    pub id: VmId,
    pub name: String,
    /// A linked clone needs the file for as long as it lives.
    pub clone: CloneMode,
}

impl Service {
    /// The base images that VMs were cloned from, who depends on each, and whether that has become another.
    pub async fn bases(&self) -> Vec<Base> {
        let (bases, known) = in_use(&self.registry.views());
        let looks = bases.into_iter().map(|base| {
            let contents = known.get(&base.path).cloned().unwrap_or_default();
            async move {
                let state = self.state_of(&base, contents).await;
                Base { state, ..base }
            }
        });
        join_all(looks).await
    }

    async fn state_of(&self, base: &Base, contents: Vec<Arc<BaseContent>>) -> BaseState {
        let (path, folders) = (base.path.clone(), self.ctx.config.base_dirs());
        let is_stored = base.layer.is_some();
        let look = move || {
            let file = match open_within(&folders, &path, Access::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BaseState::Missing),
                file => file?,
            };
            for was in &contents {
                if image::other_content(&file, was)?.is_some() {
                    return Ok(BaseState::Changed);
                }
            }
            // An image of the store is never written to.
            Ok(if contents.is_empty() && !is_stored { BaseState::Unknown } else { BaseState::AsCloned })
        };
        on_storage(&base.path, STORAGE, look).await.unwrap_or(BaseState::Unknown)
    }

    /// What makes the content that the base image of a disk has by now the one that the disk lies on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a disk without such a base, and for one that cannot be its base any more.
    pub async fn accepted_base(&self, spec: &VmSpec, name: &str) -> Result<Change> {
        let disk = spec.disk(name).ok_or_else(|| Error::DiskNotFound { name: name.to_owned() })?;
        let base = disk
            .backing_file()
            .filter(|base| base.layer.is_none() && disk.file.foreign().is_none())
            .ok_or_else(|| {
                Error::invalid(
                    "accept_base",
                    "be given of a disk that lies on a base image which was named by its path",
                )
            })?;
        let (now, ..) = while_wanted(resolve(self, &base.path)).await?;
        if now.format != base.format {
            let must = format!("be given while the base image is a {} one, as it was cloned", base.format.driver());
            return Err(Error::invalid("accept_base", must));
        }
        let content = now.content.ok_or_else(|| Error::invalid("accept_base", "be given of a file"))?;
        Ok(Change::Base { name: name.to_owned(), content })
    }
}

/// What was in a base image when disks were cloned that lie on it.
type Contents = HashMap<PathBuf, Vec<Arc<BaseContent>>>;

/// The record is the definitions themselves, so it cannot disagree with them.
fn in_use(views: &[VmView]) -> (Vec<Base>, Contents) {
    let mut known = Contents::new();
    let mut bases: BTreeMap<PathBuf, Base> = BTreeMap::new();
    for spec in views.iter().filter(|view| !view.gone).map(|view| &view.spec) {
        for disk in &spec.disks {
            let Some(BaseImage { path, format, layer, content }) = &disk.base else { continue };
            let base = bases.entry(path.clone());
            let new = |path: &PathBuf, format, layer| Base {
                path: path.clone(),
                format,
                layer,
                state: BaseState::Unknown,
                vms: Vec::new(),
            };
            let base = base.or_insert_with(|| new(path, *format, *layer));
            known.entry(path.clone()).or_default().extend(content.clone().filter(|_| disk.clone == CloneMode::Linked));
            let user = BaseUser { id: spec.id, name: spec.name.clone(), clone: disk.clone };
            base.vms.push(user.clone());
            for Below { path, format } in disk.file.below() {
                let below = bases.entry(path.clone()).or_insert_with(|| new(path, *format, None));
                below.vms.push(user.clone());
            }
        }
    }
    (bases.into_values().collect(), known)
}

/// How long a request waits for the look into an image; the look itself goes on.
const PATIENCE: Duration = Duration::from_secs(25);

/// Looks into base images, and into each only once for as long as it does not change: of a thousand VMs from one
/// image only the first pays for the look, and those that come meanwhile wait for the same one. But nobody waits for a look that
/// is another client's, and so waits for what else that one has brought.
#[derive(Default)]
pub(super) struct Inspector(Arc<Mutex<Looks>>);

/// By the file, as it is.
type Looks = HashMap<PathBuf, (Fingerprint, Vec<Looking>)>;

/// A look, and for whom it is.
struct Looking {
    client: Option<String>,
    number: u64,
    look: Look,
}

/// A look that is under way or done. It is a task of its own: nobody who hangs up ends it for the others.
type Look = Shared<BoxFuture<'static, std::result::Result<(Info, Arc<BaseContent>), ImageError>>>;

/// Changes with every write to a file.
#[derive(Clone, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Inspector {
    /// The look into a file as it is now.
    fn look(&self, images: &QemuImg, path: &Path, fingerprint: Fingerprint) -> Look {
        let client = asker().map(|asker| asker.caller);
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, under_way) = looks.entry(path.to_owned()).or_insert_with(|| (fingerprint.clone(), Vec::new()));
        if *before != fingerprint {
            (*before, *under_way) = (fingerprint.clone(), Vec::new());
        }
        let usable = |one: &&Looking| one.client == client || one.look.peek().is_some_and(Result::is_ok);
        if let Some(one) = under_way.iter().find(usable) {
            return one.look.clone();
        }
        let (images, looked, whose, all) = (images.clone(), path.to_owned(), client.clone(), self.0.clone());
        let number = under_way.iter().map(|one| one.number + 1).max().unwrap_or_default();
        let task = tokio::spawn(async move {
            let outcome =
                images.inspect(&looked, whose.as_deref()).await.map(|(info, content)| (info, Arc::new(content)));
            if outcome.is_err() {
                // It may be another the next time, or nobody's fault.
                let mut looks = all.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((same, under_way)) = looks.get_mut(&looked)
                    && *same == fingerprint
                {
                    under_way.retain(|one| one.number != number);
                    if under_way.is_empty() {
                        looks.remove(&looked);
                    }
                }
            }
            outcome
        });
        let ended = async move { task.await.unwrap_or_else(|e| Err(ImageError::Host(e.to_string()))) };
        let look = ended.boxed().shared();
        under_way.push(Looking { client, number, look: look.clone() });
        look
    }
}

/// Finds and checks the base image that a client named: an image of the store, or a file. Returns it with its virtual size in
/// bytes, and what keeps the former from being deleted until the clone is stored.
///
/// # Errors
/// [`Error::Invalid`] outside the image directories, or for a file that cannot be a base image;
/// [`Error::BaseImageNotFound`], [`Error::BaseImageInUse`], [`Error::BaseImageUnchecked`]; [`Error::Failed`] when its
/// storage does not answer.
pub(super) async fn resolve(service: &Service, named: &Path) -> Result<(BaseImage, u64, Option<Claim>)> {
    if let Some((base, size, claim)) = service.stored_base(named).await? {
        return Ok((base, size, Some(claim)));
    }
    let located = images::locate(service, named, ImageUse::Base).await;
    let (path, metadata) = located.map_err(|error| match service.is_only_known(named) {
        true => Error::NotPulled(named.display().to_string()),
        false => error,
    })?;
    if existing::is_a_disk(service, &metadata).await {
        return Err(Error::invalid(ImageUse::Base.param(), "not be a disk of a VM, by whatever name"));
    }
    let look = service.bases.look(&service.ctx.images, &path, Fingerprint::of(&metadata));
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok((info, content))) => {
            let base = BaseImage { content: Some(content), ..BaseImage::at(path, info.format) };
            Ok((base, info.virtual_size, None))
        }
        Ok(Err(ImageError::Unsuitable(must))) => Err(Error::invalid(ImageUse::Base.param(), must)),
        Ok(Err(ImageError::InUse(by))) => Err(Error::BaseImageInUse { path: named.to_owned(), by }),
        Ok(Err(ImageError::NoUser(why))) => Err(Error::BeyondBounds(why)),
        Ok(Err(error @ (ImageError::Host(_) | ImageError::Full))) => Err(Error::failed(Operation::Create, error)),
        Err(_) => Err(Error::BaseImageUnchecked { path: named.to_owned() }),
    }
}

/// The path of the base image that a client named, whatever is there.
///
/// # Errors
/// As [`resolve`].
pub(super) async fn path_of(service: &Service, named: &Path) -> Result<PathBuf> {
    match service.stored_base(named).await? {
        Some((base, ..)) => Ok(base.path),
        None => Ok(images::locate(service, named, ImageUse::Base).await?.0),
    }
}
