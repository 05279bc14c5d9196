//! What the kernel counts of a process and of its threads. Each reading is one small file of /proc, and reading by
//! process *and* thread means that the number of a thread that is gone never leads to somebody else's.
//!
//! Not through the crate procfs, which opens the folders first and parses all fields: a reading of a thread takes half as
//! long again (120 and 80 µs, in 20,000 readings each), and every vCPU of every VM is read every few seconds.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::fs;

/// What one thread has had of the host's cores since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Nanoseconds on a core.
    pub ran: u64,
    /// Nanoseconds it could have run but had to wait for a core; `None` on a kernel that does not count them.
    pub waited: Option<u64>,
    /// The core that it runs on or last ran on.
    pub core: Option<u32>,
}

/// `None` when the thread is gone.
pub fn times(process: i32, thread: i32) -> Option<Times> {
    let folder = format!("/proc/{process}/task/{thread}");
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let schedstat = fs::read_to_string(format!("{folder}/schedstat")).unwrap_or_default();
    parse(&stat, &schedstat, procfs::ticks_per_second())
}

/// Resident memory of a process in bytes; `None` when it is gone.
pub fn resident(process: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * procfs::page_size())
}

/// Field numbers as in proc(5). Times in `stat` are clock ticks of usually 10 ms; `schedstat` has nanoseconds: on a
/// core, waiting for one, and how often it was given one. A kernel without CONFIG_SCHED_INFO writes zeros or has no
/// such file.
fn parse(stat: &str, schedstat: &str, ticks_per_second: u64) -> Option<Times> {
    // The name, field 2, may hold blanks and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let core = field(39).and_then(|core| u32::try_from(core).ok());
    let mut counted = schedstat.split_ascii_whitespace().map_while(|n| n.parse::<u64>().ok());
    match (counted.next(), counted.next()) {
        (Some(ran), Some(waited)) if ran > 0 => Some(Times { ran, waited: Some(waited), core }),
        _ => {
            let ticks = field(14)?.checked_add(field(15)?)?;
            let ran = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
            Some(Times { ran: u64::try_from(ran).ok()?, waited: None, core })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "812 (CPU 0/TCG) :)) S 1 812 812 0 -1 4194368 100 0 0 0 150 25 0 0 20 0 4 0 9000 700000000 6000 \
                        18446744073709551615 1 1 0 0 0 0 268444224 4096 1088 0 0 0 -1 7 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn nanoseconds_are_preferred_to_ticks() {
        let times = parse(STAT, "1753000111 42000 99\n", 100);
        assert_eq!(times, Some(Times { ran: 1_753_000_111, waited: Some(42_000), core: Some(7) }));
    }

    #[test]
    fn a_kernel_that_does_not_count_waiting_leaves_ticks() {
        let ticks = Some(Times { ran: 1_750_000_000, waited: None, core: Some(7) });
        for schedstat in ["", "0 0 0\n", "nonsense", "5"] {
            assert_eq!(parse(STAT, schedstat, 100), ticks, "{schedstat:?}");
        }
    }

    #[test]
    fn a_cut_line_is_no_reading() {
        assert_eq!(parse("812 (CPU 0/TCG", "", 100), None);
        assert_eq!(parse("812 (CPU 0/TCG) S 1 812", "", 100), None);
        assert_eq!(parse("", "1 2 3", 100), None);
        assert_eq!(parse("812 (x) S 1", "7 8 9", 100), Some(Times { ran: 7, waited: Some(8), core: None }));
    }

    #[test]
    fn the_kernel_tells_of_this_very_thread() {
        let (process, thread) = (std::process::id() as i32, nix::unistd::gettid().as_raw());
        let first = times(process, thread).unwrap();
        let mut sum = 0_u64;
        while times(process, thread).unwrap().ran < first.ran + 20_000_000 {
            sum = (0..100_000).fold(sum, |a, b| a ^ std::hint::black_box(b));
        }
        assert!(resident(process).unwrap() > 1 << 20);
        assert_eq!((times(process, 1), resident(-1)), (None, None), "thread 1 is not of this process");
    }
}
