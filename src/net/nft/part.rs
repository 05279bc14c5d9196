//! Part of a ruleset, changed without a look at the rest: what it costs does not grow with what others have.

use super::{Ruleset, Set, Table, ruleset::Elements};

impl Ruleset {
    /// What is here of that of which one of these tells: tables, chains and sets by their names, elements by their keys.
    pub fn about(&self, parts: &[&Self]) -> Self {
        let mut found = Self::default();
        for (name, table) in &self.tables {
            let reported: Vec<&Table> = parts.iter().filter_map(|part| part.tables.get(name)).collect();
            if reported.is_empty() {
                continue;
            }
            let about = found.tables.entry(name.clone()).or_default();
            for chain in reported.iter().flat_map(|table| table.chains.keys()) {
                if let Some(there) = table.chains.get(chain) {
                    about.chains.entry(chain.clone()).or_insert_with(|| there.clone());
                }
            }
            for (set, elements) in
                reported.iter().flat_map(|table| &table.sets).map(|(set, reported)| (set, &reported.elements))
            {
                if let Some(there) = table.sets.get(set) {
                    let empty = there.elements.as_ref().map(|_| Elements::new());
                    let form = &there.form;
                    let into = about.sets.entry(set.clone());
                    let into = into.or_insert_with(|| Set { form: form.clone(), elements: empty });
                    if let (Some(into), Some(there), Some(reported)) = (&mut into.elements, &there.elements, elements) {
                        let both = reported.keys().filter_map(|key| there.get_key_value(key));
                        into.extend(both.map(|(key, value)| (key.clone(), value.clone())));
                    }
                }
            }
        }
        found
    }

    /// Puts `new` here in the place of `old`, which is [`Self::about`] both.
    pub fn replace(&mut self, old: &Self, new: &Self) {
        for (name, table) in &old.tables {
            let (Some(own), Some(new)) = (self.tables.get_mut(name), new.tables.get(name)) else { continue };
            table.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).for_each(|c| _ = own.chains.remove(c));
            table.sets.keys().filter(|set| !new.sets.contains_key(*set)).for_each(|set| _ = own.sets.remove(set));
        }
        self.delete_elements(old);
        for (name, table) in &new.tables {
            let own = self.tables.entry(name.clone()).or_default();
            for (chain, made) in &table.chains {
                own.chains.insert(chain.clone(), made.clone());
            }
            for (set, made) in &table.sets {
                let Set { form, elements } = made;
                let into = own.sets.entry(set.clone());
                let into = into.or_insert_with(|| Set {
                    form: form.clone(),
                    elements: elements.as_ref().map(|_| Elements::new()),
                });
                if let (Some(into), Some(elements)) = (&mut into.elements, elements) {
                    into.extend(elements.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
            }
        }
    }
}
