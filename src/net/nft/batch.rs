//! Changes that are made together or not at all.

use super::{Base, Elements, Form, Rule, Ruleset, TableName};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One that is there keeps what is in it, and is awake.
    AddTable,
    /// With everything in it.
    DeleteTable,
    AddChain(String, Option<Base>),
    DeleteChain(String),
    AddRule(String, Rule),
    /// Takes all rules out of a chain.
    Flush(String),
    AddSet(String, Form),
    DeleteSet(String),
    /// Into a set of this form. Those that are there stay.
    AddElements(String, Form, Elements),
    /// Those that are not there are an error.
    DeleteElements(String, Form, Elements),
}

/// Changes in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(pub Vec<(TableName, Command)>);

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, table: &TableName, command: Command) {
        self.0.push((table.clone(), command));
    }

    /// Adds all that is in `more`, beside what is there already.
    pub fn add(&mut self, more: &Ruleset) {
        for (name, table) in &more.tables {
            self.push(name, Command::AddTable);
            for (chain, made) in &table.chains {
                self.push(name, Command::AddChain(chain.clone(), made.base.clone()));
            }
            for (set, made) in &table.sets {
                self.push(name, Command::AddSet(set.clone(), made.form.clone()));
            }
            for (set, made) in &table.sets {
                if let Some(elements) = made.elements.as_ref().filter(|elements| !elements.is_empty()) {
                    self.push(name, Command::AddElements(set.clone(), made.form.clone(), elements.clone()));
                }
            }
            for (chain, made) in &table.chains {
                for rule in &made.rules {
                    self.push(name, Command::AddRule(chain.clone(), rule.to_be_sent()));
                }
            }
        }
    }
}

impl Batch {
    /// Adds the elements that are in `part` to sets that are there.
    pub fn add_elements(&mut self, part: &Ruleset) {
        self.elements(part, Command::AddElements);
    }

    /// Takes the elements that are in `part` out of their sets.
    pub fn delete_elements(&mut self, part: &Ruleset) {
        self.elements(part, Command::DeleteElements);
    }

    fn elements(&mut self, part: &Ruleset, command: fn(String, Form, Elements) -> Command) {
        for (name, table) in &part.tables {
            for (set, made) in &table.sets {
                if let Some(elements) = made.elements.as_ref().filter(|elements| !elements.is_empty()) {
                    self.push(name, command(set.clone(), made.form.clone(), elements.clone()));
                }
            }
        }
    }
}
