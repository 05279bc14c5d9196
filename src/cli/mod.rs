//! Commands beside the daemon: on a state directory that no daemon uses, but for `token`. Only words and exit statuses here.

pub mod db;
pub mod token;

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use clap::Args;

use crate::config::Settings;

/// Which state directory.
#[derive(Args)]
pub struct StateDir {
    /// Configuration file [default: ./qherd.toml, if there]
    #[arg(long, env = "QHERD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's state directory [default: ./state]
    #[arg(long, env = "QHERD_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateDir {
    fn path(self) -> anyhow::Result<PathBuf> {
        let settings = Settings { state_dir: self.state_dir, ..Settings::default() };
        Ok(settings.resolve(self.config.as_deref())?.state_dir)
    }
}

/// A reader that has gone away is no panic.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("cannot write to standard output")
}
