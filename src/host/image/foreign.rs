//! Files that are no disk images, told by their content: what a download leaves behind (an archive, an error page) and
//! formats that only qemu-img reads. Anything that is not on this list may be a raw disk: a blank one looks like nothing.

use std::{fs::File, io, path::Path};

use super::read_at;
use crate::{
    host::{Access, open_within},
    model::{Compression, SourceFormat},
};

/// As far as any signature reaches: an ISO 9660 volume begins at 32 KiB.
const HEAD: usize = 33 << 10;
/// A sector; some formats have their signature in the last one.
const TAIL: usize = 512;

const UNPACK: &str = "unpack it first";
const CONVERT: &str = "convert it with qemu-img convert -O qcow2";

/// What a file is instead of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    what: &'static str,
    remedy: &'static str,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// Offset, signature, what it is, what to do.
type Signature = (usize, &'static [u8], &'static str, &'static str);

/// Neither a disk nor a CD.
const CONTAINERS: &[Signature] = &[
    (0, b"\xfd7zXZ\0", "a file compressed with xz", "unpack it first with unxz"),
    (0, b"\x1f\x8b", "a file compressed with gzip", "unpack it first with gunzip"),
    (0, b"\x28\xb5\x2f\xfd", "a file compressed with zstd", "unpack it first with unzstd"),
    (0, b"\x04\x22\x4d\x18", "a file compressed with lz4", "unpack it first with unlz4"),
    (0, b"LZIP\x01", "a file compressed with lzip", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first with unzip"),
    (0, b"Rar!\x1a\x07", "a rar archive", UNPACK),
    (0, b"!<arch>\n", "an ar archive or package", UNPACK),
    (0, b"\xed\xab\xee\xdb", "an RPM package", UNPACK),
    (0, b"MSWIM\0\0\0", "a Windows imaging (WIM) file", "install from its ISO image instead"),
    (0, b"\x7fELF", "a program (ELF)", "give the image of a disk"),
    (0, b"%PDF-", "a PDF document", "give the image of a disk"),
];

/// Disks in a container that qemu-img understands, and would follow to whatever it names.
const DISKS: &[Signature] = &[
    (0, b"COWD", "a VMDK image (of an ESX host)", CONVERT),
    (0, b"KDMV", "a VMDK image", CONVERT),
    (0, b"vhdxfile", "a VHDX image", CONVERT),
    (0, b"conectix", "a VHD image", "convert it with qemu-img convert -f vpc -O qcow2"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", CONVERT),
    (0, b"LUKS\xba\xbe", "an encrypted (LUKS) image", CONVERT),
    (0, b"QED\0", "a QED image", CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", CONVERT),
    (0, b"Bochs Virtual HD Image", "a Bochs image", CONVERT),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "a cloop image", CONVERT),
];

const QCOW2: Signature = (0, super::qcow2::MAGIC, "a qcow2 image", "give it as a disk");

const ISO_9660: Signature =
    (0x8001, b"CD001", "an ISO image (ISO 9660)", "put it into the CD drive with iso, beside a disk to install to");

const FIXED_VHD: &str = "a fixed VHD image";

/// In the last sector.
const TRAILERS: &[(&[u8], &str, &str)] = &[
    (b"conectix", FIXED_VHD, "convert it with qemu-img convert -f vpc -O qcow2"),
    (b"koly", "an Apple disk image (dmg)", "convert it with qemu-img convert -f dmg -O qcow2"),
];

/// What a file is that is to be an image of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    Disk(SourceFormat),
    Packed(Compression),
    Foreign(Foreign),
}

/// Every form of a disk that qemu-img is let read, by the same signatures that keep it from being taken for a raw one.
///
/// # Errors
/// When it cannot be read.
pub fn recognise(file: &File) -> io::Result<Recognised> {
    let head = head(file)?;
    if let Some(packed) = packed(&head) {
        return Ok(Recognised::Packed(packed));
    }
    let disk = |signature: &[u8], at: usize| head.get(at..).is_some_and(|rest| rest.starts_with(signature));
    let known: [(&[u8], usize, SourceFormat); 5] = [
        (super::qcow2::MAGIC, 0, SourceFormat::Qcow2),
        (b"KDMV", 0, SourceFormat::Vmdk),
        (b"vhdxfile", 0, SourceFormat::Vhdx),
        (b"conectix", 0, SourceFormat::Vhd),
        (b"\x7f\x10\xda\xbe", 64, SourceFormat::Vdi),
    ];
    if let Some((.., format)) = known.into_iter().find(|(signature, at, _)| disk(signature, *at)) {
        return Ok(Recognised::Disk(format));
    }
    let foreign = signed(&head, CONTAINERS.iter().chain(DISKS).chain([&ISO_9660])).or_else(|| by_words(&head));
    let foreign = if foreign.is_some() { foreign } else { trailer(file)? };
    Ok(match foreign {
        Some(foreign) if foreign.what == FIXED_VHD => Recognised::Disk(SourceFormat::Vhd),
        Some(foreign) => Recognised::Foreign(foreign),
        None => Recognised::Disk(SourceFormat::Raw),
    })
}

fn packed(head: &[u8]) -> Option<Compression> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        _ => is_bzip2(head).then_some(Compression::Bzip2),
    }
}

/// The magic of the first block comes after the digit.
fn is_bzip2(head: &[u8]) -> bool {
    let block = head.get(4..10);
    head.starts_with(b"BZh") && block.is_some_and(|block| block == b"1AY&SY" || block == b"\x17\x72\x45\x38\x50\x90")
}

/// What the base image of a disk is instead of raw or qcow2.
///
/// # Errors
/// When it cannot be read.
pub fn not_a_disk(file: &File) -> io::Result<Option<Foreign>> {
    let head = head(file)?;
    let recognised = signed(&head, CONTAINERS.iter().chain(DISKS).chain([&ISO_9660])).or_else(|| by_words(&head));
    if recognised.is_some() { Ok(recognised) } else { trailer(file) }
}

/// What an image for the CD drive is instead.
///
/// # Errors
/// When it cannot be read.
pub fn not_a_cd(path: &Path) -> io::Result<Option<Foreign>> {
    let head = head(&open_within(&[], path, Access::Read)?)?;
    if signed(&head, [&ISO_9660].into_iter()).is_some() {
        return Ok(None);
    }
    Ok(signed(&head, CONTAINERS.iter().chain(DISKS).chain([&QCOW2])).or_else(|| by_words(&head)))
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let read = read_at(file, &mut head, 0)?;
    head.truncate(read);
    Ok(head)
}

fn signed<'a>(head: &[u8], signatures: impl Iterator<Item = &'a Signature>) -> Option<Foreign> {
    let fits = |(at, magic, ..): &&Signature| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    signatures.into_iter().find(fits).map(|&(_, _, what, remedy)| Foreign { what, remedy })
}

/// What takes more than a signature to tell.
fn by_words(head: &[u8]) -> Option<Foreign> {
    let foreign = |what, remedy| Some(Foreign { what, remedy });
    if is_bzip2(head) {
        return foreign("a file compressed with bzip2", "unpack it first with bunzip2");
    }
    if head.get(257..262) == Some(b"ustar") {
        let name = head.split(|byte| *byte == 0).next().unwrap_or_default();
        return if name.to_ascii_lowercase().ends_with(b".ovf") {
            foreign(
                "an OVA (a tar archive)",
                "unpack it first with tar -xf, and convert the disk in it with qemu-img convert -O qcow2",
            )
        } else {
            foreign("a tar archive", "unpack it first with tar -xf")
        };
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
    if ["<!doctype", "<html", "<head", "<body", "<?xml"].into_iter().any(begins) {
        return foreign("an HTML or XML page, such as a server's error", "look into it and download the image again");
    }
    let json = ["{\"", "[{\"", "{\n", "{\r\n"].into_iter().any(begins) && !text.contains(&0);
    if json && std::str::from_utf8(&text[..text.len().min(256)]).map_or_else(|e| e.error_len().is_none(), |_| true) {
        return foreign("a JSON text, such as a server's error", "look into it and download the image again");
    }
    if begins("# Disk DescriptorFile") {
        return foreign("the descriptor of a VMDK image", CONVERT);
    }
    None
}

fn trailer(file: &File) -> io::Result<Option<Foreign>> {
    let length = file.metadata()?.len();
    let Some(at) = length.checked_sub(TAIL as u64) else { return Ok(None) };
    let mut tail = [0; TAIL];
    let read = read_at(file, &mut tail, at)?;
    let fits = |(magic, ..): &&(&[u8], _, _)| tail[..read].starts_with(magic);
    Ok(TRAILERS.iter().find(fits).map(|&(_, what, remedy)| Foreign { what, remedy }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(content: &[u8]) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        not_a_disk(&File::open(file.path()).unwrap()).unwrap().map(|foreign| foreign.to_string())
    }

    #[test]
    fn what_may_be_a_raw_disk_is_left_alone() {
        let mut boot_sector = vec![0; 512];
        boot_sector[..3].copy_from_slice(b"\xeb\x63\x90");
        boot_sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut ext4 = vec![0; 4096];
        ext4[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        for content in
            [&vec![0; 64 << 10], &boot_sector, &ext4, &b"x".to_vec(), &b"BZh is a word".to_vec(), &vec![0xff; 700]]
        {
            assert_eq!(disk(content), None);
        }
    }

    #[test]
    fn what_is_no_disk_is_told_with_what_to_do() {
        let mut vhd = vec![0; 2048];
        vhd[1536..1544].copy_from_slice(b"conectix");
        let mut iso = vec![0; 40 << 10];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        let cases: [(&[u8], &str); 6] = [
            (b"\xfd7zXZ\0rest", "xz; unpack it first with unxz"),
            (b"  \n<!DOCTYPE HTML><title>404</title>", "an HTML or XML page"),
            (b"{\"error\":\"not found\"}", "a JSON text"),
            (b"\x7fELF\x02\x01", "a program (ELF)"),
            (&vhd, "a fixed VHD image; convert it with qemu-img convert -f vpc"),
            (&iso, "an ISO image (ISO 9660); put it into the CD drive"),
        ];
        for (content, said) in cases {
            let recognised = disk(content).unwrap_or_default();
            assert!(recognised.contains(said), "{recognised}");
        }
    }

    #[test]
    fn a_cd_is_no_disk_and_a_disk_no_cd() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut image = vec![0; 40 << 10];
        image[0x8001..0x8006].copy_from_slice(b"CD001");
        std::fs::write(file.path(), &image).unwrap();
        assert_eq!(not_a_cd(file.path()).unwrap(), None);
        std::fs::write(file.path(), b"QFI\xfb").unwrap();
        assert!(not_a_cd(file.path()).unwrap().unwrap().to_string().starts_with("a qcow2 image"));
    }
}
