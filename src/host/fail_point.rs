//! For tests of recovery, and in debug builds only: a daemon that dies at a chosen step of what it does.
//!
//! `QHERD_FAIL_POINT=commit:17:before` has the process SIGKILL itself right before its 17th commit is written,
//! `commit:17:after` when that is durable and nobody has been told; `step:17:before` and `step:17:after` are around its 17th
//! change of the host's network: a request to the kernel, a batch of rules, a setting, a tap, a file in its place or gone, a
//! dnsmasq that begins or ends. Both count from the start of the process, what its recovery does included. A test that has the
//! daemon in its own process can have stages of a launch fail (`fail`). In a release build nothing of it is left.

#[cfg(not(debug_assertions))]
use std::{fmt::Debug, path::Path};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Commit,
    /// Of the host's network.
    Step,
}

/// Makes one change of the host's network, with death before or after it where the environment says so.
pub fn step<T>(work: impl FnOnce() -> T) -> T {
    around(Counted::Step, 1, work)
}

/// Whether what is done in this place is to fail after this stage, as a test in this process wants it.
#[cfg(not(debug_assertions))]
pub fn fails(_: &Path, _: &impl Debug) -> bool {
    false
}

/// Does something that is so many of a kind, with death before or after it where the environment says so.
#[cfg(not(debug_assertions))]
pub fn around<T>(_: Counted, _: usize, work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(debug_assertions)]
pub use chosen::{around, fail, fails};

#[cfg(debug_assertions)]
mod chosen {
    use std::{
        collections::BTreeMap,
        fmt::Debug,
        path::{Path, PathBuf},
        sync::{
            LazyLock, Mutex, MutexGuard, PoisonError,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::Counted;

    const VARIABLE: &str = "QHERD_FAIL_POINT";

    /// The stages after which a test in this process wants something to fail, by the place in which it is done.
    static FAILING: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

    fn failing() -> MutexGuard<'static, BTreeMap<PathBuf, String>> {
        FAILING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what is done in this place fails after `stage`, or nowhere.
    pub fn fail(place: &Path, stage: Option<&impl Debug>) {
        let mut failing = failing();
        match stage {
            Some(stage) => drop(failing.insert(place.to_owned(), format!("{stage:?}"))),
            None => drop(failing.remove(place)),
        }
    }

    pub fn fails(place: &Path, stage: &impl Debug) -> bool {
        failing().get(place).is_some_and(|after| *after == format!("{stage:?}"))
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum When {
        Before,
        After,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Point {
        kind: Counted,
        number: usize,
        when: When,
    }

    static POINT: LazyLock<Option<Point>> =
        LazyLock::new(|| std::env::var(VARIABLE).ok().and_then(|value| parse(&value)));
    /// Of the kind that was chosen.
    static DONE: AtomicUsize = AtomicUsize::new(0);

    pub fn around<T>(kind: Counted, count: usize, work: impl FnOnce() -> T) -> T {
        let Some(point) = POINT.filter(|point| point.kind == kind) else { return work() };
        let earlier = DONE.fetch_add(count, Ordering::SeqCst);
        let dies = |when| point.when == when && earlier < point.number && point.number <= earlier + count;
        if dies(When::Before) {
            die();
        }
        let done = work();
        if dies(When::After) {
            die();
        }
        done
    }

    /// What cannot be read is ignored: a test that meant it fails for want of a death.
    fn parse(value: &str) -> Option<Point> {
        let mut words = value.split(':');
        let kind = match words.next()? {
            "commit" => Counted::Commit,
            "step" => Counted::Step,
            _ => return None,
        };
        let number = words.next()?.parse().ok()?;
        let when = match words.next()? {
            "before" => When::Before,
            "after" => When::After,
            _ => return None,
        };
        words.next().is_none().then_some(Point { kind, number, when })
    }

    fn die() {
        tracing::debug!("dying at the fail point");
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fail_point_names_what_is_counted_and_a_side_of_it() {
            let point = |kind, number, when| Some(Point { kind, number, when });
            assert_eq!(parse("commit:17:before"), point(Counted::Commit, 17, When::Before));
            assert_eq!(parse("step:1:after"), point(Counted::Step, 1, When::After));
            for nothing in ["", "commit", "commit:1", "commit:x:after", "step:1:during", "17:before", "step:1:after:2"]
            {
                assert_eq!(parse(nothing), None, "{nothing}");
            }
        }
    }
}
