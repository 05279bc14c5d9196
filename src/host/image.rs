//! Disk images: what a file is, by its own bytes, and what qemu-img makes, each run bounded in time and dying with the
//! daemon. Which paths are allowed is decided in `service`.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

mod content;
mod copied;
mod digest;
mod error;
mod examine;
mod existing;
mod foreign;
mod import;
mod qcow2;
mod run;
mod source;
mod unpack;
mod writer;

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

pub use content::{content, other_content};
pub use copied::Copied;
pub use digest::{hexadecimal, sha256, sum_of};
pub use error::ImageError;
pub use examine::{check_base, check_disk};
use existing::Check;
pub use existing::{Existing, check_overlay, examine_existing};
pub use foreign::not_a_cd;
pub use import::{Measured, Opened, Over};
pub(crate) use qcow2::fuzz as fuzz_header;
pub use run::Keep;
pub(crate) use source::fuzz as fuzz_file;
pub use source::{Source, source};
pub use unpack::{Unpack, Unpacker, help as unpack_here};
pub use writer::{who_writes, writer};

use self::{
    examine::{examine, read_at},
    run::{IMAGES, Run, Tool},
};
use super::{Access, Places, STORAGE, on_storage, open_within};
use crate::model::{BaseContent, BaseImage, Below, CloneMode, ImageFormat, MissingLayer};

/// Reading a header and creating an overlay take milliseconds; a hung file server must not hold a request for ever.
const QUICK: Duration = Duration::from_secs(60);
/// Reading all tables of an image, which are some hundred MiB of a large one.
const CHECK: Duration = Duration::from_secs(600);
/// Copying an image.
const COPY: Duration = Duration::from_secs(3600);
/// How many of each run at once; more would only make the host's disks seek.
const QUICK_JOBS: usize = 8;
const CHECKS: usize = 2;
const COPIES: usize = 2;
/// Bytes that the tables of an image may take beside its data: those of the largest disk, which is still empty, are 2 MiB.
const TABLES: u64 = 64 << 20;
const GIB: u64 = 1 << 30;

/// What an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub format: ImageFormat,
    /// Bytes that a guest sees.
    pub virtual_size: u64,
}

/// What an image lies on, in the words of its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    pub file: String,
    /// `None` where it does not say, or says one that is not used here.
    pub format: Option<ImageFormat>,
}

/// Where images may lie: what leads to these folders is trusted, what lies in them is not.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// Base images.
    pub images: Vec<PathBuf>,
    /// Disks.
    pub storage: Vec<PathBuf>,
}

/// The qemu-img program. It is never shown a path that others could lead elsewhere: every image is opened here, and qemu-img
/// is given the very file that was looked into. A thousand creates at once wait for each other here rather than exhaust the host; those on storage
/// that hangs keep nobody else waiting.
#[derive(Clone, Debug)]
pub struct QemuImg {
    tool: Tool,
    folders: Arc<Folders>,
    quick: Arc<Places>,
    /// Apart, so that nobody's overlay waits for somebody's check or copy.
    checks: Arc<Places>,
    copies: Arc<Places>,
}

impl QemuImg {
    /// # Errors
    /// When the program cannot be run; the text names the package.
    pub async fn find(program: &Path, folders: Folders, keep: &Keep) -> Result<Self, String> {
        let places = |count| Arc::new(Places::new(count));
        let tool = Tool::find(program, IMAGES, keep, QUICK).await.map_err(|why| {
            format!("qemu-img cannot be run ({why}); install it, on Debian and Ubuntu with: apt-get install qemu-utils")
        })?;
        let (quick, checks, copies) = (places(QUICK_JOBS), places(CHECKS), places(COPIES));
        Ok(Self { tool, folders: folders.into(), quick, checks, copies })
    }

    /// Layers that it goes without here, and why.
    pub fn missing(&self) -> Vec<MissingLayer> {
        self.tool.missing()
    }

    /// Detects and checks a file that is to be a base image: raw or qcow2, standing alone, undamaged, and whole: nobody has it
    /// open for writing. Only one whose header says so is shown to qemu-img, which would follow whatever it names. Returns what
    /// is in it, too. What `client` names waits for nobody else's.
    ///
    /// # Errors
    /// [`ImageError::Unsuitable`] says what it must be instead.
    pub async fn inspect(&self, path: &Path, client: Option<&str>) -> Result<(Info, BaseContent), ImageError> {
        let (looked, folders) = (path.to_owned(), self.folders.clone());
        let open = move || {
            let file = open_within(&folders.images, &looked, Access::Read)?;
            if let Some(by) = who_writes(&file)? {
                return Ok(Err(ImageError::InUse(by)));
            }
            let content = content(&file)?;
            Ok(examine(&file).map(|info| (file, info, content)))
        };
        let opened = on_storage(path, STORAGE, open).await;
        let (file, info, content) = opened.map_err(|e| ImageError::Host(e.to_string()))??;
        match info.format {
            ImageFormat::Qcow2 => self.check(&file, path, client).await?,
            ImageFormat::Raw if path.extension().is_some_and(|e| e == "qcow2") => {
                let must = "be intact: its name says qcow2, but it has no qcow2 header";
                return Err(ImageError::Unsuitable(must.into()));
            }
            ImageFormat::Raw => {}
        }
        Ok((info, content))
    }

    /// `qemu-img check`: 2 means corrupt; 3, leaked clusters, does no harm. An image that is too large to be checked in time
    /// is taken as it is, as QEMU does; a small one whose tables take so long is made to.
    async fn check(&self, file: &File, path: &Path, client: Option<&str>) -> Result<(), ImageError> {
        let _place = self.checks.take_for(client, &[path]).await.map_err(|e| ImageError::Host(e.to_string()))?;
        let patience = time_to_check(file)?;
        let run = self.run(patience, 0).reads(file).args(["check", "-q", "-f", "qcow2"]).arg(as_inherited(file));
        let output = match run.output().await {
            Some(output) => output.map_err(|error| ImageError::of_run("qemu-img check", &error))?,
            None if patience < CHECK => return Err(takes_long(patience)),
            None => {
                tracing::warn!(image = %path.display(), "qemu-img check did not end within {} s; not checked", CHECK.as_secs());
                return Ok(());
            }
        };
        let words = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0 | 3) => Ok(()),
            // Somebody began to write since its lock was looked at.
            _ if words.contains("Failed to get") && words.contains("lock") => {
                Err(ImageError::InUse("another process".into()))
            }
            _ if words.contains("Cannot allocate memory") => {
                Err(ImageError::Unsuitable("have tables that qemu-img can check within 4 GiB of memory".into()))
            }
            _ => Err(ImageError::Unsuitable("be intact, but qemu-img check finds it damaged".into())),
        }
    }

    /// Makes `file` of `size` GiB from `base`, as an overlay or a copy, and has it on stable storage. How far a copy has come
    /// is noted in `copied`.
    ///
    /// # Errors
    /// qemu-img's own words. A half-made file may be left; the caller removes its folder.
    pub async fn clone_base(
        &self,
        base: &BaseImage,
        mode: CloneMode,
        file: &Path,
        size: u64,
        copied: &Arc<Copied>,
    ) -> Result<(), ImageError> {
        let made = self.reserve(file).await?;
        let format = base.format.driver();
        let bytes = size.saturating_mul(GIB);
        let size = format!("{size}G");
        match mode {
            CloneMode::Linked => {
                let _place = self.quick.take(&[&base.path, file]).await.map_err(|e| e.to_string())?;
                // Unsafe is what qemu-img calls it not to open the base image: we have looked into it ourselves.
                let run = self.run(QUICK, TABLES).writes(&made);
                let run = run.args(["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b"]);
                run.arg(&base.path).arg(as_inherited(&made)).arg(&size).finish().await?;
            }
            CloneMode::Full => {
                let _place = self.copies.take(&[&base.path, file]).await.map_err(|e| e.to_string())?;
                let (source, length) = self.open_base(base).await?;
                copied.begin(length);
                let run = self.run(COPY, largest(bytes)).reads(&source).writes(&made);
                let run = run.heard_by(copied).args(["convert", "-p", "-O", "qcow2"]);
                run.arg(alone(&source, format)).arg(as_inherited(&made)).finish().await?;
                let run = self.run(QUICK, largest(bytes)).writes(&made).args(["resize", "-q", "-f", "qcow2"]);
                run.arg(as_inherited(&made)).arg(&size).finish().await?;
            }
        }
        // Writing back a copy takes as long as making it.
        Ok(sync(made, file, COPY).await?)
    }

    /// Makes an empty qcow2 image of `size` GiB, on stable storage.
    ///
    /// # Errors
    /// qemu-img's own words.
    pub async fn create(&self, file: &Path, size: u64) -> Result<(), ImageError> {
        let made = self.reserve(file).await?;
        let _place = self.quick.take(&[file]).await.map_err(|e| e.to_string())?;
        let run = self.run(QUICK, TABLES).writes(&made).args(["create", "-q", "-f", "qcow2"]);
        run.arg(as_inherited(&made)).arg(format!("{size}G")).finish().await?;
        Ok(sync(made, file, QUICK).await?)
    }

    /// Gives an image that no QEMU has open the size of `bytes`; one that has it already stays as it is. `image` is
    /// QEMU's description of it with what it `lies_on`.
    ///
    /// # Errors
    /// The file system's; that it is no disk any more; qemu-img's own words, which never shrinks.
    pub async fn grow(
        &self,
        mut image: Value,
        (file, format): (&Path, ImageFormat),
        lies_on: &[Below],
        bytes: u64,
    ) -> Result<(), ImageError> {
        let (looked, folders) = (file.to_owned(), self.folders.clone());
        // Its header may lead to another file by now, which must not grow.
        let open = move || {
            let opened = open_within(&folders.storage, &looked, Access::ReadWrite)?;
            let present = check_disk(&opened, format).map_err(|error| io::Error::other(error.in_a_sentence()))?;
            let length = opened.metadata()?.len();
            Ok((opened, present, length))
        };
        let opened = on_storage(file, STORAGE, open).await;
        let (opened, present, length) = opened.map_err(|e| format!("cannot use {}: {e}", file.display()))?;
        if present >= bytes {
            return Ok(());
        }
        let _place = self.quick.take(&[file]).await.map_err(|e| e.to_string())?;
        image["file"]["filename"] = as_inherited(&opened).into();
        let longest = match format {
            // The tables that grow are written anew at its end.
            ImageFormat::Qcow2 => length.saturating_add(TABLES),
            ImageFormat::Raw => bytes.max(length),
        };
        let below = self.open_chain(lies_on).await?;
        name_below(&mut image, &below);
        let run = below.iter().fold(self.run(QUICK, longest).writes(&opened), Run::reads);
        run.args(["resize", "-q"]).arg(format!("json:{image}")).arg(bytes.to_string()).finish().await?;
        Ok(sync(opened, file, QUICK).await?)
    }

    /// The files that a disk lies on, open, and examined as they are now.
    ///
    /// # Errors
    /// In words, with the path.
    pub async fn open_chain(&self, lies_on: &[Below]) -> Result<Vec<File>, String> {
        let mut opened = Vec::new();
        for (index, file) in lies_on.iter().enumerate() {
            let is_last = index + 1 == lies_on.len();
            opened.push(self.open_below(file, if is_last { check_base } else { check_overlay }).await?.0);
        }
        Ok(opened)
    }

    /// The base image, open, and examined as it is now; and how many bytes it takes.
    async fn open_base(&self, base: &BaseImage) -> Result<(File, u64), String> {
        let base = Below { path: base.path.clone(), format: base.format };
        self.open_below(&base, check_base).await
    }

    /// The same of a file that an image lies on, whatever it has to be.
    async fn open_below(&self, base: &Below, check: Check) -> Result<(File, u64), String> {
        let (path, format, folders) = (base.path.clone(), base.format, self.folders.clone());
        let open = move || {
            let file = open_within(&folders.images, &path, Access::Read)?;
            check(&file, format).map_err(|error| io::Error::other(error.in_a_sentence()))?;
            let metadata = file.metadata()?;
            // Holes are not copied.
            let length = metadata.len().min(metadata.blocks().saturating_mul(512));
            Ok((file, length))
        };
        on_storage(&base.path, STORAGE, open).await.map_err(|e| format!("cannot use {}: {e}", base.path.display()))
    }

    /// Takes the name of an image that is to be made; nobody else writes to what has it then.
    async fn reserve(&self, file: &Path) -> Result<File, String> {
        let (name, folders) = (file.to_owned(), self.folders.clone());
        let take = move || open_within(&folders.storage, &name, Access::Create);
        on_storage(file, STORAGE, take).await.map_err(|e| format!("cannot make {}: {e}", file.display()))
    }

    fn run(&self, deadline: Duration, largest_file: u64) -> Run {
        self.tool.run(deadline, |permit| permit.for_image(largest_file, deadline.as_secs()))
    }
}

/// What a child that inherits an open file is to call it.
fn as_inherited(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// An open image that stands alone, in QEMU's words: no header leads it to a backing file.
fn alone(file: &File, driver: &str) -> String {
    let mut image = json!({ "driver": driver, "file": { "driver": "file", "filename": as_inherited(file) } });
    if driver == ImageFormat::Qcow2.driver() {
        image["backing"] = Value::Null;
    }
    format!("json:{image}")
}

/// How long a check may take: the tables that it reads are no more than what the file takes.
fn time_to_check(file: &File) -> Result<Duration, ImageError> {
    let taken = file.metadata().map_err(|e| ImageError::Host(e.to_string()))?.blocks().saturating_mul(512);
    Ok(QUICK.saturating_add(Duration::from_secs(taken / TABLES)).min(CHECK))
}

fn takes_long(patience: Duration) -> ImageError {
    ImageError::Unsuitable(format!("have tables that qemu-img can check within {} s", patience.as_secs()))
}

/// The longest file that a copy of a disk of so many bytes can be.
fn largest(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 512).saturating_add(TABLES)
}

/// Has QEMU's description of a disk name the open files that it lies on.
fn name_below(graph: &mut Value, below: &[File]) {
    let mut node = graph;
    for file in below {
        node = &mut node["backing"];
        node["file"]["filename"] = as_inherited(file).into();
    }
}

/// The file, its folder and the folder's own entry: an acknowledged disk is there after a power cut.
async fn sync(made: File, file: &Path, patience: Duration) -> Result<(), String> {
    let path = file.to_owned();
    let write_back = move || {
        made.sync_all()?;
        path.ancestors().skip(1).take(2).try_for_each(|folder| File::open(folder)?.sync_all())
    };
    let written = on_storage(file, patience, write_back).await;
    written.map_err(|e| format!("cannot write {} to stable storage: {e}", file.display()))
}
