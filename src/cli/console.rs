//! `console`: a guest's serial console on this terminal. The bytes are the guest's, as they are: that is what it is for.

use std::io::{Read, Write, stdin, stdout};

use clap::Args;
use tokio::sync::mpsc;

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    names,
    terminal::{Raw, Signals},
};
use crate::{
    api::kvm::plain,
    client::{Console as Line, Heard},
};

/// Ctrl-]
const LEAVE: u8 = 0x1d;
/// Pieces that are typed and not sent yet.
const AHEAD: usize = 64;

#[derive(Args)]
pub struct Console {
    /// Its name or id
    vm: String,
    /// Only look
    #[arg(long, conflicts_with = "shared")]
    watch: bool,
    /// Type along with others who say so
    #[arg(long)]
    shared: bool,
    /// Lines of what was written before
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    tail: u32,
    #[command(flatten)]
    to: Connect,
}

impl Console {
    pub async fn run(self) -> Result<(), Fail> {
        let client = self.to.client()?;
        let vm = names::vm(&client, &self.vm).await?;
        let mut query = format!("tail={}", self.tail);
        if self.watch {
            query += "&watch=true";
        } else if self.shared {
            query += "&shared=true";
        }
        let mut signals = Signals::listen()?;
        let raw = Raw::enter()?;
        let opened = client.console(&format!("/vms/{}/console?{query}", vm.id)).await;
        let mut line = opened?;
        shown(format!("[console of {}; Ctrl-] leaves it]\r\n", plain(&vm.name)).as_bytes())?;
        let ended = tokio::select! {
            ended = talk(&mut line, typed()) => ended,
            signal = signals.next() => Err(signal),
        };
        // What is to be read comes after the terminal is itself again.
        drop(raw);
        line.close().await;
        let said = ended.as_ref().map_or("", String::as_str);
        let said = if said.is_empty() { String::new() } else { format!("[{}]\n", plain(said)) };
        shown(format!("\n{said}").as_bytes())?;
        ended.map(|_| ())
    }
}

/// To the end, and why it ends.
async fn talk(line: &mut Line, mut typed: mpsc::Receiver<Vec<u8>>) -> Result<String, Fail> {
    loop {
        tokio::select! {
            heard = line.next() => match heard? {
                Heard::Bytes(bytes) => shown(&bytes)?,
                Heard::Note(note) => shown(plain(&note).replace('\n', "\r\n").as_bytes())?,
                Heard::End { daemon_ends: true, reason } => return Err(Fail::new(Exit::Unreachable, reason)),
                Heard::End { daemon_ends: false, reason } => return Ok(reason),
            },
            keys = typed.recv() => {
                // The terminal has gone.
                let Some(mut keys) = keys else { return Ok(String::new()) };
                let leave = keys.iter().position(|key| *key == LEAVE);
                keys.truncate(leave.unwrap_or(keys.len()));
                if !keys.is_empty() {
                    line.send(keys).await?;
                }
                if leave.is_some() {
                    return Ok("left; the guest goes on".to_owned());
                }
            }
        }
    }
}

/// What is typed, by a thread of its own: it waits for as long as nobody types, and ends with the process.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut keys = [0; 1024];
        while let Ok(count @ 1..) = stdin().lock().read(&mut keys) {
            if sender.blocking_send(keys[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn shown(bytes: &[u8]) -> Result<(), Fail> {
    let mut out = stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Fail::from)
}
