//! The rules of the tree (docs: design.md, "The tree"): who may use whom, who alone names which library, no panics, no
//! long files. Each violation is told with its file and line.

use crate::source::{Source, words};

/// What each module under src/ may use of the others. Nothing points up, and the order here is the order of the layers.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("qmp", &[]),
    ("fetch", &[]),
    ("host", &["model"]),
    ("store", &["host"]),
    ("net", &["model", "host"]),
    ("qemu", &["model", "host", "qmp"]),
    ("profile", &["model", "qemu"]),
    ("vm", &["model", "config", "host", "net", "qmp", "store", "qemu"]),
    ("service", &["model", "config", "fetch", "host", "net", "store", "qemu", "profile", "vm"]),
    // `vm` only for `StopMode`, a part of what it asks of the service.
    ("api", &["model", "service", "vm"]),
    ("client", &["api"]),
    // `service` only for those that work on a state directory, see below.
    ("cli", &["model", "config", "service", "api", "client"]),
    // Calls what reads first, of every module.
    ("fuzz", &["api", "cli", "config", "host", "net", "qmp", "service"]),
    ("signals", &[]),
    ("doors", &["config", "service", "api"]),
    ("main", &["config", "service", "api", "cli", "doors", "signals", "host"]),
    ("lib", &[]),
];

/// Libraries that stay behind one module: nobody else would have to change if they went.
const ONLY_IN: &[(&str, &str)] = &[
    ("sled", "store"),
    ("warp", "api"),
    ("http", "api client fetch"),
    ("hyper", "api client fetch"),
    ("hyper_util", "api client fetch"),
    ("ipnet", "config fetch"),
    ("tokio_rustls", "api client fetch"),
    ("rustls_native_certs", "fetch"),
    ("url", "fetch"),
    ("tokio_tungstenite", "api client"),
    ("webpki", "api"),
    ("schemars", "api model"),
    ("clap_complete", "cli"),
    ("comfy_table", "cli"),
    ("indicatif", "cli"),
    ("ratatui", "cli"),
    ("roxmltree", "cli"),
    ("saphyr", "api"),
    ("rtnetlink", "net"),
];
/// Outside `main`, errors have types; `service::open` and what it calls speak to the person who starts the daemon.
const ANYHOW: &str = "main doors cli config profile service";
const PANICS: &[&str] = &["unwrap", "expect", "unwrap_err", "expect_err", "unwrap_unchecked"];
const PANICKING_MACROS: &[&str] = &["panic", "todo", "unimplemented", "unreachable", "dbg"];
const MOST_LINES: usize = 400;
/// The files that cannot do without `unsafe`.
const UNSAFE: &[&str] = &[
    "host/launcher/capabilities.rs",
    "host/launcher/clone.rs",
    "host/launcher/filter.rs",
    "host/launcher/handed.rs",
    "host/launcher/mod.rs",
    "host/launcher/spawn.rs",
    "host/launcher/user.rs",
    "host/launcher/view.rs",
    "host/memory.rs",
    "host/process.rs",
    "net/lease_news.rs",
    "net/legacy.rs",
    "net/netlink/events.rs",
    "net/nft/events.rs",
    "net/tap.rs",
    "qemu/accelerator.rs",
];

/// The files that call what may wait in the kernel (clippy.toml), each with its reason: files of the kernel or small ones of
/// the state directory, or it is called on threads that may wait.
const MAY_WAIT: &[&str] = &[
    "api/http/listen.rs",
    "api/http/tls.rs",
    "cli/db.rs",
    "cli/first_boot.rs",
    "cli/import/mod.rs",
    "cli/token.rs",
    "client/connection.rs",
    "config.rs",
    "host/cgroups.rs",
    "host/cpus.rs",
    "host/folder.rs",
    "host/image/run.rs",
    "host/image.rs",
    "host/inventory.rs",
    "host/launcher/handed.rs",
    "host/launcher/mod.rs",
    "host/launcher/root.rs",
    "host/launcher/user.rs",
    "host/launcher/view.rs",
    "host/listed.rs",
    "host/memory.rs",
    "host/open.rs",
    "host/process.rs",
    "host/relay.rs",
    "host/removal.rs",
    "host/sandbox.rs",
    "host/tail.rs",
    "host/tasks.rs",
    "host/writes.rs",
    "net/adapter.rs",
    "net/companion/mod.rs",
    "net/companion/supervisor.rs",
    "net/companion/view.rs",
    "net/dhcp/leases.rs",
    "net/dhcp/mod.rs",
    "net/dhcp/resolvers.rs",
    "net/legacy.rs",
    "net/mod.rs",
    "net/own_addresses.rs",
    "net/passt.rs",
    "net/problem.rs",
    "net/reconcile.rs",
    "net/reverse_path.rs",
    "net/runtime.rs",
    "net/state_mark.rs",
    "net/sweep.rs",
    "net/tap.rs",
    "net/truth.rs",
    "profile/mod.rs",
    "qemu/accelerator.rs",
    "qemu/caps.rs",
    "qmp/socket.rs",
    "service/access/tokens.rs",
    "service/cloud_init.rs",
    "service/create.rs",
    "service/database/files.rs",
    "service/database.rs",
    "service/existing.rs",
    "service/exports.rs",
    "service/file_id.rs",
    "service/folders.rs",
    "service/image_store/mod.rs",
    "service/images.rs",
    "service/paths.rs",
    "service/private.rs",
    "service/recover.rs",
    "service/relocate.rs",
    "service/room.rs",
    "service/state_dir.rs",
    "service/state_lock.rs",
    "service/trusted.rs",
    "service/volumes/mod.rs",
    "store/mod.rs",
    "vm/console.rs",
    "vm/perform/files.rs",
    "vm/perform/images.rs",
    "vm/perform/launch.rs",
    "vm/seeds.rs",
    "vm/storage.rs",
];

fn tell(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}\n  {}\n", violations.join("\n  "));
}

#[test]
fn nothing_points_up() {
    let mut violations = Vec::new();
    for file in Source::all() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(module, _)| *module == file.module) else {
            violations.push(format!(
                "src/{}: the module {} is not in the table of tests/tree/layers.rs",
                file.path, file.module
            ));
            continue;
        };
        for (line, used) in file.uses() {
            if used != file.module && !allowed.contains(&used.as_str()) {
                violations
                    .push(format!("src/{}:{line}: {} uses {used}; it may use {allowed:?}", file.path, file.module));
            }
        }
    }
    tell("Dependencies go downwards only (the table MAY_USE):", violations);
}

/// What a client can do, anybody's client can.
#[test]
fn a_command_of_a_client_knows_the_api_alone() {
    const BESIDE_THE_DAEMON: [&str; 2] = ["cli/db.rs", "cli/token.rs"];
    let mut violations = Vec::new();
    for file in Source::all() {
        if file.module != "cli" || BESIDE_THE_DAEMON.contains(&file.path.as_str()) {
            continue;
        }
        let used = file.uses().into_iter().filter(|(_, used)| used == "service");
        violations.extend(used.map(|(line, used)| format!("src/{}:{line}: uses {used}", file.path)));
    }
    tell("A command of a client asks the daemon by HTTP:", violations);
}

#[test]
fn the_table_itself_has_no_cycle() {
    let order = |module: &str| MAY_USE.iter().position(|(name, _)| *name == module).unwrap();
    for (module, used) in MAY_USE {
        assert!(used.iter().all(|used| order(used) < order(module)), "{module} uses something further down the table");
    }
}

#[test]
fn a_library_is_named_only_where_it_belongs() {
    let mut violations = Vec::new();
    for file in Source::all() {
        for (library, home) in ONLY_IN.iter().chain(&[("anyhow", ANYHOW)]) {
            if home.split(' ').any(|home| home == file.module) {
                continue;
            }
            for line in file.names(library) {
                violations.push(format!("src/{}:{line}: names {library}, which belongs to {home}", file.path));
            }
        }
    }
    tell("A library stays where it can be replaced (the table ONLY_IN):", violations);
}

#[test]
fn nothing_panics_outside_tests() {
    let mut violations = Vec::new();
    for file in Source::all().iter().filter(|file| !file.is_test) {
        // A lint that is expected to fire is no call.
        for (number, line) in file.product_lines().filter(|(_, line)| !line.trim_start().starts_with("#![expect(")) {
            let calls = words(line).filter(|(word, rest)| PANICS.contains(word) && rest.trim_start().starts_with('('));
            let macros = words(line).filter(|(word, rest)| PANICKING_MACROS.contains(word) && rest.starts_with('!'));
            for (word, _) in calls.chain(macros) {
                violations.push(format!("src/{}:{number}: {word}", file.path));
            }
        }
    }
    tell("Errors are values:", violations);
}

/// The lint of Cargo.toml denies it elsewhere; here is who may lift that.
#[test]
fn unsafe_code_is_where_it_has_to_be() {
    let uses = |file: &Source| file.product_lines().any(|(_, line)| words(line).any(|(word, _)| word == "unsafe_code"));
    let found: Vec<String> = Source::all().into_iter().filter(uses).map(|file| file.path).collect();
    assert_eq!(found, UNSAFE);
}

#[test]
fn what_may_wait_is_where_it_has_to_be() {
    let uses = |file: &Source| {
        let mut lines = file.product_lines().filter(|(_, line)| !line.contains("warn("));
        lines.any(|(_, line)| words(line).any(|(word, _)| word == "disallowed_methods"))
    };
    let found: Vec<String> = Source::all().into_iter().filter(uses).map(|file| file.path).collect();
    assert_eq!(found, MAY_WAIT);
}

/// Clippy says so too, but not in a file that may wait.
#[test]
fn programs_are_started_by_the_launcher_alone() {
    let mut violations = Vec::new();
    for file in Source::all().iter().filter(|file| !file.is_test && !file.path.starts_with("host/launcher/")) {
        for (number, line) in file.product_lines() {
            if words(line).any(|(word, rest)| word == "Command" && rest.starts_with("::new")) {
                violations.push(format!("src/{}:{number}: Command::new", file.path));
            }
        }
    }
    tell("A program is started by host::launcher, with what its kind is declared to need:", violations);
}

#[test]
fn every_file_is_short_and_says_what_it_is() {
    let mut violations = Vec::new();
    for file in Source::all() {
        if file.lines > MOST_LINES {
            violations.push(format!("src/{}: {} lines, more than {MOST_LINES}", file.path, file.lines));
        }
        if !file.opens_with_comment {
            violations.push(format!("src/{}: does not begin with a //! comment", file.path));
        }
    }
    tell("One idea per file:", violations);
}

/// Else `qherd db check` would pass over what it cannot read.
#[test]
fn every_kind_of_record_is_checked() {
    let kinds = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/service/database.rs")).unwrap();
    let mut found = 0;
    let mut violations = Vec::new();
    for file in Source::all().iter().filter(|file| !file.is_test) {
        for (number, line) in file.product_lines() {
            let record = line.strip_prefix("impl store::").or_else(|| line.strip_prefix("impl "));
            let Some(record) = record.and_then(|line| line.strip_prefix("Record for ")) else { continue };
            let record = record.trim_end_matches(['{', ' ']);
            found += 1;
            if !kinds.contains(&format!("Kind::of::<{record}>()")) {
                violations.push(format!(
                    "src/{}:{number}: {record} is not in RECORD_KINDS of src/service/database.rs",
                    file.path
                ));
            }
        }
    }
    assert!(found > 0);
    tell("Every kind of record can be checked:", violations);
}

/// The rules above are worth what the reading of the sources is worth.
#[test]
fn sources_are_read_as_the_compiler_reads_them() {
    let text = r##"//! A sample.
use crate::{
    model::{Error, http},
    store::Store,
};
use http::Method;
// crate::api is only mentioned, and so is x.unwrap().
const TEXT: &str = "crate::api \" .unwrap()";
const RAW: &str = r#"crate::api "quoted" sled::open"#;
const QUOTE: char = '"';
fn f<'a>(x: &'a str) -> Store { super::super::config::read(x).unwrap(); sled::open(x) }
#[cfg(test)]
mod tests {
    use super::super::host;
    fn g() { h().unwrap(); crate::qmp::connect(); }
}
"##;
    let file = Source::parse("vm/deep.rs", text);
    assert_eq!((file.module.as_str(), file.opens_with_comment, file.lines), ("vm", true, 16));
    let uses: Vec<(usize, String)> = file.uses();
    let uses: Vec<(usize, &str)> = uses.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(uses, [(2, "model"), (2, "store"), (15, "qmp"), (11, "config")]);
    assert_eq!((file.names("http"), file.names("sled")), (vec![6], vec![11]));
    let panics = file.product_lines().filter(|(_, line)| words(line).any(|(word, _)| word == "unwrap"));
    assert_eq!(panics.map(|(number, _)| number).collect::<Vec<_>>(), [11]);
}
