//! Two VMs that share a layer, each of which stores by itself.

use super::{super::store::commit, *};
use crate::{model::VmId, vm::core::Txn};

fn txn(record: Option<Record>) -> Txn {
    Txn { number: 1, record, is_wish: true, tells: Default::default() }
}

#[tokio::test]
async fn whoever_comes_second_with_a_layer_reads_it_anew_and_stores_all_the_same() {
    let mut one = Vm::new().await;
    let disk = one.disk(0, None);
    let layer = format!("layer/{}", disk.layer);
    one.define(|spec| spec.disks.push(disk));
    let mut definition = VmSpec::clone(&one.record.definition);
    definition.id = VmId::random();
    let other = Hands::new(one.hands.ctx.clone(), definition.id, Known::default());
    let record = Record { definition: definition.into(), run: one.record.run.clone() };
    let store = one.hands.ctx.store.clone();
    let is_there = || store.names().unwrap().contains(&layer);

    assert_eq!(commit(&one.hands, txn(Some(one.record.clone()))).await, Ok(Report::Done));
    // It believes the layer to be new, and the first one believes that it has it alone.
    assert_eq!(commit(&other, txn(Some(record.clone()))).await, Ok(Report::Done));
    assert_eq!(commit(&one.hands, txn(None)).await, Ok(Report::Done));
    assert!(is_there(), "the other one has it");
    assert_eq!(commit(&other, txn(Some(record))).await, Ok(Report::Done));
    assert_eq!(commit(&other, txn(None)).await, Ok(Report::Done));
    assert!(!is_there() && store.is_empty().unwrap());
}
