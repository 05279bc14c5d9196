//! `top`: what running VMs use. Live on a terminal; once, where nobody looks at it.

mod screen;

use std::{
    io::{IsTerminal, stdin, stdout},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use tokio::sync::mpsc;

use super::{columns::Used, connect::Connect, exit::Fail, sizes, terminal::Signals};
use crate::{
    api::kvm::bodies::{Listed, Performance},
    client::{Client, Failure},
    model::Status,
};
use screen::{Screen, Then};

/// VMs that are looked at side by side.
const AT_A_TIME: usize = 16;

#[derive(Args)]
pub struct Top {
    /// How often it looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = sizes::time)]
    interval: Duration,
    /// Once, as a table
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    to: Connect,
}

impl Top {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let first = look(&client).await?;
        if self.once
            || output.is_for_programs()
            || output.is_quiet()
            || !stdout().is_terminal()
            || !stdin().is_terminal()
        {
            return output.list(&first);
        }
        let mut signals = Signals::listen()?;
        let mut open = Open { terminal: ratatui::try_init()? };
        let shown = show(&mut open.terminal, first, Arc::new(client), self.interval);
        tokio::select! {
            ended = shown => ended,
            signal = signals.next() => Err(signal),
        }
    }
}

/// The terminal, which is as before when this goes.
struct Open {
    terminal: DefaultTerminal,
}

impl Drop for Open {
    fn drop(&mut self) {
        // One that has gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// All VMs, with the figures of those that run.
async fn look(client: &Client) -> Result<Vec<Used>, Failure> {
    let all: Vec<Listed> = client.get("/vms").await?;
    let figures = all.into_iter().map(async |vm| {
        if matches!(vm.status, Status::Stopped | Status::Crashed) {
            return Ok(Some(Used { vm, performance: None }));
        }
        match client.get::<Performance>(&format!("/vms/{}/performance", vm.id)).await {
            Ok(figures) => Ok(Some(Used { vm, performance: Some(figures) })),
            // It has stopped meanwhile.
            Err(failure) if failure.is_not_found() => Ok(Some(Used { vm, performance: None })),
            Err(failure) => Err(failure),
        }
    });
    let found: Vec<Option<Used>> = stream::iter(figures).buffered(AT_A_TIME).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn show(
    terminal: &mut DefaultTerminal,
    first: Vec<Used>,
    client: Arc<Client>,
    interval: Duration,
) -> Result<(), Fail> {
    let mut screen = Screen::new(client.target().name());
    screen.take(first);
    let (mut keys, mut figures) = (keys(), figures(client, interval));
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if screen.press(key) == Then::Leave {
                        return Ok(());
                    }
                }
                // Its size is another.
                Some(_) => {}
                // The terminal has gone.
                None => return Ok(()),
            },
            looked = figures.recv() => match looked {
                Some(looked) => screen.take(looked?),
                None => return Ok(()),
            },
        }
    }
}

/// Looked at again and again, while nobody waits for a key. The first that fails is the last.
fn figures(client: Arc<Client>, interval: Duration) -> mpsc::Receiver<Result<Vec<Used>, Failure>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let looked = look(&client).await;
            let is_last = looked.is_err();
            if sender.send(looked).await.is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// By a thread of its own, which ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
