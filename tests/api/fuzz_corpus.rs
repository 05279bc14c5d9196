//! What fuzzing has kept (`fuzz/corpus`), and much that is nearly that, at every target: the part of fuzzing that every test run
//! has time for. The rest is `scripts/fuzz`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use qherd::fuzz::TARGETS;

/// Of each input.
const VARIANTS: usize = 40;
/// A corpus is to be kept, and read.
const LARGEST: usize = 32 << 10;

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> =
        files.map(|file| file.unwrap().path()).map(|at| (at.clone(), fs::read(at).unwrap())).collect();
    inputs.sort();
    inputs
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let programs: BTreeSet<String> = fs::read_dir("fuzz/fuzz_targets")
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(programs, targets);
    let manifest = fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for target in &targets {
        let program = fs::read_to_string(format!("fuzz/fuzz_targets/{target}.rs")).unwrap();
        assert!(program.contains(&format!("run(\"{target}\"")), "{target} runs another");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "cargo does not know {target}");
        let inputs = inputs(target);
        assert!(inputs.len() > 1, "{target}");
        for (path, bytes) in inputs {
            assert!(bytes.len() <= LARGEST, "{} has {} bytes", path.display(), bytes.len());
        }
    }
}

#[test]
fn what_was_kept_and_what_is_nearly_that_is_read_without_a_fault() {
    for (target, look) in TARGETS {
        for (number, (path, bytes)) in inputs(target).into_iter().enumerate() {
            let mut random = fastrand::Rng::with_seed(number as u64);
            for variant in 0..=VARIANTS {
                let input = if variant == 0 { bytes.clone() } else { changed(&bytes, &mut random) };
                let verdict = look(&input);
                assert_eq!(verdict, Ok(()), "{}: {:?}", path.display(), String::from_utf8_lossy(&input));
            }
        }
    }
}

/// Cut, with some bytes other than they were, a part taken out or twice.
fn changed(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\n\r \t\"{}[]:,0-9e.\x1b\\";
    let mut input = bytes.to_vec();
    for _ in 0..=random.usize(..4) {
        if input.is_empty() {
            break;
        }
        let at = random.usize(..input.len());
        let end = at + random.usize(..=(input.len() - at).min(40));
        match random.u8(..5) {
            0 => input.truncate(at),
            1 => input[at] = *random.choice(TELLING).unwrap(),
            2 => input[at] ^= 1 << random.u8(..8),
            3 => drop(input.drain(at..end)),
            _ => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
        }
    }
    input
}
