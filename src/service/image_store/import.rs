//! Imports: of a file that is looked into and handed over by one descriptor, to a layer that is named by what is in it. Until
//! that has its name nothing of it can be found; from the record of the layer on a crash leaves what the next start takes
//! back (`recover`).

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ImageStore, ImageView, MOST, Spooled,
    given::{Content, Given, fingerprint, look},
    of_vm::OfVm,
    pull,
    uploads::Held,
    work::{Part, SPARE, Unfinished},
};
use crate::{
    fetch::Place,
    host::{
        Access, STORAGE, free_space,
        image::{self, Copied, ImageError, Opened, Source, Unpack},
        on_storage, open_within,
    },
    model::{
        Compression, Error, Image, ImageId, ImageName, ImageSource, LayerId, Metadata, MetadataWish, Operation, Result,
        SourceFormat, UploadId, VmId, check_sha256, now_ms,
    },
    service::{
        Service,
        images::{self, ImageUse},
    },
    vm::{self, copying, in_phase},
};

/// An image to be made: decoded, not yet checked.
#[derive(Debug)]
pub struct ImportImage {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<ImageId>,
    pub name: String,
    /// Of the file, where the client says it.
    pub sha256: Option<String>,
    pub metadata: MetadataWish,
    pub from: ImportFrom,
}

#[derive(Debug)]
pub enum ImportFrom {
    Path(PathBuf),
    Upload(Spooled),
    Url(String),
    /// A well-known image, which its name says.
    Known,
    /// What came in several requests.
    Kept(UploadId),
    /// A disk of a VM that is off; without its name the root disk.
    Vm(VmId, Option<String>),
}

/// Whatever the file comes from, found.
enum Found<'a> {
    Path(&'a Path),
    Upload(&'a Spooled),
    Kept(Held),
    Place(Place),
    Vm(OfVm),
}

/// A name that nobody else gives to an image until this is dropped.
struct Reserved<'a>(&'a ImageStore, ImageName);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let names = &mut self.0.lock().names;
        if names.get(&self.1) == Some(&None) {
            names.remove(&self.1);
        }
    }
}

impl Service {
    /// Makes an image of a file. One whose file is in the store already shares its data.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no whole image of a disk, [`Error::ImageExists`], [`Error::ImageConflict`],
    /// [`Error::NoRoom`], [`Error::MadeAndDeleted`]; [`Error::Failed`]. Nothing is left then.
    pub async fn import_image(&self, wish: ImportImage) -> Result<ImageView> {
        // The same request has made it already, and its answer was lost.
        if let Some(made) = wish.id.and_then(|id| self.image(&id.to_string()).ok()) {
            return Ok(made);
        }
        self.check_not_made(wish.id)?;
        let name = ImageName::parse(&wish.name)?;
        let mut metadata = Metadata::default();
        wish.metadata.apply(&mut metadata)?;
        let wanted = wish.sha256.as_deref().map(check_sha256).transpose()?;
        let found = self.find_source(&name, &wish.from).await?;
        let reserved = self.reserve_name(name)?;
        let content = vm::while_wanted(self.content_of(&reserved.1, &found, wanted)).await?;
        let image = Image {
            id: wish.id.unwrap_or_else(ImageId::random),
            name: reserved.1.clone(),
            sha256: content.sha256,
            format: content.format,
            compression: content.compression,
            virtual_size: content.virtual_size,
            size: content.size,
            content_sha256: content.content_sha256,
            layer: LayerId::random(),
            source: match &found {
                Found::Path(path) => ImageSource::Path(path.to_path_buf()),
                Found::Place(place) => ImageSource::Url(place.shown()),
                Found::Upload(_) | Found::Kept(_) => ImageSource::Upload,
                Found::Vm(of) => ImageSource::Vm { id: of.vm, disk: of.disk.name.clone() },
            },
            created_at: now_ms(),
            metadata,
        };
        let image = in_phase("store_image", self.establish_image(image, content.file)).await?;
        if let Found::Kept(upload) = found {
            upload.finish();
        }
        Ok(self.view_of_image(image))
    }

    async fn find_source<'a>(&self, name: &ImageName, from: &'a ImportFrom) -> Result<Found<'a>> {
        Ok(match from {
            ImportFrom::Path(path) => Found::Path(path),
            ImportFrom::Upload(spooled) => Found::Upload(spooled),
            ImportFrom::Kept(id) => Found::Kept(self.image_store.uploads.hold(*id).await?),
            ImportFrom::Url(text) => Found::Place(pull::place(text)?),
            ImportFrom::Known => Found::Place(self.known_place(name)?),
            ImportFrom::Vm(vm, disk) => Found::Vm(self.disk_of_vm(*vm, disk.as_deref())?),
        })
    }

    /// Refuses what an upload would be refused for at its end, before it is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::ImageExists`], [`Error::ImageConflict`].
    pub fn check_importable(&self, name: &str, sha256: Option<&str>) -> Result<()> {
        sha256.map(check_sha256).transpose()?;
        self.reserve_name(ImageName::parse(name)?).map(drop)
    }

    fn reserve_name(&self, name: ImageName) -> Result<Reserved<'_>> {
        let mut state = self.image_store.lock();
        match state.names.get(&name) {
            Some(Some(_)) => return Err(Error::ImageExists(name.to_string())),
            Some(None) => {
                let why =
                    format!("An image {name} is being imported already; wait for that, or take another name or tag.");
                return Err(Error::ImageConflict(why));
            }
            None => {}
        }
        if state.names.len() >= MOST {
            let why = format!("There are {MOST} images, and there may be no more; delete some first.");
            return Err(Error::ImageConflict(why));
        }
        state.names.insert(name.clone(), None);
        Ok(Reserved(&self.image_store, name))
    }

    /// Whatever takes its time. Nothing is left of one that is given up.
    async fn content_of(&self, name: &ImageName, from: &Found<'_>, wanted: Option<String>) -> Result<Content> {
        let store = &self.image_store;
        let failed = |error: io::Error| Error::failed(Operation::Import, error);
        let pulled = match from {
            Found::Place(place) => {
                // Nothing comes twice.
                if let Some(known) = wanted.as_ref().and_then(|wanted| self.known_content(wanted)) {
                    return Ok(known);
                }
                vm::begins(&name.to_string());
                Some(self.pull(place, wanted.is_some()).await?)
            }
            Found::Vm(of) => return self.content_of_vm(&name.to_string(), of).await,
            Found::Path(_) | Found::Upload(_) | Found::Kept(_) => None,
        };
        let (given, sum) = match (from, &pulled) {
            (_, Some(pulled)) => self.received(pulled, pull::URL).await?,
            (Found::Upload(sent), None) => self.received(sent, "image").await?,
            (Found::Kept(upload), None) => {
                let partial = upload.partial()?;
                let (file, path) = partial.file();
                let file = file.try_clone().map_err(failed)?;
                (self.given(file, path.to_owned(), "upload").await?, Some(partial.sha256()))
            }
            (Found::Path(named), None) => (self.open_source(named).await?, None),
            // It was pulled, or is made.
            (Found::Place(_) | Found::Vm(_), None) => return Err(Error::invalid(pull::URL, "be given")),
        };
        // What it plainly is not is said before it begins.
        look(&given).await.map_err(|error| given.error(error))?;
        vm::begins(&name.to_string());
        let client = vm::asker().map(|asker| asker.caller);
        let _turn = store.imports.take_for(client.as_deref(), &[&store.folder]).await.map_err(failed)?;
        let before = fingerprint(&given).await?;
        let copied = Arc::<Copied>::default();
        let sha256 = match sum {
            Some(sum) => sum,
            None => {
                let sum = image::sha256(&given.path, &given.file, &copied);
                copying("checksum", &copied, sum).await.map_err(failed)?
            }
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != sha256) {
            let must = format!("be the sum of what is imported, which is {sha256}, and not {wanted}");
            return Err(Error::invalid("sha256", must));
        }
        if let Some(known) = self.known_content(&sha256) {
            return Ok(known);
        }
        let (opened, compression, format) = self.unpacked(&given).await?;
        let at = opened.as_ref().map_or(&given, |(_, unpacked)| unpacked);
        let source = Opened { file: &at.file, format, over: None };
        let measured = self.ctx.images.measure(source).await.map_err(|error| given.error(error))?;
        self.check_room(&given, measured.required).await?;
        let made = Unfinished::new(&store.folder, Part::Image);
        let file = made.make().await.map_err(failed)?;
        let copied = Arc::<Copied>::default();
        let convert = self.ctx.images.convert(source, measured, (&file, made.path()), &copied);
        let virtual_size = copying("convert", &copied, convert).await.map_err(|error| given.error(error))?;
        if fingerprint(&given).await? != before {
            return Err(Error::invalid(given.param, "not be changed while it is imported"));
        }
        drop(opened);
        let result = file.try_clone().map_err(failed)?;
        let size = on_storage(&store.folder, STORAGE, move || Ok(result.metadata()?.len())).await.map_err(failed)?;
        let copied = Arc::<Copied>::default();
        let sum = image::sha256(made.path(), &file, &copied);
        let content_sha256 = copying("checksum", &copied, sum).await.map_err(failed)?;
        Ok(Content { sha256, format, compression, virtual_size, size, content_sha256, file: Some(made) })
    }

    async fn open_source(&self, named: &Path) -> Result<Given> {
        let (path, _) = images::locate(self, named, ImageUse::Import).await?;
        let (at, folders) = (path.clone(), self.ctx.config.image_dirs.clone());
        let opened = on_storage(&path, STORAGE, move || open_within(&folders, &at, Access::Read)).await;
        let file = opened.map_err(|error| Error::invalid("path", format!("be readable by qherd: {error}")))?;
        self.given(file, path, "path").await
    }

    /// With its sum.
    async fn received(&self, spooled: &Spooled, param: &'static str) -> Result<(Given, Option<String>)> {
        let file = spooled.file.try_clone().map_err(|error| Error::failed(Operation::Import, error))?;
        let given = self.given(file, spooled.unfinished.path().to_owned(), param).await?;
        Ok((given, Some(spooled.sha256.clone())))
    }

    pub(super) async fn given(&self, file: File, path: PathBuf, param: &'static str) -> Result<Given> {
        let (free, folder) = (self.free().await?, self.image_store.folder.clone());
        Ok(Given { file, path, param, free, folder })
    }

    /// Of an image that was made of the very same file.
    fn known_content(&self, sha256: &str) -> Option<Content> {
        let state = self.image_store.lock();
        let is_there = |image: &&Arc<Image>| state.layers.get(&image.layer).is_some_and(|kept| !kept.going);
        let image = state.images.values().filter(is_there).find(|image| image.sha256 == sha256)?;
        Some(Content {
            sha256: sha256.to_owned(),
            format: image.format,
            compression: image.compression,
            virtual_size: image.virtual_size,
            size: image.size,
            content_sha256: image.content_sha256.clone(),
            file: None,
        })
    }

    /// Looks into the file, and unpacks it where it has to be: what came of that, what it was packed with, and its form.
    async fn unpacked(
        &self,
        given: &Given,
    ) -> Result<(Option<(Unfinished, Given)>, Option<Compression>, SourceFormat)> {
        let store = &self.image_store;
        let compression = match look(given).await.map_err(|error| given.error(error))? {
            Source::Disk(format) => return Ok((None, None, format)),
            Source::Packed(compression) => compression,
        };
        let failed = |error: io::Error| Error::failed(Operation::Import, error);
        let unfinished = Unfinished::new(&store.folder, Part::Unpacked);
        let file = unfinished.make().await.map_err(failed)?;
        let copied = Arc::<Copied>::default();
        let job = Unpack { compression, from: &given.file, to: &file, room: given.free };
        let unpack = store.unpacker.unpack(job, &copied);
        copying("unpack", &copied, unpack).await.map_err(|error| given.error(error))?;
        let inner = self.given(file, unfinished.path().to_owned(), given.param).await?;
        let within = |must: String| {
            ImageError::Unsuitable(format!(
                "hold the image of a disk, but what {} has packed must {must}",
                compression.as_str()
            ))
        };
        match look(&inner).await {
            Ok(Source::Disk(format)) => Ok((Some((unfinished, inner)), Some(compression), format)),
            Ok(Source::Packed(again)) => {
                let must = format!("not be packed once more, with {}", again.as_str());
                Err(given.error(within(must)))
            }
            Err(ImageError::Unsuitable(must)) => Err(given.error(within(must))),
            Err(other) => Err(given.error(other)),
        }
    }

    pub(super) async fn check_room(&self, given: &Given, needed: u64) -> Result<()> {
        match self.free().await? {
            free if needed > free => {
                let what = format!("the image, which takes {needed} bytes");
                Err(Error::NoRoom { what, free, place: given.folder.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Bytes that an import may use.
    pub(super) async fn free(&self) -> Result<u64> {
        let folder = self.image_store.folder.clone();
        let free = on_storage(&self.image_store.folder, STORAGE, move || free_space(&folder)).await;
        free.map(|free| free.saturating_sub(SPARE)).map_err(|error| Error::failed(Operation::Import, error))
    }
}
