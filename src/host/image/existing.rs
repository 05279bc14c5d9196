//! Files that are to be disks as they are, and those that they lie on.

use std::{fs::File, io};

use super::{Backing, ImageError, check_base, check_disk, foreign, qcow2, read_at};
use crate::model::ImageFormat;

/// What a disk image that somebody else made is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Bytes that a guest sees.
    pub bytes: u64,
    pub backing: Option<Backing>,
}

/// What a file is that is to be a disk as it is. Its format is its user's word: a guest may have written the header of
/// another one into a raw disk. Blocks.
///
/// # Errors
/// [`ImageError::Unsuitable`] says what it must be instead.
pub fn examine_existing(file: &File, format: ImageFormat) -> Result<Existing, ImageError> {
    let failed = |error: io::Error| ImageError::Host(error.to_string());
    let mut magic = [0; qcow2::MAGIC.len()];
    read_at(file, &mut magic, 0).map_err(failed)?;
    match (format, magic == qcow2::MAGIC) {
        (ImageFormat::Qcow2, true) => {
            let (bytes, backing) = qcow2::chain(file)?;
            Ok(Existing { bytes, backing })
        }
        (ImageFormat::Qcow2, false) => Err(ImageError::Unsuitable("be a qcow2 image, and has no header of one".into())),
        (ImageFormat::Raw, true) => {
            Err(ImageError::Unsuitable("be a raw image, and has the header of a qcow2 one".into()))
        }
        (ImageFormat::Raw, false) => {
            if let Some(foreign) = foreign::not_a_disk(file).map_err(failed)? {
                return Err(ImageError::Unsuitable(format!("be a raw or qcow2 image, not {foreign}")));
            }
            Ok(Existing { bytes: check_disk(file, format)?, backing: None })
        }
    }
}

/// The same as [`check_base`] of one that lies on another itself. Which one that is, QEMU is told: its header may say anything by
/// now.
///
/// # Errors
/// As [`check_base`].
pub fn check_overlay(file: &File, format: ImageFormat) -> Result<(), ImageError> {
    match format {
        ImageFormat::Qcow2 => examine_existing(file, format).map(drop),
        ImageFormat::Raw => check_base(file, format),
    }
}

/// Whether a file can still be what it was taken for.
pub(super) type Check = fn(&File, ImageFormat) -> Result<(), ImageError>;
