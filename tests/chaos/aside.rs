//! Requests whose client does not wait on the line: their operations end as they would have been answered, in this life of the
//! daemon or in the next, and each is told of once from its begin to its end.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::operation::Operation;
use crate::support::Daemon;

/// Every so manieth request is one.
pub const EVERY: u64 = 3;

/// What it comes to; none where the daemon dies before.
pub async fn follow(daemon: &Daemon, place: &str, operation: &Operation) -> Option<(u16, Value)> {
    if matches!(operation, Operation::RemoveNic | Operation::RemoveDisk) {
        // A guest may keep it for ever.
        sleep(Duration::from_millis(300)).await;
        daemon.try_send(daemon.http().delete(daemon.at(place))).await?;
    }
    loop {
        let found = daemon.try_get(&format!("{place}?wait=10")).await?;
        if !found["ended_at"].is_null() {
            let answer = if found["result"].is_null() { &found["error"] } else { &found["result"] };
            return Some((answer["status"].as_u64()? as u16, answer["body"].clone()));
        }
    }
}

/// What was told of them: how each ended, where it has.
#[derive(Default)]
pub struct Reported(BTreeMap<String, Option<String>>);

impl Reported {
    /// Whether it is as it has to be.
    pub fn take(&mut self, event: &Value) -> bool {
        let id = event["operation_id"].as_str().unwrap().to_owned();
        match (event["type"].as_str().unwrap(), self.0.get(&id)) {
            ("operation.begun", None) => self.0.insert(id, None).is_none(),
            ("operation.progress", Some(None)) => true,
            ("operation.ended", Some(None)) => {
                self.0.insert(id, event["outcome"].as_str().map(str::to_owned)).is_some()
            }
            _ => false,
        }
    }

    /// Between what was told and what there is, once nothing is under way. Those that have ended are left out from then on.
    pub async fn differences(&mut self, daemon: &Daemon) -> Vec<String> {
        let mut wrong = Vec::new();
        for (id, outcome) in &self.0 {
            let found = daemon.get(&format!("/operations/{id}?wait=10")).await;
            let says_why = !found.body["error"].is_null() || found.body["interrupted"].is_string();
            let fits = match found.body["status"].as_str() {
                // It is told of its end after this was read.
                Some(status) if outcome.is_none() => !["pending", "running"].contains(&status),
                Some(status) => outcome.as_deref() == Some(status) && (status == "done" || says_why),
                None => false,
            };
            if !fits {
                wrong.push(format!("the operation {id} was told as {outcome:?}, and is {found:?}"));
            }
        }
        self.0.retain(|_, outcome| outcome.is_none());
        wrong
    }
}
