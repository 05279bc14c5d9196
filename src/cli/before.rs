//! Flags of every command that stand before it: `qherd --url http://host:8080 ls` is `qherd ls --url http://host:8080`.

use std::ffi::OsString;

/// Flags of `connect.rs` that have a value.
const WITH_VALUE: [&str; 6] = ["--url", "--cacert", "--state-dir", "--config", "--output", "-o"];
const ALONE: [&str; 2] = ["--quiet", "-q"];

/// The arguments as the parser knows them; the first is the program's name.
pub fn arguments(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.peekable();
    let mut all: Vec<OsString> = args.next().into_iter().collect();
    let mut before = Vec::new();
    while let Some(flag) = args.peek().and_then(|arg| arg.to_str()).map(str::to_owned) {
        let has_value_in_it = WITH_VALUE.iter().any(|name| {
            flag.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('=') || (!name.starts_with("--") && !rest.is_empty()))
        });
        if WITH_VALUE.contains(&flag.as_str()) {
            before.extend(args.next());
            before.extend(args.next());
        } else if ALONE.contains(&flag.as_str()) || has_value_in_it {
            before.extend(args.next());
        } else {
            break;
        }
    }
    let rest: Vec<OsString> = args.collect();
    if rest.is_empty() {
        // No command: it is told what it lacks.
        return all.into_iter().chain(before).collect();
    }
    // What is behind -- is another program's.
    let end = rest.iter().position(|arg| arg == "--").unwrap_or(rest.len());
    all.extend_from_slice(&rest[..end]);
    all.extend(before);
    all.extend_from_slice(&rest[end..]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_command_is_as_good_as_behind_it() {
        let moved = |line: &str| {
            let args = arguments(line.split(' ').map(OsString::from));
            args.into_iter().map(|arg| arg.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (written, read) in [
            ("qherd ls --url u", "qherd ls --url u"),
            ("qherd --url u ls -l", "qherd ls -l --url u"),
            ("qherd --url=u -q disk ls web", "qherd disk ls web --url=u -q"),
            ("qherd -ojson --cacert f ssh web -- -v", "qherd ssh web -ojson --cacert f -- -v"),
            ("qherd --help", "qherd --help"),
            ("qherd --url u", "qherd --url u"),
            ("qherd --version ls", "qherd --version ls"),
        ] {
            assert_eq!(moved(written), read);
        }
    }
}
