//! The header of a qcow2 image, read from an open file before any tool sees it: what the image claims to be, and whether
//! it may be a base. Whether its tables hold what they should is left to `qemu-img check`.
//!
//! Source: docs/interop/qcow2.rst of QEMU; all numbers are big-endian. The limits are those of QEMU's block/qcow2.h.

use std::{fs::File, io};

use super::{Backing, ImageError, read_at};
use crate::model::ImageFormat;

pub const MAGIC: &[u8] = b"QFI\xfb";

/// As far as the header and its extensions reach: the first cluster, of which QEMU reads no more than this.
const HEAD: usize = 64 << 10;
/// Of version 2; version 3 says how long it is.
const SHORTEST: u64 = 72;
const SHORTEST_3: u64 = 104;

/// Bits of the incompatible features.
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
/// Those that QEMU knows: dirty, corrupt, external data file, compression type, extended L2 entries.
const KNOWN: u64 = 0x1f;

/// An extension that names the external data file.
const DATA_FILE_NAME: u32 = 0x4441_5441;
/// One that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const END: u32 = 0;

/// Bytes.
const LARGEST_L1: u64 = 32 << 20;
const LARGEST_REFCOUNT_TABLE: u64 = 8 << 20;
const MOST_SNAPSHOTS: u64 = 65_536;

/// The bytes that a guest sees.
///
/// # Errors
/// [`ImageError::Unsuitable`] for what may not be a base, or is not intact.
pub fn virtual_size(file: &File) -> Result<u64, ImageError> {
    let failed = |error: io::Error| ImageError::Host(error.to_string());
    let mut head = vec![0; HEAD];
    let read = read_at(file, &mut head, 0).map_err(failed)?;
    head.truncate(read);
    examine(&head, file.metadata().map_err(failed)?.len()).map_err(ImageError::Unsuitable)
}

/// The bytes that a guest sees of a disk that somebody else made, and what it lies on.
///
/// # Errors
/// [`ImageError::Unsuitable`] for what is not intact, or lies on something that it does not name well.
pub fn chain(file: &File) -> Result<(u64, Option<Backing>), ImageError> {
    let failed = |error: io::Error| ImageError::Host(error.to_string());
    let mut head = vec![0; HEAD];
    let read = read_at(file, &mut head, 0).map_err(failed)?;
    head.truncate(read);
    examine_chain(&head, file.metadata().map_err(failed)?.len()).map_err(ImageError::Unsuitable)
}

/// The bytes that a guest sees of a disk that was made here and that a QEMU has written to since: whatever its header says by
/// now, it must lead to no file but the ones that QEMU is told of. The rest of it is QEMU's to judge.
///
/// # Errors
/// [`ImageError::Unsuitable`] for one that has become something else.
pub fn disk_size(file: &File) -> Result<u64, ImageError> {
    let failed = |error: io::Error| ImageError::Host(error.to_string());
    let mut head = vec![0; HEAD];
    let read = read_at(file, &mut head, 0).map_err(failed)?;
    head.truncate(read);
    examine_disk(&head).map_err(ImageError::Unsuitable)
}

fn examine_disk(head: &[u8]) -> Result<u64, String> {
    let short = || "be an intact qcow2 image: its header ends too early".to_owned();
    let word = |at: usize| Some(u64::from(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?)));
    let long = |at: usize| Some(u64::from_be_bytes(head.get(at..at + 8)?.try_into().ok()?));
    if !head.starts_with(MAGIC) {
        return Err("be a qcow2 image".into());
    }
    let (features, header) = match word(4).ok_or_else(short)? {
        2 => (0, SHORTEST),
        3 => (long(72).ok_or_else(short)?, word(100).ok_or_else(short)?.max(SHORTEST_3)),
        other => return Err(format!("be a qcow2 image of version 2 or 3, not {other}")),
    };
    let named = data_file(head, header, features).map_err(|what| format!("be an intact qcow2 image: {what}"))?;
    if let Some(file) = named {
        return Err(format!("hold its data itself, but its header says that they are in {file}"));
    }
    if word(32).ok_or_else(short)? != 0 {
        return Err("not be encrypted".into());
    }
    long(24).ok_or_else(short)
}

/// `length` is the file's. The error completes "must …".
fn examine(head: &[u8], length: u64) -> Result<u64, String> {
    match examine_chain(head, length)? {
        (size, None) => Ok(size),
        (_, Some(Backing { file, .. })) => {
            Err(format!("stand alone, but it has the backing file {file}; flatten it with qemu-img convert"))
        }
    }
}

/// The same, with what it lies on.
fn examine_chain(head: &[u8], length: u64) -> Result<(u64, Option<Backing>), String> {
    let damaged = |what: &str| format!("be an intact qcow2 image: {what}");
    let short = || damaged("its header ends too early");
    let word = |at: usize| Some(u64::from(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?)));
    let long = |at: usize| Some(u64::from_be_bytes(head.get(at..at + 8)?.try_into().ok()?));

    let version = word(4).ok_or_else(short)?;
    let (features, header) = match version {
        1 => {
            return Err(
                "be a raw or qcow2 image, not qcow (version 1); convert it with qemu-img convert -O qcow2".into()
            );
        }
        2 => (0, SHORTEST),
        3 => (long(72).ok_or_else(short)?, word(100).ok_or_else(short)?.max(SHORTEST_3)),
        newer => return Err(format!("be a qcow2 image of version 2 or 3, not {newer}")),
    };
    if header > head.len() as u64 {
        return Err(short());
    }
    if let Some(file) = data_file(head, header, features).map_err(damaged)? {
        return Err(format!("stand alone, but it keeps its data in {file}; flatten it with qemu-img convert"));
    }
    if features & !KNOWN != 0 {
        return Err(format!("be a qcow2 image without features that are not known here ({:#x})", features & !KNOWN));
    }
    if features & CORRUPT != 0 {
        return Err("be intact, but it is marked as damaged; look into it with qemu-img check".into());
    }
    let mut backing = None;
    if long(8).ok_or_else(short)? != 0 {
        let file = backing_file(head, long(8), word(16)).ok_or_else(|| damaged("its backing file has no name"))?;
        backing = Some(Backing { format: backing_format(head, header), file });
    }
    if word(32).ok_or_else(short)? != 0 {
        return Err("not be encrypted".into());
    }

    let bits = word(20).ok_or_else(short)?;
    if !(9..=21).contains(&bits) {
        return Err(damaged("its clusters have an impossible size"));
    }
    let size = long(24).ok_or_else(short)?;
    let (l1_entries, l1) = (word(36).ok_or_else(short)?, long(40).ok_or_else(short)?);
    // An L2 table fills a cluster; with extended entries it holds half as many.
    let extended = u64::from(features & (1 << 4) != 0);
    let per_entry = 2 * bits - 3 - extended;
    if size.div_ceil(1 << per_entry) > l1_entries || l1_entries * 8 > LARGEST_L1 {
        return Err(damaged("its L1 table does not fit its size"));
    }
    let refcounts = word(56).ok_or_else(short)? << bits;
    if refcounts == 0 || refcounts > LARGEST_REFCOUNT_TABLE {
        return Err(damaged("its refcount table has an impossible size"));
    }
    if word(60).ok_or_else(short)? > MOST_SNAPSHOTS {
        return Err(damaged("it has too many snapshots"));
    }
    let tables = [(l1, l1_entries * 8, "L1"), (long(48).ok_or_else(short)?, refcounts, "refcount")];
    for (at, bytes, table) in tables {
        if at % (1 << bits) != 0 || at.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(damaged(&format!("its {table} table does not lie within the file")));
        }
    }
    Ok((size, backing))
}

/// The name of the external data file, by the feature or by the extension.
fn data_file(head: &[u8], header: u64, features: u64) -> Result<Option<String>, &'static str> {
    let mut at = usize::try_from(header).unwrap_or(usize::MAX);
    let mut named = None;
    loop {
        let Some([kind, length]) = head.get(at..at.saturating_add(8)).map(|pair| {
            let number = |half: usize| u32::from_be_bytes([pair[half], pair[half + 1], pair[half + 2], pair[half + 3]]);
            [number(0), number(4)]
        }) else {
            return Err("its header extensions do not end");
        };
        at += 8;
        let length = length as usize;
        match kind {
            END => break,
            DATA_FILE_NAME => {
                let name = head.get(at..at.saturating_add(length)).ok_or("a header extension ends too late")?;
                named = Some(String::from_utf8_lossy(name).into_owned());
            }
            _ => {}
        }
        at = at.saturating_add(length.next_multiple_of(8));
    }
    Ok(named.or_else(|| (features & DATA_FILE != 0).then(|| "another file".to_owned())))
}

/// What its header extensions, which were found to end, say of the format of the backing file.
fn backing_format(head: &[u8], header: u64) -> Option<ImageFormat> {
    let mut at = usize::try_from(header).ok()?;
    loop {
        let number = |at: usize| Some(u32::from_be_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?));
        let (kind, length) = (number(at)?, number(at.checked_add(4)?)? as usize);
        at = at.checked_add(8)?;
        match kind {
            END => return None,
            BACKING_FORMAT => {
                return match head.get(at..at.checked_add(length)?)? {
                    b"raw" => Some(ImageFormat::Raw),
                    b"qcow2" => Some(ImageFormat::Qcow2),
                    _ => None,
                };
            }
            _ => at = at.checked_add(length.checked_next_multiple_of(8)?)?,
        }
    }
}

fn backing_file(head: &[u8], at: Option<u64>, length: Option<u64>) -> Option<String> {
    let (at, length) = (usize::try_from(at?).ok()?, usize::try_from(length?).ok()?);
    let name = head.get(at..at.checked_add(length)?)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// For the fuzz targets: what may be a base may be a disk, of the same size.
pub(crate) fn fuzz(bytes: &[u8]) -> Result<(), String> {
    let head = &bytes[..bytes.len().min(HEAD)];
    let disk = examine_disk(head);
    // In a file as long as it is, and in one with room for any table.
    for length in [bytes.len() as u64, 1 << 60] {
        match examine(head, length) {
            Ok(size) if head.starts_with(MAGIC) && disk != Ok(size) => {
                return Err(format!("as a base it has {size} bytes, and as a disk {disk:?}"));
            }
            Ok(_) => {}
            Err(why) if why.len() > 4096 => return Err(format!("a reason of {} bytes", why.len())),
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 64 MiB in clusters of 64 KiB, as qemu-img makes it.
    fn head() -> Vec<u8> {
        let mut head = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &(64u64 << 20).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &0x3_0000u64.to_be_bytes());
        put(48, &0x1_0000u64.to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &112u32.to_be_bytes());
        head
    }

    const LENGTH: u64 = 0x3_0008;

    fn refused(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut head = head();
        change(&mut head);
        examine(&head, LENGTH).unwrap_err()
    }

    fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn an_image_that_stands_alone_is_taken_with_its_size() {
        assert_eq!(examine(&head(), LENGTH), Ok(64 << 20));
        let mut old = head();
        put(&mut old, 4, &2u32.to_be_bytes());
        old[72..].fill(0);
        assert_eq!(examine(&old, LENGTH), Ok(64 << 20));
    }

    #[test]
    fn what_hangs_on_another_file_is_refused_with_its_name() {
        let backed = refused(|head| {
            put(head, 8, &512u64.to_be_bytes());
            put(head, 16, &11u32.to_be_bytes());
            put(head, 512, b"/etc/shadow");
        });
        assert!(backed.contains("backing file /etc/shadow"), "{backed}");
        let name = |head: &mut Vec<u8>| {
            put(head, 112, &DATA_FILE_NAME.to_be_bytes());
            put(head, 116, &4u32.to_be_bytes());
            put(head, 120, b"evil");
        };
        // By its name alone as well: a later QEMU might heed it.
        for bit in [0, DATA_FILE] {
            let outside = refused(|head| {
                name(head);
                put(head, 72, &bit.to_be_bytes());
            });
            assert!(outside.contains("keeps its data in evil"), "{outside}");
        }
        let unnamed = refused(|head| put(head, 72, &DATA_FILE.to_be_bytes()));
        assert!(unnamed.contains("keeps its data in another file"), "{unnamed}");
    }

    #[test]
    fn a_disk_may_have_a_backing_file_and_no_other() {
        let mut backed = head();
        put(&mut backed, 8, &512u64.to_be_bytes());
        put(&mut backed, 16, &4u32.to_be_bytes());
        assert_eq!(examine_disk(&backed), Ok(64 << 20));
        let mut led = backed.clone();
        put(&mut led, 112, &DATA_FILE_NAME.to_be_bytes());
        put(&mut led, 116, &4u32.to_be_bytes());
        put(&mut led, 120, b"evil");
        assert!(examine_disk(&led).unwrap_err().contains("they are in evil"));
        put(&mut backed, 72, &DATA_FILE.to_be_bytes());
        assert!(examine_disk(&backed).unwrap_err().contains("they are in another file"));
        for (at, bytes) in [(0, &b"raw?"[..]), (4, &[0, 0, 0, 9]), (32, &[0, 0, 0, 2])] {
            let mut other = head();
            put(&mut other, at, bytes);
            assert!(examine_disk(&other).is_err(), "{at}");
        }
        assert!((0..120).all(|length| examine_disk(&head()[..length]).is_err()));
    }

    #[test]
    fn what_no_table_can_be_is_refused() {
        let cases: [(usize, &[u8], &str); 12] = [
            (4, &[0, 0, 0, 1], "not qcow (version 1)"),
            (4, &[0, 0, 0, 4], "of version 2 or 3, not 4"),
            (20, &[0, 0, 0, 8], "clusters"),
            (20, &[0xff; 4], "clusters"),
            (24, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "L1 table does not fit"),
            (32, &[0, 0, 0, 1], "encrypted"),
            (36, &[0xff; 4], "L1 table does not fit"),
            (40, &[0xff; 8], "L1 table does not lie within"),
            (48, &[0, 0, 1, 0, 0, 0, 0, 0], "refcount table does not lie within"),
            (56, &[0xff; 4], "refcount table has an impossible"),
            (60, &[0xff; 4], "snapshots"),
            (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], "not known here"),
        ];
        for (at, bytes, said) in cases {
            let why = refused(|head| put(head, at, bytes));
            assert!(why.contains(said), "{at}: {why}");
        }
        let marked = refused(|head| put(head, 72, &CORRUPT.to_be_bytes()));
        assert!(marked.contains("marked as damaged"), "{marked}");
    }

    #[test]
    fn a_header_that_is_cut_anywhere_is_refused() {
        let head = head();
        for length in 4..120 {
            assert!(examine(&head[..length], LENGTH).is_err(), "{length}");
        }
        let endless = refused(|head| put(head, 112, &[0x12, 0x34, 0x56, 0x78, 0xff, 0xff, 0xff, 0xff]));
        assert!(endless.contains("do not end"), "{endless}");
    }
}
