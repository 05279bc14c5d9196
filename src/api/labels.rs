//! How both dialects are asked for what bears labels.

use serde::Deserialize;

use super::http::{HttpError, QueryParam, Request};
use crate::model::LabelFilter;

/// As JSON Schema has it; [`read`] says it in words.
pub const FORM: &str = "^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[^,]*)?(,[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[^,]*)?)*$";

pub const LABEL: QueryParam = QueryParam::form(
    "label",
    FORM,
    "Only those with these labels, with commas between them: `env=prod,tier`; a key alone takes any value.",
);

/// What a list takes that is filtered by labels alone.
pub const QUERY: &[QueryParam] = &[LABEL];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    label: Option<String>,
}

/// # Errors
/// 400.
pub fn read(text: Option<&str>) -> Result<LabelFilter, HttpError> {
    let must = |part| HttpError::invalid("label", format!("name labels, as in env=prod,tier; {part:?} is none"));
    text.map_or_else(|| Ok(LabelFilter::default()), |text| LabelFilter::parse(text).map_err(must))
}

/// What the query of such a list says.
///
/// # Errors
/// 400.
pub fn wanted(request: &Request) -> Result<LabelFilter, HttpError> {
    let query: Query = request.query()?;
    read(query.label.as_deref())
}
