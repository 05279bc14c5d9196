#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qherd::fuzz::run("domain", bytes).unwrap());
