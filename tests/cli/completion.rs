//! What the shells complete with: each takes its script, and completes a command and a flag by it.

use std::process::Command;

use crate::screen::{Screen, bare, ran};

fn script(shell: &str) -> tempfile::NamedTempFile {
    let script = ran(bare(&["completion", shell])).expect(0).out;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    file
}

/// What the shell says to a program that has the script as `$1`.
fn said(shell: &str, args: &[&str], program: &str) -> String {
    let file = script(shell);
    let mut command = Command::new(shell);
    command.args(args).arg("-c").arg(program).arg("test").arg(file.path());
    let output = command.output().unwrap_or_else(|error| panic!("{shell}: {error}; scripts/test installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shell}: {text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn bash_completes() {
    let program = "source \"$1\"; complete -p qherd >/dev/null || exit 1; \
                   COMP_WORDS=(qherd st); COMP_CWORD=1; _qherd qherd st qherd; echo \"${COMPREPLY[*]}\"; \
                   COMP_WORDS=(qherd create --wait-f); COMP_CWORD=2; _qherd qherd --wait-f create; echo \"${COMPREPLY[*]}\"";
    assert_eq!(said("bash", &["--norc"], program), "start stop\n--wait-for\n");
}

#[test]
fn zsh_completes() {
    // Its completion lives in its line editor; what it is given there is what is looked at here.
    let program = "autoload -Uz compinit && compinit -D -u && source $1 && [[ $_comps[qherd] == _qherd ]] && \
                   _describe() { print -l -- ${(P)4} } && _arguments() { print -l -- $@ } && _qherd_commands && _qherd__subcmd__create_commands 2>/dev/null; true";
    let text = said("zsh", &["-f"], program);
    assert!(text.contains("start:Start VMs"), "{text}");
}

/// At its prompt, on a terminal.
#[test]
fn zsh_completes_what_is_typed() {
    let file = script("zsh");
    let mut command = Command::new("zsh");
    command.args(["-f", "-i"]).env("TERM", "xterm-256color").env("HOME", "/nonexistent");
    let mut shell = Screen::open(command, 24, 200);
    // What is echoed of the line is not what it says.
    let load = format!("autoload -Uz compinit && compinit -D -u && source {} && echo rea''dy\n", file.path().display());
    shell.type_text(&load);
    shell.see("ready\n");
    shell.type_text("qherd create --wait-f\t");
    shell.see("qherd create --wait-for");
    shell.type_text("\x15qherd susp\t");
    shell.see("qherd suspend");
    shell.type_text("\x15exit\n");
    shell.end();
}

#[test]
fn fish_completes() {
    let file = script("fish");
    let program =
        format!("source {}; complete -C 'qherd st'; complete -C 'qherd create --wait-f'", file.path().display());
    let output = Command::new("fish").args(["--no-config", "-c", &program]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(words, ["start", "stop", "--wait-for"]);
}
