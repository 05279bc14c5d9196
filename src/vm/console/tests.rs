use super::*;

fn console(dir: &Path) -> Console {
    Console::new(RunPaths::new(dir.to_owned()))
}

fn size(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn the_log_stays_bounded_and_its_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(console(&dir.path().join("never ran")).tail(9).unwrap(), b"");
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
    assert!(size(dir.path()) <= 2 * HALF, "{}", size(dir.path()));
    let text = String::from_utf8(console.tail(9000).unwrap()).unwrap();
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
    assert!(size(dir.path()) <= 2 * HALF + 2048, "{}", size(dir.path()));
    assert!(console.tail(9000).unwrap().starts_with(b"11000 "));
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
    let text = String::from_utf8(console.tail(usize::MAX).unwrap()).unwrap();
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
    assert_eq!(console.tail(9).unwrap(), b"one\ntwo\n");
    console.forget();
    writeln!(qemu, "three").unwrap();
    console.keep();
    assert_eq!(console.tail(9).unwrap(), b"one\ntwo\n", "of a VM that is gone nothing is written");
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
    assert_eq!(console.tail(9).unwrap(), b"one\ntwo\nthree\n");
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
