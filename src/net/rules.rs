//! stub
use super::{nft::{Ruleset, TableName, Family}, place::Wanted};
use crate::model::Nic;
pub fn table(state: &str) -> String { format!("qherd_{state}") }
pub fn tables(state: &str) -> Vec<TableName> {
    [Family::Bridge, Family::Inet, Family::Arp].map(|family| TableName { family, name: table(state) }).to_vec()
}
pub fn ruleset(_state: &str, _switches: &[std::sync::Arc<Wanted>], _nics: &[Nic]) -> Ruleset { Ruleset::default() }
