//! `events`: what is kept of them, or what comes. Each answer says where the next one begins, so that none is missed or shown
//! twice.

use clap::Args;

use super::{
    columns::event_details,
    connect::Connect,
    exit::Fail,
    names::{self, encoded},
    output::{Output, line, unread},
};
use crate::{
    api::kvm::{
        bodies::{EventBody, EventsBody},
        plain,
    },
    client::SOON,
};

/// Seconds that one request waits for an event.
const WAIT: u64 = 20;
/// Of one answer.
const MOST: usize = 1000;

#[derive(Args)]
pub struct Events {
    /// Go on with what comes: from now on, or with --after from there on
    #[arg(short, long)]
    follow: bool,
    /// Begin after the event with this id; 0 shows all that are kept [default: all that are kept, and none with --follow]
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Only of this VM, by its name or id
    #[arg(long)]
    vm: Option<String>,
    /// Only of these types, separated by commas: vm, switch, image, operation, host for all of one thing, or vm.status,
    /// image.created and the like
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<String>,
    /// Only of what had these labels then: env=prod,tier
    #[arg(long, value_name = "LABELS")]
    label: Option<String>,
    #[command(flatten)]
    to: Connect,
}

impl Events {
    pub async fn run(self) -> Result<(), Fail> {
        if !self.follow {
            return self.show().await;
        }
        tokio::select! {
            done = self.show() => done,
            fail = unread() => Err(fail),
        }
    }

    async fn show(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let mut query = format!("wait={}&limit={MOST}", if self.follow { WAIT } else { 0 });
        if let Some(vm) = &self.vm {
            query += &format!("&vm={}", names::vm(&client, vm).await?.id);
        }
        if let Some(types) = &self.types {
            query += &format!("&type={}", encoded(types));
        }
        if let Some(label) = &self.label {
            query += &format!("&label={}", encoded(label));
        }
        let mut after = self.after.or((!self.follow).then(|| "0".to_owned()));
        let mut kept = Vec::new();
        loop {
            let begin = after.map(|after| format!("&after={}", encoded(&after))).unwrap_or_default();
            let EventsBody { events, next } = client.get_within(&format!("/events?{query}{begin}"), SOON * 2).await?;
            after = Some(next);
            let is_last = events.len() < MOST;
            if self.follow {
                events.iter().try_for_each(|event| show(output, event))?;
            } else {
                kept.extend(events);
                if is_last {
                    return output.list(&kept);
                }
            }
        }
    }
}

/// One as it comes: a line. Widths are fixed, as nobody knows what follows.
fn show(output: Output, event: &EventBody) -> Result<(), Fail> {
    if output.is_quiet() {
        return line(&plain(&event.id));
    }
    if output.is_for_programs() {
        return output.value(event);
    }
    let text = format!("{}  {:15} {:15} {}", event.time, event.r#type, event.name, event_details(event));
    line(plain(&text).replace(['\n', '\t'], " ").trim_end())
}
