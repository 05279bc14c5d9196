//! The arguments that a VM's QEMU is started with: exact, in tests/golden/*.args.snap, one per line. And valid: the QEMU of
//! this host is started with each file and asked where it put what we named.

use crate::support_golden as golden;

use std::collections::BTreeSet;

use crate::cases::{Case, cases, file_fds, paths, tap_fds};
use crate::real::{Place, Qemu};
use qherd::qemu::{ChardevFds, CommandLine};

const FDS: ChardevFds = ChardevFds { qmp: 10, agent: 11, serial: 12 };

#[test]
fn the_arguments_are_those_of_the_golden_files() {
    let paths = paths();
    for Case { name, accelerator, spec, carried } in cases() {
        let (taps, files) = (&tap_fds(&spec, carried), &file_fds(&spec));
        let args = CommandLine { spec: &spec, paths: &paths, fds: FDS, taps, files, accelerator }.render();
        assert!(args.iter().all(|argument| !argument.contains('\n')), "{name}");
        golden::compare(&format!("{name}.args"), &(args.join("\n") + "\n"));
    }
}

#[test]
fn every_golden_file_has_its_case() {
    let cases: BTreeSet<String> = cases().iter().map(|case| format!("{}.args.snap", case.name)).collect();
    let files = std::fs::read_dir(golden::directory()).unwrap();
    let files = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".args.snap"));
    assert_eq!(files.collect::<BTreeSet<_>>(), cases);
}

#[tokio::test]
async fn qemu_takes_every_golden_file_and_has_the_devices_where_it_says() {
    for case in cases() {
        let text = golden::kept(&format!("{}.args", case.name));
        let place = Place::new();
        let qemu = Qemu::start(&place, &case, text.lines()).await;
        qemu.examine(&case).await;
    }
}
