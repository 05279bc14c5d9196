//! What a QEMU that was taken over writes on its monitor, for the fuzz targets (`crate::fuzz`).

use futures_util::FutureExt;
use serde_json::json;

use super::codec::{Incoming, Lines, decode};

const LIMIT: usize = 4096;

/// A stream, line by line, and what each line says.
pub fn stream(bytes: &[u8]) -> Result<(), String> {
    let mut lines = Lines::new(bytes, LIMIT);
    let mut rest = bytes;
    // All of it is there, so nothing is waited for.
    while let Some(Ok(line)) = lines.next().now_or_never() {
        let read = rest.strip_prefix(&line[..]).and_then(|rest| rest.strip_prefix(b"\n"));
        rest = read.ok_or_else(|| format!("{line:?} is not what comes next"))?;
        if line.len() > LIMIT {
            return Err(format!("a line of {} bytes", line.len()));
        }
        message(&line)?;
    }
    if rest.iter().take(LIMIT + 1).any(|byte| *byte == b'\n') {
        return Err("a line was not read".to_owned());
    }
    Ok(())
}

/// What is understood is understood in the same way when it is written again.
fn message(line: &[u8]) -> Result<(), String> {
    let Ok(read) = decode(line) else { return Ok(()) };
    let again = match &read {
        Incoming::Return { id, value } => json!({ "return": value, "id": id }),
        Incoming::Error { id, class, desc } => json!({ "error": { "class": class, "desc": desc }, "id": id }),
        Incoming::Greeting { .. } | Incoming::Event { .. } => return Ok(()),
    };
    match decode(again.to_string().as_bytes()) {
        Ok(same) if same == read => Ok(()),
        other => Err(format!("{read:?} is {other:?} when it is written again")),
    }
}
