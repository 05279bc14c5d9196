//! `scripts/simulate`: histories of random requests, outcomes and crashes on the pure core, as many as are wanted.

#[path = "mod.rs"]
mod simulation;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// Seeds that a thread takes at once.
const BATCH: u64 = 256;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut histories, mut seed) = (20_000_u64, 0_u64);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (argument.as_str(), value) {
            ("--histories", Some(value)) => histories = value,
            ("--seed", Some(value)) => seed = value,
            ("--replay", Some(value)) => {
                (histories, seed) = (1, value);
                simulation::TRACE.store(true, Relaxed);
            }
            _ => {
                eprintln!("usage: simulate [--histories N] [--seed S] | --replay S");
                return ExitCode::FAILURE;
            }
        }
    }
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let [steps, answers, crashes, starts] = [0; 4].map(AtomicU64::new);
    let begun = Instant::now();
    let work = || {
        while !failed.load(Relaxed) {
            let from = next.fetch_add(BATCH, Relaxed);
            if from >= histories {
                return;
            }
            for number in from..(from + BATCH).min(histories) {
                match simulation::check(seed.wrapping_add(number)) {
                    Ok(figures) => {
                        steps.fetch_add(figures.steps, Relaxed);
                        answers.fetch_add(figures.answers, Relaxed);
                        crashes.fetch_add(figures.crashes, Relaxed);
                        starts.fetch_add(figures.starts, Relaxed);
                    }
                    Err(failure) => {
                        if !failed.swap(true, Relaxed) {
                            eprintln!("{failure}");
                        }
                        return;
                    }
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if failed.load(Relaxed) {
        return ExitCode::FAILURE;
    }
    println!(
        "{histories} histories from seed {seed} in {:.1} s on {threads} threads: {} steps, {} starts, {} answers, {} crashes, no violation",
        begun.elapsed().as_secs_f64(),
        steps.load(Relaxed),
        starts.load(Relaxed),
        answers.load(Relaxed),
        crashes.load(Relaxed),
    );
    ExitCode::SUCCESS
}
