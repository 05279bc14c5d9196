//! What others made and is kept here is what they published: `scripts/docs-page` has fetched it and written the sums.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

/// What is in a file, or in its compressed form beside it.
fn content(folder: &Path, name: &str) -> Vec<u8> {
    let compressed = folder.join(format!("{name}.gz"));
    if !compressed.exists() {
        return std::fs::read(folder.join(name)).unwrap();
    }
    let output = Command::new("gzip").arg("-dc").arg(&compressed).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", compressed.display());
    output.stdout
}

#[test]
fn the_page_of_the_api_is_shown_by_what_its_makers_published() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/swagger-ui");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut kept = BTreeSet::new();
    for line in sums.lines().filter(|line| !line.starts_with('#')) {
        let (sum, name) = line.split_once("  ").unwrap();
        let found: String = Sha256::digest(content(&folder, name)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, sum, "{name}");
        kept.insert(name.to_owned());
    }
    // And nothing else is there.
    let there = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there = there.filter(|name| name != "SHA256SUMS").map(|name| name.trim_end_matches(".gz").to_owned());
    assert_eq!(there.collect::<BTreeSet<_>>(), kept);
}
