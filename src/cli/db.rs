//! `qherd db`: check, export, import and restore the store.

#![allow(clippy::disallowed_methods, reason = "a command, which serves nobody")]

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;

use super::{StateDir, say};
use crate::service::database::{Database, files::Difference, help};

/// Also after an upgrade has put another one in its place.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

#[derive(Subcommand)]
pub enum Command {
    /// Read every record, compare them with the files of disks and images, and say what is wrong; exit status 1 if anything is
    Check {
        /// Read all that is in the files of images, too, and compare its sums
        #[arg(long)]
        sums: bool,
        #[command(flatten)]
        at: StateDir,
    },
    /// Write all records as JSON lines
    Export {
        /// Where to; standard output without it
        file: Option<PathBuf>,
        #[command(flatten)]
        at: StateDir,
    },
    /// Make the store anew from an export
    Import {
        /// The export; `-` for standard input
        file: PathBuf,
        /// Also where the store holds records; it is set aside then
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        at: StateDir,
    },
    /// Set a damaged store aside, and go on with what can be saved of it or with the newest export
    Restore {
        /// Go back to this export, also where the store is sound
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        #[command(flatten)]
        at: StateDir,
    },
    /// The helper process that opens a copy of the store
    #[command(hide = true)]
    TryOpen { dir: PathBuf },
}

fn claim(at: StateDir) -> anyhow::Result<Database> {
    Database::claim(&at.path()?, THIS_PROGRAM.into())
}

impl Command {
    /// # Errors
    /// What could not be done, in words.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check { sums, at } => check(&claim(at)?, sums),
            Self::Export { file, at } => export(&claim(at)?, file.as_deref()),
            Self::Import { file, replace, at } => import(&claim(at)?, &file, replace),
            Self::Restore { from, at } => restore(&claim(at)?, from.as_deref()),
            Self::TryOpen { dir } => Ok(ExitCode::from(u8::try_from(help(&dir)).unwrap_or(1))),
        }
    }
}

fn check(database: &Database, sums: bool) -> anyhow::Result<ExitCode> {
    let (report, files) = database.check(sums)?;
    for problem in &report.problems {
        say(&format!("bad: {problem}"))?;
    }
    for problem in &files {
        say(&problem.to_string())?;
    }
    let wrong = files.iter().filter(|problem| problem.difference != Difference::Foreign).count();
    for (kind, count) in &report.kinds {
        let unknown = report.unknown.contains(kind);
        say(&format!("{kind}: {count}{}", if unknown { " (this qherd does not know them)" } else { "" }))?;
    }
    if report.problems.is_empty() {
        say("all records can be read")?;
    } else {
        say(&format!("{} cannot be used; they are left as they are", report.problems.len()))?;
    }
    if wrong > 0 {
        say(&format!("{wrong} files are not as recorded; they are left as they are"))?;
    }
    if report.problems.is_empty() && wrong == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn export(database: &Database, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let Some(path) = file.filter(|path| *path != Path::new("-")) else {
        database.export(io::stdout().lock(), Path::new("standard output"))?;
        return Ok(ExitCode::SUCCESS);
    };
    // Never over another one: it may be the last that is good.
    let out = File::options().write(true).create_new(true).mode(0o600).open(path);
    let out = out.with_context(|| format!("cannot make {}", path.display()))?;
    let exported = database.export(&out, path).and_then(|records| {
        out.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(records)
    });
    let records = exported.inspect_err(|_| drop(std::fs::remove_file(path)))?;
    say(&format!("{records} records written to {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn import(database: &Database, file: &Path, replace: bool) -> anyhow::Result<ExitCode> {
    let (records, aside) = if file == Path::new("-") {
        database.import(io::stdin().lock(), replace)?
    } else {
        let from = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        database.import(from, replace).with_context(|| format!("cannot import {}", file.display()))?
    };
    say(&format!("{records} records imported"))?;
    if let Some(aside) = aside {
        say(&format!("the store before is in {}", aside.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(database: &Database, from: Option<&Path>) -> anyhow::Result<ExitCode> {
    let restored = database.restore(from)?;
    say(&format!("restored {} records from {}", restored.records, restored.from))?;
    if let Some(aside) = restored.aside {
        say(&format!("the store before is in {}", aside.display()))?;
    }
    for id in &restored.missing {
        say(&format!("VM {id} has disks but no record in what was restored; its disks and its QEMU are not touched"))?;
    }
    Ok(ExitCode::SUCCESS)
}
