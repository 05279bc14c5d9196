//! `qherd token`: makes, lists and revokes the tokens that clients from elsewhere show. A daemon that runs on the state
//! directory knows at once.

#![allow(clippy::disallowed_methods, reason = "a command of its own, not the daemon")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Subcommand;

use super::{StateDir, say};
use crate::{
    model::{Role, now_ms},
    service::access::tokens::Tokens,
};

#[derive(Subcommand)]
pub enum Command {
    /// Make a token and print it; it cannot be shown again
    Create {
        /// What it is good for: viewer, operator or admin
        #[arg(long)]
        role: Role,
        /// How long: 12h, 30d, 1year [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = ttl)]
        ttl: Option<Duration>,
        /// For whom or what it is, for the list
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        at: StateDir,
    },
    /// List tokens by their ids
    Ls {
        #[command(flatten)]
        at: StateDir,
    },
    /// Revoke a token by its id
    Rm {
        id: String,
        #[command(flatten)]
        at: StateDir,
    },
}

fn ttl(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

impl Command {
    /// # Errors
    /// What could not be done, in words.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create { role, ttl, name, at } => {
                let expires =
                    ttl.map(|ttl| now_ms().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
                let (token, made) = Tokens::of(&existing(at)?).create(&name, role, expires)?;
                eprintln!("{made}");
                say(&token)?;
            }
            Self::Ls { at } => {
                let (tokens, problems) = Tokens::of(&existing(at)?).list()?;
                for token in tokens {
                    say(&token.to_string())?;
                }
                for problem in &problems {
                    eprintln!("bad: {problem}");
                }
                if !problems.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Self::Rm { id, at } => {
                anyhow::ensure!(
                    Tokens::of(&existing(at)?).remove(&id)?,
                    "there is no token {id}; qherd token ls lists them"
                );
                say(&format!("revoked {id}"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A token for a daemon that was never there is a mistake in the path.
fn existing(at: StateDir) -> anyhow::Result<PathBuf> {
    let state_dir = at.path()?;
    std::fs::metadata(&state_dir).with_context(|| format!("there is no state directory {}", state_dir.display()))?;
    Ok(state_dir)
}
