//! From what is to what is wanted.

use super::{Batch, Chain, Command, Elements, Rule, Ruleset, Set, Table, TableName};

/// What makes `wanted` of `is`. Empty if they are equal. A table whose sets or base chains have another form is made
/// anew, in the same batch as the old one goes; in any other, what packets have put into its sets stays.
pub fn diff(is: &Ruleset, wanted: &Ruleset) -> Batch {
    let mut batch = Batch::default();
    for name in is.tables.keys().filter(|name| !wanted.tables.contains_key(name)) {
        batch.push(name, Command::DeleteTable);
    }
    for (name, wanted) in &wanted.tables {
        match is.tables.get(name) {
            Some(is) if is_mendable(is, wanted) => mend(name, is, wanted, &mut batch),
            found => {
                if found.is_some() {
                    batch.push(name, Command::DeleteTable);
                }
                let whole = Ruleset { tables: [(name.clone(), wanted.clone())].into() };
                batch.add(&whole);
            }
        }
    }
    batch
}

/// Whether what is there has the form that is wanted of it; if not, it is made anew.
pub fn is_mendable(is: &Table, wanted: &Table) -> bool {
    let chain = |(name, chain): (&String, &Chain)| is.chains.get(name).is_none_or(|found| found.base == chain.base);
    let set = |(name, set): (&String, &Set)| is.sets.get(name).is_none_or(|found| found.form == set.form);
    wanted.chains.iter().all(chain) && wanted.sets.iter().all(set)
}

/// What refers to something goes before it and comes after it.
fn mend(name: &TableName, is: &Table, wanted: &Table, batch: &mut Batch) {
    let changed = |chain: &&String| rules(is, chain) != rules(wanted, chain);
    let gone: Vec<&String> = is.chains.keys().filter(|chain| !wanted.chains.contains_key(*chain)).collect();
    let sets =
        || wanted.sets.iter().map(|(set, made)| (set, made, is.sets.get(set).and_then(|is| is.elements.as_ref())));

    if is.dormant != wanted.dormant {
        batch.push(name, Command::AddTable);
    }
    for chain in is.chains.keys().filter(changed).filter(|chain| !rules(is, chain).is_empty()) {
        batch.push(name, Command::Flush(chain.clone()));
    }
    for (set, made, found) in sets() {
        if let (Some(found), Some(elements)) = (found, &made.elements) {
            // One with another value is another element.
            let surplus = without(found, elements);
            if !surplus.is_empty() {
                batch.push(name, Command::DeleteElements(set.clone(), made.form.clone(), surplus));
            }
        }
    }
    for set in is.sets.keys().filter(|set| !wanted.sets.contains_key(*set)) {
        batch.push(name, Command::DeleteSet(set.clone()));
    }
    for chain in gone {
        batch.push(name, Command::DeleteChain(chain.clone()));
    }

    for (chain, made) in wanted.chains.iter().filter(|(chain, _)| !is.chains.contains_key(*chain)) {
        batch.push(name, Command::AddChain(chain.clone(), made.base.clone()));
    }
    for (set, made) in wanted.sets.iter().filter(|(set, _)| !is.sets.contains_key(*set)) {
        batch.push(name, Command::AddSet(set.clone(), made.form.clone()));
    }
    for (set, made, found) in sets() {
        if let Some(elements) = &made.elements {
            let missing = found.map_or_else(|| elements.clone(), |found| without(elements, found));
            if !missing.is_empty() {
                batch.push(name, Command::AddElements(set.clone(), made.form.clone(), missing));
            }
        }
    }
    for chain in wanted.chains.keys().filter(changed) {
        for rule in rules(wanted, chain) {
            batch.push(name, Command::AddRule(chain.clone(), rule.to_be_sent()));
        }
    }
}

fn rules<'a>(table: &'a Table, chain: &str) -> &'a [Rule] {
    table.chains.get(chain).map_or(&[], |chain| &chain.rules)
}

fn without(elements: &Elements, others: &Elements) -> Elements {
    let left = elements.iter().filter(|(key, value)| others.get(key) != Some(value));
    left.map(|(key, value)| (key.clone(), value.clone())).collect()
}
