//! For tests of recovery, and in debug builds only: a daemon that dies at a chosen step of what it stores.
//!
//! `QHERD_FAIL_POINT=commit:17:before` has the process SIGKILL itself right before its 17th commit is written,
//! `commit:17:after` when that is durable and nobody has been told. Commits count from the start of the process, those
//! of its recovery included. Nothing here exists in a release build.

use super::writer::Job;

const VARIABLE: &str = "QHERD_FAIL_POINT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
}

/// `write`, with death in it where the environment says so.
pub(super) fn around<T>(mut write: impl FnMut(&[Job]) -> T) -> impl FnMut(&[Job]) -> T {
    let point = std::env::var(VARIABLE).ok().and_then(|value| parse(&value));
    let mut commits = 0;
    move |group| {
        let earlier = commits;
        commits += group.len() as u64;
        let dies = |when| point.is_some_and(|(n, chosen)| chosen == when && earlier < n && n <= commits);
        if dies(When::Before) {
            die();
        }
        let written = write(group);
        if dies(When::After) {
            die();
        }
        written
    }
}

/// What cannot be read is ignored: a test that meant it fails for want of a death.
fn parse(value: &str) -> Option<(u64, When)> {
    let (number, when) = value.strip_prefix("commit:")?.split_once(':')?;
    let when = match when {
        "before" => When::Before,
        "after" => When::After,
        _ => return None,
    };
    Some((number.parse().ok()?, when))
}

fn die() {
    tracing::debug!("dying at the fail point");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fail_point_names_a_commit_and_a_side_of_it() {
        assert_eq!(parse("commit:17:before"), Some((17, When::Before)));
        assert_eq!(parse("commit:1:after"), Some((1, When::After)));
        for nothing in ["", "commit", "commit:1", "commit:x:after", "commit:1:during", "17:before"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }
}
