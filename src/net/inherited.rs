//! Rules that an earlier daemon left, until everybody is known: they may be those of a NIC whose VM nobody has looked at,
//! so they stay. Nothing here speaks to the kernel.

use super::nft::{Ruleset, TableName, is_mendable};

#[derive(Default)]
pub enum Inherited {
    #[default]
    Unread,
    These(Ruleset),
    /// Every switch and port is known, so what is not wanted goes.
    Nothing,
}

impl Inherited {
    /// What is in the kernel at the first look is what an earlier daemon left.
    pub fn read(&mut self, there: &Ruleset) {
        if matches!(self, Self::Unread) {
            *self = Self::These(there.clone());
        }
    }

    /// What is wanted is not inherited any more.
    pub fn disown(&mut self, wanted: &Ruleset) {
        if let Self::These(inherited) = self {
            disown(inherited, wanted);
        }
    }

    /// What is inherited joins what is wanted.
    pub fn join(&mut self, there: &Ruleset, wanted: &mut Ruleset) {
        if let Self::These(inherited) = self {
            // Of a table that is made anew, nothing can stay.
            inherited.tables.retain(|name, _| can_stay(name, there, wanted));
            disown(inherited, wanted);
            keep(inherited, wanted);
        }
    }
}

/// Whether a table keeps what it has beside what is wanted of it.
fn can_stay(name: &TableName, there: &Ruleset, wanted: &Ruleset) -> bool {
    let both = there.tables.get(name).zip(wanted.tables.get(name));
    both.is_none_or(|(there, wanted)| is_mendable(there, wanted))
}

fn disown(inherited: &mut Ruleset, wanted: &Ruleset) {
    inherited.tables.retain(|name, table| {
        let Some(wanted) = wanted.tables.get(name) else { return true };
        table.chains.retain(|name, _| !wanted.chains.contains_key(name));
        table.sets.retain(|name, set| {
            let Some(wanted) = wanted.sets.get(name) else { return true };
            if let (Some(elements), Some(wanted)) = (&mut set.elements, &wanted.elements) {
                elements.retain(|key, _| !wanted.contains_key(key));
            }
            set.elements.as_ref().is_some_and(|elements| !elements.is_empty())
        });
        !table.chains.is_empty() || !table.sets.is_empty()
    });
}

/// What is there and not in `wanted` joins it: at the start it may belong to whom nobody has looked at yet.
fn keep(there: &Ruleset, wanted: &mut Ruleset) {
    for (name, table) in &there.tables {
        let Some(into) = wanted.tables.get_mut(name) else {
            wanted.tables.insert(name.clone(), table.clone());
            continue;
        };
        for (name, chain) in &table.chains {
            into.chains.entry(name.clone()).or_insert_with(|| chain.clone());
        }
        for (name, set) in &table.sets {
            match into.sets.get_mut(name) {
                // One of a form that we do not make cannot be made again either.
                None if set.form.key.is_empty() => {}
                None => {
                    into.sets.insert(name.clone(), set.clone());
                }
                Some(wanted) => {
                    for (key, datum) in set.elements.iter().flatten() {
                        if let Some(elements) = &mut wanted.elements {
                            elements.entry(key.clone()).or_insert_with(|| datum.clone());
                        }
                    }
                }
            }
        }
    }
}
