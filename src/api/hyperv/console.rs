//! The serial console. The original has none; it is the same as in the other dialect.

use serde::Deserialize;

use super::{Shared, error::Problem};
use crate::{
    api::{
        console,
        http::{Reply, Request},
    },
    vm::Source,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    tail: Option<i64>,
    shared: Option<bool>,
    watch: Option<bool>,
}

pub async fn open(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let output = shared.service.output(id, Source::Console)?;
    let query: Query = request.query()?;
    let wish = console::Wish::of(query.tail, query.shared, query.watch)?;
    Ok(console::open(&request, output, wish)?)
}
