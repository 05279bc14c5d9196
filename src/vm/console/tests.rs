//! The console's logs, on real files and what a QEMU would be given.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
};

use proptest::prelude::*;

use super::*;

/// Of the marks of times, of both files.
const MARKS: u64 = 2 * (64 << 10);

fn tail(console: &Console, lines: usize) -> Vec<u8> {
    let kept = console.last(Source::Console, lines).unwrap();
    console.read(Source::Console, kept.begin, kept.end - kept.begin).unwrap().text
}

fn console(dir: &Path) -> Console {
    Console::new(RunPaths::new(dir.to_owned()))
}

fn size(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn the_log_stays_bounded_and_its_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(tail(&console(&dir.path().join("never ran")), 9), b"");
    let console = console(dir.path());
    console.begin().unwrap();
    let mut qemu = File::from(console.descriptor().unwrap());
    let line = "x".repeat(1023);
    for number in 0..20_000 {
        writeln!(qemu, "{number} {line}").unwrap();
        if number % 500 == 0 {
            console.keep();
        }
    }
    assert!(size(dir.path()) <= 2 * HALF + MARKS, "{}", size(dir.path()));
    let text = String::from_utf8(tail(&console, 9000)).unwrap();
    assert_eq!(text.lines().count(), 9000);
    assert!(text.starts_with("11000 ") && text.lines().last().unwrap().starts_with("19999 "));
}

#[test]
fn a_log_that_a_qemu_of_an_early_version_writes_stays_bounded_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let console = console(dir.path());
    let mut qemu = File::options().create(true).append(true).open(console.paths.console_log()).unwrap();
    let line = "x".repeat(1023);
    for number in 0..20_000 {
        writeln!(qemu, "{number} {line}").unwrap();
        console.keep();
    }
    assert!(size(dir.path()) <= 2 * HALF + MARKS + 2048, "{}", size(dir.path()));
    assert!(tail(&console, 9000).starts_with(b"11000 "));
}

#[test]
fn what_comes_while_nobody_takes_it_is_bounded_and_the_log_says_where_it_was_more() {
    let dir = tempfile::tempdir().unwrap();
    let console = console(dir.path());
    console.begin().unwrap();
    let mut qemu = File::from(console.descriptor().unwrap());
    writeln!(qemu, "begin").unwrap();
    while qemu.write_all(b"y\n").is_ok() {}
    assert_eq!(size(dir.path()), 0, "nothing of it is on disk");
    console.keep();
    writeln!(qemu, "on").unwrap();
    let text = String::from_utf8(tail(&console, usize::MAX)).unwrap();
    assert!(text.starts_with("begin\ny\n") && text.len() as u64 <= HELD + 128, "{}", text.len());
    assert!(
        text.ends_with("y\n\n[qherd: the guest wrote more here than is held]\non\n"),
        "{:?}",
        &text[text.len() - 99..]
    );
}

#[test]
fn a_disk_that_is_full_keeps_what_is_held_and_nothing_is_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let console = console(dir.path());
    console.begin().unwrap();
    let mut qemu = File::from(console.descriptor().unwrap());
    writeln!(qemu, "one").unwrap();
    // A folder in its place refuses as well as a full disk does.
    fs::remove_file(console.paths.console_log()).unwrap();
    fs::create_dir(console.paths.console_log()).unwrap();
    console.keep();
    fs::remove_dir(console.paths.console_log()).unwrap();
    writeln!(qemu, "two").unwrap();
    console.keep();
    assert_eq!(tail(&console, 9), b"one\ntwo\n");
    console.forget();
    writeln!(qemu, "three").unwrap();
    console.keep();
    assert_eq!(tail(&console, 9), b"one\ntwo\n", "of a VM that is gone nothing is written");
}

#[test]
fn of_a_qemu_that_has_ended_nothing_is_held_and_of_the_next_one_all() {
    let dir = tempfile::tempdir().unwrap();
    let console = console(dir.path());
    console.begin().unwrap();
    writeln!(File::from(console.descriptor().unwrap()), "one").unwrap();
    let ended = console.spills();
    console.keep_last(&ended);
    assert!(console.descriptor().is_err() && console.spills() == Spills::default());
    console.begin().unwrap();
    let ended = console.spills();
    writeln!(File::from(console.descriptor().unwrap()), "two").unwrap();
    // Its end is looked after only when the next one has begun.
    console.begin().unwrap();
    console.keep_last(&ended);
    writeln!(File::from(console.descriptor().unwrap()), "three").unwrap();
    assert_eq!(tail(&console, 9), b"one\ntwo\nthree\n");
}

#[test]
fn what_qemu_complained_of_last_is_there_also_after_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let console = console(dir.path());
    assert_eq!(console.last_complaints(), "it left no message");
    let mut qemu = console.begin().unwrap().stderr;
    let sentence = "x".repeat(99);
    for number in 0..20_000 {
        writeln!(qemu, "{number} {sentence}").unwrap();
        if number % 500 == 0 {
            console.keep();
        }
    }
    writeln!(qemu, "the end").unwrap();
    let text = String::from_utf8(console.complaints(2)).unwrap();
    assert_eq!(text, format!("19999 {sentence}\nthe end\n"));
    console.keep();
    assert!(size(dir.path()) <= 2 * QEMU_HALF, "{}", size(dir.path()));
    console.begin().unwrap();
    assert_eq!(console.complaints(9), b"", "of this run alone");
}

/// Text in the older file, in the file, and held.
fn in_three_places(dir: &Path) -> (Console, Vec<u8>) {
    let console = console(dir);
    console.begin().unwrap();
    let mut qemu = File::from(console.descriptor().unwrap());
    let mut all = Vec::new();
    let mut write = |text: &[u8]| {
        qemu.write_all(text).unwrap();
        all.extend_from_slice(text);
    };
    // Nothing of it is cut away: a half is not full, and then it is.
    let chunk: Vec<u8> =
        (0..1 << 20).map(|n: u32| if n.is_multiple_of(97) { b'\n' } else { n.to_le_bytes()[1] | 0x80 }).collect();
    for _ in 0..10 {
        write(&chunk[..(1 << 20) - 1]);
        console.keep();
    }
    write(b"held\nand not ended");
    (console, all)
}

#[test]
fn a_log_reads_as_one_text_wherever_it_is_and_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let (console, all) = in_three_places(dir.path());
    assert!(fs::metadata(older(&console.paths.console_log())).unwrap().len() > 0);
    let whole = console.last(Source::Console, usize::MAX).unwrap();
    assert_eq!((whole.begin, whole.end), (0, all.len() as u64));
    let mut at = 0;
    while at < whole.end {
        let piece = console.read(Source::Console, at, 16 << 10).unwrap();
        assert_eq!((piece.from, piece.end), (at, whole.end));
        assert!(piece.text == all[at as usize..piece.to() as usize] && !piece.text.is_empty());
        at = piece.to();
    }
    for lines in [1, 2, 3, 100, 5_000, 60_000, 100_000, 1_000_000] {
        assert!(tail(&console, lines) == last_lines(&all, lines), "{lines}");
    }
    // What is moved and cut meanwhile stays where it is, until it is not kept any more.
    let from = whole.end - 20;
    console.keep();
    assert_eq!(console.read(Source::Console, from, 99).unwrap().text, all[from as usize..]);
    let mut qemu = File::from(console.descriptor().unwrap());
    for _ in 0..12 {
        qemu.write_all(&vec![b'z'; (1 << 20) - 1]).unwrap();
        console.keep();
    }
    let piece = console.read(Source::Console, 0, 10).unwrap();
    assert!(piece.from > 0 && piece.text.len() == 10, "{}", piece.from);
    assert_eq!(piece.end, whole.end + 12 * ((1 << 20) - 1));
    // And of another daemon, which knows no positions of this one.
    let again = Console::new(RunPaths::new(dir.path().to_owned()));
    let kept = again.last(Source::Console, usize::MAX).unwrap();
    assert_eq!((kept.begin, kept.end), (0, piece.end - piece.from));
}

#[test]
fn what_was_written_when_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let console = console(dir.path());
    console.begin().unwrap();
    let mut qemu = File::from(console.descriptor().unwrap());
    let mut began = Vec::new();
    for line in ["one\n", "two\n", "three\n"] {
        began.push(now());
        qemu.write_all(line.as_bytes()).unwrap();
        console.keep();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    qemu.write_all(b"held").unwrap();
    let times = console.written_at(Source::Console, &[0, 4, 8, 14]).unwrap();
    let times: Vec<u64> = times.into_iter().map(Option::unwrap).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    for (index, at) in [0, 4, 8].into_iter().enumerate() {
        assert!(times[index] >= began[index] && console.since(Source::Console, began[index]).unwrap() == at);
    }
    assert_eq!(console.since(Source::Console, now()).unwrap(), 14);
    assert_eq!(console.since(Source::Console, 0).unwrap(), 0);
    // Without its marks it has no times, and is a log as before.
    times::forget(&console.paths.console_log());
    assert_eq!(tail(&console, 2), b"three\nheld");
    assert!(console.written_at(Source::Console, &[14]).unwrap()[0].is_some());
}

#[tokio::test]
async fn who_follows_hears_of_each_write_over_all_runs() {
    let dir = tempfile::tempdir().unwrap();
    let console = Arc::new(console(dir.path()));
    let mut follower = Follower::new(console.clone(), Source::Console).unwrap();
    let mut at = 0;
    for run in 0..3 {
        console.begin().unwrap();
        let mut qemu = File::from(console.descriptor().unwrap());
        for word in ["one", "two", "three"] {
            writeln!(qemu, "{run} {word}").unwrap();
            let read = async {
                loop {
                    let piece = console.read(Source::Console, at, 99).unwrap();
                    if !piece.text.is_empty() {
                        break piece;
                    }
                    follower.more().await.unwrap();
                }
            };
            let piece = tokio::time::timeout(std::time::Duration::from_secs(30), read).await.expect("it is heard");
            assert_eq!(piece.text, format!("{run} {word}\n").as_bytes());
            at = piece.to();
            if word == "two" {
                console.keep();
            }
        }
        console.keep_last(&console.spills());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is written, moved, cut and begun anew: what is read from a position on is what was written there.
    #[test]
    fn a_position_is_a_position_whatever_happens(steps in proptest::collection::vec((0u8..5, 0usize..3000), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path().to_owned(), dir.path().join("console.log"), 8192);
        let spill = Spill::new("test", 4096).unwrap();
        let mut writer = File::from(spill.descriptor().unwrap());
        let mut all: Vec<u8> = Vec::new();
        for (step, size) in steps {
            let text: Vec<u8> = (0..size).map(|n| if n % 7 == 0 { b'\n' } else { (all.len() + n) as u8 }).collect();
            match step {
                0 | 1 => {
                    let room = 4096 - spill.written().unwrap() as usize;
                    let text = &text[..size.min(room.saturating_sub(1))];
                    writer.write_all(text).unwrap();
                    all.extend_from_slice(text);
                }
                2 => { spill.empty(|text| log.append(text)).unwrap(); }
                3 => log.keep().unwrap(),
                _ => {
                    // As a QEMU of an early version does, which holds nothing.
                    spill.empty(|text| log.append(text)).unwrap();
                    let mut early = File::options().create(true).append(true).open(log.path()).unwrap();
                    early.seek(SeekFrom::End(0)).unwrap();
                    early.write_all(&text).unwrap();
                    all.extend_from_slice(&text);
                    log.extent(None).unwrap();
                }
            }
            let Extent { begin, end } = log.extent(Some(&spill)).unwrap();
            prop_assert_eq!(end, all.len() as u64);
            let piece = log.read(begin, u64::MAX, Some(&spill)).unwrap();
            prop_assert_eq!((piece.from, piece.to()), (begin, end));
            prop_assert!(piece.text == all[begin as usize..]);
            let kept = log.last(3, Some(&spill)).unwrap();
            prop_assert!(all[kept.begin as usize..] == *last_lines(&all[begin as usize..], 3));
        }
    }
}
