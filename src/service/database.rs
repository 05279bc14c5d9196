//! Work on the store of a state directory that no daemon uses: check, export, import, restore. The form of an export is
//! the store's business.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

pub mod files;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use self::files::FileProblem;
use super::{
    exports,
    keys::KeyRecord,
    operations::OperationRecord,
    state_lock::{StateLock, Taken},
};
use crate::{
    host::listed,
    model::{Boot, Ending, Event, Image, SwitchRecord, VmId},
    store::{self, Batch, Helper, Import, Record, RecordKind, Report, Store, StoreError, put_in_place},
    vm::{
        core::{Run, RunRecord},
        layers::LayerRecord,
        records::{self, Definition, Stored},
    },
};

/// Everything that qherd stores.
const RECORD_KINDS: &[RecordKind] = &[
    RecordKind::of::<Definition>(),
    RecordKind::of::<RunRecord>(),
    RecordKind::of::<LayerRecord>(),
    RecordKind::of::<Image>(),
    RecordKind::of::<SwitchRecord>(),
    RecordKind::of::<KeyRecord>(),
    RecordKind::of::<OperationRecord>(),
    RecordKind::of::<Event>(),
    RecordKind::of::<Boot>(),
];

/// For the fuzz targets.
pub(crate) fn fuzz(bytes: &[u8]) -> Result<(), String> {
    store::fuzz(RECORD_KINDS, bytes)
}

/// How the helper process is told what it is.
pub const HELPER: [&str; 2] = ["db", "try-open"];

/// The helper's whole work; returns its exit status.
pub fn help(dir: &Path) -> i32 {
    store::help(dir)
}

/// Whether the store can be opened, tried by `program` as a helper.
pub(super) fn try_open(db: &Path, program: PathBuf) -> Result<(), StoreError> {
    let helper = Helper { program, args: HELPER.map(str::to_owned).to_vec() };
    store::try_open(db, &helper, store::DEADLINE)
}

/// The store of a state directory, while this holds the claim on it.
pub struct Database {
    state_dir: PathBuf,
    program: PathBuf,
    _lock: StateLock,
}

/// What a restore did, for people.
#[derive(Debug)]
pub struct Restored {
    /// Where the store now in use comes from.
    pub from: String,
    pub records: usize,
    pub aside: Option<PathBuf>,
    /// VMs that have a folder of disks and no record.
    pub missing: Vec<VmId>,
}

impl Database {
    /// # Errors
    /// No such directory; a daemon that uses it, with its pid and what to do.
    pub fn claim(state_dir: &Path, program: PathBuf) -> anyhow::Result<Self> {
        ensure!(state_dir.is_dir(), "there is no state directory {}; name it with --state-dir", state_dir.display());
        let lock = StateLock::take(state_dir).map_err(|taken| match taken {
            Taken::Failed(error) => error,
            Taken::By(pid) => anyhow::anyhow!(
                "qherd (pid {pid}) is running on {} and has the store open. Stop it first and start it again afterwards; \
                 VMs go on running meanwhile. {}",
                state_dir.display(),
                match exports::newest(state_dir).ok().flatten() {
                    Some(newest) => format!("Its newest export is {}", newest.display()),
                    None => "It has not exported anything yet".to_owned(),
                }
            ),
        })?;
        Ok(Self { state_dir: state_dir.to_owned(), program, _lock: lock })
    }

    fn db(&self) -> PathBuf {
        self.state_dir.join("db")
    }

    /// Opens the store, once a helper process has shown that this can be done.
    fn open(&self) -> anyhow::Result<Store> {
        let db = self.db();
        ensure!(db.join("db").exists(), "there is no store in {}", db.display());
        try_open(&db, self.program.clone())?;
        Ok(Store::open(&db)?)
    }

    /// Reads every record, and every VM of several; and compares them with the files. `sums`: also by all that is in images.
    ///
    /// # Errors
    /// A store that does not open.
    pub fn check(&self, sums: bool) -> anyhow::Result<(Report, Vec<FileProblem>)> {
        let store = self.open()?;
        let mut report = store.check(RECORD_KINDS)?;
        for (_, vm) in records::scan(&store)? {
            // Such as one whose disk is in a layer that is not there.
            let is_known =
                |error: &StoreError| report.problems.iter().any(|other| other.to_string() == error.to_string());
            report.problems.extend(vm.err().filter(|error| !is_known(error)));
        }
        let files = files::compare(&self.state_dir, &vms_with_disks(&self.state_dir)?, &store, sums)?;
        Ok((report, files))
    }

    /// Writes everything to `out`, which messages call `path`; returns how many records there are.
    ///
    /// # Errors
    /// A store that does not open, or what cannot be written.
    pub fn export(&self, out: impl Write, path: &Path) -> anyhow::Result<usize> {
        Ok(self.open()?.export(out, path)?)
    }

    /// Makes the store anew from an export. Where there are records, `replace` must say so, and the old store is set
    /// aside: its path is returned, beside the number of records.
    ///
    /// # Errors
    /// An export that is not whole, a store that is not empty; nothing has changed then.
    pub fn import(&self, from: impl Read, replace: bool) -> anyhow::Result<(usize, Option<PathBuf>)> {
        let import = read(from)?;
        let exists = self.db().join("db").exists();
        let empty = !exists || (!replace && self.open()?.is_empty()?);
        ensure!(
            empty || replace,
            "the store in {} is not empty; --replace puts the import in its place and sets it aside",
            self.db().display()
        );
        let aside = self.replace(&import, "replaced")?;
        match aside {
            // Nothing is lost with it.
            Some(aside) if empty => {
                let _ = fs::remove_dir_all(aside);
                Ok((import.records(), None))
            }
            aside => Ok((import.records(), aside)),
        }
    }

    fn replace(&self, import: &Import, word: &str) -> anyhow::Result<Option<PathBuf>> {
        let new = self.new_store()?;
        import.make(&new)?;
        finish_half_made(&new)?;
        Ok(put_in_place(&new, &self.db(), word)?)
    }

    /// Where a store is made. What a crash left there was never used.
    fn new_store(&self) -> anyhow::Result<PathBuf> {
        let new = self.state_dir.join("db.new");
        match fs::remove_dir_all(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", new.display()))
            }
            _ => Ok(new),
        }
    }

    /// Goes on with what can be saved of a damaged store, or with an export: `from`, else whichever of a copy without
    /// sled's snapshots and the newest export knows more of the VMs whose disks are there. The damaged store is set
    /// aside as it is.
    ///
    /// # Errors
    /// A store that is sound (unless `from` is given), or nothing to restore it from; nothing has changed then.
    pub fn restore(&self, from: Option<&Path>) -> anyhow::Result<Restored> {
        let db = self.db();
        if let Some(file) = from {
            return self.restored(&read_file(file)?, file);
        }
        match try_open(&db, self.program.clone()) {
            Err(StoreError::Damaged { .. }) => {}
            Err(other) => return Err(other.into()),
            Ok(()) if db.join("db").exists() => {
                bail!(
                    "the store in {} opens; there is nothing to restore (--from FILE goes back to an export)",
                    db.display()
                )
            }
            Ok(()) => {}
        }
        let saved = self.save_copy();
        let newest = exports::newest(&self.state_dir)?.map(|path| read_file(&path).map(|import| (path, import)));
        let vms = vms_with_disks(&self.state_dir)?;
        let known = |names: &[String]| vms.iter().filter(|id| has_record(names, id)).count();
        match (saved, newest) {
            (Ok((copy, names)), newest) => {
                let exported = newest.and_then(Result::ok);
                match exported {
                    Some((path, import)) if known(&import.names().collect::<Vec<_>>()) > known(&names) => {
                        let _ = fs::remove_dir_all(copy);
                        self.restored(&import, &path)
                    }
                    _ => {
                        let aside = put_in_place(&copy, &db, "damaged")?;
                        let from = "the damaged store itself, without sled's snapshots".to_owned();
                        Ok(Restored { from, records: names.len(), aside, missing: self.without_record(&names)? })
                    }
                }
            }
            (Err(_), Some(Ok((path, import)))) => self.restored(&import, &path),
            (Err(why), Some(Err(error))) => bail!("nothing can be saved of the store ({why:#}), and {error:#}"),
            (Err(why), None) => bail!(
                "nothing can be saved of the store ({why:#}), and there is no export in {}; name one with --from",
                exports::folder(&self.state_dir).display()
            ),
        }
    }

    fn restored(&self, import: &Import, file: &Path) -> anyhow::Result<Restored> {
        let aside = self.replace(import, "damaged")?;
        let names: Vec<_> = import.names().collect();
        let from = format!("the export {}", file.display());
        Ok(Restored { from, records: names.len(), aside, missing: self.without_record(&names)? })
    }

    /// A copy without snapshots, where it turns out to be sound, and the names of its records.
    fn save_copy(&self) -> anyhow::Result<(PathBuf, Vec<String>)> {
        let (db, copy) = (self.db(), self.new_store()?);
        let saved = || -> anyhow::Result<Vec<String>> {
            store::copy(&db, &copy, false).with_context(|| format!("cannot copy {}", db.display()))?;
            try_open(&copy, self.program.clone())?;
            let copied = Store::open(&copy)?;
            let names = copied.names()?;
            // It may lack the newest events, and what comes would bear their numbers.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(copied.begin_another_log())?;
            drop((runtime, copied));
            store::sync(&copy).with_context(|| format!("cannot sync {}", copy.display()))?;
            Ok(names)
        };
        let saved = saved().inspect_err(|_| drop(fs::remove_dir_all(&copy)));
        saved.map(|names| (copy, names))
    }

    fn without_record(&self, names: &[String]) -> io::Result<Vec<VmId>> {
        let volumes = self.open().ok().and_then(|store| folders_of_volumes(&store).ok()).unwrap_or_default();
        let is_missing = |id: &VmId| !has_record(names, id) && !volumes.contains(&id.to_string());
        Ok(vms_with_disks(&self.state_dir)?.into_iter().filter(is_missing).collect())
    }
}

/// An export tells of its own moment: what was being made then has long been made, or is gone. To a daemon such a record
/// would mean that nobody knows of it, and its disks would go.
fn finish_half_made(db: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(db)?;
        // One that cannot be read is told of by the check.
        let mut vms: Vec<Stored> = records::scan(&store)?.into_iter().filter_map(|(_, stored)| stored.ok()).collect();
        let mut changed = Vec::new();
        for vm in &mut vms {
            let before = vm.record.clone();
            let record = &mut vm.record;
            if let Run::Making { .. } | Run::Starting { new: true, .. } = record.run.state {
                let reason = "it was being made when the export was written; see whether its disks are whole".into();
                record.run.state = Run::Down { last: Ending::Crashed { reason } };
            }
            record.run.unmade.clear();
            if *record != before {
                changed.push(vm);
            }
        }
        Ok(records::commit_all(&store, Batch::new(), &mut changed).await?)
    })
}

/// The VMs that have a folder of disks, whether they are recorded or not.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn vms_with_disks(state_dir: &Path) -> io::Result<BTreeSet<VmId>> {
    let folders = listed(&state_dir.join("images"))?;
    Ok(folders.iter().filter_map(|folder| VmId::parse(folder.file_name().to_str()?)).collect())
}

/// The folders of VMs in which volumes are, which may be all that is in them.
///
/// # Errors
/// The store's.
pub(super) fn folders_of_volumes(store: &Store) -> Result<BTreeSet<String>, StoreError> {
    let layers = store.scan_counted::<LayerRecord>()?.into_iter().filter_map(|(_, layer)| Some(layer.ok()?.0));
    let paths = layers.filter(|layer| layer.volume().is_some()).map(|layer| layer.path());
    Ok(paths.filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned())).collect())
}

fn has_record(names: &[String], id: &VmId) -> bool {
    let wanted = format!("{}/{id}", Definition::KIND);
    names.contains(&wanted)
}

fn read_file(path: &Path) -> anyhow::Result<Import> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read(file).with_context(|| format!("{}", path.display()))
}

fn read(mut from: impl Read) -> anyhow::Result<Import> {
    let mut text = String::new();
    from.read_to_string(&mut text).context("cannot read the export")?;
    Ok(Import::parse(&text)?)
}
