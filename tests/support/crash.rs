//! A daemon that dies where a test wants it to, is started again, and has to come to rest.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Answer, Daemon, PATIENCE};

/// On which side of a commit the daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    /// It is durable, and nobody was told.
    After,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Before, Self::After];
}

/// What a VM is in while something is still being done with it.
const UNDER_WAY: [&str; 4] = ["starting", "stopping", "rebooting", "unresponsive"];

impl Daemon {
    /// The command that starts the daemon so that it dies at its `commit`th commit.
    pub fn dying_at(&self, commit: u64, side: Side) -> Command {
        let mut command = self.command();
        let side = format!("{side:?}").to_lowercase();
        command.env("QHERD_FAIL_POINT", format!("commit:{commit}:{side}"));
        command
    }

    /// The command that starts the daemon so that it dies at its `step`th change of the host's network.
    pub fn dying_at_step(&self, step: u64, side: Side) -> Command {
        let mut command = self.command();
        let side = format!("{side:?}").to_lowercase();
        command.env("QHERD_FAIL_POINT", format!("step:{step}:{side}"));
        command
    }

    /// Begins the log anew.
    pub fn forget_log(&self) {
        self.log().set_len(0).unwrap();
    }

    /// Whether it has ended by itself; then it can be run again.
    pub fn has_died(&mut self) -> bool {
        let died = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if died {
            self.child = None;
        }
        died
    }

    /// An answer, or none where the daemon died over it. A daemon that says nothing is a failure.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let broken = |error: reqwest::Error| {
            assert!(!error.is_timeout(), "no answer: {error:?}\n{}", self.log_text());
        };
        let response = request.send().await.map_err(broken).ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(broken).ok()?;
        Some(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    pub async fn try_get(&self, path: &str) -> Option<Value> {
        self.try_send(self.http().get(self.at(path)))
            .await
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.body)
    }

    /// Waits until nothing is under way with any VM; false when the daemon is gone.
    pub async fn comes_to_rest(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(vms) = self.try_get("/vms").await else { return false };
            let vms = vms.as_array().unwrap();
            if vms.iter().all(|vm| !UNDER_WAY.contains(&vm["status"].as_str().unwrap())) {
                return true;
            }
            assert!(Instant::now() < deadline, "it does not come to rest: {vms:?}\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until a VM has all that it is defined with; what it lacks when the patience is over.
    pub async fn comes_to_have_all(&self, id: &str) -> Value {
        let deadline = Instant::now() + PATIENCE / 4;
        loop {
            let config = self.get(&format!("/vms/{id}/config")).await.expect(200);
            if config["pending"] == serde_json::json!({}) || Instant::now() > deadline {
                return config["pending"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts the daemon so that it dies at a commit of its recovery, right before and right after, until it has nothing
    /// more to do, and then for good. Returns how often it died.
    pub async fn recover_dying(&mut self) -> u64 {
        for deaths in 0..100 {
            // Not always the first one: a start that is owed is begun anew by each daemon, and needs three.
            let commit = 1 + deaths / 3;
            let command = self.dying_at(commit, Side::BOTH[deaths as usize % 2]);
            if self.try_run_as(command) && self.comes_to_rest().await && !self.has_died() {
                self.kill();
                self.run();
                assert!(self.comes_to_rest().await);
                return deaths;
            }
            if !self.has_died() {
                self.wait();
            }
        }
        panic!("its recovery never ends\n{}", self.log_text());
    }
}
