//! docs/cli.md, which is made of the commands: compared, or written anew by scripts/bless.

use std::fmt::Write;

use clap::CommandFactory;
use qherd::cli::Cli;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");

fn describe(command: &mut clap::Command, path: &str, text: &mut String) {
    write!(text, "\n## {path}\n```text\n{}\n```\n", command.render_long_help().to_string().trim_end()).unwrap();
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect();
    for name in names.iter().filter(|name| *name != "help") {
        describe(command.find_subcommand_mut(name).unwrap(), &format!("{path} {name}"), text);
    }
}

#[test]
fn the_document_is_what_the_commands_say_of_themselves() {
    let kept = std::fs::read_to_string(DOCUMENT).unwrap();
    let mark = "<!-- generated: the rest -->\n";
    let (head, there) = kept.split_once(mark).unwrap();
    let mut command = Cli::command();
    command.build();
    let mut text = String::new();
    describe(&mut command, "qherd", &mut text);
    // What is in the environment of who runs the tests is no part of it.
    let text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(DOCUMENT, format!("{head}{mark}{text}")).unwrap();
    } else {
        assert_eq!(there, text, "if that is meant, run scripts/bless and read the diff");
    }
}
