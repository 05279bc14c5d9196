//! Exports: the whole store as text (`dump`), to a writer or into a folder that keeps the last few. Reading one back is
//! `import`'s work.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::dump::{self, Tail};
use super::{Store, StoreError, utc};
use crate::host::listed;

/// How an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl Store {
    /// Writes everything to `out`, as of one instant between two groups of commits, which wait while the records are
    /// looked up, not while they are written. Returns how many there are. Blocks.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is, or the writer's own, with `path` to name it.
    pub fn export(&self, out: impl Write, path: &Path) -> Result<usize, ExportError> {
        let entries = self.entries()?;
        let mut out = BufWriter::new(out);
        let mut crc = crc32fast::Hasher::new();
        let mut write = || {
            out.write_all(dump::head(&utc(SystemTime::now())).as_bytes())?;
            for (name, value) in &entries {
                let line = dump::line(name, value);
                crc.update(line.as_bytes());
                out.write_all(line.as_bytes())?;
            }
            out.write_all(dump::tail(entries.len(), crc.clone().finalize()).as_bytes())?;
            out.flush()
        };
        write().map_err(|source| ExportError::Io { path: path.to_path_buf(), source })?;
        Ok(entries.len())
    }

    /// Writes an export into `folder`, whole or not at all, and removes all but the `keep` newest. Where nothing has
    /// changed since the newest, that one only gets a new date. Returns the newest. Blocks.
    ///
    /// # Errors
    /// As [`export`](Store::export); the older ones are all there then.
    pub fn export_into(&self, folder: &Path, keep: usize) -> Result<PathBuf, ExportError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ExportError::Io { path, source }
        };
        let newest = exports(folder).map_err(io(folder))?.pop();
        let unfinished = folder.join("unfinished");
        let mut new = File::options();
        new.write(true).create(true).truncate(true).mode(0o600);
        let written = new.open(&unfinished).map_err(io(&unfinished)).and_then(|file| {
            self.export(&file, &unfinished)?;
            file.sync_all().map_err(io(&unfinished))
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        if let Some((_, path)) = &newest
            && tail_of(path).is_some_and(|tail| tail_of(&unfinished) == Some(tail))
            && File::options().append(true).open(path).and_then(|f| f.set_modified(SystemTime::now())).is_ok()
        {
            let _ = fs::remove_file(&unfinished);
            return Ok(path.clone());
        }
        // Numbered, because a clock can be set back.
        let number = newest.map_or(1, |(number, _)| number + 1);
        let path = folder.join(format!("{number:06}-{}.jsonl", utc(SystemTime::now()).replace(':', "-")));
        fs::rename(&unfinished, &path).and_then(|()| File::open(folder)?.sync_all()).map_err(io(&path))?;
        let mut all = exports(folder).map_err(io(folder))?;
        all.truncate(all.len().saturating_sub(keep));
        for (_, old) in all {
            if let Err(error) = fs::remove_file(&old) {
                tracing::warn!(file = %old.display(), %error, "cannot remove an old export");
            }
        }
        Ok(path)
    }
}

/// The exports in a folder, oldest first, with their numbers.
///
/// # Errors
/// When it cannot be listed.
pub fn exports(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = listed(folder)?;
    let number = |path: &Path| -> Option<u64> {
        let (number, at) = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.split_once('-')?;
        // As they are named above: what somebody has put beside them under another name is not removed with them.
        let (day, time) = at.split_once('T')?;
        let form = |text: &str| -> String { text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect() };
        let ours = number.len() >= 6 && form(day) == "0000-00-00" && form(time) == "00-00-00Z";
        number.parse().ok().filter(|_| ours)
    };
    let mut found: Vec<_> = entries.iter().filter_map(|e| Some((number(&e.path())?, e.path()))).collect();
    found.sort();
    Ok(found)
}

/// The last line says whether two exports are the same.
fn tail_of(path: &Path) -> Option<Tail> {
    let last = BufReader::new(File::open(path).ok()?).lines().map_while(Result::ok).last()?;
    serde_json::from_str(&last).ok()
}
