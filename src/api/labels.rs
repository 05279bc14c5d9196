//! The filter of a list by labels, as both dialects have it.

use serde::Deserialize;

use super::http::{HttpError, QueryParam, Request};
use crate::model::{Error, LabelFilter};

pub const LABEL: QueryParam = QueryParam::form(
    "label",
    LabelFilter::FORM,
    "Only those with these labels, with commas between them: `env=prod,tier`; a key alone takes any value.",
);

/// What a list takes that is filtered by labels alone.
pub const QUERY: &[QueryParam] = &[LABEL];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    label: Option<String>,
}

/// What the query of such a list says.
///
/// # Errors
/// [`HttpError::InvalidParameter`] by `P`.
pub fn wanted<P: From<HttpError> + From<Error>>(request: &Request) -> Result<LabelFilter, P> {
    let query: Query = request.query()?;
    Ok(query.label.as_deref().map(LabelFilter::read).transpose()?.unwrap_or_default())
}
