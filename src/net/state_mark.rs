//! The mark that tells what a state directory has on the host from what another has. It is drawn once, and stands in a file
//! that says which file it is: a copy of it is another, and proves nothing. Whoever has a copy draws a mark of his own, and
//! takes nothing down that he finds.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use uuid::Uuid;

use crate::host::fail_point::step;

const FILE: &str = "id";
const LENGTH: usize = 8;

/// The mark of the state directory that this is the `net` of.
///
/// # Errors
/// The file system's.
pub fn read_or_draw(folder: &Path) -> io::Result<String> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        read => read.unwrap_or_default(),
    };
    let mut words = text.split_whitespace();
    let mark = words.next().filter(|mark| mark.len() == LENGTH && mark.bytes().all(|b| b.is_ascii_hexdigit()));
    match (mark, words.next()) {
        (Some(mark), Some(inode)) if inode == fs::metadata(&path)?.ino().to_string() => Ok(mark.to_owned()),
        // As earlier versions wrote it.
        (Some(mark), None) => write(folder, mark),
        (found, _) => {
            if let Some(found) = found {
                tracing::warn!(
                    file = %path.display(),
                    mark = found,
                    "the mark of this daemon's switches is a copy of another's: what bears it is left alone"
                );
            }
            write(folder, &Uuid::new_v4().simple().to_string()[..LENGTH])
        }
    }
}

fn write(folder: &Path, mark: &str) -> io::Result<String> {
    let new = folder.join("id.new");
    let mut file = fs::File::create(&new)?;
    let text = format!("{mark} {}\n", file.metadata()?.ino());
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    step(|| fs::rename(&new, folder.join(FILE)))?;
    fs::File::open(folder)?.sync_all()?;
    Ok(mark.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stays_where_it_was_drawn_and_a_copy_of_it_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let [own, moved, copied] = ["own", "moved", "copied"].map(|name| dir.path().join(name));
        let mark = read_or_draw(&own).unwrap();
        assert_eq!(read_or_draw(&own).unwrap(), mark);
        fs::create_dir(&copied).unwrap();
        fs::copy(own.join(FILE), copied.join(FILE)).unwrap();
        fs::rename(&own, &moved).unwrap();
        assert_eq!(read_or_draw(&moved).unwrap(), mark);
        let other = read_or_draw(&copied).unwrap();
        assert_ne!(other, mark);
        assert_eq!(read_or_draw(&copied).unwrap(), other);

        // Of an earlier version, and of nobody.
        fs::write(moved.join(FILE), &mark).unwrap();
        assert_eq!(read_or_draw(&moved).unwrap(), mark);
        assert_eq!(read_or_draw(&moved).unwrap(), mark);
        for odd in ["", "12", "../../..", "0123456x 7"] {
            fs::write(moved.join(FILE), odd).unwrap();
            assert_ne!(read_or_draw(&moved).unwrap(), odd);
        }
    }
}
