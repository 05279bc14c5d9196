//! docs/cli.md, which is made of the commands: compared, or written anew by scripts/bless.

use std::fmt::Write;

use clap::CommandFactory;
use qherd::cli::Cli;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");

/// What every command of the client takes is said once.
const COMMON: [&str; 6] = ["url", "cacert", "state_dir", "config", "output", "quiet"];

fn is_of_client(command: &clap::Command) -> bool {
    command.get_arguments().any(|argument| argument.get_id() == "quiet")
}

fn help(command: clap::Command) -> String {
    // What is in the environment of who runs the tests is no part of it.
    let mut command = command.mut_args(|argument| argument.hide_env_values(true)).color(clap::ColorChoice::Never);
    let text = command.render_help().to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

fn describe(command: &clap::Command, path: &str, text: &mut String) {
    let mut own = command.clone().bin_name(path);
    if is_of_client(command) {
        own = own.mut_args(
            |argument| if COMMON.contains(&argument.get_id().as_str()) { argument.hide(true) } else { argument },
        );
    }
    write!(text, "\n## {path}\n```text\n{}\n```\n", help(own)).unwrap();
    for below in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        describe(below, &format!("{path} {}", below.get_name()), text);
    }
}

#[test]
fn the_document_is_what_the_commands_say_of_themselves() {
    let kept = std::fs::read_to_string(DOCUMENT).unwrap();
    let mark = "<!-- generated: the rest -->\n";
    let (head, there) = kept.split_once(mark).unwrap();
    let command = Cli::command();
    let ls = command.find_subcommand("ls").unwrap().clone().bin_name("qherd ls");
    let common = ls
        .mut_args(|argument| if COMMON.contains(&argument.get_id().as_str()) { argument } else { argument.hide(true) });
    let common = help(common.disable_help_flag(true));
    let (_, common) = common.split_once("Where the daemon is").unwrap();
    let mut text = format!("\n## What every command of the client takes\n```text\nWhere the daemon is{common}\n```\n");
    describe(&command, "qherd", &mut text);
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(DOCUMENT, format!("{head}{mark}{text}")).unwrap();
    } else {
        assert_eq!(there, text, "if that is meant, run scripts/bless and read the diff");
    }
}
