//! Where everything that is shown goes through: tables and facts for people, JSON and YAML for programs. Whatever a guest or a
//! daemon has put into it, a terminal takes it for text. What the columns of which thing are is in `columns`.

use std::{
    future::pending,
    io::{self, IsTerminal, Write},
};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    columns::{Look, Tabled},
    exit::{Exit, Fail},
};
use crate::api::{
    kvm::{is_reordering, plain},
    yaml,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    /// More columns
    Wide,
    /// As the API has it
    Json,
    Yaml,
}

#[derive(Clone, Copy)]
pub struct Output {
    format: Format,
    quiet: bool,
    coloured: bool,
}

/// Whether this is read by a person who wants colours.
pub fn is_coloured(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Output {
    pub fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet, coloured: is_coloured(&io::stdout()) }
    }

    pub fn is_wide(self) -> bool {
        self.format == Format::Wide
    }

    pub fn wide(self) -> Self {
        Self { format: if self.format == Format::Table { Format::Wide } else { self.format }, ..self }
    }

    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// JSON or YAML.
    pub fn is_for_programs(self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// # Errors
    /// Of standard output.
    pub fn list<T: Tabled>(self, rows: &[T]) -> Result<(), Fail> {
        if self.quiet {
            return rows.iter().try_for_each(|row| line(row.id()));
        }
        if self.is_for_programs() {
            return self.value(&rows);
        }
        let columns = || T::COLUMNS.iter().filter(|column| self.is_wide() || !column.wide);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.coloured {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(columns().map(|column| Cell::new(column.title).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(columns().map(|column| {
                let text = plain(&(column.cell)(row)).replace(['\n', '\t'], " ");
                match column.look {
                    Look::Text => Cell::new(text),
                    Look::Status => Cell::new(&text).fg(colour(&text)),
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for text in table.lines() {
            line(text.trim_end())?;
        }
        Ok(())
    }

    /// What there is to know of one thing, line by line; what is empty is left out.
    ///
    /// # Errors
    /// Of standard output.
    pub fn facts(self, facts: &[(&str, String)]) -> Result<(), Fail> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
        for (name, text) in facts.iter().filter(|(_, text)| !text.is_empty()) {
            let (bold, normal) = if self.coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
            let text = plain(text).replace('\n', " ");
            line(&format!("{bold}{:width$}{normal} {text}", format!("{name}:")))?;
        }
        Ok(())
    }

    /// As the API has it.
    ///
    /// # Errors
    /// Of standard output.
    pub fn value(self, value: &impl Serialize) -> Result<(), Fail> {
        let failed = |error: &dyn std::fmt::Display| Fail::new(Exit::Failed, error.to_string());
        let value = serde_json::to_value(value).map_err(|error| failed(&error))?;
        if self.format != Format::Yaml {
            return line(&harmless(&serde_json::to_string_pretty(&value).map_err(|error| failed(&error))?));
        }
        let text = yaml::text(&without_commands(value)).map_err(|error| failed(&error))?;
        line(text.trim_end_matches('\n'))
    }

    /// One line for people.
    ///
    /// # Errors
    /// Of standard output.
    pub fn say(self, text: &str) -> Result<(), Fail> {
        if self.quiet { Ok(()) } else { line(&plain(text)) }
    }
}

/// By its number: what a program ends by that does not take care.
const SIGPIPE: u8 = 13;

/// Who has stopped reading, as `head` does, is told nothing.
fn nobody_reads() -> Fail {
    Fail::new(Exit::Signal(SIGPIPE), "")
}

/// Returns when nobody reads standard output any more. What is written next would tell it too, and may never come. Of a file, whose
/// readers nobody sees, it never returns.
pub async fn unread() -> Fail {
    let (tell, news) = oneshot::channel();
    // It ends with the process.
    std::thread::spawn(move || {
        let out = io::stdout();
        // What has gone wrong is told whatever is asked for.
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        if poll(&mut watched, None).is_ok() && watched[0].revents().contains(PollFlags::ERR) {
            let _ = tell.send(());
        }
    });
    match news.await {
        Ok(()) => nobody_reads(),
        Err(_) => pending().await,
    }
}

/// # Errors
/// Of standard output.
pub fn line(text: &str) -> Result<(), Fail> {
    bytes(format!("{text}\n").as_bytes())
}

/// # Errors
/// As [`line()`].
pub fn bytes(text: &[u8]) -> Result<(), Fail> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => nobody_reads(),
        _ => Fail::new(Exit::Failed, format!("cannot write to standard output: {error}")),
    })
}

fn colour(status: &str) -> Color {
    match status {
        "running" | "ok" | "live" => Color::Green,
        "paused" | "starting" | "stopping" | "rebooting" | "pending" | "removing" => Color::Yellow,
        "crashed" | "unresponsive" | "degraded" => Color::Red,
        _ => Color::DarkGrey,
    }
}

/// JSON may write any character by its number, and here does so where a terminal would act on it: serde_json leaves DEL and C1 as
/// they are.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && c != '\n' || is_reordering(c) {
            text.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            text.push(c);
        }
    }
    text
}

/// Its texts without what a terminal would act on: YAML has no way to write a character by its number without quoting the whole.
fn without_commands(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain(&text)),
        Value::Array(items) => items.into_iter().map(without_commands).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, without_commands(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_says_the_same_and_a_terminal_does_nothing_with_it() {
        let value = json!({ "name": "a\u{1b}[31m\u{9b}2J\u{7f}\u{202e}é\n" });
        let text = harmless(&serde_json::to_string(&value).unwrap());
        assert!(text.chars().all(|c| !c.is_control() && !is_reordering(c)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_terminal_does_nothing_with_what_yaml_is_made_of() {
        let value = json!({ "a": ["\u{1b}[1mhi", { "b": "\u{9b}2Jyou", "c": 1 }] });
        assert_eq!(without_commands(value), json!({ "a": ["hi", { "b": "you", "c": 1 }] }));
    }
}
