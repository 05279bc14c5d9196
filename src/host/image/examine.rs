//! What an open file is by its own bytes, and whether it is still what it was taken for.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{ImageError, Info, foreign, qcow2};
use crate::model::ImageFormat;

/// Bytes that a guest sees of a disk, by the header of one that has one. Blocks.
///
/// # Errors
/// [`ImageError::Unsuitable`] for one that is no such disk any more.
pub fn check_disk(file: &File, format: ImageFormat) -> Result<u64, ImageError> {
    match format {
        ImageFormat::Qcow2 => qcow2::disk_size(file),
        // Its bytes are the disk's, whatever its guest has written there.
        ImageFormat::Raw => {
            let metadata = file.metadata().map_err(|e| ImageError::Host(e.to_string()))?;
            Ok(metadata.len().next_multiple_of(512))
        }
    }
}

/// Whether an open file can still be the base image that it was taken for. Blocks.
///
/// # Errors
/// [`ImageError::Unsuitable`] for one that has become something else since.
pub fn check_base(file: &File, format: ImageFormat) -> Result<(), ImageError> {
    match format {
        ImageFormat::Qcow2 => {
            let mut magic = [0; qcow2::MAGIC.len()];
            read_at(file, &mut magic, 0).map_err(|e| ImageError::Host(e.to_string()))?;
            if magic != qcow2::MAGIC {
                return Err(ImageError::Unsuitable("be a qcow2 image, as it was when it was cloned".into()));
            }
            qcow2::virtual_size(file).map(drop)
        }
        // Its bytes are the disk's, whatever they are.
        ImageFormat::Raw => Ok(()),
    }
}

/// What the first bytes of a file, and its last sector, say that it is.
pub(super) fn examine(file: &File) -> Result<Info, ImageError> {
    let failed = |error: io::Error| ImageError::Host(error.to_string());
    if let Some(foreign) = foreign::not_a_disk(file).map_err(failed)? {
        return Err(ImageError::Unsuitable(format!("be a raw or qcow2 image, not {foreign}")));
    }
    let mut magic = [0; qcow2::MAGIC.len()];
    read_at(file, &mut magic, 0).map_err(failed)?;
    if magic == qcow2::MAGIC {
        return Ok(Info { format: ImageFormat::Qcow2, virtual_size: qcow2::virtual_size(file)? });
    }
    // QEMU counts in sectors.
    let length = file.metadata().map_err(failed)?.len();
    Ok(Info { format: ImageFormat::Raw, virtual_size: length.next_multiple_of(512) })
}

/// As much as there is.
pub(super) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
