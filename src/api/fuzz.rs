//! What a client sends, for the fuzz targets (`crate::fuzz`).

use std::sync::OnceLock;

use super::{
    http::{Nulls, route::Input, wire},
    hyperv, kvm,
};

/// A sentence about a body may quote it, and has so many bytes beside that.
const OWN_WORDS: usize = 4096;

/// A body, as every route of both dialects would read it.
pub fn bodies(bytes: &[u8]) -> Result<(), String> {
    static INPUTS: OnceLock<Vec<(&str, Input)>> = OnceLock::new();
    let inputs = INPUTS.get_or_init(|| {
        let kvm = kvm::routes().into_iter().map(|route| route.info);
        let all = kvm.chain(hyperv::routes().into_iter().map(|route| route.info));
        all.filter_map(|info| Some((info.operation_id, info.input?))).collect()
    });
    for (operation, input) in inputs {
        for nulls in [Nulls::Absent, Nulls::Clear] {
            let Err(error) = (input.decode)(bytes, nulls) else { continue };
            let message = error.message();
            if message.is_empty() || message.len() > OWN_WORDS + 8 * bytes.len() {
                return Err(format!("{operation} objects to a body with {} bytes", message.len()));
            }
        }
    }
    Ok(())
}

/// The beginning of a connection: the same head, however it arrives.
pub fn head(bytes: &[u8]) -> Result<(), String> {
    wire::fuzz(bytes)
}

/// What a guest writes on its console: nothing that a terminal acts on is shown, and no line is lost.
pub fn plain(bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    let shown = kvm::plain(&text);
    if shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(format!("a control is left in {shown:?}"));
    }
    if shown.matches('\n').count() != text.matches('\n').count() || kvm::plain(&shown) != shown {
        return Err(format!("{text:?} is {shown:?}"));
    }
    Ok(())
}
