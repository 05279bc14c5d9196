//! Somebody who follows the events of the VM from its beginning, over every death of the daemon, and to whom nothing must be told
//! twice, too late or not at all: what was told comes to what is stored.

use std::collections::{BTreeMap, BTreeSet};

use qherd::{
    model::{Asker, Ending, Event, Status, What},
    vm::core::{Record, Run, Ticket, Txn, tell},
};

/// What was told so far.
#[derive(Debug, Default)]
pub struct Subscriber {
    exists: bool,
    status: Option<Status>,
    agent: bool,
    incidents: u64,
    /// Requests of those who know that it exists.
    requests: BTreeSet<Ticket>,
    /// How often a request was told to have changed the definition.
    changes: BTreeMap<Ticket, u32>,
    pub events: u64,
}

/// As whom a request is sent.
pub fn asker(ticket: Ticket) -> Asker {
    Asker { caller: "a client".to_owned(), request: ticket.to_string() }
}

impl Subscriber {
    /// A batch is stored where `before` was.
    pub fn hear(&mut self, before: Option<&Record>, txn: &Txn) -> Result<(), String> {
        if let (Some(known), Some(before)) = (&txn.tells.before, before)
            && known != before
        {
            return Err("a batch takes something else for what is stored before it".into());
        }
        tell(before, txn).into_iter().try_for_each(|event| self.take(event))
    }

    fn take(&mut self, Event { what, by, .. }: Event) -> Result<(), String> {
        self.events += 1;
        if self.exists == (what == What::Created) {
            return Err(format!("told of a VM that {}: {what:?}", if self.exists { "exists" } else { "is not there" }));
        }
        match what {
            What::Created => self.exists = true,
            What::Deleted => self.exists = false,
            What::Status { status, .. } if self.status == Some(status) => {
                return Err(format!("told twice that it is {status:?}"));
            }
            What::Status { status, .. } => self.status = Some(status),
            What::Agent { connected } if self.agent == connected => return Err("told twice of its agent".into()),
            What::Agent { connected } => self.agent = connected,
            What::Incident { .. } => self.incidents += 1,
            What::Changed { fields } => {
                if fields.is_empty() {
                    return Err("told of a change of nothing".into());
                }
                for by in by {
                    let ticket = by.request.parse().map_err(|_| "told of a request that nobody has made")?;
                    *self.changes.entry(ticket).or_default() += 1;
                }
            }
            What::Goal { .. } | What::InEffect { .. } | What::Guest { .. } | What::Problem { .. } => {}
            What::Operation(_) | What::Warnings { .. } => return Err("the core knows of no such thing".into()),
        }
        Ok(())
    }

    /// A request is sent.
    pub fn ask(&mut self, ticket: Ticket) {
        if self.exists {
            self.requests.insert(ticket);
        }
    }

    /// A request was answered that it has changed the definition, in which that is still to be seen.
    pub fn must_know(&self, ticket: Ticket) -> Result<(), String> {
        match self.changes.get(&ticket) {
            Some(1) => Ok(()),
            None if !self.requests.contains(&ticket) => Ok(()),
            reported => Err(format!("the acknowledged change {ticket} was told {} times", reported.unwrap_or(&0))),
        }
    }

    /// What was told is what is stored, whenever one looks.
    pub fn check(&mut self, stored: Option<&Record>) -> Result<(), String> {
        if let Some((ticket, times)) = self.changes.iter().find(|(_, times)| **times > 1) {
            return Err(format!("the change {ticket} was told {times} times"));
        }
        let exists = |run: &Run| !matches!(run, Run::Making { .. } | Run::Starting { new: true, .. });
        let Some(record) = stored.filter(|record| exists(&record.run.state)) else {
            return if self.exists { Err("nobody was told that it is gone".into()) } else { Ok(()) };
        };
        let (reported, run) = (&record.run.reported, &record.run);
        if run.up().is_none() {
            // It went with the run.
            self.agent = false;
        }
        if !self.exists
            || self.status != reported.status
            || self.incidents != reported.incidents
            || self.agent != reported.agent
        {
            return Err(format!("{reported:?} is stored, and {self:?} was told"));
        }
        let fits = match &run.state {
            Run::Down { last: Ending::Clean } => matches!(reported.status, Some(Status::Stopped | Status::Stopping)),
            Run::Down { .. } => matches!(reported.status, Some(Status::Crashed | Status::Stopping)),
            Run::Starting { .. } => matches!(reported.status, Some(Status::Starting | Status::Stopping)),
            Run::Up(_) => !matches!(reported.status, Some(Status::Stopped | Status::Crashed | Status::Starting)),
            Run::Making { .. } => false,
        };
        if fits { Ok(()) } else { Err(format!("{:?} was told of {:?}", reported.status, run.state)) }
    }
}
