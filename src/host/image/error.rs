//! Why an image cannot be used, made or changed.

use std::io;

use crate::host::launcher::NoneFree;

/// Why a file cannot be a base image, or why it could not be looked at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is not what it must be; completes "must …".
    #[error("{0}")]
    Unsuitable(String),
    /// Somebody writes to it.
    #[error("in use by {0}")]
    InUse(String),
    /// What it was written to is full.
    #[error("no space is left")]
    Full,
    /// No user is left for the program that works on it.
    #[error("{0}")]
    NoUser(String),
    /// The host failed.
    #[error("{0}")]
    Host(String),
}

impl ImageError {
    /// Of a program that could not be run.
    pub(super) fn of_run(program: &str, error: &io::Error) -> Self {
        match NoneFree::is_in(error) {
            true => Self::NoUser(error.to_string()),
            false => Self::Host(format!("{program}: {error}")),
        }
    }
}

impl ImageError {
    /// After a colon.
    pub fn in_a_sentence(&self) -> String {
        match self {
            Self::Unsuitable(must) => format!("it must {must}"),
            other => other.to_string(),
        }
    }
}

impl From<String> for ImageError {
    fn from(why: String) -> Self {
        Self::Host(why)
    }
}
