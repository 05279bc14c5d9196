//! Clients that are somebody: curl as another user or in another network namespace, and tokens made by the program.
#![allow(dead_code)] // Every test file uses its own part.

use std::{path::Path, process::Command};

use serde_json::Value;

/// A user of every host, with no role anywhere.
pub const NOBODY: &str = "65534";

/// What curl was answered: status, head in lower case, and body; 0 where there was no answer.
#[derive(Debug)]
pub struct Curled {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

/// curl as the user `uid`.
pub fn curl_as(uid: &str, args: &[&str]) -> Curled {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "--", "curl"]);
    run(command, args)
}

pub fn curl(args: &[&str]) -> Curled {
    run(Command::new("curl"), args)
}

fn run(mut command: Command, args: &[&str]) -> Curled {
    let output = command.args(["-s", "-i", "--max-time", "60", "--noproxy", "*"]).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Curled { status, head: head.to_lowercase(), body }
}

/// `qherd token ARGS` on a state directory: what it prints.
pub fn token(state: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.arg("token").args(args).arg("--state-dir").arg(state).current_dir(state);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The id in a token.
pub fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
}
