//! Makes images of the store of files of other forms: what the result will take, and the result itself. Both files are handed to
//! qemu-img as open descriptors, the one as it was examined, so nobody exchanges either in between; qemu-img sees no other
//! (docs/adr/0028).

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    CHECK, COPY, Copied, ImageError, QemuImg, TABLES, alone, as_inherited, name_below, qcow2, run::Run, sync,
    takes_long, time_to_check,
};
use crate::{
    host::{STORAGE, on_storage},
    model::SourceFormat,
};

/// An open file, and what it was examined to be.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    pub file: &'a File,
    pub format: SourceFormat,
    /// Of one that does not stand alone.
    pub over: Option<Over<'a>>,
}

/// What a disk lies on.
#[derive(Clone, Copy)]
pub struct Over<'a> {
    /// QEMU's description of the disk with that.
    pub graph: &'a Value,
    /// The files that it reads through to, from above.
    pub below: &'a [File],
}

/// Bytes that a qcow2 image of something takes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    pub required: u64,
    /// If none of it were holes.
    pub fully_allocated: u64,
}

impl QemuImg {
    /// What the data of an image take as qcow2. Nothing is written.
    ///
    /// # Errors
    /// [`ImageError::Unsuitable`] for one that is damaged.
    pub async fn measure(&self, source: Opened<'_>) -> Result<Measured, ImageError> {
        // Of what is cut off or torn qemu-img would convert the rest.
        if matches!(source.format, SourceFormat::Qcow2 | SourceFormat::Vmdk | SourceFormat::Vdi) {
            self.check_opened(source).await?;
        }
        let run = source.lent_to(self.run(CHECK, 0));
        let run = run.args(["measure", "-U", "--output=json", "-O", "qcow2"]).arg(source.name());
        let output = run.output().await.ok_or_else(|| late(CHECK.as_secs()))?;
        let output = output.map_err(|error| ImageError::of_run("qemu-img measure", &error))?;
        if !output.status.success() {
            return Err(source.damaged(&String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| ImageError::Host(format!("qemu-img measure says what is not understood: {error}")))
    }

    /// `qemu-img check` of what is open: 2 means corrupt; 3, leaked clusters, does no harm.
    async fn check_opened(&self, source: Opened<'_>) -> Result<(), ImageError> {
        let patience = time_to_check(source.file)?;
        let run = source.lent_to(self.run(patience, 0)).args(["check", "-U", "-q"]).arg(source.name());
        match run.output().await {
            Some(Ok(output)) if matches!(output.status.code(), Some(0 | 3)) => Ok(()),
            Some(Ok(_)) => Err(ImageError::Unsuitable("be intact, but qemu-img check finds it damaged".into())),
            Some(Err(error)) => Err(ImageError::of_run("qemu-img check", &error)),
            None if patience < CHECK => Err(takes_long(patience)),
            // As large as that it is taken as it is, as QEMU does.
            None => Ok(()),
        }
    }

    /// Writes what is in `source` to the empty file `made`, which lies at `at`, as a qcow2 image that stands alone; on stable
    /// storage, and only to be read. Returns the bytes that a guest sees of it.
    ///
    /// # Errors
    /// [`ImageError::Unsuitable`] for a source that is damaged; the file is half made then.
    pub async fn convert(
        &self,
        source: Opened<'_>,
        measured: Measured,
        (made, at): (&File, &Path),
        copied: &Arc<Copied>,
    ) -> Result<u64, ImageError> {
        copied.begin(measured.required);
        let run = self.run(COPY, measured.fully_allocated.saturating_add(TABLES));
        let run = source.lent_to(run).writes(made).heard_by(copied);
        // Its locks would keep a VM from starting; whoever asks looks whether it has changed.
        let run = run.args(["convert", "-U", "-p", "-O", "qcow2"]).arg(source.name()).arg(as_inherited(made));
        let output = run.output().await.ok_or_else(|| late(COPY.as_secs()))?;
        let output = output.map_err(|error| ImageError::of_run("qemu-img convert", &error))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(match words.contains("No space left on device") {
                true => ImageError::Full,
                false => source.damaged(&words),
            });
        }
        let host = |error: io::Error| ImageError::Host(error.to_string());
        let (read, written) = (made.try_clone().map_err(host)?, made.try_clone().map_err(host)?);
        let size = on_storage(at, STORAGE, move || {
            read.set_permissions(Permissions::from_mode(0o400))?;
            qcow2::virtual_size(&read).map_err(io::Error::other)
        });
        let size = size.await.map_err(host)?;
        sync(written, at, COPY).await.map_err(ImageError::Host)?;
        Ok(size)
    }
}

impl Opened<'_> {
    fn name(&self) -> String {
        let Some(Over { graph, below }) = self.over else { return alone(self.file, self.format.driver()) };
        let mut graph = graph.clone();
        graph["file"]["filename"] = as_inherited(self.file).into();
        name_below(&mut graph, below);
        format!("json:{graph}")
    }

    fn lent_to(&self, run: Run) -> Run {
        let below = self.over.map(|over| over.below).unwrap_or_default();
        below.iter().fold(run.reads(self.file), Run::reads)
    }

    /// By qemu-img's words, without the names of descriptors, which mean nothing to anybody.
    fn damaged(&self, words: &str) -> ImageError {
        let words = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let words = words.trim().trim_start_matches("qemu-img: ");
        let words = words.rfind("': ").map_or(words, |at| &words[at + 3..]);
        ImageError::Unsuitable(format!("be {}, all of it and intact, but qemu-img says: {words}", self.format.title()))
    }
}

fn late(seconds: u64) -> ImageError {
    ImageError::Host(format!("qemu-img did not end within {seconds} s"))
}
