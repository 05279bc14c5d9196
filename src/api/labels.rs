//! How both dialects are asked for what bears labels.

use super::http::HttpError;
use crate::model::LabelFilter;

/// As JSON Schema has it; [`read`] says it in words.
pub(super) const FORM: &str = "^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[^,]*)?(,[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[^,]*)?)*$";

/// # Errors
/// 400.
pub(super) fn read(text: Option<&str>) -> Result<LabelFilter, HttpError> {
    let must = |part| HttpError::invalid("label", format!("name labels, as in env=prod,tier; {part:?} is none"));
    text.map_or_else(|| Ok(LabelFilter::default()), |text| LabelFilter::parse(text).map_err(must))
}
