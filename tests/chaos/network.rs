//! A network namespace of the chaos's own, and what in it belongs to nobody.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// What qherd's bridges and taps are called, and its nftables table.
const PREFIXES: [&str; 2] = ["qhb", "qht"];
const TABLE: &str = "qherd";

/// Takes this thread, and all that it starts from now on, into a network namespace with nothing but a loopback; it goes
/// with the last process in it.
pub fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own; run this as root");
    text("ip", &["link", "set", "lo", "up"]).unwrap();
}

/// Interfaces and tables of qherd that belong to none of `owners`, which are the names that they should have.
pub fn complaints(owners: &[String]) -> Vec<String> {
    let links = text("ip", &["-o", "link"]).unwrap();
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let ours = names.filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    let orphans = ours.filter(|name| owners.iter().all(|owner| owner != name));
    let mut wrong: Vec<String> = orphans.map(|name| format!("an interface that belongs to nobody: {name}")).collect();
    // qherd makes tables with the same program: without it there are none.
    let tables = text("nft", &["list", "tables"]).unwrap_or_default();
    if owners.is_empty() && tables.lines().any(|line| line.ends_with(&format!(" {TABLE}"))) {
        wrong.push(format!("an nftables table that belongs to nobody: {TABLE}"));
    }
    wrong
}

/// What a program says; none where it is not installed.
fn text(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_an_owner_is_found() {
        enter();
        assert_eq!(complaints(&[]), [] as [&str; 0]);
        text("ip", &["link", "add", "qhb7", "type", "bridge"]).unwrap();
        assert_eq!(complaints(&["qhb7".into()]), [] as [&str; 0]);
        assert_eq!(complaints(&[]), ["an interface that belongs to nobody: qhb7"]);
    }
}
