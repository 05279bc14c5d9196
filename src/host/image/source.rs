//! What a file is that somebody wants as an image of the store: its form, by its content alone, and whether all of it is in
//! this one file. qemu-img is told the form, and would itself look for what a header names elsewhere; so what names anything
//! is refused before it sees it. Source of the layouts: QEMU's block/{vmdk,vpc,vdi}.c.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{
    ImageError, examine_existing,
    foreign::{self, Recognised},
    qcow2, read_at,
};
use crate::model::{Compression, ImageFormat, SourceFormat};

/// What is to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Disk(SourceFormat),
    /// What is in it is known when it is unpacked.
    Packed(Compression),
}

const SECTOR: u64 = 512;
/// Of a VMDK's descriptor, which QEMU writes as 20 sectors.
const LONGEST_DESCRIPTOR: u64 = 64 << 10;
const A_PART: &str = "hold a whole VMDK image, not one part of several; join them with qemu-img convert -O qcow2";
/// As in `parentCID=ffffffff`.
const NO_PARENT: &str = "ffffffff";

/// # Errors
/// [`ImageError::Unsuitable`] for what is no image of a disk, or not all of one. Blocks.
pub fn source(file: &File) -> Result<Source, ImageError> {
    let failed = |error: io::Error| ImageError::Host(error.to_string());
    if file.metadata().map_err(failed)?.len() == 0 {
        return Err(ImageError::Unsuitable("not be empty".into()));
    }
    let format = match foreign::recognise(file).map_err(failed)? {
        Recognised::Disk(format) => format,
        Recognised::Packed(compression) => return Ok(Source::Packed(compression)),
        Recognised::Foreign(what) => return Err(ImageError::Unsuitable(format!("be the image of a disk, not {what}"))),
    };
    match format {
        SourceFormat::Raw | SourceFormat::Vhdx => {}
        SourceFormat::Qcow2 => drop(qcow2::virtual_size(file)?),
        SourceFormat::Vmdk => whole_vmdk(file).map_err(failed)?.map_err(ImageError::Unsuitable)?,
        SourceFormat::Vhd => whole_vhd(file).map_err(failed)?.map_err(ImageError::Unsuitable)?,
        SourceFormat::Vdi => whole_vdi(file).map_err(failed)?.map_err(ImageError::Unsuitable)?,
    }
    Ok(Source::Disk(format))
}

/// In words that complete "must …".
type Checked = Result<(), String>;

fn whole_vmdk(file: &File) -> io::Result<Checked> {
    let mut head = [0; SECTOR as usize];
    if read_at(file, &mut head, 0)? < head.len() {
        return Ok(Err("be an intact VMDK image: its header ends too early".into()));
    }
    let (capacity, at) = (little(&head, 12, 8), little(&head, 28, 8).saturating_mul(SECTOR));
    let length = little(&head, 36, 8).saturating_mul(SECTOR).min(LONGEST_DESCRIPTOR);
    if capacity == 0 || at == 0 || length == 0 {
        return Ok(Err(A_PART.into()));
    }
    if at >= file.metadata()?.len() {
        return Ok(Err("be an intact VMDK image: its descriptor lies behind its end".into()));
    }
    let mut descriptor = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = read_at(file, &mut descriptor, at)?;
    let text = String::from_utf8_lossy(&descriptor[..read]).to_ascii_lowercase();
    if !text.contains("createtype") {
        return Ok(Err(A_PART.into()));
    }
    let parent = text.lines().find_map(|line| line.trim().strip_prefix("parentcid"));
    let parent = parent.map(|rest| rest.trim_start_matches([' ', '=', '\t']).trim_end_matches(['\0', ' ', '\r']));
    if parent.is_some_and(|parent| parent != NO_PARENT) || text.contains("parentfilenamehint") {
        return Ok(Err("stand alone, but this VMDK image lies on another; flatten it first".into()));
    }
    Ok(Ok(()))
}

fn whole_vhd(file: &File) -> io::Result<Checked> {
    let length = file.metadata()?.len();
    let mut footer = [0; SECTOR as usize];
    // A dynamic one has a copy at its beginning.
    for at in [0, length.saturating_sub(SECTOR)] {
        read_at(file, &mut footer, at)?;
        if footer.starts_with(b"conectix") {
            break;
        }
    }
    let kind = u32::from_be_bytes([footer[60], footer[61], footer[62], footer[63]]);
    // What is cut off reads as zeros.
    read_at(file, &mut footer, length.saturating_sub(SECTOR))?;
    Ok(match kind {
        2 | 3 if !footer.starts_with(b"conectix") => {
            Err("be a whole VHD image, and the end of this one is missing".into())
        }
        2 | 3 => Ok(()),
        4 => Err("stand alone, but this VHD image lies on another (a differencing disk); flatten it first".into()),
        other => Err(format!("be a fixed or a dynamic VHD image, not one of type {other}")),
    })
}

fn whole_vdi(file: &File) -> io::Result<Checked> {
    let mut head = [0; SECTOR as usize];
    read_at(file, &mut head, 0)?;
    // Where its blocks begin, how many there are, and how large: what is cut off reads as zeros.
    let end = little(&head, 0x158, 4) + little(&head, 0x184, 4).saturating_mul(little(&head, 0x178, 4));
    Ok(match little(&head, 0x4c, 4) {
        1 | 2 if file.metadata()?.len() < end => Err("be a whole VDI image, and the end of this one is missing".into()),
        1 | 2 => Ok(()),
        3 | 4 => Err("stand alone, but this VDI image lies on another; flatten it first".into()),
        other => Err(format!("be a dynamic or a fixed VDI image, not one of type {other}")),
    })
}

/// For the fuzz targets: a file that somebody wants as an image, or as a disk as it is. What it is, is never the host's fault, and
/// what is taken for a disk has a size that there can be.
pub(crate) fn fuzz(bytes: &[u8]) -> Result<(), String> {
    let host = |error: io::Error| error.to_string();
    let file = File::from(
        rustix::fs::memfd_create("qherd-fuzz", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| host(e.into()))?,
    );
    file.write_all_at(bytes, 0).map_err(host)?;
    let judged = [
        source(&file).map(drop),
        examine_existing(&file, ImageFormat::Qcow2).map(drop),
        examine_existing(&file, ImageFormat::Raw).map(drop),
        super::examine(&file).map(drop),
    ];
    for verdict in judged {
        match verdict {
            Err(ImageError::Unsuitable(must)) if must.len() > 4096 + 8 * bytes.len() => {
                return Err(format!("an objection of {} bytes", must.len()));
            }
            Ok(()) | Err(ImageError::Unsuitable(_)) => {}
            Err(other) => return Err(format!("it is taken for a failure of the host: {other}")),
        }
    }
    Ok(())
}

fn little(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(u64, &[u8])], length: u64) -> Result<Source, String> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        source(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn a_form_is_known_by_its_content() {
        let vmdk: &[(u64, &[u8])] = &[
            (0, b"KDMV"),
            (12, &[8]),
            (28, &[1]),
            (36, &[1]),
            (512, b"createType=\"monolithicSparse\"\nparentCID=ffffffff\n"),
        ];
        assert_eq!(of(vmdk, 4096), Ok(Source::Disk(SourceFormat::Vmdk)));
        assert_eq!(
            of(&[(4096 - 512, b"conectix"), (4096 - 512 + 63, &[2])], 4096),
            Ok(Source::Disk(SourceFormat::Vhd))
        );
        assert_eq!(
            of(&[(0, b"conectix"), (63, &[3]), (4096 - 512, b"conectix")], 4096),
            Ok(Source::Disk(SourceFormat::Vhd))
        );
        assert_eq!(of(&[(64, b"\x7f\x10\xda\xbe"), (0x4c, &[1])], 4096), Ok(Source::Disk(SourceFormat::Vdi)));
        assert_eq!(of(&[(0, b"vhdxfile")], 4096), Ok(Source::Disk(SourceFormat::Vhdx)));
        assert_eq!(of(&[(0, b"BZh91AY&SY")], 4096), Ok(Source::Packed(Compression::Bzip2)));
        assert_eq!(of(&[(510, &[0x55, 0xaa])], 4096), Ok(Source::Disk(SourceFormat::Raw)));
    }

    #[test]
    fn what_lies_on_another_or_is_a_part_is_refused() {
        let vmdk = |descriptor: &[u8]| of(&[(0, b"KDMV"), (12, &[8]), (28, &[1]), (36, &[1]), (512, descriptor)], 4096);
        for descriptor in ["parentCID=12345678\n", "parentCID=ffffffff\nparentFileNameHint=\"/etc/shadow\"\n"] {
            let descriptor = format!("createType=\"x\"\n{descriptor}");
            assert!(vmdk(descriptor.as_bytes()).unwrap_err().contains("lies on another"), "{descriptor}");
        }
        assert!(vmdk(b"").unwrap_err().contains("one part of several"));
        assert!(of(&[(0, b"KDMV")], 4096).unwrap_err().contains("one part of several"));
        assert!(of(&[(0, b"KDMV")], 100).unwrap_err().contains("ends too early"));
        assert!(of(&[(0, b"conectix"), (63, &[3])], 4096).unwrap_err().contains("the end of this one is missing"));
        let vdi: &[(u64, &[u8])] = &[(64, b"\x7f\x10\xda\xbe"), (0x4c, &[1]), (0x17a, &[16]), (0x184, &[1])];
        assert!(of(vdi, 4096).unwrap_err().contains("the end of this one is missing"));
        assert_eq!(of(vdi, 1 << 20), Ok(Source::Disk(SourceFormat::Vdi)));
        assert!(of(&[(0, b"conectix"), (63, &[4])], 4096).unwrap_err().contains("differencing"));
        assert!(of(&[(0, b"conectix"), (63, &[9])], 4096).unwrap_err().contains("type 9"));
        assert!(of(&[(64, b"\x7f\x10\xda\xbe"), (0x4c, &[4])], 4096).unwrap_err().contains("lies on another"));
        assert!(of(&[(0, b"QFI\xfb")], 4096).unwrap_err().contains("qcow"));
        assert!(of(&[], 0).unwrap_err().contains("empty"));
        assert!(of(&[(0, b"%PDF-1.7")], 4096).unwrap_err().contains("not a PDF document"));
    }
}
