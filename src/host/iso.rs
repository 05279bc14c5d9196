//! An ISO 9660 file system with a few files on it, for a guest to read: with Rock Ridge, and Joliet for Windows, so that their
//! names are what they are called here.

use std::io::{self, Cursor};

use hadris_iso::{
    read::PathSeparator,
    write::{
        InputEntry, InputMetadata, InputTree, IsoImageWriter,
        options::{CreationFeatures, IsoFormatOptions},
    },
};

/// The only size that CDs have.
const SECTOR: usize = 2048;

/// Its bytes. Each file is a name and what is in it.
///
/// # Errors
/// The writer's.
pub fn iso(label: &str, files: Vec<(&str, Vec<u8>)>) -> io::Result<Vec<u8>> {
    let metadata = InputMetadata { mode: Some(0o400), uid: Some(0), gid: Some(0), ..InputMetadata::default() };
    let entry = |(name, content): (&str, Vec<u8>)| InputEntry::file(name, content).with_metadata(metadata);
    let tree = InputTree::new(PathSeparator::ForwardSlash, files.into_iter().map(entry).collect());
    let options = IsoFormatOptions {
        volume_name: label.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: SECTOR,
        path_separator: PathSeparator::ForwardSlash,
        strict_charset: false,
        features: CreationFeatures::extensions(),
    };
    let written = IsoImageWriter::create(Cursor::new(Vec::new()), tree, options);
    let mut image = written.map_err(|error| io::Error::other(error.to_string()))?.into_inner();
    image.resize(image.len().next_multiple_of(SECTOR), 0);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;

    fn said(command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The content of each file, as xorriso reads it.
    fn read(image: &Path, into: &Path, names: &[&str]) -> Vec<Vec<u8>> {
        said(Command::new("xorriso").args(["-osirrox", "on", "-indev"]).arg(image).args(["-extract", "/"]).arg(into));
        let found = fs::read_dir(into).unwrap().count();
        assert_eq!(found, names.len());
        names.iter().map(|name| fs::read(into.join(name)).unwrap()).collect()
    }

    #[test]
    fn other_programs_read_its_label_and_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let (image, into) = (dir.path().join("seed.iso"), dir.path().join("files"));
        let names = ["user-data", "meta-data", "vendor-data", "network-config"];
        let long: Vec<u8> = (0..600_001_u32).map(|n| (n % 251) as u8).collect();
        let contents = [long, b"{}\n".to_vec(), Vec::new(), "ä".repeat(3000).into_bytes()];
        let files = names.into_iter().zip(contents.clone()).collect();
        fs::write(&image, iso("CIDATA", files).unwrap()).unwrap();
        let label = said(Command::new("blkid").args(["-p", "-o", "export"]).arg(&image));
        assert!(label.contains("LABEL=CIDATA\n") && label.contains("TYPE=iso9660\n"), "{label}");
        assert!(read(&image, &into, &names) == contents, "what is read is what was written");
    }
}
